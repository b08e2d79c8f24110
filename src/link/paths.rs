//! The file paths inside a service's pods. The operator uses these paths in volume mounts and in
//! the torrc, and the programs in the pods use them as defaults.

/// The directory at which the `ConfigMap` is mounted.
pub const CONFIG_DIR: &str = "/etc/onionbalance/config";
/// The torrc of the pod's tor.
pub const TORRC: &str = "/etc/onionbalance/config/torrc";
/// The configuration file of a backend's agent.
pub const AGENT_CONFIG: &str = "/etc/onionbalance/config/agent.yaml";
/// The directory at which the agent token is mounted in a backend.
pub const TOKEN_DIR: &str = "/etc/onionbalance/token";
/// The file that contains the agent token in a backend.
pub const TOKEN: &str = "/etc/onionbalance/token/token";
/// The directory at which the master key is mounted in a frontend.
pub const MASTER_KEY_DIR: &str = "/etc/onionbalance/master-key";

/// The directory at which the shared guards are mounted, in both components.
pub const GUARDS_DIR: &str = "/etc/onionbalance/guards";

/// The directory at which the shared vanguards are mounted, in both components.
pub const VANGUARDS_DIR: &str = "/etc/onionbalance/vanguards";

/// The directory shared by tor and the program that runs next to it, on an in-memory volume.
pub const RUN_DIR: &str = "/run/onionbalance";
/// An empty file, for tor options that require a file.
pub const EMPTY_FILE: &str = "/run/onionbalance/empty";
/// The unix socket of tor's control port.
pub const CONTROL_SOCKET: &str = "/run/onionbalance/control/socket";
/// The cookie file with which a client authenticates to tor's control port.
pub const CONTROL_COOKIE: &str = "/run/onionbalance/control/cookie";
/// The unix socket of tor's SOCKS port in a frontend, if the publisher probes the address.
pub const SOCKS_SOCKET: &str = "/run/onionbalance/control/socks";
/// Tor's `HiddenServiceDir` in a backend.
pub const ONION_SERVICE_DIR: &str = "/run/onionbalance/hs";
/// The directory in a backend that contains the unix sockets to which tor forwards streams.
pub const FORWARD_DIR: &str = "/run/onionbalance/forward";

/// The directory at which tor's volume is mounted.
pub const TOR_DIR: &str = "/var/lib/tor";
/// Tor's `DataDirectory`.
pub const TOR_DATA_DIR: &str = "/var/lib/tor/data";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_in_its_mounted_directory() {
        for (directory, paths) in [
            (CONFIG_DIR, &[TORRC, AGENT_CONFIG][..]),
            (TOKEN_DIR, &[TOKEN]),
            (RUN_DIR, &[EMPTY_FILE, CONTROL_SOCKET, CONTROL_COOKIE, SOCKS_SOCKET, ONION_SERVICE_DIR, FORWARD_DIR]),
            (TOR_DIR, &[TOR_DATA_DIR]),
        ] {
            for path in paths {
                assert!(path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')), "{path}");
            }
        }
    }
}
