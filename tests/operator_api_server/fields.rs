//! Tests that the operator uses exactly those optional fields that the API server knows.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, DynamicObject};
use onionbalance_operator::operator::{Discovery, Fields, Index};
use serde_json::{Value, json};

use crate::scene::Scene;
use crate::server::{minor_version, operator};

/// The first minor version of Kubernetes 1 that serves OpenAPI v3.
const FIRST_WITH_DOCUMENTS: u32 = 24;
/// The first minor version of Kubernetes 1 in which every optional field is enabled by default.
const FIRST_WITH_ALL_FIELDS: u32 = 27;

#[tokio::test(flavor = "multi_thread")]
async fn uses_exactly_the_optional_fields_of_the_server() {
    let scene = Scene::start("fields").await;
    let minor = minor_version(&scene.client).await;
    // The operator retries for a while if it fails to read the index, but must not take an old
    // server for one that fails.
    let index = Index::read(&operator()).await.expect("could not read the index");
    assert_eq!(index.is_some(), minor >= FIRST_WITH_DOCUMENTS);
    let fields = Discovery::new(operator()).served().await.fields;
    if minor < FIRST_WITH_DOCUMENTS {
        assert_eq!(fields, Fields::default());
    } else if minor >= FIRST_WITH_ALL_FIELDS {
        let all = Fields { probe_grace_period: true, match_label_keys: true, unhealthy_pod_eviction_policy: true };
        assert_eq!(fields, all);
    }

    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    for (name, hung) in [("web-backend", "agent"), ("web-frontend", "publisher"), ("web-frontend", "tor")] {
        let deployment = scene.api::<Deployment>().get(name).await.unwrap();
        let pod = serde_json::to_value(deployment.spec.unwrap().template.spec.unwrap()).unwrap();
        let constraint = &pod["topologySpreadConstraints"][0];
        assert_eq!(constraint["maxSkew"], 1, "{name}");
        assert_eq!(constraint.get("matchLabelKeys").is_some(), fields.match_label_keys, "{name}: {constraint}");
        let containers = pod["containers"].as_array().unwrap();
        let container = containers.iter().find(|container| container["name"] == hung).unwrap();
        let grace_period = container["livenessProbe"].get("terminationGracePeriodSeconds");
        assert_eq!(grace_period.is_some(), fields.probe_grace_period, "{name}: {container}");
        if hung == "tor" {
            let expected = if fields.probe_grace_period { (2, 5) } else { (5, 6) };
            assert_eq!(patience(container), expected, "{container}");
        }
    }
    let budgets: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &scene.budgets);
    for name in ["web-backend", "web-frontend"] {
        let spec = budgets.get(name).await.unwrap().data["spec"].clone();
        assert_eq!(spec.get("unhealthyPodEvictionPolicy").is_some(), fields.unhealthy_pod_eviction_policy, "{spec}");
    }
    scene.end().await;
}

/// Returns the period, in seconds, and the failure threshold of a container's liveness probe.
fn patience(container: &Value) -> (i64, i64) {
    let number = |field: &str| container["livenessProbe"][field].as_i64().unwrap();
    (number("periodSeconds"), number("failureThreshold"))
}
