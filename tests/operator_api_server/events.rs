//! Tests that each change to an object is reported in one Event, which `kubectl describe` shows.

use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use onionbalance_operator::onion::MasterKey;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;

use crate::scene::{PATIENCE, Scene, VERBOSE_LOG, settings};
use crate::server::kubectl;
use crate::wait::until;

/// Returns the Events in chronological order, formatted like `Warning SecretNotFound x2`.
async fn reported_events(scene: &Scene) -> Vec<String> {
    let events: Api<Event> = scene.api();
    let mut events = events.list(&ListParams::default()).await.unwrap().items;
    events.sort_by_key(|event| event.event_time.clone().unwrap().0);
    let line = |event: &Event| {
        let count = event.series.as_ref().map(|series| format!(" x{}", series.count)).unwrap_or_default();
        format!("{} {}{count}", event.type_.as_deref().unwrap_or_default(), event.reason.as_deref().unwrap_or_default())
    };
    events.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_what_the_probes_find() {
    let scene = Scene::start("probes").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    scene.report_backends("web", 2).await;
    scene.report_published("web").await;
    // A service need not wait for its first probe.
    scene.wait_condition("web", "Ready", "True Ready").await;
    scene.wait_condition("web", "Reachable", "Unknown NotProbed").await;
    for failure in ["DescriptorFailed", "IntroductionFailed", "RendezvousFailed", "TargetFailed"] {
        scene.report_probe("web", failure).await;
        for kind in ["Reachable", "Ready"] {
            let message = scene.wait_condition("web", kind, &format!("False {failure}")).await;
            assert_eq!(message, "Port 80: why");
        }
        let event = scene.wait_event("web", failure).await;
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
    scene.report_probe("web", "Answered").await;
    scene.wait_condition("web", "Reachable", "True Answered").await;
    scene.wait_condition("web", "Ready", "True Ready").await;
    let event = scene.wait_event("web", "Answered").await;
    assert_eq!(event.type_.as_deref(), Some("Normal"));

    let status = scene.status("web").await;
    assert_eq!((status.probes.len(), status.backends.len()), (1, 1), "the operator keeps what the publisher wrote");
    scene.change("web", json!({"spec": {"frontend": {"probe": {"enabled": false}}}})).await;
    until("the condition is gone", PATIENCE, async || {
        let conditions = scene.status("web").await.conditions;
        let is_gone = !conditions.iter().any(|condition| condition.type_ == "Reachable");
        if is_gone { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_each_change_in_one_event() {
    let mut scene = Scene::start("events").await;
    scene.create("web", json!({"backends": {"replicas": 3}})).await;
    scene.wait_children("web").await;
    let address = scene.address("web").await;
    let made = scene.wait_event("web", "KeyGenerated").await;
    assert_eq!(
        made.note.as_deref(),
        Some(&*format!(
            "Generated a new master key in Secret web-master-key; make a backup. Using the key of {address}."
        ))
    );
    assert_eq!(made.reporting_controller.as_deref(), Some("onionbalance-operator"));
    scene.report_backends("web", 3).await;
    scene.wait_event("web", "AllReady").await;
    scene.report_published("web").await;
    scene.wait_event("web", "Published").await;

    scene.change("web", json!({"spec": {"suspend": true}})).await;
    scene.report_backends("web", 0).await;
    scene.wait_event("web", "Suspended").await;
    scene.change("web", json!({"spec": {"suspend": false}})).await;
    scene.wait_event("web", "Resumed").await;
    scene.change("web", json!({"spec": {"backends": {"extraTorrc": VERBOSE_LOG}}})).await;
    let refused = scene.wait_event("web", "InvalidSpec").await;
    assert!(refused.note.unwrap().starts_with("spec.backends.extraTorrc: line 1: "));
    scene.change("web", json!({"spec": {"backends": {"extraTorrc": null}}})).await;
    scene.wait_event("web", "Valid").await;

    lose_and_restore_the_key(&scene).await;
    assert_eq!(scene.address("web").await, address);

    let described = kubectl().args(["describe", "obs", "web", "-n", &scene.namespace]).output().unwrap();
    let described = String::from_utf8(described.stdout).unwrap();
    let (_, events) = described.split_once("\nEvents:").unwrap();
    for expected in ["Warning  KeyInvalid", "Normal   KeyGenerated", "onionbalance-operator"] {
        assert!(events.contains(expected), "{expected} is missing in {events}");
    }

    // A restarted operator finds the same state and does not report it again.
    let before = reported_events(&scene).await;
    scene.stop_operator().await;
    scene.start_operator(settings());
    until("the operator has reconciled", PATIENCE, async || {
        let count = scene.telemetry.reconciled.load(Ordering::Relaxed);
        if count > 0 { Ok(()) } else { Err("no reconcile yet".to_owned()) }
    })
    .await;
    assert_eq!(reported_events(&scene).await, before);
    scene.end().await;
}

/// Deletes, restores and replaces the key, and waits for the resulting Event after each step. The
/// secrecy test checks that these Events contain no part of the key.
async fn lose_and_restore_the_key(scene: &Scene) {
    let secrets: Api<Secret> = scene.api();
    let backup = secrets.get("web-master-key").await.unwrap().data.unwrap()["hs_ed25519_secret_key"].0.clone();
    let another = MasterKey::generate(&mut StdRng::seed_from_u64(9)).to_tor_secret_key_file().to_vec();
    for (file, reason) in
        [(None, "SecretNotFound"), (Some(another), "AddressMismatch"), (Some(b"x".to_vec()), "KeyInvalid")]
    {
        secrets.delete("web-master-key", &DeleteParams::default()).await.unwrap();
        if let Some(file) = &file {
            scene.create_key("web-master-key", file).await;
        }
        let alarm = scene.wait_event("web", reason).await;
        assert_eq!(alarm.type_.as_deref(), Some("Warning"), "{alarm:?}");
        if file.is_none() {
            scene.create_key("web-master-key", &backup).await;
            scene.wait_event("web", "KeyLoaded").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_repeated_changes_in_an_event_series() {
    let scene = Scene::start("events-again").await;
    scene.create("web", json!({})).await;
    scene.wait_event("web", "KeyGenerated").await;
    for _ in 0..3 {
        scene.change("web", json!({"spec": {"backends": {"extraTorrc": VERBOSE_LOG}}})).await;
        scene.wait_condition("web", "Accepted", "False InvalidSpec").await;
        scene.change("web", json!({"spec": {"backends": {"extraTorrc": null}}})).await;
        scene.wait_condition("web", "Accepted", "True Valid").await;
    }
    let expected = ["Normal KeyGenerated", "Warning InvalidSpec x3", "Normal Valid x3"];
    until("all Events are reported", PATIENCE, async || {
        let events = reported_events(&scene).await;
        if events == expected { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    scene.end().await;
}

/// Permissions that were installed with an older version of the operator do not include Events.
#[tokio::test(flavor = "multi_thread")]
async fn works_without_the_permission_to_create_events() {
    let mut scene = Scene::start_with_role("no-events").await;
    scene.stop_operator().await;
    let roles: Api<Role> = scene.api();
    let mut rights = roles.get("onionbalance-operator").await.unwrap().rules.unwrap();
    let all = rights.len();
    rights.retain(|rule| rule.resources != Some(vec!["events".to_owned()]));
    assert_eq!(rights.len() + 2, all, "one rule for writing Events, and one for reading them");
    let patch = Patch::Merge(json!({ "rules": rights }));
    roles.patch("onionbalance-operator", &PatchParams::default(), &patch).await.unwrap();
    scene.start_operator(settings());
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    assert_eq!(reported_events(&scene).await, [""; 0]);
    scene.end().await;
}
