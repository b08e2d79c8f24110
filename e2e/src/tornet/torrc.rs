//! Generates the torrc files for a private network.

use std::path::Path;

/// The role of an authority or relay in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A directory authority.
    Authority,
    /// A relay, which serves as guard, middle, HSDir, introduction point and rendezvous point.
    Relay,
}

/// A directory authority or relay of the network.
#[derive(Debug, Clone)]
pub struct TorNode {
    /// The nickname of the authority or relay.
    pub name: String,
    /// The role of the authority or relay.
    pub role: Role,
    /// The port on which the authority or relay accepts connections.
    pub or_port: u16,
    /// The port on which an authority serves directory documents. Relays do not use it.
    pub dir_port: u16,
}

/// The number of directory authorities in a network.
pub const AUTHORITIES: u16 = 3;

/// The distance from a network's lowest port to the port of its first relay.
const FIRST_RELAY: u16 = 10;
/// The maximum number of relays in a network. Higher ports are the authorities' `DirPort`s.
pub const MOST_RELAYS: u16 = 80;

/// Returns three authorities and `relays` relays, with ports counted up from `base`.
pub fn nodes(base: u16, relays: u16) -> Vec<TorNode> {
    let authority = |i| TorNode {
        name: format!("authority{i}"),
        role: Role::Authority,
        or_port: base + i,
        dir_port: base + 100 + i,
    };
    let relay =
        |i| TorNode { name: format!("relay{i}"), role: Role::Relay, or_port: base + FIRST_RELAY + i, dir_port: 0 };
    (0..AUTHORITIES).map(authority).chain((0..relays).map(relay)).collect()
}

/// Returns the torrc lines that every tor process of the network needs: authorities, relays,
/// clients and services.
pub fn network(authorities: &[String]) -> String {
    format!("TestingTorNetwork 1\nPathsNeededToBuildCircuits 0.67\n{EDGE}{}\n", authorities.join("\n"))
}

/// The torrc lines that set a fixed circuit timeout. Because all relays are on one machine, tor
/// would otherwise learn a timeout of about ten milliseconds, which is too short under load.
const EDGE: &str = "LearnCircuitBuildTimeout 0\nCircuitBuildTimeout 10\n";

/// Returns the torrc line that makes tor exit within about 15 seconds after the process with the
/// given ID has ended for any reason.
pub fn owner(pid: u32) -> String {
    format!("__OwningControllerProcess {pid}\n")
}

/// Returns the torrc lines that every tor process on this machine needs. They set the process's
/// folder, control socket and log, among other things.
pub fn local(dir: &Path) -> String {
    let dir = dir.display();
    // tor's own country tables would cost 30 MiB of memory per process.
    format!(
        "DataDirectory {dir}/data
ShutdownWaitLength 0
ControlSocket unix:{dir}/control
CookieAuthentication 1
CookieAuthFile {dir}/cookie
Log notice file {dir}/notice.log
SafeLogging 0
LogTimeGranularity 1
NumCPUs 1
GeoIPFile {dir}/empty
GeoIPv6File {dir}/empty
"
    )
}

/// Returns the torrc lines of an authority or relay, in addition to those of [`network`] and
/// [`local`]. A consensus is valid for `intervals` voting intervals. With three, as on the public
/// network, clients and services fetch the next consensus at random times spread over about one
/// interval. With two, they fetch it within 4 seconds (C tor's
/// `update_consensus_networkstatus_fetch_time_impl`). `flags` are an authority's lines from
/// [`any_flags`] or [`flags_by_port`].
pub fn node(node: &TorNode, address: &str, intervals: u8, flags: &str) -> String {
    let (name, or_port, dir_port) = (&node.name, node.or_port, node.dir_port);
    let authority = match node.role {
        Role::Authority => {
            format!("DirPort {address}:{dir_port}\n{AUTHORITY}{flags}V3AuthNIntervalsValid {intervals}\n")
        }
        Role::Relay => String::new(),
    };
    format!(
        "Nickname {name}
ContactInfo {name}@example.invalid
SocksPort 0
Address {address}
ORPort {address}:{or_port}
AssumeReachable 1
ExitRelay 0
ServerDNSDetectHijacking 0
ServerDNSTestAddresses
{authority}"
    )
}

/// Returns the lines with which authorities vote for any relay as HSDir and guard.
pub fn any_flags() -> String {
    "TestingDirAuthVoteHSDir *\nTestingDirAuthVoteGuard *\n".to_owned()
}

/// Returns the lines with which authorities vote by port. HSDirs are the authorities and the first
/// `relays` relays. Guards are all relays, but no authority, as on the public network: a new tor
/// asks an authority for its first consensus, so a connection to an authority would otherwise look
/// like one to a guard.
pub fn flags_by_port(address: &str, base: u16, relays: u16) -> String {
    let (first, last, highest) =
        (base + FIRST_RELAY, base + FIRST_RELAY + relays - 1, base + FIRST_RELAY + MOST_RELAYS);
    format!(
        "TestingDirAuthVoteHSDir {address}:{base}-{last}
TestingDirAuthVoteHSDirIsStrict 1
TestingDirAuthVoteGuard {address}:{first}-{highest}
TestingDirAuthVoteGuardIsStrict 1
"
    )
}

/// The length of a time period in a private network, in minutes. With `TestingTorNetwork`, C tor
/// sets the length to 24 voting intervals (here 20 seconds each) by itself.
pub const PERIOD_MINUTES: u16 = 8;

/// The authorities' settings: a consensus every 20 seconds.
const AUTHORITY: &str = "AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingDirAuthVoteExit *
TestingMinExitFlagThreshold 0
TestingV3AuthInitialVotingInterval 20
TestingV3AuthInitialVoteDelay 4
TestingV3AuthInitialDistDelay 4
V3AuthVotingInterval 20
V3AuthVoteDelay 4
V3AuthDistDelay 4
";

#[cfg(test)]
mod tests {
    use onionbalance_operator::crd::validate;

    use super::*;

    /// The operator does not start with torrc lines that it does not allow.
    #[test]
    fn the_operator_accepts_the_lines_of_the_network() {
        let authority = "DirAuthority a orport=1 192.0.2.1:2 0123456789012345678901234567890123456789".to_owned();
        assert_eq!(validate::tor_extra_config(&network(&[authority])), [] as [String; 0]);
    }
}
