//! The agent's `/metrics` in the Prometheus text format (version 0.0.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;

use super::circuits::{Circuits, Counters};
use super::forward::{ForwarderPort, Traffic};
use super::health::{Health, Target};
use super::observer::TorState;
use crate::common::exposition::{Exposition, escaped};
use crate::common::http;
use crate::link::TargetState;

type Counter = fn(&ForwarderPort) -> &AtomicU64;
type Sources = (watch::Receiver<TorState>, Arc<Traffic>, Arc<Circuits>, Arc<Health>);

/// Returns the router of the metrics server.
pub fn router(
    tor: watch::Receiver<TorState>,
    traffic: Arc<Traffic>,
    circuits: Arc<Circuits>,
    health: Arc<Health>,
) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state((tor, traffic, circuits, health))
}

async fn metrics(State((tor, traffic, circuits, health)): State<Sources>) -> impl IntoResponse {
    http::metrics(render(&tor.borrow(), traffic.ports(), &circuits, health.targets()))
}

fn render(tor: &TorState, ports: &[Arc<ForwarderPort>], circuits: &Circuits, targets: &[Target]) -> String {
    let mut text = Exposition::of_program("onionbalance_agent");
    text.family("tor_up", "gauge", "1 if tor answers on its control socket");
    text.sample("tor_up", "", u64::from(tor.answering));
    text.family("bootstrapped", "gauge", "1 if tor has bootstrapped");
    text.sample("bootstrapped", "", u64::from(tor.bootstrapped >= 100));
    text.family("introduction_points", "gauge", "Established introduction points");
    text.sample("introduction_points", "", tor.points.count() as u64);
    text.family("tor_kills_total", "counter", "Frozen tor processes that the agent killed");
    text.sample("tor_kills_total", "", tor.kills);
    text.family("circuits_total", "counter", "Circuits requested from a tor whose onion service had stalled");
    text.sample("circuits_total", "", tor.mended.circuits);
    text.family("tor_restarts_total", "counter", "Tor processes ended because their onion service had stalled");
    text.sample("tor_restarts_total", "", tor.mended.restarts);
    let per_port: [([&str; 3], Counter); 3] = [
        (["streams", "gauge", "Open streams"], |port| &port.open),
        (["streams_total", "counter", "Streams accepted"], |port| &port.opened),
        (
            [
                "connect_failures_total",
                "counter",
                "Streams refused because the target did not accept the connection or too many streams were open",
            ],
            |port| &port.connect_failures,
        ),
    ];
    for ([name, kind, help], counter) in per_port {
        text.family(name, kind, help);
        for port in ports {
            text.sample(name, &format!("{{{}}}", labels(port)), counter(port).load(Ordering::Relaxed));
        }
    }
    text.family("bytes_total", "counter", "Bytes forwarded from clients (in) and to clients (out)");
    for port in ports {
        for (direction, bytes) in [("in", &port.bytes_in), ("out", &port.bytes_out)] {
            let labels = format!("{{{},direction=\"{direction}\"}}", labels(port));
            text.sample("bytes_total", &labels, bytes.load(Ordering::Relaxed));
        }
    }
    render_circuits(&mut text, circuits);
    checks(&mut text, targets);
    text.finish()
}

/// Adds the metrics of the clients' circuits. No circuit has a label of its own, because clients
/// could then create any number of time series.
fn render_circuits(text: &mut Exposition, circuits: &Circuits) {
    let Counters { open_breaches, rate_breaches, pauses, closed_by_limits, closed_by_request } = circuits.counters();
    text.family("client_circuits", "gauge", "Circuits of clients with open streams, if tor exports their numbers");
    text.sample("client_circuits", "", circuits.open() as u64);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    text.family("circuit_breaches_total", "counter", "Streams refused because their circuit exceeded a limit");
    text.sample("circuit_breaches_total", "{limit=\"open_streams\"}", count(open_breaches));
    text.sample("circuit_breaches_total", "{limit=\"new_streams\"}", count(rate_breaches));
    text.family("circuit_pauses_total", "counter", "Pauses of streams whose circuit exceeded its bytes per second");
    text.sample("circuit_pauses_total", "", count(pauses));
    text.family("circuit_closures_total", "counter", "Circuits closed after repeated breaches or at the app's request");
    text.sample("circuit_closures_total", "{cause=\"limits\"}", count(closed_by_limits));
    text.sample("circuit_closures_total", "{cause=\"request\"}", count(closed_by_request));
}

fn checks(text: &mut Exposition, targets: &[Target]) {
    let labels = |target: &Target| port_labels(target.port().port, target.port().name.as_deref());
    text.family("target_up", "gauge", "1 if the target passes its checks, 0 if it fails them");
    for target in targets {
        let value = match target.state() {
            TargetState::Passing => 1,
            TargetState::Failing => 0,
            TargetState::Unknown => continue,
        };
        text.sample("target_up", &format!("{{{}}}", labels(target)), value);
    }
    text.family("checks_total", "counter", "Checks of the target, by result");
    for target in targets {
        let (passed, failed) = target.counts();
        for (result, count) in [("passed", passed), ("failed", failed)] {
            text.sample("checks_total", &format!("{{{},result=\"{result}\"}}", labels(target)), count);
        }
    }
}

fn labels(port: &ForwarderPort) -> String {
    port_labels(port.number, port.name.as_deref())
}

fn port_labels(number: u16, name: Option<&str>) -> String {
    let name = name.map(|name| format!(",name=\"{}\"", escaped(name))).unwrap_or_default();
    format!("port=\"{number}\"{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::points::Points;
    use crate::backend::stall::Mended;
    use crate::common::exposition::page;

    /// The page of the state that the first test sets up.
    const PAGE: &str = concat!(
        "\
# HELP onionbalance_agent_build_info Always 1, with the version of the program
# TYPE onionbalance_agent_build_info gauge
onionbalance_agent_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1
# HELP onionbalance_agent_tor_up 1 if tor answers on its control socket
# TYPE onionbalance_agent_tor_up gauge
onionbalance_agent_tor_up 1
# HELP onionbalance_agent_bootstrapped 1 if tor has bootstrapped
# TYPE onionbalance_agent_bootstrapped gauge
onionbalance_agent_bootstrapped 1
# HELP onionbalance_agent_introduction_points Established introduction points
# TYPE onionbalance_agent_introduction_points gauge
onionbalance_agent_introduction_points 3
# HELP onionbalance_agent_tor_kills_total Frozen tor processes that the agent killed
# TYPE onionbalance_agent_tor_kills_total counter
onionbalance_agent_tor_kills_total 2
# HELP onionbalance_agent_circuits_total Circuits requested from a tor whose onion service had stalled
# TYPE onionbalance_agent_circuits_total counter
onionbalance_agent_circuits_total 7
# HELP onionbalance_agent_tor_restarts_total Tor processes ended because their onion service had stalled
# TYPE onionbalance_agent_tor_restarts_total counter
onionbalance_agent_tor_restarts_total 1
# HELP onionbalance_agent_streams Open streams
# TYPE onionbalance_agent_streams gauge
onionbalance_agent_streams{port=\"80\"} 4
# HELP onionbalance_agent_streams_total Streams accepted
# TYPE onionbalance_agent_streams_total counter
onionbalance_agent_streams_total{port=\"80\"} 0
# HELP onionbalance_agent_connect_failures_total Streams refused because the target did not accept the connection or too many streams were open
# TYPE onionbalance_agent_connect_failures_total counter
onionbalance_agent_connect_failures_total{port=\"80\"} 0
# HELP onionbalance_agent_bytes_total Bytes forwarded from clients (in) and to clients (out)
# TYPE onionbalance_agent_bytes_total counter
onionbalance_agent_bytes_total{port=\"80\",direction=\"in\"} 0
onionbalance_agent_bytes_total{port=\"80\",direction=\"out\"} 5
# HELP onionbalance_agent_client_circuits Circuits of clients with open streams, if tor exports their numbers
# TYPE onionbalance_agent_client_circuits gauge
onionbalance_agent_client_circuits 1
# HELP onionbalance_agent_circuit_breaches_total Streams refused because their circuit exceeded a limit
# TYPE onionbalance_agent_circuit_breaches_total counter
onionbalance_agent_circuit_breaches_total{limit=\"open_streams\"} 1
onionbalance_agent_circuit_breaches_total{limit=\"new_streams\"} 0
# HELP onionbalance_agent_circuit_pauses_total Pauses of streams whose circuit exceeded its bytes per second
# TYPE onionbalance_agent_circuit_pauses_total counter
onionbalance_agent_circuit_pauses_total 0
# HELP onionbalance_agent_circuit_closures_total Circuits closed after repeated breaches or at the app's request
# TYPE onionbalance_agent_circuit_closures_total counter
onionbalance_agent_circuit_closures_total{cause=\"limits\"} 0
onionbalance_agent_circuit_closures_total{cause=\"request\"} 0
# HELP onionbalance_agent_target_up 1 if the target passes its checks, 0 if it fails them
# TYPE onionbalance_agent_target_up gauge
onionbalance_agent_target_up{port=\"80\"} 1
# HELP onionbalance_agent_checks_total Checks of the target, by result
# TYPE onionbalance_agent_checks_total counter
onionbalance_agent_checks_total{port=\"80\",result=\"passed\"} 0
onionbalance_agent_checks_total{port=\"80\",result=\"failed\"} 0
"
    );

    #[test]
    fn the_text_is_in_the_prometheus_format_and_matches_the_docs() {
        let tor = TorState {
            answering: true,
            bootstrapped: 100,
            points: Points::with_count(3),
            kills: 2,
            mended: Mended { circuits: 7, restarts: 1 },
        };
        let port = ForwarderPort::for_tests(80, "web:80");
        port.open.store(4, Ordering::Relaxed);
        port.bytes_out.store(5, Ordering::Relaxed);
        let circuits = Circuits::new(8, None);
        let open = circuits.take(1).unwrap();
        assert!(circuits.take(1).is_err());
        let text = render(&tor, &[Arc::new(port)], &circuits, Health::for_tests().targets());
        drop(open);
        assert_eq!(page::families(&text), page::documented("onionbalance_agent"), "see docs/metrics.md");
        assert_eq!(text, PAGE);
    }

    #[test]
    fn the_name_of_a_port_is_a_label() {
        let mut port = ForwarderPort::for_tests(443, "web:443");
        port.name = Some("https".to_owned());
        let text = render(
            &TorState {
                answering: true,
                bootstrapped: 100,
                points: Points::with_count(3),
                kills: 0,
                mended: Mended::default(),
            },
            &[Arc::new(port)],
            &Circuits::new(8, None),
            &[],
        );
        assert!(text.contains("\nonionbalance_agent_streams_total{port=\"443\",name=\"https\"} 0\n"), "{text}");
        assert!(text.contains("_bytes_total{port=\"443\",name=\"https\",direction=\"in\"} 0\n"), "{text}");
        let mut port = ForwarderPort::for_tests(443, "web:443");
        port.name = Some("a\"\\\nb".to_owned());
        assert_eq!(labels(&port), r#"port="443",name="a\"\\\nb""#);
    }
}
