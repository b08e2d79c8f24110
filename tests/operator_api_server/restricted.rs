//! Tests of restricted discovery: the Secrets that the publisher may read, and the condition about
//! the authorized clients.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{DeleteParams, Patch, PatchParams};
use onionbalance_operator::onion::ClientSecretKey;
use serde_json::{Value, json};

use crate::scene::Scene;

fn key(number: u8) -> String {
    ClientSecretKey::from_bytes([number; 32]).public().to_string()
}

/// Returns the names of the Secrets that a Role grants access to, with the allowed verbs.
fn secrets(role: &Role) -> Vec<(Vec<String>, Vec<String>)> {
    let rules = role.rules.iter().flatten();
    let of_secrets = rules.filter(|rule| rule.resources.iter().flatten().any(|resource| resource == "secrets"));
    of_secrets.map(|rule| (rule.resource_names.clone().unwrap_or_default(), rule.verbs.clone())).collect()
}

async fn write_secret(scene: &Scene, entries: Value) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "clients"}, "stringData": entries});
    let parameters = PatchParams::apply("a-person").force();
    scene.api::<Secret>().patch("clients", &parameters, &Patch::Apply(secret)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_and_reports_the_clients_secret() {
    let scene = Scene::start("clients").await;
    let restricted = json!({"clients": [{"name": "alice", "publicKey": key(1)}], "secretName": "clients"});
    scene.create("web", json!({ "restrictedDiscovery": restricted })).await;
    scene.wait_condition("web", "Accepted", "True Valid").await;
    scene.wait_message("web", "ClientsReady", "False ClientsSecretNotFound", "Secret clients, named by").await;
    let expected = vec![(vec!["clients".to_owned()], vec!["list".to_owned(), "watch".to_owned()])];
    scene.wait_for::<Role>("web-frontend", |role| secrets(role) == expected).await;

    write_secret(&scene, json!({"bob.auth": format!("{}\n", key(2))})).await;
    scene.wait_message("web", "ClientsReady", "True Restricted", "2 clients may connect.").await;
    write_secret(&scene, json!({"bob.auth": key(2), "carol.auth": "descriptor:x25519:secret"})).await;
    let message = scene.wait_condition("web", "ClientsReady", "False ClientsInvalid").await;
    assert_eq!(
        message,
        "Secret clients: carol.auth: is not of the form descriptor:x25519:<52 base32 characters>. 2 clients may connect."
    );
    let many: serde_json::Map<String, Value> =
        (1..=130).map(|number| (format!("client-{number:03}.auth"), key(number).into())).collect();
    write_secret(&scene, Value::Object(many)).await;
    let message = scene.wait_condition("web", "ClientsReady", "False TooManyClients").await;
    assert_eq!(message, "A descriptor holds at most 128 clients; these cannot connect: client-129, client-130.");
    scene.api::<Secret>().delete("clients", &DeleteParams::default()).await.unwrap();
    scene.wait_condition("web", "ClientsReady", "False ClientsSecretNotFound").await;

    scene.change("web", json!({"spec": {"restrictedDiscovery": {"secretName": null}}})).await;
    scene.wait_message("web", "ClientsReady", "True Restricted", "1 client may connect.").await;
    scene.wait_for::<Role>("web-frontend", |role| secrets(role).is_empty()).await;
    scene.change("web", json!({"spec": {"restrictedDiscovery": {"clients": []}}})).await;
    scene.wait_condition("web", "ClientsReady", "False NoClients").await;
    scene.end().await;
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
