//! The paths in the pods of a service. The operator mounts the volumes and writes torrc by them;
//! the programs in the pods use them as defaults.

/// The directory of the mounted `ConfigMap`.
pub const CONFIG_DIR: &str = "/etc/onionbalance/config";
/// The torrc of the pod's tor.
pub const TORRC: &str = "/etc/onionbalance/config/torrc";
/// The configuration of a backend's agent.
pub const AGENT_CONFIG: &str = "/etc/onionbalance/config/agent.yaml";
/// The directory of the mounted agent token, in a backend.
pub const TOKEN_DIR: &str = "/etc/onionbalance/token";
/// The agent token, in a backend.
pub const TOKEN: &str = "/etc/onionbalance/token/token";
/// The directory of the mounted master key, in a frontend.
pub const MASTER_KEY_DIR: &str = "/etc/onionbalance/master-key";

/// The directory that tor and our program share: a volume in memory.
pub const RUN_DIR: &str = "/run/onionbalance";
/// An empty file, for options of tor that need a file to read.
pub const EMPTY_FILE: &str = "/run/onionbalance/empty";
/// The unix socket of tor's control port.
pub const CONTROL_SOCKET: &str = "/run/onionbalance/control/socket";
/// The cookie that authenticates a client of tor's control port.
pub const CONTROL_COOKIE: &str = "/run/onionbalance/control/cookie";
/// Tor's `HiddenServiceDir`, in a backend.
pub const ONION_SERVICE_DIR: &str = "/run/onionbalance/hs";
/// The directory of the unix sockets to which tor forwards streams, in a backend.
pub const FORWARD_DIR: &str = "/run/onionbalance/forward";

/// The directory of tor's volume.
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
            (RUN_DIR, &[EMPTY_FILE, CONTROL_SOCKET, CONTROL_COOKIE, ONION_SERVICE_DIR, FORWARD_DIR]),
            (TOR_DIR, &[TOR_DATA_DIR]),
        ] {
            for path in paths {
                assert!(path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')), "{path}");
            }
        }
    }
}
