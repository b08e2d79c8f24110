//! Target Services: missing, wrong, coming and going.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_target_is_told_and_waited_for() {
    let scene = Scene::set("no-target").await;
    scene.create("web", json!({"ports": [{"port": 80, "target": {"service": {"name": "shop", "port": 80}}}]})).await;
    let message = scene.wait_condition("web", "Ready", "False TargetNotFound").await;
    assert_eq!(
        message,
        "spec.ports[0].target.service: Service shop does not exist in namespace test-no-target; create it, or correct the name"
    );
    assert_eq!(scene.children("web").await.len(), 0);
    scene.create_target("shop").await;
    scene.wait_children("web").await;
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_port_is_told() {
    let scene = Scene::set("wrong-port").await;
    scene
        .create("web", json!({"ports": [{"port": 80, "target": {"service": {"name": "web", "port": "https"}}}]}))
        .await;
    let message = scene.wait_condition("web", "BackendsReady", "False TargetPortNotFound").await;
    assert_eq!(
        message,
        "spec.ports[0].target.service: Service web has no TCP port \"https\"; its TCP ports: http (80)"
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_goes_takes_nothing_down_and_its_new_port_is_followed() {
    let scene = Scene::set("target-goes").await;
    scene.create("web", json!({})).await;
    let before = scene.wait_children("web").await;
    scene.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    scene.wait_condition("web", "BackendsReady", "False TargetNotFound").await;
    // Scaling goes on with the target that was.
    scene.change("web", json!({"spec": {"backends": {"replicas": 4}}})).await;
    let replicas = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas;
    scene.wait_for::<Deployment>("web-backend", |deployment| replicas(deployment) == Some(4)).await;
    assert!(before.keys().eq(scene.children("web").await.keys()));

    scene.create_target("web").await;
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    let moved = json!({"spec": {"ports": [{"name": "http", "port": 8080}]}});
    scene.api::<Service>().patch("web", &PatchParams::default(), &Patch::Merge(moved)).await.unwrap();
    let follows =
        |config: &ConfigMap| config.data.as_ref().unwrap()["agent.yaml"].contains("web.test-target-goes.svc:8080");
    scene.wait_for::<ConfigMap>("web-backend", follows).await;
    scene.end().await;
}
