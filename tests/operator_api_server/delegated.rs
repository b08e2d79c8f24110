//! Tests of services that are published with signing kits instead of a master key.

use data_encoding::BASE64;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PodTemplateSpec, Secret};
use kube::api::{Api, Patch, PatchParams};
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
async fn a_service_uses_kits_and_moves_to_its_master_key_and_back() {
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
    assert_eq!(token(&scene).await, AgentToken::derive(&key).to_hex().as_bytes());
    let before = templates(&scene).await;

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
    assert_eq!(templates(&scene).await, before, "bad kits must not change the Deployments");

    scene.create_key("mine", &key.to_tor_secret_key_file()).await;
    apply_kit(&scene, &kit(present - 1, 40)).await;
    for (secret, entry) in [("mine", "hs_ed25519_secret_key"), ("kits", "signing.kit")] {
        let master_key = json!({"secretName": secret, "delegated": secret == "kits"});
        scene.change("web", json!({"spec": {"masterKey": master_key}})).await;
        scene.wait_for("web-frontend", |frontend: &Deployment| mounted(frontend) == (secret, entry)).await;
        scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
        assert_eq!(scene.address("web").await, key.address().to_string());
        scene.wait_children("web").await;
    }
    assert_eq!(templates(&scene).await, before, "a move must not replace the backends");
    assert_eq!(token(&scene).await, AgentToken::derive(&key).to_hex().as_bytes());
    scene.end().await;
}

async fn token(scene: &Scene) -> Vec<u8> {
    let secrets: Api<Secret> = scene.api();
    secrets.get("web-agent-token").await.unwrap().data.unwrap()["token"].0.clone()
}

/// Returns the templates of the backend pods and of the frontend pods.
async fn templates(scene: &Scene) -> [PodTemplateSpec; 2] {
    let deployments: Api<Deployment> = scene.api();
    let template = async |name: &str| deployments.get(name).await.unwrap().spec.unwrap().template;
    [template("web-backend").await, template("web-frontend").await]
}

/// Returns the name of the Secret with the key and of its entry that the frontends mount.
fn mounted(frontend: &Deployment) -> (&str, &str) {
    let pod = frontend.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let volume = pod.volumes.iter().flatten().find(|volume| volume.name == "master-key").unwrap();
    let secret = volume.secret.as_ref().unwrap();
    (secret.secret_name.as_deref().unwrap(), secret.items.as_ref().unwrap()[0].key.as_str())
}
