//! Runs the publisher's HTTP servers for probes and metrics.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::metrics::{self, Figures};
use super::tor::Silence;
use crate::common::{self, http_server};
use crate::link::{EARLY, TOR_PROBE_PATH};

/// How long an iteration of the main loop may take before the publisher is considered stuck.
/// Normally, there is one iteration per second, regardless of the network.
const HANGS: Duration = Duration::from_secs(30);

/// The state of the publisher that the probes and the metrics report.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    /// The monotonic time of the main loop's last iteration.
    pub(super) turned: Duration,
    /// The problem that prevents the publisher from starting, if there is one.
    pub(super) problem: Option<String>,
    /// The publisher's role according to the Lease.
    pub(super) role: Role,
    /// The values that the metrics page shows.
    pub(super) figures: Figures,
}

/// The role of a publisher, which the Lease assigns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// The publisher has not read the Lease yet.
    #[default]
    Unknown,
    /// The publisher holds the Lease and publishes.
    Leading,
    /// The publisher is a standby: the Lease is free or held by another publisher.
    StandingBy,
}

impl Health {
    /// Returns an error if the main loop is stuck.
    fn alive(&self, elapsed: Duration) -> Result<(), &'static str> {
        if elapsed.saturating_sub(self.turned) > HANGS { Err("the publisher's main loop is stuck") } else { Ok(()) }
    }

    /// Returns an error with the reason if the publisher is not ready.
    ///
    /// A standby is ready, because it can take over. A slow network does not make a publisher
    /// unready.
    pub(super) fn ready(&self) -> Result<(), &str> {
        if let Some(problem) = &self.problem {
            return Err(problem);
        }
        if !self.figures.tor_up {
            return Err("no control connection to a bootstrapped tor");
        }
        if self.role == Role::Unknown { Err("the publisher has not read the Lease yet") } else { Ok(()) }
    }
}

/// Answers the probes on behalf of the tor container, in which no program could answer them. If the
/// query is [`EARLY`], a short silence of tor is enough to fail the probe.
async fn tor_alive(State(silence): State<watch::Receiver<Silence>>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let limit = if query.as_deref() == Some(EARLY) { Silence::Short } else { Silence::Long };
    answer(if *silence.borrow() >= limit {
        Err("tor accepts connections to its control socket but does not answer")
    } else {
        Ok(())
    })
}

/// The ports of the HTTP servers, and of tor's own metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// The port on which the probes are served.
    pub(super) probes: u16,
    /// The port on which the metrics are served.
    pub(super) metrics: u16,
    /// The `MetricsPort` on 127.0.0.1 of the tor in the same pod.
    pub(super) tor_metrics: u16,
}

/// Serves the probes and the metrics until the future is dropped.
pub(super) async fn serve(
    address: Option<IpAddr>,
    ports: Ports,
    health: watch::Receiver<Health>,
    tor_silence: watch::Receiver<Silence>,
    clock: Clock,
) -> io::Result<()> {
    let alive =
        |State((health, clock)): State<Source>| async move { answer(health.borrow().alive(clock.now().elapsed)) };
    let ready = |State((health, _)): State<Source>| async move { answer(health.borrow().ready()) };
    // A publisher that waits for the master key is considered started, because a restart would not
    // repair the key.
    let probes = Router::new().route("/startupz", get(alive)).route("/livez", get(alive)).route("/readyz", get(ready));
    let probes = probes.route(TOR_PROBE_PATH, get(tor_alive).with_state(tor_silence));
    let metrics = Router::new().route("/metrics", get(metrics)).merge(common::tor_metrics::router(ports.tor_metrics));
    let (probe_socket, metrics_socket) =
        (common::http::bind(address, ports.probes)?, common::http::bind(address, ports.metrics)?);
    let never = CancellationToken::new();
    tokio::join!(
        http_server::serve(probe_socket, probes.with_state((health.clone(), clock)), never.clone()),
        http_server::serve(metrics_socket, metrics.with_state((health, clock)), never),
    );
    Ok(())
}

type Source = (watch::Receiver<Health>, Clock);

fn answer(result: Result<(), &str>) -> (StatusCode, String) {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics(State((health, _)): State<Source>) -> impl IntoResponse {
    common::http::metrics(metrics::render(&health.borrow().figures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_short_silence_of_tor_fails_only_the_early_probe() {
        let (silence, watched) = watch::channel(Silence::None);
        let mut codes = Vec::new();
        for current in [Silence::None, Silence::Short, Silence::Long] {
            silence.send_replace(current);
            for query in [None, Some(EARLY.to_owned())] {
                codes.push(tor_alive(State(watched.clone()), RawQuery(query)).await.0.as_u16());
            }
        }
        assert_eq!(codes, [200, 200, 200, 503, 503, 503]);
    }

    #[test]
    fn is_alive_while_the_main_loop_runs() {
        let health = Health { turned: Duration::from_secs(100), ..Health::default() };
        assert!(health.alive(Duration::from_secs(130)).is_ok());
        assert!(health.alive(Duration::from_secs(131)).is_err());
        assert!(health.alive(Duration::from_secs(99)).is_ok());
    }

    #[test]
    fn is_ready_with_a_bootstrapped_tor_and_a_role() {
        let health =
            |role, tor_up| Health { role, figures: Figures { tor_up, ..Figures::default() }, ..Health::default() };
        assert!(health(Role::Leading, true).ready().is_ok());
        assert!(health(Role::StandingBy, true).ready().is_ok());
        assert!(health(Role::Unknown, true).ready().is_err());
        assert!(health(Role::Leading, false).ready().is_err());
    }
}
