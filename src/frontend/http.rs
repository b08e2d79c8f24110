//! The publisher's HTTP servers: probes and metrics.

use std::future::IntoFuture as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use rustix::io::Errno;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::clock::Clock;
use super::metrics::{self, Figures};

/// A publisher whose loop has not turned for so long hangs: it turns each second whatever the network does.
const HANGS: Duration = Duration::from_secs(30);

/// What the probes tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    /// When the loop last turned, on the monotonic clock.
    pub(super) turned: Duration,
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
    fn ready(&self) -> Result<(), &'static str> {
        if !self.figures.tor_up {
            return Err("no control connection to a bootstrapped tor");
        }
        if self.role == Role::Unknown { Err("the Lease was not read yet") } else { Ok(()) }
    }
}

/// Serves both, until dropped.
pub(super) async fn serve(
    address: Option<IpAddr>,
    [probe_port, metrics_port]: [u16; 2],
    health: watch::Receiver<Health>,
    clock: Clock,
) -> io::Result<()> {
    let alive =
        |State((health, clock)): State<Source>| async move { answer(health.borrow().alive(clock.now().elapsed)) };
    let ready = |State((health, _)): State<Source>| async move { answer(health.borrow().ready()) };
    // By the time that this server answers, the keys are read and the parts run.
    let probes = Router::new().route("/startupz", get(alive)).route("/livez", get(alive)).route("/readyz", get(ready));
    let metrics = Router::new().route("/metrics", get(metrics));
    let probes = axum::serve(bind(address, probe_port).await?, probes.with_state((health.clone(), clock)));
    let metrics = axum::serve(bind(address, metrics_port).await?, metrics.with_state((health, clock)));
    tokio::try_join!(probes.into_future(), metrics.into_future()).map(drop)
}

type Source = (watch::Receiver<Health>, Clock);

fn answer(result: Result<(), &'static str>) -> impl IntoResponse {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics(State((health, _)): State<Source>) -> impl IntoResponse {
    let text = metrics::render(&health.borrow().figures);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Without an address: all of both families, where the machine has both.
async fn bind(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    let bind = |address: IpAddr| async move {
        let listener = TcpListener::bind((address, port)).await;
        listener.map_err(|error| io::Error::new(error.kind(), format!("listen on {address} port {port}: {error}")))
    };
    if let Some(address) = address {
        return bind(address).await;
    }
    // On Linux the unspecified IPv6 address takes IPv4 connections, too.
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) => {
            bind(Ipv4Addr::UNSPECIFIED.into()).await
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("listen on port {port}: {error}"))),
        Ok(listener) => Ok(listener),
    }
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
