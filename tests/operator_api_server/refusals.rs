//! Tests that the conditions report requests that the API server or a quota refuses, and images
//! that cannot be pulled.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::scene::{PATIENCE, Scene, settings};
use crate::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn reports_an_image_that_cannot_be_pulled() {
    let scene = Scene::start("image").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    for (component, kind) in [("backend", "BackendsReady"), ("frontend", "Published")] {
        let name = format!("web-{component}-x");
        // Create a pod as the Deployment controller would, and write its status as the kubelet
        // would.
        let deployment: Deployment = scene.wait_for(&format!("web-{component}"), |_| true).await;
        let template = serde_json::to_value(deployment.spec.unwrap().template).unwrap();
        let labels = &template["metadata"]["labels"];
        let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": template["spec"]});
        let pods: Api<Pod> = scene.api();
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        for reason in ["ErrImagePull", "ImagePullBackOff"] {
            let waiting = json!({"waiting": {"reason": reason, "message": "not found"}});
            let status = json!({"name": "tor", "image": "tor:1", "imageID": "", "ready": false, "restartCount": 0, "state": waiting});
            let patch = Patch::Strategic(json!({"status": {"containerStatuses": [status]}}));
            pods.patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
            let message = scene.wait_condition("web", kind, "False ImagePullFailed").await;
            let expected = format!("Pod {name}: container tor: ImagePullBackOff: could not pull image \"tor:1\"");
            assert!(message.contains(&expected), "{message}");
        }
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    scene.wait_condition("web", "Published", "False NotPublished").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_quota_that_rejects_a_child() {
    let scene = Scene::start("quota").await;
    let quotas: Api<ResourceQuota> = scene.api();
    let none = json!({"hard": {"count/deployments.apps": "0"}, "used": {"count/deployments.apps": "0"}});
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": none["hard"]}});
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    // Write the status as the quota controller would.
    quotas.patch_status("none", &PatchParams::default(), &Patch::Merge(json!({ "status": none }))).await.unwrap();
    scene.create("web", json!({})).await;
    let message = scene.wait_condition("web", "BackendsReady", "False ApplyFailed").await;
    assert!(message.contains("Deployment web-backend: ") && message.contains("exceeded quota: none"), "{message}");
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    scene.wait_children("web").await;
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_missing_permission() {
    let scene = Scene::start_with_role("no-get").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let roles: Api<Role> = scene.api();
    let complete = roles.get("onionbalance-operator").await.unwrap().rules.unwrap();
    let mut without = complete.clone();
    for rule in without.iter_mut().filter(|rule| rule.resources == Some(vec!["secrets".to_owned()])) {
        rule.verbs.retain(|verb| verb != "get");
    }
    assert_ne!(without, complete);
    let give = async |rules: &Vec<_>| {
        let patch = Patch::Merge(json!({ "rules": rules }));
        roles.patch("onionbalance-operator", &PatchParams::default(), &patch).await.unwrap();
    };
    give(&without).await;
    scene.change("web", json!({"spec": {"backends": {"replicas": 3}}})).await;
    let message = scene.wait_condition("web", "Ready", "Unknown Forbidden").await;
    assert!(
        message.starts_with("The operator lacks a permission: secrets \"web-master-key\" is forbidden"),
        "{message}"
    );
    let address = scene.address("web").await;
    give(&complete).await;
    scene.wait_condition("web", "Ready", "False Progressing").await;
    assert_eq!(scene.address("web").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_forbidden_watch_through_the_readiness_probe() {
    let mut scene = Scene::start_with_role("no-list").await;
    until("the watch caches are filled", PATIENCE, async || {
        if scene.telemetry.is_ready() { Ok(()) } else { Err(scene.telemetry.not_ready()) }
    })
    .await;
    assert_eq!(scene.telemetry.watches.failing(), BTreeMap::new());
    scene.stop_operator().await;
    let roles: Api<Role> = scene.api();
    let mut allowed = roles.get("onionbalance-operator").await.unwrap().rules.unwrap();
    allowed.retain(|rule| rule.resources != Some(vec!["poddisruptionbudgets".to_owned()]));
    let patch = Patch::Merge(json!({ "rules": allowed }));
    roles.patch("onionbalance-operator", &PatchParams::default(), &patch).await.unwrap();
    scene.start_operator(settings());
    let refused = until("a watch fails", PATIENCE, async || {
        let failing = scene.telemetry.watches.failing();
        if failing.is_empty() { Err("no watch fails".to_owned()) } else { Ok(failing) }
    })
    .await;
    let name = ("poddisruptionbudgets".to_owned(), Some(scene.namespace.clone()));
    assert_eq!(refused.keys().collect::<Vec<_>>(), [&name]);
    assert!(refused[&name].contains("cannot list resource \"poddisruptionbudgets\""), "{refused:?}");
    assert!(scene.telemetry.not_ready().contains("cannot watch poddisruptionbudgets: "));
    scene.end().await;
}
