//! Probes and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use super::watches::Watches;
use crate::shell::exposition::Exposition;
use crate::shell::http;

/// Counters, and whether the caches are filled.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Every watched kind was listed once.
    pub ready: AtomicBool,
    /// This operator is the one that works.
    pub leading: AtomicBool,
    /// What fails to be watched.
    pub watches: Watches,
    /// Looks that ended well.
    pub reconciled: AtomicU64,
    /// Looks that are repeated.
    pub failed: AtomicU64,
    /// Requests that wrote, or were refused to: none at rest.
    pub writes: AtomicU64,
}

impl Telemetry {
    /// Whether all that is watched was listed once.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// What is said while it was not, and why.
    pub fn not_ready(&self) -> String {
        let failing = self.watches.failing();
        let failing = failing.into_iter().map(|((resource, _), cause)| format!("cannot watch {resource}: {cause}\n"));
        ["not everything is listed yet\n".to_owned()].into_iter().chain(failing).collect()
    }

    fn exposition(&self) -> String {
        let mut text = Exposition::new("onionbalance_operator");
        text.family("reconciliations_total", "counter", "Reconciliations of OnionBalancedService objects");
        for (result, count) in [("success", &self.reconciled), ("error", &self.failed)] {
            text.sample("reconciliations_total", &format!("{{result=\"{result}\"}}"), count.load(Ordering::Relaxed));
        }
        text.family("leader", "gauge", "Whether this operator is the one that works");
        text.sample("leader", "", u64::from(self.leading.load(Ordering::Relaxed)));
        text.family("watch_failing", "gauge", "Kinds that cannot be watched at present; absent: none");
        for (resource, namespace) in self.watches.failing().keys() {
            let namespace = namespace.as_deref().unwrap_or_default();
            text.sample("watch_failing", &format!("{{resource=\"{resource}\",namespace=\"{namespace}\"}}"), 1);
        }
        text.family("writes_total", "counter", "Requests that write to the API server");
        text.sample("writes_total", "", self.writes.load(Ordering::Relaxed));
        text.finish()
    }
}

/// `/livez` and `/readyz`.
pub fn probes(telemetry: Arc<Telemetry>) -> Router {
    let readiness = move || {
        let ready = telemetry.is_ready();
        std::future::ready(if ready {
            (StatusCode::OK, "ok\n".to_owned())
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, telemetry.not_ready())
        })
    };
    Router::new().route("/livez", get(|| std::future::ready("ok\n"))).route("/readyz", get(readiness))
}

/// `/metrics`.
pub fn metrics(telemetry: Arc<Telemetry>) -> Router {
    Router::new().route("/metrics", get(move || std::future::ready(http::metrics(telemetry.exposition()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::exposition::page;

    #[test]
    fn metrics_as_prometheus_reads_them() {
        let telemetry = Telemetry { reconciled: AtomicU64::new(3), writes: AtomicU64::new(5), ..Telemetry::default() };
        let text = telemetry.exposition();
        assert_eq!(page::families(&text), page::documented("onionbalance_operator"), "see docs/metrics.md");
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "onionbalance_operator_reconciliations_total{result=\"success\"} 3",
                "onionbalance_operator_reconciliations_total{result=\"error\"} 0",
                "onionbalance_operator_leader 0",
                "onionbalance_operator_writes_total 5",
            ]
        );
    }
}
