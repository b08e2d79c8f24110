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

/// A publisher whose loop has not turned for so long hangs: it turns each second whatever the network does.
const HANGS: Duration = Duration::from_secs(30);

/// What the probes tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    /// When the loop last turned, on the monotonic clock.
    pub(super) turned: Duration,
    /// Why it cannot begin.
    pub(super) problem: Option<String>,
    pub(super) role: Role,
    pub(super) figures: Figures,
}

/// Whether this publisher publishes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// The Lease was not read yet.
    #[default]
    Unknown,
    Leading,
    StandingBy,
}

impl Health {
    fn alive(&self, elapsed: Duration) -> Result<(), &'static str> {
        if elapsed.saturating_sub(self.turned) > HANGS { Err("the publisher hangs") } else { Ok(()) }
    }

    /// A standby is ready: it can take over. A slow network makes nobody unready.
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

/// The liveness of the tor beside, which cannot be asked from its own container: this one answers for it. True: silent.
async fn tor_alive(State(silent): State<watch::Receiver<bool>>) -> (StatusCode, String) {
    answer(if *silent.borrow() {
        Err("tor takes connections to its control socket and does not answer")
    } else {
        Ok(())
    })
}

/// Where the probes and the metrics are served, and tor's own metrics are had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) probes: u16,
    pub(super) metrics: u16,
    pub(super) tor_metrics: u16,
}

/// Serves both, until dropped.
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
    // Who waits for the master key has started: a restart would not mend the key.
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
