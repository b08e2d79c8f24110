//! Tests of restricted discovery: the operator's copy of the authorized clients, the publisher's
//! permissions, and the condition about the clients.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use onionbalance_operator::link::{AgentToken, ClientsCopy};
use onionbalance_operator::onion::{ClientPublicKey, ClientSecretKey};
use serde_json::{Value, json};

use crate::lease::{Stage, account};
use crate::scene::{PATIENCE, Scene, VERBOSE_LOG};
use crate::server::client_as;
use crate::wait::until;

const COPY: &str = "web-authorized-clients";

fn public(number: u8) -> ClientPublicKey {
    ClientSecretKey::from_bytes([number; 32]).public()
}

fn key(number: u8) -> String {
    public(number).to_string()
}

/// Writes the Secret `clients` with exactly these entries. With `stringData`, an apply would not
/// remove the other entries.
async fn write_secret(scene: &Scene, entries: Value) {
    let encoded = |(name, text): (&String, &Value)| (name.clone(), BASE64.encode(text.as_str().unwrap().as_bytes()));
    let data: BTreeMap<_, _> = entries.as_object().unwrap().iter().map(encoded).collect();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "clients"}, "data": data});
    let parameters = PatchParams::apply("a-person").force();
    scene.api::<Secret>().patch("clients", &parameters, &Patch::Apply(secret)).await.unwrap();
}

/// Waits until the operator's copy of the Secret `clients` has exactly these keys, in this order.
/// `None` means that the copy says that the Secret does not exist.
async fn wait_copy(scene: &Scene, keys: Option<&[u8]>) -> ConfigMap {
    let keys = keys.map(|numbers| numbers.iter().map(|number| public(*number)).collect::<Vec<_>>());
    let token = scene.wait_for::<Secret>("web-agent-token", |_| true).await.data.unwrap();
    let token = AgentToken::from_hex(&token["token"].0).unwrap();
    scene
        .wait_for::<ConfigMap>(COPY, |copy| {
            let copy = ClientsCopy::of_data(copy.data.as_ref().unwrap(), &token).unwrap();
            copy.secret == "clients" && copy.keys == keys
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_and_reports_the_clients_secret() {
    let scene = Scene::start("clients").await;
    let restricted = json!({"clients": [{"name": "alice", "publicKey": key(1)}], "secretName": "clients"});
    scene.create("web", json!({ "restrictedDiscovery": restricted })).await;
    scene.wait_condition("web", "Accepted", "True Valid").await;
    scene.wait_message("web", "ClientsReady", "False ClientsSecretNotFound", "Secret clients, named by").await;
    wait_copy(&scene, None).await;

    write_secret(&scene, json!({"bob.auth": format!("{}\n", key(2))})).await;
    scene.wait_message("web", "ClientsReady", "True Restricted", "2 clients may connect.").await;
    wait_copy(&scene, Some(&[2])).await;
    let private = "descriptor:x25519:secret";
    write_secret(&scene, json!({"bob.auth": key(2), "carol.auth": private, "tls.key": "of another app"})).await;
    let message = scene.wait_condition("web", "ClientsReady", "False ClientsInvalid").await;
    assert_eq!(
        message,
        "Secret clients: carol.auth: is not of the form descriptor:x25519:<52 base32 characters>; Secret clients: entries \
         whose names do not end in .auth: 1. 2 clients may connect."
    );
    let copy = format!("{:?}", wait_copy(&scene, Some(&[2])).await.data);
    for other in [private, "of another app", "bob", "carol", "tls.key"] {
        assert!(!copy.contains(other), "{other} in {copy}");
    }
    let many: serde_json::Map<String, Value> =
        (1..=130).map(|number| (format!("client-{number:03}.auth"), key(number).into())).collect();
    write_secret(&scene, Value::Object(many)).await;
    let message = scene.wait_condition("web", "ClientsReady", "False TooManyClients").await;
    assert_eq!(message, "A descriptor holds at most 128 clients; these cannot connect: client-129, client-130.");
    wait_copy(&scene, Some(&(1..=128).collect::<Vec<u8>>())).await;
    scene.api::<Secret>().delete("clients", &DeleteParams::default()).await.unwrap();
    scene.wait_condition("web", "ClientsReady", "False ClientsSecretNotFound").await;
    wait_copy(&scene, None).await;

    scene.change("web", json!({"spec": {"restrictedDiscovery": {"secretName": null}}})).await;
    scene.wait_message("web", "ClientsReady", "True Restricted", "1 client may connect.").await;
    until("the unused copy is deleted", PATIENCE, async || {
        let found = scene.api::<ConfigMap>().get_opt(COPY).await.map_err(|error| error.to_string())?;
        found.map_or(Ok(()), |found| Err(format!("{found:?}")))
    })
    .await;
    scene.change("web", json!({"spec": {"restrictedDiscovery": {"clients": []}}})).await;
    scene.wait_condition("web", "ClientsReady", "False NoClients").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_revoked_even_if_the_object_is_not_accepted() {
    let scene = Scene::start("clients-of-refused").await;
    write_secret(&scene, json!({"alice.auth": key(1), "bob.auth": key(2)})).await;
    scene.create("web", json!({"restrictedDiscovery": {"secretName": "clients"}})).await;
    wait_copy(&scene, Some(&[1, 2])).await;
    let before = scene.wait_children("web").await;
    let refused = json!({"backends": {"extraTorrc": VERBOSE_LOG}});
    scene.change("web", json!({ "spec": refused })).await;
    scene.wait_condition("web", "Accepted", "False InvalidSpec").await;
    write_secret(&scene, json!({"bob.auth": key(2)})).await;
    wait_copy(&scene, Some(&[2])).await;
    let mut after = scene.children("web").await;
    let name = format!("ConfigMap {COPY}");
    after.insert(name.clone(), before[&name].clone());
    assert_eq!(after, before, "the other owned objects must not change");
    scene.end().await;
}

/// Everyone who may run a program in a frontend pod has this account's permissions.
#[tokio::test(flavor = "multi_thread")]
async fn the_publishers_account_reads_the_copy_but_no_secret() {
    let scene = Scene::start("clients-only").await;
    write_secret(&scene, json!({"alice.auth": key(1)})).await;
    scene.create("web", json!({"restrictedDiscovery": {"secretName": "clients"}})).await;
    scene.wait_children("web").await;
    wait_copy(&scene, Some(&[1])).await;
    let client = client_as(&account(&scene.namespace));
    let named = |name: &str| ListParams::default().fields(&format!("metadata.name={name}"));
    let copies: Api<ConfigMap> = Api::namespaced(client.clone(), &scene.namespace);
    // A permission takes effect a moment after its RoleBinding exists.
    let found = until("the account can read the copy", PATIENCE, async || {
        copies.list(&named(COPY)).await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(found.items.len(), 1);

    let is_forbidden = |error: kube::Error| matches!(&error, kube::Error::Api(status) if status.code == 403);
    let secrets: Api<Secret> = Api::namespaced(client, &scene.namespace);
    for name in ["clients", "web-master-key", "web-agent-token"] {
        assert!(is_forbidden(secrets.get(name).await.unwrap_err()), "{name}");
        assert!(is_forbidden(secrets.list(&named(name)).await.unwrap_err()), "{name}");
    }
    assert!(is_forbidden(copies.list(&named("web-frontend")).await.unwrap_err()));
    let role: Role = scene.api().get("web-frontend").await.unwrap();
    let resources: Vec<_> = role.rules.iter().flatten().flat_map(|rule| rule.resources.iter().flatten()).collect();
    assert!(resources.iter().all(|resource| *resource != "*"), "{resources:?}");
    assert!(is_forbidden(secrets.list(&named("web-guards")).await.unwrap_err()));
    secrets.get("web-guards").await.unwrap();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_follows_the_secret_through_the_copy() {
    let stage = Stage::start_with("clients-publisher", json!({"restrictedDiscovery": {"secretName": "clients"}})).await;
    let mut publisher = stage.publisher("a").await;
    let on = "restricted discovery is on; only authorized clients can connect clients=";
    publisher.wait_log(&format!("{on}0")).await;
    write_secret(&stage.scene, json!({"alice.auth": key(1), "bob.auth": key(2)})).await;
    publisher.wait_log(&format!("{on}2")).await;
    write_secret(&stage.scene, json!({"bob.auth": key(2)})).await;
    publisher.wait_log(&format!("{on}1")).await;
    stage.scene.change("web", json!({"spec": {"restrictedDiscovery": null}})).await;
    publisher.wait_log("restricted discovery is off; any client can connect").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_malformed_keys_and_duplicate_names() {
    let scene = Scene::start("bad-client").await;
    let clients = |clients: Value| json!({"restrictedDiscovery": {"clients": clients}});
    let malformed = clients(json!([{"name": "alice", "publicKey": "descriptor:x25519:AAAA"}]));
    let message = scene.create_violating("web", malformed, "InvalidSpec").await;
    let parts = ["spec.restrictedDiscovery.clients[0].publicKey: ", ": is not of the form"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    let twice = json!([{"name": "alice", "publicKey": key(1)}, {"name": "alice", "publicKey": key(2)}]);
    let refused = scene.try_create("twice", clients(twice)).await.unwrap_err();
    assert!(refused.to_string().contains("Duplicate value"), "{refused}");
    scene.end().await;
}
