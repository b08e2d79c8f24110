//! Tests of target Services that are missing, deleted or changed, or that lack the requested port.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_missing_target_and_waits_for_it() {
    let scene = Scene::start("no-target").await;
    scene.create("web", json!({"ports": [{"port": 80, "target": {"service": {"name": "shop", "port": 80}}}]})).await;
    let message = scene.wait_condition("web", "Ready", "False TargetNotFound").await;
    let expected = "spec.ports[0].target.service: Service shop does not exist in namespace test-no-target; create it, or \
                    correct the name. Until then, port 80 is not served. ";
    assert!(message.starts_with(expected), "{message}");
    // The frontends can start. Backends without a port would be of no use.
    let children = scene.wait_number_of_children("web", 14).await;
    for missing in ["ConfigMap web-backend", "Deployment web-backend"] {
        assert!(!children.contains_key(missing), "{children:?}");
    }
    scene.create_target("shop").await;
    scene.wait_children("web").await;
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_wrong_port() {
    let scene = Scene::start("wrong-port").await;
    scene
        .create("web", json!({"ports": [{"port": 80, "target": {"service": {"name": "web", "port": "https"}}}]}))
        .await;
    let message = scene.wait_condition("web", "BackendsReady", "False TargetPortNotFound").await;
    let expected = "spec.ports[0].target.service: Service web has no TCP port \"https\"; its TCP ports: http (80). \
                    Until then, port 80 is not served. ";
    assert!(message.starts_with(expected), "{message}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_running_without_its_target_and_follows_a_new_port() {
    let scene = Scene::start("target-goes").await;
    scene.create("web", json!({})).await;
    let before = scene.wait_children("web").await;
    scene.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    scene.wait_condition("web", "BackendsReady", "False TargetNotFound").await;
    // Scaling still works and uses the last known target.
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
