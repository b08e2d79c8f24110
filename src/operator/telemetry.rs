//! Probes and metrics.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

/// Counters, and whether the caches are filled.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Every watched kind was listed once.
    pub ready: AtomicBool,
    /// Looks that ended well.
    pub reconciled: AtomicU64,
    /// Looks that are repeated.
    pub failed: AtomicU64,
}

impl Telemetry {
    fn exposition(&self) -> String {
        let mut text = String::from(
            "# HELP onionbalance_operator_reconciliations_total Reconciliations of OnionBalancedService objects.\n\
             # TYPE onionbalance_operator_reconciliations_total counter\n",
        );
        for (result, count) in [("success", &self.reconciled), ("error", &self.failed)] {
            let count = count.load(Ordering::Relaxed);
            // Writing into a String cannot fail.
            let _ = writeln!(text, "onionbalance_operator_reconciliations_total{{result=\"{result}\"}} {count}");
        }
        text
    }
}

/// `/livez` and `/readyz`.
pub fn probes(telemetry: Arc<Telemetry>) -> Router {
    let readiness = move || {
        let ready = telemetry.ready.load(Ordering::Relaxed);
        std::future::ready(if ready {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not everything is listed yet\n")
        })
    };
    Router::new().route("/livez", get(|| std::future::ready("ok\n"))).route("/readyz", get(readiness))
}

/// `/metrics`.
pub fn metrics(telemetry: Arc<Telemetry>) -> Router {
    Router::new().route("/metrics", get(move || std::future::ready(telemetry.exposition())))
}

/// Listens on all addresses: on both families, or on IPv4 alone where the node has no IPv6.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_as_prometheus_reads_them() {
        let telemetry = Telemetry { reconciled: AtomicU64::new(3), ..Telemetry::default() };
        assert!(telemetry.exposition().ends_with(
            "onionbalance_operator_reconciliations_total{result=\"success\"} 3\n\
             onionbalance_operator_reconciliations_total{result=\"error\"} 0\n"
        ));
    }
}
