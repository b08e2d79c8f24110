//! The publisher's HTTP servers: probes and metrics.

use std::future::IntoFuture as _;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;

use super::clock::Clock;
use super::metrics::{self, Figures};
use crate::common;

/// The time without a turn of the publisher's loop after which it counts as hanging. It turns every
/// second, independent of the network.
const HANGS: Duration = Duration::from_secs(30);

/// The state that the probes and the metrics report.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    /// The last turn of the loop (monotonic clock).
    pub(super) turned: Duration,
    /// The reason why the publisher cannot start.
    pub(super) problem: Option<String>,
    /// The publisher's role.
    pub(super) role: Role,
    /// The values of the metrics.
    pub(super) figures: Figures,
}

/// The role of a publisher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// The Lease was not read yet, so that the role is unknown.
    #[default]
    Unknown,
    /// The publisher holds the Lease.
    Leading,
    /// Another publisher holds the Lease.
    StandingBy,
}

impl Health {
    fn alive(&self, elapsed: Duration) -> Result<(), &'static str> {
        if elapsed.saturating_sub(self.turned) > HANGS { Err("the publisher does not respond") } else { Ok(()) }
    }

    /// Returns the reason why the publisher is not ready. A standby is ready, because it can take
    /// over, and a slow network does not matter.
    pub(super) fn ready(&self) -> Result<(), &str> {
        if let Some(problem) = &self.problem {
            return Err(problem);
        }
        if !self.figures.tor_up {
            return Err("no control connection to a bootstrapped tor");
        }
        if self.role == Role::Unknown { Err("the Lease was not read yet") } else { Ok(()) }
    }
}

/// Answers the liveness probe of the tor container, which has no probe of its own. The state is
/// true if tor is silent.
async fn tor_alive(State(silent): State<watch::Receiver<bool>>) -> (StatusCode, String) {
    answer(if *silent.borrow() {
        Err("tor accepts connections to its control socket and does not answer")
    } else {
        Ok(())
    })
}

/// The ports of the probes, of the metrics, and of tor's own metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// The port of the probes.
    pub(super) probes: u16,
    /// The port of the metrics.
    pub(super) metrics: u16,
    /// The port of tor's own metrics on the loopback.
    pub(super) tor_metrics: u16,
}

/// Serves the probes and the metrics until it is dropped.
pub(super) async fn serve(
    address: Option<IpAddr>,
    ports: Ports,
    health: watch::Receiver<Health>,
    tor_silent: watch::Receiver<bool>,
    clock: Clock,
) -> io::Result<()> {
    let alive =
        |State((health, clock)): State<Source>| async move { answer(health.borrow().alive(clock.now().elapsed)) };
    let ready = |State((health, _)): State<Source>| async move { answer(health.borrow().ready()) };
    // A publisher that waits for the master key counts as started: a restart would not help.
    let probes = Router::new().route("/startupz", get(alive)).route("/livez", get(alive)).route("/readyz", get(ready));
    let probes = probes.route("/tor/livez", get(tor_alive).with_state(tor_silent));
    let metrics = Router::new().route("/metrics", get(metrics)).merge(common::tor_metrics::router(ports.tor_metrics));
    let probes =
        axum::serve(common::http::bind(address, ports.probes).await?, probes.with_state((health.clone(), clock)));
    let metrics = axum::serve(common::http::bind(address, ports.metrics).await?, metrics.with_state((health, clock)));
    tokio::try_join!(probes.into_future(), metrics.into_future()).map(drop)
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

    #[test]
    fn alive_while_the_loop_turns() {
        let health = Health { turned: Duration::from_secs(100), ..Health::default() };
        assert!(health.alive(Duration::from_secs(130)).is_ok());
        assert!(health.alive(Duration::from_secs(131)).is_err());
        assert!(health.alive(Duration::from_secs(99)).is_ok());
    }

    #[test]
    fn ready_with_tor_and_a_role() {
        let health =
            |role, tor_up| Health { role, figures: Figures { tor_up, ..Figures::default() }, ..Health::default() };
        assert!(health(Role::Leading, true).ready().is_ok());
        assert!(health(Role::StandingBy, true).ready().is_ok());
        assert!(health(Role::Unknown, true).ready().is_err());
        assert!(health(Role::Leading, false).ready().is_err());
    }
}
