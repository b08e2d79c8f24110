//! Tests that the master key and the agent token appear only in their own Secrets, and neither in
//! any other object nor in the operator's log at any log level.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use serde_json::json;

use crate::needles::{find, forms, of_a_token};
use crate::program::Program;
use crate::scene::Scene;

/// Returns every object in the namespace as JSON, by kind and name.
async fn all_objects(scene: &Scene) -> BTreeMap<String, String> {
    let discovery = Discovery::new(scene.client.clone()).run().await.unwrap();
    let mut found = BTreeMap::new();
    for (resource, capabilities) in discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources) {
        if capabilities.scope != Scope::Namespaced || !capabilities.supports_operation(verbs::LIST) {
            continue;
        }
        let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
        for object in api.list(&ListParams::default()).await.unwrap() {
            let name = object.metadata.name.clone().unwrap();
            found.insert(format!("{} {name}", resource.kind), serde_json::to_string(&object).unwrap());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_appear_in_no_log_and_no_other_object() {
    let scene = Scene::without_operator("secrecy").await;
    let mut program = Program::start("operator", &scene.namespace, "trace");
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    scene.address("web").await;
    // The operator rejects an incomplete key with its own message. Such a key must be kept secret,
    // too.
    let half: Vec<u8> = (100..148).collect();
    scene.create_key("half", &half).await;
    scene.create("other", json!({"masterKey": {"secretName": "half"}})).await;
    scene.wait_condition("other", "MasterKeyReady", "False KeyInvalid").await;
    scene.wait_event("web", "KeyGenerated").await;
    scene.wait_event("other", "KeyInvalid").await;

    let secrets: Api<Secret> = scene.api();
    let data = async |name: &str, key: &str| secrets.get(name).await.unwrap().data.unwrap()[key].0.clone();
    let key = data("web-master-key", "hs_ed25519_secret_key").await;
    let token = data("web-agent-token", "token").await;
    let needles = BTreeMap::from([
        ("the master key's scalar", forms(&key[32..64])),
        ("the master key's hash prefix", forms(&key[64..96])),
        ("the agents' token", of_a_token(&token)),
        ("an incomplete key", forms(&half)),
    ]);

    let objects = all_objects(&scene).await;
    // Check the search itself: it must find each secret in the Secret that holds it.
    let master_key = find(&objects["Secret web-master-key"], &needles);
    assert_eq!(master_key.iter().map(|(name, _)| *name).collect::<std::collections::BTreeSet<_>>().len(), 2);
    assert!(find(&objects["Secret web-agent-token"], &needles).iter().any(|(name, _)| *name == "the agents' token"));
    assert!(find(&objects["Secret half"], &needles).iter().any(|(name, _)| *name == "an incomplete key"));
    for kind in ["ConfigMap web-backend", "Deployment web-frontend", "OnionBalancedService web", "Lease", "Event web."]
    {
        assert!(objects.keys().any(|object| object.starts_with(kind)), "{kind} is missing in {:?}", objects.keys());
    }
    for (object, text) in objects.iter().filter(|(object, _)| !object.starts_with("Secret ")) {
        assert_eq!(find(text, &needles), [], "a secret is in {object}");
    }

    assert!(program.terminate().await.success());
    let log = program.log();
    assert!(log.contains("TRACE") && log.contains("generated a master key"), "{log}");
    assert_eq!(find(&log, &needles), [], "a secret is in the log");
}
