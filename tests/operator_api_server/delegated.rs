//! Tests of services that are published with signing kits instead of a master key.

use data_encoding::BASE64;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use onionbalance_operator::crd::OnionBalancedService;
use onionbalance_operator::link::AgentToken;
use onionbalance_operator::onion::{Kit, MasterKey, PeriodCalendar};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;

use crate::scene::Scene;

async fn apply_kit(scene: &Scene, kit: &[u8]) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kits"},
        "data": {"signing.kit": BASE64.encode(kit)},
    });
    let secrets: Api<Secret> = scene.api();
    secrets.patch("kits", &PatchParams::apply("ceremony").force(), &Patch::Apply(secret)).await.unwrap();
}

/// Waits for the Event that tells somebody to act.
async fn wait_warning(scene: &Scene, reason: &str) {
    let event = scene.wait_event("web", reason).await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert!(event.note.unwrap_or_default().contains("create the next kit"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_uses_kits_and_moves_back_to_its_master_key() {
    let scene = Scene::start("delegated").await;
    let key = MasterKey::generate(&mut StdRng::seed_from_u64(7));
    let present = PeriodCalendar::PUBLIC.period_at(Timestamp::now().into()).unwrap().number;
    let kit = |first, periods| Kit::issue(&key, PeriodCalendar::PUBLIC, first, periods).unwrap().to_bytes();
    scene.create("web", json!({"masterKey": {"secretName": "kits", "delegated": true}})).await;
    let message = scene.wait_condition("web", "MasterKeyReady", "False SecretNotFound").await;
    assert!(message.contains("key delegate"), "{message}");
    apply_kit(&scene, b"damaged").await;
    scene.wait_condition("web", "MasterKeyReady", "False KeyInvalid").await;
    assert_eq!(scene.children("web").await.len(), 0);

    apply_kit(&scene, &kit(present - 1, 10)).await;
    scene.wait_condition("web", "SigningKeysReady", "True SigningKeysExpiring").await;
    wait_warning(&scene, "SigningKeysExpiring").await;
    assert_eq!(scene.address("web").await, key.address().to_string());
    scene.wait_children("web").await;
    let secrets: Api<Secret> = scene.api();
    let token = secrets.get("web-agent-token").await.unwrap().data.unwrap()["token"].0.clone();
    assert_eq!(token, AgentToken::derive(&key).to_hex().as_bytes());

    apply_kit(&scene, &kit(present - 1, 40)).await;
    scene.wait_condition("web", "SigningKeysReady", "True KitsLoaded").await;
    apply_kit(&scene, &kit(present + 5, 10)).await;
    scene.wait_condition("web", "SigningKeysReady", "False SigningKeysMissing").await;
    wait_warning(&scene, "SigningKeysMissing").await;
    let another = MasterKey::generate(&mut StdRng::seed_from_u64(8));
    let foreign = Kit::issue(&another, PeriodCalendar::PUBLIC, present - 1, 40).unwrap();
    apply_kit(&scene, &foreign.to_bytes()).await;
    let message = scene.wait_condition("web", "MasterKeyReady", "False AddressMismatch").await;
    assert!(message.contains(&another.address().to_string()), "{message}");
    assert_eq!(scene.address("web").await, key.address().to_string());
    apply_kit(&scene, &kit(present - 1, 40)[..200]).await;
    scene.wait_condition("web", "MasterKeyReady", "False KeyInvalid").await;
    scene.wait_children("web").await;

    scene.create_key("mine", &key.to_tor_secret_key_file()).await;
    let online = json!({"spec": {"masterKey": {"secretName": "mine", "delegated": false}}});
    let objects: Api<OnionBalancedService> = scene.api();
    objects.patch("web", &PatchParams::default(), &Patch::Merge(online)).await.unwrap();
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    assert_eq!(scene.address("web").await, key.address().to_string());
    scene.wait_children("web").await;
    scene.end().await;
}
