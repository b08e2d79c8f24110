//! Tests of pods that their nodes have rejected.

use std::sync::Arc;

use serde_json::{Value, json};

use super::support::{concluded, condition, from, healthy, now, with};
use crate::crd::Reason;
use crate::crd::names::Component;
use crate::operator::plan::Observed;
use crate::operator::pods::{PodProblem, PodState};

/// Returns a pod of the backends with a problem.
fn pod(name: &str, reason: Reason, is_rejected: bool) -> PodState {
    let problem = Some(PodProblem { reason, message: format!("Pod {name}: {}.", reason.as_str()) });
    let rejected = is_rejected.then(now);
    let (pod, uid) = (name.to_owned(), format!("uid-of-{name}"));
    PodState { pod, uid, component: Component::Backend, problem, creating_since: None, rejected }
}

/// Returns the healthy service with these pods and this status of the backends' Deployment.
fn with_pods(pods: Vec<PodState>, status: &Value) -> Observed {
    let deployment = json!({"metadata": {"name": "web-backend", "generation": 3}, "status": status});
    Observed { pods, backends: Some(Arc::new(from(deployment))), ..healthy() }
}

fn backends_ready(observed: &Observed) -> String {
    condition(&concluded(observed).1, "BackendsReady")
}

#[test]
fn a_rejected_pod_is_reported_while_pods_are_missing() {
    let ready =
        |count: i32| json!({"observedGeneration": 3, "replicas": 3, "updatedReplicas": 3, "readyReplicas": count});
    let rejected = pod("a", Reason::PodsFailing, true);
    let observed = with_pods(vec![rejected.clone()], &ready(2));
    assert_eq!(backends_ready(&observed), "False PodsFailing: 2 of 3 backends are ready. Pod a: PodsFailing.");
    let replaced = with_pods(vec![rejected.clone(), pod("b", Reason::Unschedulable, false)], &ready(2));
    assert_eq!(backends_ready(&replaced), "False Unschedulable: 2 of 3 backends are ready. Pod b: Unschedulable.");
    assert!(backends_ready(&with_pods(vec![rejected], &ready(3))).starts_with("True "));
}

#[test]
fn a_rejected_pod_does_not_run() {
    let stopped = json!({"observedGeneration": 3, "replicas": 0});
    for (is_rejected, expected) in [(true, "False Suspended: "), (false, "False Stopping: ")] {
        let mut observed = with_pods(vec![pod("a", Reason::PodsFailing, is_rejected)], &stopped);
        observed.object = with(&observed.object, "spec/suspend", json!(true));
        let found = backends_ready(&observed);
        assert!(found.starts_with(expected), "{found}");
    }
}
