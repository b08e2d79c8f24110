//! Tests of the number of pods: a number that somebody has changed, and Deployments that can only
//! be scaled.

use std::sync::Arc;

use serde_json::json;

use super::support::{Server, healthy, with};
use crate::operator::plan::{Last, Observed};

/// Sets the number of replicas in the spec of the backends' Deployment.
fn with_replicas(mut observed: Observed, replicas: i32) -> Observed {
    let backends = Arc::make_mut(observed.backends.as_mut().unwrap());
    backends.spec.get_or_insert_default().replicas = Some(replicas);
    observed
}

/// Kubernetes before 1.22 does not record a change that is made through the scale subresource.
#[test]
fn a_number_that_somebody_changed_without_a_trace_is_put_back() {
    let mut server = Server::default();
    server.run(Observed { owned: None, ..healthy() });
    for (replicas, steps) in [(3, &["find children"][..]), (7, &["find children", "apply 1 Deployments"][..])] {
        server.steps.clear();
        server.run(with_replicas(Observed { owned: None, ..healthy() }, replicas));
        assert_eq!(server.steps, steps, "{replicas}");
    }
    assert_eq!(server.manifests["Deployment web-backend"]["spec"]["replicas"], 3);
}

#[test]
fn a_deployment_that_cannot_be_applied_is_still_scaled() {
    let bad = |suspend: bool, replicas: i32| {
        let observed = with_replicas(Observed { owned: None, last: Some(Last::default()), ..healthy() }, 3);
        let object = with(&observed.object, "spec/backends/extraTorrc", json!("ControlPor 9051"));
        let object = with(&object, "spec/backends/replicas", json!(replicas));
        Observed { object: with(&object, "spec/suspend", json!(suspend)), ..observed }
    };
    for (suspend, replicas, expected) in [
        (false, 3, ""),
        (false, 5, "Deployment web-backend to 5"),
        (true, 5, "Deployment web-backend to 0"),
        (false, -1, ""),
    ] {
        let mut server = Server::default();
        server.run(Observed { owned: None, ..healthy() });
        server.applied.clear();
        server.run(bad(suspend, replicas));
        let scaled: Vec<_> = server.scaled.iter().map(|scale| format!("{} to {}", scale.id, scale.replicas)).collect();
        assert_eq!(scaled.join(", "), expected, "{suspend} {replicas}");
        assert!(
            server.applied.iter().all(|(name, _)| name == "Deployment web-frontend"),
            "the backends stay as they are"
        );
    }
}

#[test]
fn a_refused_deployment_without_last_values_is_still_scaled() {
    let mut server = Server::default();
    server.run(Observed { owned: None, ..healthy() });
    server.refuses = &["Deployment web-backend"];
    let observed = with_replicas(Observed { owned: None, last: Some(Last::default()), ..healthy() }, 3);
    let object = with(&observed.object, "spec/suspend", json!(true));
    server.run(Observed { object, ..observed });
    assert_eq!(server.scaled.len(), 1);
    assert_eq!((server.scaled[0].id.to_string().as_str(), server.scaled[0].replicas), ("Deployment web-backend", 0));
}
