//! Tests of the subresources `status` and `scale`.

use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use onionbalance_operator::crd::{OPERATOR_MANAGER, PUBLISHER_MANAGER};
use serde_json::{Value, json};

use super::objects;
use crate::table::refused::changed;

async fn created(name: &str) -> Api<DynamicObject> {
    let objects = objects().await;
    let object = serde_json::from_value(changed(&json!({"metadata": {"name": name}}))).unwrap();
    objects.create(&PostParams::default(), &object).await.unwrap();
    objects
}

/// Returns the HTTP status code of an error.
fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_and_the_spec_are_written_separately() {
    let objects = created("separate").await;
    let both = Patch::Merge(json!({"spec": {"suspend": true}, "status": {"ready": "1/2"}}));
    let written = objects.patch_status("separate", &PatchParams::default(), &both).await.unwrap();
    assert_eq!((&written.data["spec"]["suspend"], &written.data["status"]["ready"]), (&json!(false), &json!("1/2")));
    assert_eq!(written.metadata.generation, Some(1));
    let both = Patch::Merge(json!({"spec": {"suspend": true}, "status": {"ready": "2/2"}}));
    let written = objects.patch("separate", &PatchParams::default(), &both).await.unwrap();
    assert_eq!((&written.data["spec"]["suspend"], &written.data["status"]["ready"]), (&json!(true), &json!("1/2")));
    assert_eq!(written.metadata.generation, Some(2));

    let invalid = Patch::Merge(json!({"status": {"conditions": [{"type": "Ready", "status": "Maybe"}]}}));
    let error = objects.patch_status("separate", &PatchParams::default(), &invalid).await.unwrap_err();
    assert_eq!(code(&error), 422, "{error}");
    for part in
        ["status.conditions[0].status: Unsupported value: \"Maybe\"", "status.conditions[0].reason: Required value"]
    {
        assert!(error.to_string().contains(part), "{error}");
    }
}

async fn apply_status(objects: &Api<DynamicObject>, name: &str, manager: &str, status: Value) -> DynamicObject {
    let manifest = json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": name},
        "status": status,
    });
    objects.patch_status(name, &PatchParams::apply(manager).force(), &Patch::Apply(manifest)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_and_the_publisher_share_the_status() {
    let objects = created("shared").await;
    let now = "2026-01-01T00:00:00Z";
    let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": now});
    let own = json!({"conditions": [ready], "replicas": 2, "ready": "2/2"});
    apply_status(&objects, "shared", OPERATOR_MANAGER, own.clone()).await;
    let backend = |name: &str| json!({"name": name, "introductionPoints": 3, "state": "Ready", "since": now});
    let published = json!({
        "timePeriod": 1, "revisionCounter": 2, "introductionPoints": 3, "hsdirsAccepted": 8, "hsdirsTotal": 8,
        "lastPublished": now,
    });
    let its_own = json!({"backends": [backend("a"), backend("b")], "published": [published]});
    let shared = apply_status(&objects, "shared", PUBLISHER_MANAGER, its_own.clone()).await;
    let mut expected = own;
    expected.as_object_mut().unwrap().extend(its_own.as_object().unwrap().clone());
    assert_eq!(shared.data["status"], expected);

    // What one of them no longer applies is removed, and the other's fields remain.
    let left = json!({"conditions": [ready]});
    apply_status(&objects, "shared", OPERATOR_MANAGER, left).await;
    let shared = apply_status(&objects, "shared", PUBLISHER_MANAGER, json!({"backends": [backend("b")]})).await;
    assert_eq!(shared.data["status"], json!({"conditions": [ready], "backends": [backend("b")]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_scales_the_backends() {
    let objects = created("scaled").await;
    let scale = objects.get_scale("scaled").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(2));
    let status = Patch::Merge(json!({"status": {"replicas": 2, "selector": "a=b,c=d"}}));
    objects.patch_status("scaled", &PatchParams::default(), &status).await.unwrap();
    let status = objects.get_scale("scaled").await.unwrap().status.unwrap();
    assert_eq!((status.replicas, status.selector.as_deref()), (2, Some("a=b,c=d")));

    let replicas = |replicas: i32| Patch::Merge(json!({"spec": {"replicas": replicas}}));
    objects.patch_scale("scaled", &PatchParams::default(), &replicas(7)).await.unwrap();
    let scaled = objects.get("scaled").await.unwrap();
    assert_eq!((&scaled.data["spec"]["backends"]["replicas"], scaled.metadata.generation), (&json!(7), Some(2)));
    let error = objects.patch_scale("scaled", &PatchParams::default(), &replicas(-1)).await.unwrap_err();
    assert_eq!(code(&error), 422, "{error}");
}
