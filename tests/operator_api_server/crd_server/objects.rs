//! Tests how the server checks and stores our objects.

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::response::StatusCause;
use kube::core::{ApiResource, GroupVersionKind};
use onionbalance_operator::crd::{OnionBalancedService, custom_resource_definition, without_rules};
use serde_json::{Value, json};

use super::{apply_crd, crd_server, objects, objects_of};
use crate::scene::PATIENCE;
use crate::server::wait_established;
use crate::table::refused::{RefusedChange, allowed, changed, good, refused_changes};
use crate::table::rejects_exactly_the_invalid_objects;
use crate::wait::until;

/// Returns the smallest valid object with the given name.
fn named(name: &str) -> DynamicObject {
    serde_json::from_value(changed(&json!({"metadata": {"name": name}}))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_and_the_rules_reject_exactly_the_objects_that_violate_them() {
    rejects_exactly_the_invalid_objects(&objects().await, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_the_smallest_object_with_all_defaults() {
    let objects = objects().await;
    objects.create(&PostParams::default(), &named("defaults")).await.unwrap();
    let stored = objects.get("defaults").await.unwrap();
    let expected = json!({
        "ports": good()["spec"]["ports"],
        "masterKey": {"delegated": false}, "deletionPolicy": "Retain", "suspend": false,
        "anonymity": {"guards": "Shared", "guardsInUse": 1, "vanguards": "Lite", "serverLocation": "Hidden"},
        "backends": {"replicas": 2, "introductionPoints": 3, "drainTimeoutSeconds": 120, "template": {}},
        "frontend": {
            "replicas": 1, "distinctDescriptors": "Auto", "template": {},
            "probe": {"enabled": true, "periodSeconds": 300, "timeoutSeconds": 120},
        },
    });
    assert_eq!(stored.data["spec"], expected);
    let ready = &stored.data["status"]["conditions"][0];
    assert_eq!(
        (&ready["type"], &ready["status"], &ready["reason"]),
        (&json!("Ready"), &json!("Unknown"), &json!("Pending"))
    );
}

/// The operator's types have defaults of their own. If they differed from the schema's, an object
/// would change its meaning once the server has stored its defaults.
#[tokio::test(flavor = "multi_thread")]
async fn the_defaults_of_the_schema_are_those_of_the_operator() {
    let objects = objects().await;
    for (number, change) in allowed().iter().enumerate() {
        let mut object = changed(change);
        object["metadata"]["name"] = json!(format!("allowed-{number}"));
        let sent: OnionBalancedService = serde_json::from_value(object.clone()).unwrap();
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let stored = objects.create(&PostParams::default(), &object).await.unwrap();
        let stored: OnionBalancedService = serde_json::from_value(serde_json::to_value(stored).unwrap()).unwrap();
        assert_eq!(stored.spec, sent.spec, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_cannot_be_changed_is_not_changed() {
    let objects = objects().await;
    for (number, RefusedChange { before, after, says }) in refused_changes().into_iter().enumerate() {
        let (name, (field, message)) = (format!("immutable-{number}"), says.split_once(": ").unwrap());
        let whole = |change: &Value| -> DynamicObject {
            let mut object = changed(change);
            object["metadata"]["name"] = json!(name);
            serde_json::from_value(object).unwrap()
        };
        let stored = objects.create(&PostParams::default(), &whole(&before)).await.unwrap();
        let mut replacement = whole(&after);
        replacement.metadata.resource_version = stored.metadata.resource_version;
        let Err(kube::Error::Api(refusal)) = objects.replace(&name, &PostParams::default(), &replacement).await else {
            panic!("{before} was replaced by {after}")
        };
        let causes = &refusal.details.as_ref().unwrap().causes;
        let expected = |cause: &StatusCause| cause.field == field && cause.message.ends_with(message);
        assert!(refusal.code == 422 && causes.iter().any(expected), "{refusal:?}");
        // Any other change is possible.
        let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
        objects.patch(&name, &PatchParams::default(), &suspend).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_an_unknown_field() {
    let objects = objects().await;
    objects.create(&PostParams::default(), &named("unknown")).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"backends": {"replicaz": 3}}}));
    let strict = PatchParams::default().validation_strict();
    let error = objects.patch("unknown", &strict, &patch).await.unwrap_err().to_string();
    assert!(error.contains("unknown field \"spec.backends.replicaz\""), "{error}");
}

/// Applies a manifest with the given ports.
async fn apply_ports(name: &str, manager: &str, ports: Value) -> kube::Result<DynamicObject> {
    let manifest = json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": name},
        "spec": {"ports": ports},
    });
    objects().await.patch(name, &PatchParams::apply(manager), &Patch::Apply(manifest)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_managers_apply_different_ports() {
    let port = |port: u16, target: &str| json!({"port": port, "target": {"address": target}});
    let [web, mail] = [port(80, "web:80"), port(25, "mail:25")];
    apply_ports("managers", "web", json!([web])).await.unwrap();
    let both = apply_ports("managers", "mail", json!([mail])).await.unwrap();
    assert_eq!(both.data["spec"]["ports"], json!([web, mail]));

    // A manager cannot change the other one's port.
    let conflict = apply_ports("managers", "mail", json!([mail, port(80, "mail:80")])).await.unwrap_err();
    assert!(matches!(&conflict, kube::Error::Api(status) if status.code == 409), "{conflict}");
    assert!(conflict.to_string().contains("conflict with \"web\": .spec.ports[port=80].target.address"), "{conflict}");

    // Each manager's manifest removes only its own port.
    let rest = apply_ports("managers", "web", json!([])).await.unwrap();
    assert_eq!(rest.data["spec"]["ports"], json!([mail]));
}

/// Objects that are older than the rules may violate them, for example after an upgrade of the
/// cluster. The operator must still be able to report the violation in the status.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_older_than_the_rules_can_be_reported_and_corrected() {
    let (client, _) = crd_server().await;
    // Another group, so that the other tests keep their CRD.
    let group = "older.example.org";
    let (name, parameters) = (format!("onionbalancedservices.{group}"), PatchParams::apply("test"));
    let mut crd = without_rules(custom_resource_definition());
    crd.metadata.name = Some(name.clone());
    group.clone_into(&mut crd.spec.group);
    let crds = kube::Api::all(client.clone());
    apply_crd(&client, &serde_json::to_value(&crd).unwrap(), &parameters).await;
    wait_established(&crds, &name).await;
    let kind = GroupVersionKind::gvk(group, "v1alpha1", "OnionBalancedService");
    let objects = objects_of(client.clone(), &ApiResource::from_gvk(&kind));
    let mut object = changed(&json!({"spec": {"backends": {"extraTorrc": "ControlPort 9051"}}}));
    object["apiVersion"] = json!(format!("{group}/v1alpha1"));
    let object = serde_json::from_value(object).unwrap();
    objects.create(&PostParams::default(), &object).await.unwrap();

    crd.spec.versions = custom_resource_definition().spec.versions;
    apply_crd(&client, &serde_json::to_value(&crd).unwrap(), &parameters).await;
    let merge = async |patch: Value| objects.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await;
    let torrc = |lines: Value| json!({"spec": {"backends": {"extraTorrc": lines}}});
    until("the server applies the rules", PATIENCE, async || {
        // Once stored, this value would be exempt from the rules, too.
        let patch = Patch::Merge(torrc(json!("SocksPort 9050")));
        match objects.patch("web", &PatchParams { dry_run: true, ..PatchParams::default() }, &patch).await {
            Err(kube::Error::Api(status)) if status.code == 422 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let status = Patch::Merge(json!({"status": {"observedGeneration": 1}}));
    let reported = objects.patch_status("web", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(reported.data["status"]["observedGeneration"], 1);
    merge(json!({"spec": {"suspend": true}})).await.unwrap();
    merge(torrc(Value::Null)).await.unwrap();
    crds.delete(&name, &DeleteParams::default()).await.unwrap();
}
