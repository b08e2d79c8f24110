//! The master key: used, generated once, kept, never replaced.

use data_encoding::BASE64;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use onionbalance_operator::crd::OnionBalancedService;
use onionbalance_operator::onion::MasterKey;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;

use crate::scene::{PATIENCE, Scene, settings};
use crate::wait::until;

fn key(seed: u64) -> MasterKey {
    MasterKey::generate(&mut StdRng::seed_from_u64(seed))
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_and_adding_again_gives_the_same_address() {
    let scene = Scene::set("again").await;
    scene.create("web", json!({})).await;
    let address = scene.address("web").await;
    scene.wait_children("web").await;
    let secret = scene.api::<Secret>().get("web-master-key").await.unwrap();
    assert_eq!((secret.immutable, secret.metadata.owner_references), (Some(true), None));
    assert_eq!(secret.data.unwrap()["hostname"].0, format!("{address}\n").into_bytes());

    scene.api::<OnionBalancedService>().delete("web", &DeleteParams::background()).await.unwrap();
    scene.create("web", json!({})).await;
    // The old children are still there: they are not taken over.
    scene.wait_condition("web", "Accepted", "False NameTaken").await;
    scene.collect_garbage("web").await;
    scene.wait_condition("web", "Accepted", "True Valid").await;
    scene.wait_children("web").await;
    assert_eq!(scene.address("web").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_key_is_used_and_not_touched() {
    let scene = Scene::set("own-key").await;
    scene.create_key("web-master-key", &key(1).to_tor_secret_key_file()).await;
    scene.create_key("mine", &key(2).to_tor_secret_key_file()).await;
    let secrets: Api<Secret> = scene.api();
    let before = [secrets.get("web-master-key").await.unwrap(), secrets.get("mine").await.unwrap()];
    scene.create("web", json!({"deletionPolicy": "Delete"})).await;
    scene.create("named", json!({"masterKey": {"secretName": "mine"}, "deletionPolicy": "Delete"})).await;
    assert_eq!(scene.address("web").await, key(1).address().to_string());
    assert_eq!(scene.address("named").await, key(2).address().to_string());
    scene.wait_children("web").await;
    scene.wait_children("named").await;
    assert_eq!(before, [secrets.get("web-master-key").await.unwrap(), secrets.get("mine").await.unwrap()]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_that_is_named_is_waited_for() {
    let scene = Scene::set("missing-key").await;
    scene.create("web", json!({"masterKey": {"secretName": "mine"}})).await;
    let message = scene.wait_condition("web", "Ready", "False SecretNotFound").await;
    assert!(message.contains("Secret mine"), "{message}");
    assert_eq!(scene.children("web").await.len(), 0);
    scene.create_key("mine", &key(3).to_tor_secret_key_file()).await;
    assert_eq!(scene.address("web").await, key(3).address().to_string());
    scene.wait_children("web").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_key_is_told() {
    let scene = Scene::set("bad-key").await;
    scene.create_key("web-master-key", b"not a key").await;
    scene.create("web", json!({})).await;
    let message = scene.wait_condition("web", "MasterKeyReady", "False KeyInvalid").await;
    assert_eq!(message, "Secret web-master-key: hs_ed25519_secret_key must have 96 bytes but has 9");
    assert_eq!(scene.children("web").await.len(), 0);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_gone_is_an_alarm_and_never_a_new_key() {
    let scene = Scene::set("lost-key").await;
    scene.create("web", json!({})).await;
    let address = scene.address("web").await;
    let before = scene.wait_children("web").await;
    let secrets: Api<Secret> = scene.api();
    let backup = secrets.get("web-master-key").await.unwrap();
    secrets.delete("web-master-key", &DeleteParams::default()).await.unwrap();
    let message = scene.wait_condition("web", "MasterKeyReady", "False SecretNotFound").await;
    assert!(message.contains(&address), "{message}");
    assert!(secrets.get_opt("web-master-key").await.unwrap().is_none());
    assert!(before.keys().eq(scene.children("web").await.keys()));

    // Another key is refused as well; the old one is taken back.
    scene.create_key("web-master-key", &key(4).to_tor_secret_key_file()).await;
    scene.wait_condition("web", "MasterKeyReady", "False AddressMismatch").await;
    secrets.delete("web-master-key", &DeleteParams::default()).await.unwrap();
    scene.create_key("web-master-key", &backup.data.unwrap()["hs_ed25519_secret_key"].0).await;
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    assert_eq!(scene.address("web").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_edited_is_an_alarm_and_changes_nothing_that_runs() {
    let scene = Scene::set("edited-key").await;
    scene.create_key("mine", &key(5).to_tor_secret_key_file()).await;
    scene.create("web", json!({"masterKey": {"secretName": "mine"}})).await;
    let address = scene.address("web").await;
    let before = scene.wait_children("web").await;
    let secrets: Api<Secret> = scene.api();
    let edit = async |file: &[u8]| {
        let patch = json!({"data": {"hs_ed25519_secret_key": BASE64.encode(file)}});
        secrets.patch("mine", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    edit(&key(6).to_tor_secret_key_file()).await;
    let message = scene.wait_condition("web", "MasterKeyReady", "False AddressMismatch").await;
    assert!(message.contains(&key(6).address().to_string()) && message.contains(&address), "{message}");
    edit(&key(5).to_tor_secret_key_file()[..95]).await;
    scene.wait_condition("web", "MasterKeyReady", "False KeyInvalid").await;
    assert_eq!((scene.address("web").await, scene.children("web").await), (address.clone(), before));
    edit(&key(5).to_tor_secret_key_file()).await;
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    assert_eq!(scene.address("web").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_objects_on_one_key_the_older_goes_on() {
    let scene = Scene::set("two").await;
    scene.create("web", json!({})).await;
    let address = scene.address("web").await;
    scene.wait_children("web").await;
    scene.create("copy", json!({"masterKey": {"secretName": "web-master-key"}})).await;
    let message = scene.wait_condition("copy", "MasterKeyReady", "False KeyConflict").await;
    assert!(message.contains("test-two/web"), "{message}");
    assert_eq!(scene.children("copy").await.len(), 0);
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;

    scene.api::<OnionBalancedService>().delete("web", &DeleteParams::background()).await.unwrap();
    scene.wait_condition("copy", "MasterKeyReady", "True KeyLoaded").await;
    assert_eq!(scene.address("copy").await, address);
    scene.wait_children("copy").await;
    scene.end().await;
}

/// The same key in Secrets of two namespaces: who has the address goes on, and the other is told whose it is.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_namespaces_on_one_key_one_goes_on() {
    let mut scene = Scene::set_without_operator("one-key").await;
    let other = Scene::set_without_operator("one-key-elsewhere").await;
    let own = scene.namespace.clone();
    scene.start_operator_for(settings(), &[own.as_str(), other.namespace.as_str()]);
    for place in [&scene, &other] {
        place.create_key("mine", &key(5).to_tor_secret_key_file()).await;
    }
    scene.create("web", json!({"masterKey": {"secretName": "mine"}})).await;
    let address = scene.address("web").await;
    assert_eq!(address, key(5).address().to_string());
    let before = scene.wait_children("web").await;
    other.create("shop", json!({"masterKey": {"secretName": "mine"}})).await;
    let message = other.wait_condition("shop", "MasterKeyReady", "False KeyConflict").await;
    assert!(message.starts_with(&format!("{address} is already served by test-one-key/web; ")), "{message}");
    let alarm = other.wait_event("shop", "KeyConflict").await;
    assert_eq!(alarm.type_.as_deref(), Some("Warning"));
    assert_eq!(other.children("shop").await.len(), 0);
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    assert!(before.keys().eq(scene.children("web").await.keys()));

    // It is the other's turn when the first is gone.
    scene.api::<OnionBalancedService>().delete("web", &DeleteParams::background()).await.unwrap();
    other.wait_condition("shop", "MasterKeyReady", "True KeyLoaded").await;
    other.wait_children("shop").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_key_goes_with_the_object_only_when_asked() {
    let scene = Scene::set("owned-key").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let secrets: Api<Secret> = scene.api();
    for (policy, owners) in [("Delete", 1), ("Retain", 0)] {
        scene.change("web", json!({"spec": {"deletionPolicy": policy}})).await;
        until(&format!("{policy}: {owners} owners"), PATIENCE, async || {
            let secret = secrets.get("web-master-key").await.map_err(|error| error.to_string())?;
            let found = secret.metadata.owner_references.unwrap_or_default();
            if found.len() == owners { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
    scene.end().await;
}
