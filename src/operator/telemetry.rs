//! The operator's probes and metrics.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use kube::ResourceExt as _;
use kube::runtime::reflector::Store;
use tokio::time::Instant;

use super::guarded::Guarded;
use super::watches::Watches;
use crate::common::exposition::{Exposition, escaped};
use crate::common::histogram::Histogram;
use crate::common::http;
use crate::crd::{ConditionType, Reason};

/// The state that the probes and metrics expose.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// True once all objects of every watched kind have been listed.
    pub ready: AtomicBool,
    /// True while this operator is the leader.
    pub leading: AtomicBool,
    /// The watches that are currently failing.
    pub watches: Watches,
    /// The watched services, whose conditions the metrics show.
    pub objects: Objects,
    /// The number of successful reconciliations.
    pub reconciled: AtomicU64,
    /// The number of failed reconciliations. Each is retried.
    pub failed: AtomicU64,
    /// The durations of the reconciliations, successful and failed ones.
    pub durations: Histogram,
    /// The number of write requests, including refused ones. It does not grow while nothing
    /// changes.
    pub writes: AtomicU64,
}

/// The stores of the watched services, from which the metrics read the services' conditions.
#[derive(Default)]
pub struct Objects(Mutex<Arc<Vec<Store<Guarded>>>>);

impl fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} services", self.standings().len())
    }
}

/// The condition `Ready` of one service, as the metrics show it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    namespace: String,
    name: String,
    ready: bool,
    reason: String,
}

impl Objects {
    /// Replaces the stores of the watched services.
    pub(super) fn set(&self, objects: Arc<Vec<Store<Guarded>>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = objects;
    }

    fn standings(&self) -> Vec<Standing> {
        let stores = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut found: Vec<_> = stores.iter().flat_map(Store::state).map(|object| standing(&object)).collect();
        found.sort();
        found
    }
}

fn standing(object: &Guarded) -> Standing {
    let (ready, reason) = match object.object() {
        Some(object) => {
            let conditions = object.status.as_ref().map(|status| &status.conditions);
            let ready =
                conditions.into_iter().flatten().find(|condition| condition.type_ == ConditionType::Ready.as_str());
            ready.map_or((false, Reason::Pending.as_str()), |ready| (ready.status == "True", ready.reason.as_str()))
        }
        None => (false, Reason::InvalidSpec.as_str()),
    };
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    Standing { namespace, name, ready, reason: reason.to_owned() }
}

impl Telemetry {
    /// Returns true once all objects of every watched kind have been listed.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Returns the body of the response with which the readiness probe fails. The body lists the
    /// failing watches.
    pub fn not_ready(&self) -> String {
        let failing = self.watches.failing();
        let failing = failing.into_iter().map(|((resource, _), cause)| format!("cannot watch {resource}: {cause}\n"));
        ["some kinds have not been listed yet\n".to_owned()].into_iter().chain(failing).collect()
    }

    /// Waits for a reconciliation, and records how long it took.
    pub(super) async fn timed<T>(&self, reconciliation: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let outcome = reconciliation.await;
        self.durations.observe(start.elapsed());
        outcome
    }

    fn exposition(&self) -> String {
        let mut text = Exposition::of_program("onionbalance_operator");
        text.family("reconciliations_total", "counter", "Reconciliations of OnionBalancedService objects");
        for (result, count) in [("success", &self.reconciled), ("error", &self.failed)] {
            text.sample("reconciliations_total", &format!("{{result=\"{result}\"}}"), count.load(Ordering::Relaxed));
        }
        text.histogram(
            "reconciliation_duration_seconds",
            "Durations of reconciliations, with all requests to the API server",
            &self.durations,
        );
        text.family("leader", "gauge", "1 if this operator is the leader");
        text.sample("leader", "", u64::from(self.leading.load(Ordering::Relaxed)));
        text.family("watch_failing", "gauge", "1 for each kind that cannot currently be watched");
        for (resource, namespace) in self.watches.failing().keys() {
            let namespace = namespace.as_deref().unwrap_or_default();
            text.sample("watch_failing", &format!("{{resource=\"{resource}\",watched_namespace=\"{namespace}\"}}"), 1);
        }
        text.family(
            "service_ready",
            "gauge",
            "1 if the object is Ready, 0 with the reason if not; only from the leader",
        );
        let leads = self.leading.load(Ordering::Relaxed);
        for Standing { namespace, name, ready, reason } in leads.then(|| self.objects.standings()).into_iter().flatten()
        {
            let reason = escaped(&reason);
            let labels = format!("{{namespace=\"{namespace}\",onion_service=\"{name}\",reason=\"{reason}\"}}");
            text.sample("service_ready", &labels, u64::from(ready));
        }
        text.family("writes_total", "counter", "Write requests sent to the API server");
        text.sample("writes_total", "", self.writes.load(Ordering::Relaxed));
        text.finish()
    }
}

/// Returns the router that serves `/livez` and `/readyz`.
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

/// Returns the router that serves `/metrics`.
pub fn metrics(telemetry: Arc<Telemetry>) -> Router {
    Router::new().route("/metrics", get(move || std::future::ready(http::metrics(telemetry.exposition()))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube::runtime::{reflector, watcher};
    use serde_json::{Value, json};

    use super::*;
    use crate::common::exposition::page;

    fn object(name: &str, spec: &Value, conditions: &Value) -> Guarded {
        serde_json::from_value(json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn metrics_show_each_service_with_its_readiness() {
        let (store, mut writer) = reflector::store();
        let condition = |status: &str, reason: &str| {
            json!([{
                "type": "Ready", "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }])
        };
        for object in [
            object("web", &json!({"ports": []}), &condition("True", "Ready")),
            object("lost", &json!({"ports": []}), &condition("False", "SecretNotFound")),
            object("new", &json!({"ports": []}), &json!([])),
            object("odd", &json!("none"), &json!([])),
        ] {
            writer.apply_watcher_event(&watcher::Event::Apply(object));
        }
        let telemetry = Telemetry::default();
        telemetry.objects.set(Arc::new(vec![store]));
        let ready = || -> Vec<String> {
            let text = telemetry.exposition();
            text.lines()
                .filter_map(|line| line.strip_prefix("onionbalance_operator_service_ready"))
                .map(ToOwned::to_owned)
                .collect()
        };
        assert_eq!(ready(), [""; 0], "a standby reports no services");
        telemetry.leading.store(true, Ordering::Relaxed);
        assert_eq!(
            ready(),
            [
                r#"{namespace="shop",onion_service="lost",reason="SecretNotFound"} 0"#,
                r#"{namespace="shop",onion_service="new",reason="Pending"} 0"#,
                r#"{namespace="shop",onion_service="odd",reason="InvalidSpec"} 0"#,
                r#"{namespace="shop",onion_service="web",reason="Ready"} 1"#,
            ]
        );
    }

    #[test]
    fn metrics_have_the_documented_families() {
        let telemetry = Telemetry { reconciled: AtomicU64::new(3), writes: AtomicU64::new(5), ..Telemetry::default() };
        let text = telemetry.exposition();
        assert_eq!(page::families(&text), page::documented("onionbalance_operator"), "see docs/metrics.md");
        let histogram = |line: &&str| line.contains("reconciliation_duration_seconds");
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#') && !histogram(line)).collect();
        assert_eq!(
            samples,
            [
                concat!("onionbalance_operator_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
                "onionbalance_operator_reconciliations_total{result=\"success\"} 3",
                "onionbalance_operator_reconciliations_total{result=\"error\"} 0",
                "onionbalance_operator_leader 0",
                "onionbalance_operator_writes_total 5",
            ]
        );
    }
    /// A failed reconciliation counts too: the time that a request takes to fail is of interest.
    #[tokio::test(start_paused = true)]
    async fn each_reconciliation_is_timed() {
        let telemetry = Telemetry::default();
        for (seconds, outcome) in [(2, Ok(())), (40, Err(()))] {
            let reconciliation = async {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                outcome
            };
            assert_eq!(telemetry.timed(reconciliation).await, outcome);
        }
        let text = telemetry.exposition();
        for line in [
            r#"onionbalance_operator_reconciliation_duration_seconds_bucket{le="1"} 0"#,
            r#"onionbalance_operator_reconciliation_duration_seconds_bucket{le="2.5"} 1"#,
            r#"onionbalance_operator_reconciliation_duration_seconds_bucket{le="30"} 1"#,
            r#"onionbalance_operator_reconciliation_duration_seconds_bucket{le="+Inf"} 2"#,
            "onionbalance_operator_reconciliation_duration_seconds_sum 42",
            "onionbalance_operator_reconciliation_duration_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }

    /// `namespace` is the namespace of an object, so the label of a watch has another name.
    #[test]
    fn a_failing_watch_names_its_namespace() {
        let telemetry = Telemetry::default();
        for namespace in [None, Some("shop")] {
            telemetry.watches.of("secrets", namespace).fail_for_tests();
        }
        let text = telemetry.exposition();
        for namespace in ["", "shop"] {
            let sample = format!("{{resource=\"secrets\",watched_namespace=\"{namespace}\"}} 1");
            assert!(text.contains(&format!("onionbalance_operator_watch_failing{sample}\n")), "{text}");
        }
    }
}
