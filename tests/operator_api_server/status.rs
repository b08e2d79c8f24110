//! Tests of the status and of invalid objects, and a test that the operator writes nothing while
//! nothing changes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{Api, GetParams, ListParams, Patch, PatchParams};
use onionbalance_operator::crd::OnionBalancedService;
use serde_json::{Value, json};

use crate::scene::{OPERATOR_LEASE, PATIENCE, Scene, VERBOSE_LOG};
use crate::server::{administrator, kubectl};
use crate::table::without_indices;
use crate::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn becomes_ready_and_keeps_the_status_of_the_publisher() {
    let scene = Scene::start("ready").await;
    scene.create("web", json!({"backends": {"replicas": 3}})).await;
    scene.wait_children("web").await;
    scene.wait_condition("web", "Published", "False NotPublished").await;
    scene.report_backends("web", 2).await;
    scene.wait_message("web", "BackendsReady", "False Progressing", "2 of 3 backends are ready.").await;
    scene.report_backends("web", 3).await;
    scene.report_published("web").await;
    let message = scene.wait_condition("web", "Ready", "True Ready").await;
    assert_eq!(message, "The service is reachable.");
    let status = scene.status("web").await;
    assert_eq!((status.ready.as_deref(), status.backends.len(), status.published.len()), (Some("3/3"), 1, 1));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_an_invalid_spec_until_it_is_corrected() {
    let scene = Scene::start("bad-spec").await;
    scene.create("web", json!({"backends": {"extraTorrc": VERBOSE_LOG}})).await;
    let message = scene.wait_condition("web", "Accepted", "False InvalidSpec").await;
    assert!(message.starts_with("spec.backends.extraTorrc: line 1: "), "{message}");
    // The frontends can start, but there are no torrc lines with which the backends could start.
    assert!(message.contains("The backend pods have no such values"), "{message}");
    scene.wait_number_of_children("web", 14).await;
    scene.wait_condition("web", "BackendsReady", "False Waiting").await;
    scene.change("web", json!({"spec": {"backends": {"extraTorrc": null}}})).await;
    let before = scene.wait_children("web").await;
    // An object that becomes invalid keeps its children unchanged.
    scene.change("web", json!({"spec": {"backends": {"extraTorrc": VERBOSE_LOG}}})).await;
    scene.wait_condition("web", "Accepted", "False InvalidSpec").await;
    assert_eq!(before, scene.children("web").await);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_violates_a_rule_is_rejected_or_reported() {
    let scene = Scene::start("violation").await;
    let denied = json!({"backends": {"extraTorrc": "ControlPort 9051"}});
    let message = scene.create_violating("torrc", denied, "InvalidSpec").await;
    let parts = ["spec.backends.extraTorrc: ", "\"ControlPort\" is controlled by the operator; remove the line"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    let message = scene.create_violating(&"a".repeat(55), json!({}), "InvalidName").await;
    assert!(message.contains(": use at most 54 characters") || message.contains("; use at most 54, "), "{message}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_decoded_does_not_affect_others() {
    let scene = Scene::start("unreadable").await;
    scene.create("good", json!({})).await;
    let address = scene.address("good").await;
    // The schema accepts this quantity, but our types cannot represent it.
    let limits = |memory: Value| json!({"spec": {"backends": {"template": {"resources": {"tor": {"limits": {"memory": memory}}}}}}});
    let unreadable = limits(json!(5_000_000_000_u64));
    scene.change("good", unreadable).await;
    let message = scene.wait_condition("good", "Ready", "False InvalidSpec").await;
    assert!(message.contains("5000000000"), "{message}");
    scene.create("other", json!({})).await;
    scene.wait_children("other").await;
    scene.change("good", limits(json!("5000000000"))).await;
    scene.wait_condition("good", "Accepted", "True Valid").await;
    assert_eq!(scene.address("good").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_rejects_invalid_values() {
    let scene = Scene::start("schema").await;
    let port = json!({"port": 80, "target": {"address": "a:1"}});
    for (spec, field) in [
        (json!({"backends": {"replicas": -1}}), "spec.backends.replicas"),
        (json!({"backends": {"introductionPoints": 21}}), "spec.backends.introductionPoints"),
        (json!({"frontend": {"replicas": -1}}), "spec.frontend.replicas"),
        (json!({"ports": []}), "spec.ports"),
        (json!({"ports": [port, port]}), "spec.ports: Duplicate value"),
        (json!({"ports": [{"port": 0, "target": {}}]}), "spec.ports.port"),
        (json!({"deletionPolicy": "Keep"}), "spec.deletionPolicy"),
    ] {
        let error = scene.try_create("web", spec.clone()).await.expect_err(&spec.to_string()).to_string();
        assert!(without_indices(&error).contains(field), "{spec}: {error}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reports_an_unknown_field() {
    let client = administrator().await;
    // Old API servers leave this check to kubectl, which reads the schema from the OpenAPI
    // document. The server adds the schema to the document shortly after the CRD is created.
    until("the OpenAPI schema is published", PATIENCE, async || {
        let request = kube::core::Request::new("/openapi").get("v2", &GetParams::default()).unwrap();
        let document = client.request_text(request).await.map_err(|error| error.to_string())?;
        let published = document.contains("dev.onionbalance.v1alpha1.OnionBalancedService");
        published.then_some(()).ok_or_else(|| format!("the OpenAPI document ({} bytes) lacks our type", document.len()))
    })
    .await;
    let object = json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80, "target": {"address": "a:1"}}], "backends": {"replicaz": 3}},
    });
    let apply = |object: Value| {
        let mut kubectl = kubectl();
        let kubectl =
            kubectl.args(["apply", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut process = kubectl.spawn().expect("could not run kubectl");
        process.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (applied, error) = apply(object.clone());
    assert!(!applied && error.contains("unknown field") && error.contains("replicaz"), "{error}");
    let mut good = object;
    good["spec"]["backends"] = json!({"replicas": 3});
    let (applied, error) = apply(good);
    assert!(applied, "{error}");
}

/// The time for which this test watches for writes while nothing changes. The end-to-end test does
/// so for longer and with all components running.
const REST: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn writes_nothing_while_nothing_changes() {
    let scene = Scene::start("rest").await;
    let template = json!({
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}},
        ]}},
        "tolerations": [{"key": "tor", "operator": "Exists", "effect": "NoSchedule"}],
        "resources": {"tor": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "1Gi", "cpu": 1}}},
        "labels": {"team": "x", "empty": ""}, "annotations": {"note": "y", "empty": ""},
        "nodeSelector": {"node-role.kubernetes.io/worker": ""}, "imagePullSecrets": [{"name": "pull"}],
    });
    for (name, spec) in [
        ("one", json!({})),
        ("two", json!({"backends": {"template": template}, "frontend": {"template": template}})),
        (
            "three",
            json!({"deletionPolicy": "Delete", "backends": {"introDosDefense": {}, "extraTorrc": "NumCPUs 1\n"}}),
        ),
    ] {
        scene.create(name, spec).await;
        scene.wait_children(name).await;
        scene.report_backends(name, 2).await;
        scene.report_published(name).await;
        scene.wait_condition(name, "Ready", "True Ready").await;
        // Events are written after the status.
        for reason in ["KeyGenerated", "AllReady", "Published"] {
            scene.wait_event(name, reason).await;
        }
    }
    let before = versions(&scene).await;
    let writes = scene.telemetry.writes.load(Ordering::Relaxed);
    let targets: Api<Service> = scene.api();
    for round in 0..3 {
        let reconciles = scene.telemetry.reconciled.load(Ordering::Relaxed);
        // Changing the target makes the operator reconcile all three objects.
        let touch = json!({"metadata": {"annotations": {"round": round.to_string()}}});
        targets.patch("web", &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
        until("all three objects are reconciled", PATIENCE, async || {
            let done = scene.telemetry.reconciled.load(Ordering::Relaxed) - reconciles;
            if done >= 3 { Ok(()) } else { Err(format!("{done} reconciles")) }
        })
        .await;
        // Nothing should happen, so there is nothing to wait for.
        tokio::time::sleep(REST / 3).await;
        assert_eq!(scene.telemetry.writes.load(Ordering::Relaxed), writes, "something was written in round {round}");
        assert_eq!(versions(&scene).await, before, "something was written in round {round}");
    }
    scene.end().await;
}

/// Returns the resource versions of all services, children, keys, Leases and Events, except for the
/// operator's own Lease.
async fn versions(scene: &Scene) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for name in ["one", "two", "three"] {
        found.extend(scene.children(name).await.into_iter().map(|(child, (_, version))| (child, version)));
        let key = scene.wait_for::<Secret>(&format!("{name}-master-key"), |_| true).await;
        found.insert(key.name_any(), key.resource_version().unwrap());
    }
    let objects: Api<OnionBalancedService> = scene.api();
    for object in objects.list(&ListParams::default()).await.unwrap() {
        found.insert(object.name_any(), object.resource_version().unwrap());
    }
    let leases: Api<Lease> = scene.api();
    for lease in leases.list(&ListParams::default()).await.unwrap() {
        if lease.name_any() == OPERATOR_LEASE {
            continue;
        }
        found.insert(format!("Lease {}", lease.name_any()), lease.resource_version().unwrap());
    }
    let events: Api<Event> = scene.api();
    for event in events.list(&ListParams::default()).await.unwrap() {
        found.insert(format!("Event {}", event.name_any()), event.resource_version().unwrap());
    }
    found
}
