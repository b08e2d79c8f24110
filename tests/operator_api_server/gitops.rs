//! Tests that deployment pipelines, autoscalers and the operator each manage their own fields
//! without conflicts.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams, WatchEvent, WatchParams};
use kube::core::ObjectMeta;
use onionbalance_operator::crd::OnionBalancedService;
use serde_json::{Value, json};

use crate::scene::{OPERATOR_LEASE, Scene, settings};

/// Applies a manifest as a deployment pipeline does.
async fn apply(scene: &Scene, manager: &str, backends: Value) -> Result<DynamicObject, kube::Error> {
    let manifest = json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": "web"},
        "spec": {
            "ports": [{"port": 80, "target": {"service": {"name": "web", "port": "http"}}}],
            "backends": backends,
        },
    });
    scene.untyped().patch("web", &PatchParams::apply(manager), &Patch::Apply(manifest)).await
}

/// Sets the number of replicas as an autoscaler does.
async fn scale(scene: &Scene, replicas: i32) {
    let parameters = PatchParams { field_manager: Some("autoscaler".to_owned()), ..PatchParams::default() };
    let scale = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    scene.api::<OnionBalancedService>().patch_scale("web", &parameters, &scale).await.unwrap();
    let scaled = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas == Some(replicas);
    scene.wait_for::<Deployment>("web-backend", scaled).await;
}

fn replicas(object: &DynamicObject) -> i64 {
    object.data["spec"]["backends"]["replicas"].as_i64().unwrap()
}

async fn ready(scene: &Scene, backends: i32) {
    scene.report_backends("web", backends).await;
    scene.report_published("web").await;
    scene.wait_condition("web", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_applies_change_nothing() {
    let scene = Scene::start("pipeline").await;
    let manifest = json!({"replicas": 3, "template": {"resources": {"tor": {"requests": {"cpu": "0.50"}}}}});
    apply(&scene, "pipeline", manifest.clone()).await.unwrap();
    scene.wait_children("web").await;
    ready(&scene, 3).await;
    let (object, children) = (scene.untyped().get("web").await.unwrap(), scene.children("web").await);
    for _ in 0..10 {
        let applied = apply(&scene, "pipeline", manifest.clone()).await.unwrap();
        assert_eq!(applied.resource_version(), object.resource_version());
    }
    assert_eq!(scene.children("web").await, children);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_owns_the_replicas_that_a_manifest_leaves_out() {
    let scene = Scene::start("autoscaler").await;
    let manifest = json!({"drainTimeoutSeconds": 5});
    assert_eq!(replicas(&apply(&scene, "pipeline", manifest.clone()).await.unwrap()), 2);
    for wanted in [5, 3] {
        scale(&scene, wanted).await;
        assert_eq!(replicas(&apply(&scene, "pipeline", manifest.clone()).await.unwrap()), i64::from(wanted));
    }
    scene.end().await;
}

/// Follows docs/gitops.md: another field manager takes over the number of replicas before the
/// manifest stops setting it.
#[tokio::test(flavor = "multi_thread")]
async fn hands_over_the_replicas_without_changing_them() {
    let scene = Scene::start("handover").await;
    apply(&scene, "pipeline", json!({"replicas": 6})).await.unwrap();
    apply(&scene, "handover", json!({"replicas": 6})).await.unwrap();
    let applied = apply(&scene, "pipeline", json!({})).await.unwrap();
    assert_eq!((replicas(&applied), applied.metadata.generation), (6, Some(1)));
    scale(&scene, 4).await;
    let applied = apply(&scene, "pipeline", json!({})).await.unwrap();
    assert_eq!((replicas(&applied), applied.metadata.generation), (4, Some(2)));
    scene.end().await;
}

fn managers(metadata: &ObjectMeta) -> Vec<String> {
    let managers = metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.clone());
    managers.collect::<BTreeSet<_>>().into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_writer_has_its_own_field_manager() {
    let scene = Scene::start("managers").await;
    apply(&scene, "pipeline", json!({})).await.unwrap();
    scene.wait_children("web").await;
    scene.address("web").await;
    let object = scene.untyped().get("web").await.unwrap();
    assert_eq!(managers(&object.metadata), ["onionbalance-operator", "pipeline"]);
    for (name, child) in scene.metadata_of_children("web").await {
        assert_eq!(managers(&child), ["onionbalance-operator"], "{name}");
    }
    let key = scene.wait_for::<Secret>("web-master-key", |_| true).await;
    assert_eq!(managers(&key.metadata), ["onionbalance-operator"]);
    let lease = scene.wait_for::<Lease>(OPERATOR_LEASE, |_| true).await;
    assert_eq!(managers(&lease.metadata), ["onionbalance-operator"]);
    scene.end().await;
}

/// `kubectl wait --for=condition=Ready` and tools that follow kstatus rely on the condition's
/// `observedGeneration`.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_is_ready_only_once_it_is_rolled_out() {
    let scene = Scene::start("generation").await;
    apply(&scene, "pipeline", json!({"replicas": 3})).await.unwrap();
    scene.wait_children("web").await;
    ready(&scene, 3).await;
    let before = scene.untyped().get("web").await.unwrap();
    let changed = json!({"replicas": 3, "template": {"labels": {"tier": "onion"}}});
    let after = apply(&scene, "pipeline", changed).await.unwrap();
    scene.wait_condition("web", "Ready", "False RollingOut").await;
    ready(&scene, 3).await;
    // Collect every reason that was reported for the new generation.
    let version = before.resource_version().unwrap();
    let parameters = WatchParams::default().fields("metadata.name=web").timeout(10);
    let objects: Api<DynamicObject> = scene.untyped();
    let mut events = objects.watch(&parameters, &version).await.unwrap().boxed();
    let mut reasons: Vec<String> = Vec::new();
    while reasons.last().is_none_or(|reason| reason != "Ready") {
        let event = events.try_next().await.unwrap().expect("the watch ended before the object was Ready");
        let WatchEvent::Modified(object) = event else { continue };
        let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
        if ready["observedGeneration"].as_i64() == after.metadata.generation {
            reasons.push(ready["reason"].as_str().unwrap().to_owned());
        }
    }
    reasons.pop();
    assert!(!reasons.is_empty() && reasons.iter().all(|reason| reason == "RollingOut"), "{reasons:?}");
    scene.end().await;
}

/// An object that no operator has reconciled yet must not appear to be ready.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreconciled_object_is_not_ready() {
    let mut scene = Scene::without_operator("pending").await;
    apply(&scene, "pipeline", json!({})).await.unwrap();
    let found = scene.untyped().get("web").await.unwrap();
    let ready = &found.data["status"]["conditions"][0];
    assert_eq!(
        (&ready["type"], &ready["status"], &ready["reason"]),
        (&json!("Ready"), &json!("Unknown"), &json!("Pending"))
    );
    scene.start_operator(settings());
    scene.wait_condition("web", "Ready", "False Progressing").await;
    scene.end().await;
}
