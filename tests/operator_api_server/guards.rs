//! Tests of disruption budgets and network policies. The operator must use the API version that the
//! server serves, and must delete the objects when they are disabled.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use onionbalance_operator::operator::Settings;
use serde_json::{Value, json};

use crate::scene::{Scene, settings};

async fn budgets(scene: &Scene) -> Vec<Value> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("policy", "v1beta1", "PodDisruptionBudget"));
    let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
    let found = api.list(&ListParams::default()).await.unwrap();
    found.into_iter().map(|budget| budget.data["spec"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_the_served_version_of_disruption_budgets() {
    let scene = Scene::start("budgets").await;
    // The server does not serve `policy/v1`, so an operator that relied on that version would never
    // become ready.
    let groups = scene.client.list_api_groups().await.unwrap();
    let policy = groups.groups.iter().find(|group| group.name == "policy").unwrap();
    assert_eq!(policy.versions.iter().map(|version| version.version.as_str()).collect::<Vec<_>>(), ["v1beta1"]);
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let selector = |component: &str| json!({"matchLabels": {"app.kubernetes.io/component": component, "onionbalance.dev/service": "web"}});
    assert_eq!(
        budgets(&scene).await,
        [
            json!({"maxUnavailable": "25%", "selector": selector("backend")}),
            json!({"maxUnavailable": 1, "selector": selector("frontend")}),
        ]
    );
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
    let without = scene.wait_number_of_children("web", 11).await;
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
