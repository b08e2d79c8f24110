//! The torrc of a backend and of a frontend.

use std::fmt::Write as _;

use crate::crd::Backends;
use crate::link::{AgentConfig, ForwardedPort};

/// Both: `SocksPort 0` since no one connects through them; an empty `GeoIP` file since nothing here chooses relays by
/// country, and tables cost 30 MiB of memory; never dormant, since a frontend's tor makes circuits only when it publishes; metrics
/// on the loopback, where nobody but the pod's own containers is.
const COMMON: &str = "\
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
";

/// An instance that publishes nothing itself: the agent hands its descriptor to the publisher.
const BACKEND: &str = "\
PublishHidServDescriptors 0
HiddenServiceDir /run/onionbalance/hs
HiddenServiceVersion 3
HiddenServiceOnionBalanceInstance 1
";

/// `global` holds lines for every tor of the cluster. Options of an onion service belong to the `HiddenServiceDir` before
/// them, so the user's lines come last.
pub(super) fn backend(global: &str, backends: &Backends, ports: &[ForwardedPort]) -> String {
    let mut text = format!("{COMMON}{}{BACKEND}", lines(global));
    line(&mut text, format_args!("HiddenServiceNumIntroductionPoints {}", backends.introduction_points));
    for ForwardedPort { port, .. } in ports {
        line(&mut text, format_args!("HiddenServicePort {port} unix:/run/onionbalance/forward/{port}.sock"));
    }
    if AgentConfig::exports_circuit_id(ports) {
        line(&mut text, format_args!("HiddenServiceExportCircuitID haproxy"));
    }
    if let Some(defense) = backends.intro_dos_defense {
        line(&mut text, format_args!("HiddenServiceEnableIntroDoSDefense 1"));
        line(&mut text, format_args!("HiddenServiceEnableIntroDoSRatePerSec {}", defense.rate_per_second));
        line(&mut text, format_args!("HiddenServiceEnableIntroDoSBurstPerSec {}", defense.burst_per_second));
    }
    text + &lines(&backends.extra_torrc)
}

pub(super) fn frontend(global: &str, extra: &str) -> String {
    format!("{COMMON}{}{}", lines(global), lines(extra))
}

/// Each line trimmed and ended, empty ones left out: a block literal of YAML brings both.
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
    use crate::crd::IntroDosDefense;

    fn port(port: u16) -> ForwardedPort {
        ForwardedPort { name: None, port, target: "web:80".to_owned(), proxy_header: false }
    }

    #[test]
    fn a_backends_torrc() {
        let backends = Backends {
            introduction_points: 5,
            intro_dos_defense: Some(IntroDosDefense { rate_per_second: 25, burst_per_second: 200 }),
            extra_torrc: "HiddenServiceMaxStreams 100".to_owned(),
            ..Backends::default()
        };
        assert_eq!(
            backend("  UseBridges 1\n\n  Bridge 192.0.2.1:443\n", &backends, &[port(80), port(443)]),
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
    fn tors_metrics_are_where_they_are_looked_for() {
        assert!(COMMON.contains(&format!("\nMetricsPort 127.0.0.1:{}\n", crate::link::TOR_METRICS_PORT)));
    }

    #[test]
    fn tor_exports_circuits_where_a_port_wants_it() {
        let text = |ports: &[ForwardedPort]| backend("", &Backends::default(), ports);
        let wants = ForwardedPort { proxy_header: true, ..port(443) };
        assert!(text(&[port(80), wants]).ends_with("443.sock\nHiddenServiceExportCircuitID haproxy\n"));
        assert!(!text(&[port(80), port(443)]).contains("CircuitID"));
    }

    #[test]
    fn a_frontends_torrc_has_no_onion_service() {
        let text = frontend("UseBridges 1", "NumCPUs 1");
        assert_eq!(text, format!("{COMMON}UseBridges 1\nNumCPUs 1\n"));
        assert!(!text.contains("HiddenService"));
    }
}
