//! Tests of disruption budgets and network policies. The operator must use the API version that the
//! server serves, and must delete the objects when they are disabled.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, ListParams};
use onionbalance_operator::operator::Settings;
use serde_json::json;

use crate::scene::{Scene, settings};

async fn budgets(scene: &Scene) -> Vec<DynamicObject> {
    let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &scene.budgets);
    api.list(&ListParams::default()).await.unwrap().items
}

/// Kubernetes 1.20 serves only `policy/v1beta1`, and 1.25 and newer serve only `policy/v1`. An
/// operator that relied on one of them would never become ready on servers with only the other.
#[tokio::test(flavor = "multi_thread")]
async fn uses_the_served_version_of_disruption_budgets() {
    let scene = Scene::start("budgets").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let selector = |component: &str| json!({"matchLabels": {"app.kubernetes.io/component": component, "onionbalance.dev/service": "web"}});
    let expected = [
        json!({"maxUnavailable": "25%", "selector": selector("backend")}),
        json!({"maxUnavailable": 1, "selector": selector("frontend")}),
    ];
    let found = budgets(&scene).await;
    assert_eq!(found.iter().map(|budget| &budget.data["spec"]).collect::<Vec<_>>(), expected.each_ref());
    let writes = found.iter().flat_map(DynamicObject::managed_fields);
    let versions: BTreeSet<_> = writes.map(|write| write.api_version.as_deref().unwrap()).collect();
    assert_eq!(versions, BTreeSet::from([&*scene.budgets.api_version]));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_disabled_guards_and_recreates_enabled_ones() {
    let mut scene = Scene::start("guards-off").await;
    scene.create("web", json!({})).await;
    let before = scene.wait_children("web").await;
    let off = Settings { network_policies: None, wants_disruption_budgets: false, ..settings() };
    scene.stop_operator().await;
    scene.start_operator(off);
    let without = scene.wait_number_of_children("web", 12).await;
    assert!(without.iter().all(|(name, child)| before[name] == *child), "the other children must not change");

    let prometheus = json!({"podSelector": {"matchLabels": {"app": "prometheus"}}});
    scene.stop_operator().await;
    scene.start_operator(Settings { network_policies: Some(vec![prometheus]), ..settings() });
    scene.wait_children("web").await;
    let policy: NetworkPolicy = scene.api().get("web-frontend").await.unwrap();
    let ingress = serde_json::to_value(policy.spec.unwrap().ingress).unwrap();
    let from = json!([{"podSelector": {"matchLabels": {"app": "prometheus"}}}]);
    assert_eq!(ingress[1], json!({"from": from, "ports": [{"port": 9402, "protocol": "TCP"}]}));
    scene.end().await;
}
