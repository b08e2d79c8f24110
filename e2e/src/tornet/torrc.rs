//! Configurations of a private network's tors.

use std::path::Path;

/// A node's place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A directory authority.
    Authority,
    /// A relay: guard, middle, HSDir, introduction and rendezvous point.
    Relay,
}

/// An authority or relay.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its nickname.
    pub name: String,
    /// Its place.
    pub role: Role,
    /// Where it takes circuits.
    pub or_port: u16,
    /// Where an authority serves its documents (unused by a relay).
    pub dir_port: u16,
}

/// Three authorities and this many relays.
pub const AUTHORITIES: u16 = 3;

/// The nodes of a network whose ports begin at `base`.
pub fn nodes(base: u16, relays: u16) -> Vec<Node> {
    let authority =
        |i| Node { name: format!("authority{i}"), role: Role::Authority, or_port: base + i, dir_port: base + 100 + i };
    let relay = |i| Node { name: format!("relay{i}"), role: Role::Relay, or_port: base + 10 + i, dir_port: 0 };
    (0..AUTHORITIES).map(authority).chain((0..relays).map(relay)).collect()
}

/// What every tor of the network is told: also clients, backends and frontends, wherever they run.
pub fn network(authorities: &[String]) -> String {
    format!("TestingTorNetwork 1\nPathsNeededToBuildCircuits 0.67\n{EDGE}{}\n", authorities.join("\n"))
}

/// A learned circuit timeout becomes some ten milliseconds between neighbours, and then fails under load.
const EDGE: &str = "LearnCircuitBuildTimeout 0\nCircuitBuildTimeout 10\n";

/// Has a tor end some 15 seconds after the process with this id, however that ended.
pub fn owner(pid: u32) -> String {
    format!("__OwningControllerProcess {pid}\n")
}

/// What every tor on this machine is told: its folder, its control socket, its log.
pub fn local(dir: &Path) -> String {
    let dir = dir.display();
    // The real country tables cost 30 MiB of memory a process.
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

/// What an authority or relay is told beyond [`network`] and [`local`]. A consensus lives for so many intervals: with three, as on the
/// public network, clients and services fetch the next one at random moments of about an interval, with two within 4 seconds (C tor's
/// `update_consensus_networkstatus_fetch_time_impl`).
pub fn node(node: &Node, address: &str, intervals: u8) -> String {
    let (name, or_port, dir_port) = (&node.name, node.or_port, node.dir_port);
    let authority = match node.role {
        Role::Authority => format!("DirPort {address}:{dir_port}\n{AUTHORITY}V3AuthNIntervalsValid {intervals}\n"),
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

/// How long a time period is in such a network: 24 voting rounds. C tor knows that by itself.
pub const PERIOD_MINUTES: u16 = 8;

/// A consensus every 20 seconds; every relay may be anything.
const AUTHORITY: &str = "AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingDirAuthVoteExit *
TestingDirAuthVoteHSDir *
TestingDirAuthVoteGuard *
TestingMinExitFlagThreshold 0
TestingV3AuthInitialVotingInterval 20
TestingV3AuthInitialVoteDelay 4
TestingV3AuthInitialDistDelay 4
V3AuthVotingInterval 20
V3AuthVoteDelay 4
V3AuthDistDelay 4
";
