//! The torrc files of backends and frontends.

use std::fmt::Write as _;

use crate::crd::{Backends, Frontend, ServerLocation};
use crate::link::paths::{
    CONTROL_COOKIE, CONTROL_SOCKET, EMPTY_FILE, FORWARD_DIR, ONION_SERVICE_DIR, SOCKS_SOCKET, TOR_DATA_DIR,
};
use crate::link::{AgentConfig, ForwardedPort, TOR_METRICS_PORT};

/// The maximum number of streams on one rendezvous circuit, that is, of one client. A browser opens
/// a few dozen, so ordinary clients never reach the limit. A gateway whose users share a circuit
/// may need more; a line in `extraTorrc` replaces this default.
const MAX_STREAMS: u16 = 256;
/// The option with this maximum. Tor refuses the excess streams and keeps the circuit.
const MAX_STREAMS_OPTION: &str = "HiddenServiceMaxStreams";
/// The value of `SocksPort` for a tor that nobody uses as a proxy.
const NO_SOCKS: &str = "0";
/// The seconds after which a frontend's tor gives up an upload that it cannot deliver. By default,
/// it would keep trying for 2 minutes, next to the publisher's later attempts. Tor also gives up
/// the streams of the probe after this time; the prober then opens another one.
const UPLOAD_TIMEOUT: u16 = 30;

/// Returns the torrc options that both components have in common. `socks` is the value of
/// `SocksPort`. The `GeoIP` files are empty because nothing selects relays by country and
/// the tables take 30 MiB of memory. Dormant mode is disabled because a frontend's tor builds
/// circuits only when it publishes. The metrics are on the loopback interface, where only the pod's
/// own containers can read them.
fn common(socks: &str) -> String {
    format!(
        "\
DataDirectory {TOR_DATA_DIR}
ControlSocket unix:{CONTROL_SOCKET}
CookieAuthentication 1
CookieAuthFile {CONTROL_COOKIE}
SocksPort {socks}
DormantTimeoutEnabled 0
GeoIPFile {EMPTY_FILE}
GeoIPv6File {EMPTY_FILE}
MetricsPort 127.0.0.1:{TOR_METRICS_PORT}
MetricsPortPolicy accept 127.0.0.1
Log notice stdout
"
    )
}

/// Returns the torrc of a backend. Its tor does not publish descriptors: the agent passes the
/// descriptor to the publisher. `global` holds lines for every tor in the cluster. Onion service
/// options apply to the preceding `HiddenServiceDir`, so the user's lines come last.
pub(super) fn backend(global: &str, location: ServerLocation, backends: &Backends, ports: &[ForwardedPort]) -> String {
    let mut text = common(NO_SOCKS) + &lines(global);
    if location == ServerLocation::Exposed {
        // Tor accepts one option only together with the other, and both only without a SOCKS port.
        line(&mut text, format_args!("HiddenServiceSingleHopMode 1"));
        line(&mut text, format_args!("HiddenServiceNonAnonymousMode 1"));
    }
    line(&mut text, format_args!("PublishHidServDescriptors 0"));
    line(&mut text, format_args!("HiddenServiceDir {ONION_SERVICE_DIR}"));
    line(&mut text, format_args!("HiddenServiceVersion 3"));
    line(&mut text, format_args!("HiddenServiceOnionBalanceInstance 1"));
    line(&mut text, format_args!("HiddenServiceNumIntroductionPoints {}", backends.introduction_points));
    for ForwardedPort { port, .. } in ports {
        line(&mut text, format_args!("HiddenServicePort {port} unix:{FORWARD_DIR}/{port}.sock"));
    }
    if !sets(&backends.extra_torrc, MAX_STREAMS_OPTION) {
        line(&mut text, format_args!("{MAX_STREAMS_OPTION} {}", max_streams(backends)));
    }
    if AgentConfig::exports_circuit_id(ports, backends.circuit_limits.is_some()) {
        line(&mut text, format_args!("HiddenServiceExportCircuitID haproxy"));
    }
    if let Some(defense) = backends.intro_dos_defense {
        line(&mut text, format_args!("HiddenServiceEnableIntroDoSDefense 1"));
        line(&mut text, format_args!("HiddenServiceEnableIntroDoSRatePerSec {}", defense.rate_per_second));
        line(&mut text, format_args!("HiddenServiceEnableIntroDoSBurstPerSec {}", defense.burst_per_second));
    }
    text + &lines(&backends.extra_torrc)
}

/// Returns tor's limit of the streams of one circuit. The agent's own limit is lower, because the
/// agent must see the streams beyond its limit to count them, and to close the circuit.
fn max_streams(backends: &Backends) -> u32 {
    backends.circuit_limits.map_or(MAX_STREAMS.into(), |limits| limits.open_streams.saturating_mul(2).min(65_535))
}

/// Returns the torrc of a frontend. `global` holds lines for every tor in the cluster. Tor is a
/// proxy only for the publisher's probes: the socket is in a directory that only the pod's own
/// containers can enter.
pub(super) fn frontend(global: &str, frontend: &Frontend) -> String {
    // Without extended errors, tor does not say which part of a connection failed.
    let socks = format!("unix:{SOCKS_SOCKET} ExtendedErrors");
    let socks = if frontend.probe.enabled { socks.as_str() } else { NO_SOCKS };
    format!("{}SocksTimeout {UPLOAD_TIMEOUT}\n{}{}", common(socks), lines(global), lines(&frontend.extra_torrc))
}

/// The options that replace the guards that tor would choose.
const OWN_ENTRIES: [&str; 3] = ["UseBridges", "UseEntryGuards", "EntryNodes"];

/// Returns true if the tors with these lines can share their guards: none of the lines determines
/// how tor enters the network. If one of the tors uses bridges, for example, it has no guards that
/// the others could use, and they must not wait for any. `ReachableAddresses` and similar options
/// only leave out some guards of the shared sample.
pub(super) fn shares_guards<'a>(lines: impl IntoIterator<Item = &'a str>) -> bool {
    lines.into_iter().all(|text| !OWN_ENTRIES.iter().any(|option| sets(text, option)))
}

/// Returns true if a line of the text sets the option. Tor ignores case. Validation has refused
/// abbreviations.
fn sets(text: &str, option: &str) -> bool {
    let name = |line: &str| {
        let name = line.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or_default();
        name.trim_start_matches(['+', '/']).to_owned()
    };
    text.lines().map(str::trim).any(|line| name(line).eq_ignore_ascii_case(option))
}

/// Trims each line, terminates it with a line feed, and removes empty lines. A YAML block literal
/// can contain both indentation and empty lines.
fn lines(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{AddressProbe, CircuitLimits, IntroDosDefense};
    use crate::link::TargetCheck;

    fn port(port: u16) -> ForwardedPort {
        ForwardedPort {
            name: None,
            port,
            target: "web:80".to_owned(),
            proxy_header: false,
            idle_timeout_seconds: None,
            check: TargetCheck::default(),
        }
    }

    #[test]
    fn a_backend_has_an_onion_service_with_the_users_lines_last() {
        let backends = Backends {
            introduction_points: 5,
            intro_dos_defense: Some(IntroDosDefense { rate_per_second: 25, burst_per_second: 200 }),
            extra_torrc: "HiddenServiceMaxStreams 100".to_owned(),
            ..Backends::default()
        };
        assert_eq!(
            backend(
                "  UseBridges 1\n\n  Bridge 192.0.2.1:443\n",
                ServerLocation::Hidden,
                &backends,
                &[port(80), port(443)]
            ),
            "\
DataDirectory /var/lib/tor/data
ControlSocket unix:/run/onionbalance/control/socket
CookieAuthentication 1
CookieAuthFile /run/onionbalance/control/cookie
SocksPort 0
DormantTimeoutEnabled 0
GeoIPFile /run/onionbalance/empty
GeoIPv6File /run/onionbalance/empty
MetricsPort 127.0.0.1:9403
MetricsPortPolicy accept 127.0.0.1
Log notice stdout
UseBridges 1
Bridge 192.0.2.1:443
PublishHidServDescriptors 0
HiddenServiceDir /run/onionbalance/hs
HiddenServiceVersion 3
HiddenServiceOnionBalanceInstance 1
HiddenServiceNumIntroductionPoints 5
HiddenServicePort 80 unix:/run/onionbalance/forward/80.sock
HiddenServicePort 443 unix:/run/onionbalance/forward/443.sock
HiddenServiceEnableIntroDoSDefense 1
HiddenServiceEnableIntroDoSRatePerSec 25
HiddenServiceEnableIntroDoSBurstPerSec 200
HiddenServiceMaxStreams 100
"
        );
    }

    #[test]
    fn a_circuit_has_a_limited_number_of_streams_unless_the_user_sets_another_limit() {
        let text = |extra: &str| {
            let backends = Backends { extra_torrc: extra.to_owned(), ..Backends::default() };
            backend("", ServerLocation::Hidden, &backends, &[port(80)])
        };
        for extra in ["", "HiddenServiceMaxStreamsCloseCircuit 1", "# HiddenServiceMaxStreams 5", "NumCPUs 1"] {
            let text = text(extra);
            assert!(text.contains("80.sock\nHiddenServiceMaxStreams 256\n"), "{text}");
        }
        for extra in ["HiddenServiceMaxStreams 0", "NumCPUs 1\n  hiddenservicemaxstreams\t500"] {
            assert!(!text(extra).contains("256"), "{extra}");
        }
    }

    #[test]
    fn tors_that_choose_their_entry_in_another_way_share_no_guards() {
        for lines in ["", "ReachableAddresses *:443", "NumEntryGuards 2", "# UseBridges 1", "Bridge 192.0.2.1:443"] {
            assert!(shares_guards(["NumCPUs 1", lines]), "{lines}");
        }
        for lines in ["UseBridges 1", "NumCPUs 1\n  useentryguards 0", "EntryNodes {de}"] {
            assert!(!shares_guards([lines, ""]) && !shares_guards(["", lines]), "{lines}");
        }
    }

    #[test]
    fn tors_metrics_are_on_the_port_that_our_programs_read() {
        assert!(common(NO_SOCKS).contains(&format!("\nMetricsPort 127.0.0.1:{}\n", crate::link::TOR_METRICS_PORT)));
    }

    #[test]
    fn tor_exports_circuits_if_a_port_has_the_proxy_protocol() {
        let text = |ports: &[ForwardedPort]| backend("", ServerLocation::Hidden, &Backends::default(), ports);
        let wants = ForwardedPort { proxy_header: true, ..port(443) };
        assert!(text(&[port(80), wants]).ends_with("\nHiddenServiceExportCircuitID haproxy\n"));
        assert!(!text(&[port(80), port(443)]).contains("CircuitID"));
    }

    #[test]
    fn with_limits_of_circuits_tor_exports_circuits_and_lets_the_agent_see_the_breaches() {
        let limited = |open_streams, extra: &str| {
            let limits =
                CircuitLimits { open_streams, streams_per_second: None, stream_burst: None, bytes_per_second: None };
            let extra_torrc = extra.to_owned();
            let backends = Backends { circuit_limits: Some(limits), extra_torrc, ..Backends::default() };
            backend("", ServerLocation::Hidden, &backends, &[port(80)])
        };
        assert!(limited(300, "").ends_with("\nHiddenServiceMaxStreams 600\nHiddenServiceExportCircuitID haproxy\n"));
        assert!(limited(u32::MAX, "").contains("\nHiddenServiceMaxStreams 65535\n"));
        assert!(!limited(300, "HiddenServiceMaxStreams 5").contains("600"));
    }

    #[test]
    fn only_a_backend_whose_location_is_exposed_has_circuits_with_a_single_hop() {
        let text = |location| backend("", location, &Backends::default(), &[port(80)]);
        let [hidden, exposed] = [ServerLocation::Hidden, ServerLocation::Exposed].map(text);
        let lines = "HiddenServiceSingleHopMode 1\nHiddenServiceNonAnonymousMode 1\n";
        assert!(exposed.contains(&format!("\n{lines}")) && exposed.contains("\nSocksPort 0\n"), "{exposed}");
        assert_eq!(exposed.replace(lines, ""), hidden);
    }

    #[test]
    fn a_frontends_torrc_has_no_onion_service() {
        let spec = Frontend { extra_torrc: "NumCPUs 1".to_owned(), ..Frontend::default() };
        let text = frontend("UseBridges 1", &spec);
        assert!(text.ends_with("\nSocksTimeout 30\nUseBridges 1\nNumCPUs 1\n"), "{text}");
        assert!(!text.contains("HiddenService"));
    }

    #[test]
    fn only_a_frontend_that_probes_has_a_socks_port() {
        let text = |enabled| {
            let probe = AddressProbe { enabled, ..AddressProbe::default() };
            frontend("", &Frontend { probe, ..Frontend::default() })
        };
        assert!(text(true).contains("\nSocksPort unix:/run/onionbalance/control/socks ExtendedErrors\n"));
        assert_eq!(text(false), common(NO_SOCKS) + "SocksTimeout 30\n");
    }
}
