//! Tests that the master key is generated at most once and never replaced.

use data_encoding::BASE64;
use k8s_openapi::api::apps::v1::Deployment;
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
async fn a_recreated_object_keeps_its_address() {
    let scene = Scene::start("again").await;
    scene.create("web", json!({})).await;
    let address = scene.address("web").await;
    scene.wait_children("web").await;
    let secret = scene.api::<Secret>().get("web-master-key").await.unwrap();
    assert_eq!((secret.immutable, secret.metadata.owner_references), (Some(true), None));
    assert_eq!(secret.data.unwrap()["hostname"].0, format!("{address}\n").into_bytes());

    scene.api::<OnionBalancedService>().delete("web", &DeleteParams::background()).await.unwrap();
    scene.create("web", json!({})).await;
    // The children of the deleted object still exist and are not adopted.
    scene.wait_condition("web", "Accepted", "False NameTaken").await;
    scene.collect_garbage("web").await;
    scene.wait_condition("web", "Accepted", "True Valid").await;
    scene.wait_children("web").await;
    assert_eq!(scene.address("web").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_a_provided_key_without_modifying_it() {
    let scene = Scene::start("own-key").await;
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
async fn waits_for_a_missing_secret_that_the_spec_names() {
    let scene = Scene::start("missing-key").await;
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
async fn reports_a_malformed_key() {
    let scene = Scene::start("bad-key").await;
    scene.create_key("web-master-key", b"not a key").await;
    scene.create("web", json!({})).await;
    let message = scene.wait_condition("web", "MasterKeyReady", "False KeyInvalid").await;
    assert_eq!(message, "Secret web-master-key: hs_ed25519_secret_key must be 96 bytes long but is 9 bytes long");
    assert_eq!(scene.children("web").await.len(), 0);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_is_reported_and_not_regenerated() {
    let scene = Scene::start("lost-key").await;
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

    // A different key is rejected, and the old key is accepted again.
    scene.create_key("web-master-key", &key(4).to_tor_secret_key_file()).await;
    scene.wait_condition("web", "MasterKeyReady", "False AddressMismatch").await;
    secrets.delete("web-master-key", &DeleteParams::default()).await.unwrap();
    scene.create_key("web-master-key", &backup.data.unwrap()["hs_ed25519_secret_key"].0).await;
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    assert_eq!(scene.address("web").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_key_is_reported_and_leaves_the_children_unchanged() {
    let scene = Scene::start("edited-key").await;
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
async fn the_older_of_two_objects_keeps_a_shared_key() {
    let scene = Scene::start("two").await;
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

/// Secrets in two namespaces hold the same key. The object that already has the address keeps it,
/// and the other object's condition names that object.
#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_two_namespaces_serves_a_shared_key() {
    let mut scene = Scene::without_operator("one-key").await;
    let other = Scene::without_operator("one-key-elsewhere").await;
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

    // The other object takes over when the first one is deleted.
    scene.api::<OnionBalancedService>().delete("web", &DeleteParams::background()).await.unwrap();
    other.wait_condition("shop", "MasterKeyReady", "True KeyLoaded").await;
    other.wait_children("shop").await;
    scene.end().await;
}

/// A tenant may be able to write the status of its own object. Without the key, an address in the
/// status does not make the object a rival.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_status_in_another_namespace_has_no_effect() {
    let mut scene = Scene::without_operator("forged").await;
    let other = Scene::without_operator("forged-elsewhere").await;
    let own = scene.namespace.clone();
    scene.start_operator_for(settings(), &[own.as_str(), other.namespace.as_str()]);
    other.create("old", json!({})).await;
    other.address("old").await;
    other.wait_children("old").await;
    scene.create("web", json!({})).await;
    let address = scene.address("web").await;
    scene.wait_children("web").await;

    let forged = Patch::Merge(json!({"status": {"onionAddress": address}}));
    let objects: Api<OnionBalancedService> = other.api();
    objects.patch_status("old", &PatchParams::default(), &forged).await.unwrap();
    // The operator has noticed the new address.
    other.wait_condition("old", "MasterKeyReady", "False AddressMismatch").await;
    scene.change("web", json!({"spec": {"backends": {"replicas": 4}}})).await;
    let replicas = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas == Some(4);
    scene.wait_for::<Deployment>("web-backend", replicas).await;
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    assert_eq!(other.status("old").await.onion_address, Some(address), "the address is still forged");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_key_is_owned_only_if_the_policy_says_so() {
    let scene = Scene::start("owned-key").await;
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
