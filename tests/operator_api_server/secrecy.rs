//! The master key and the agents' token are in their Secrets, and nowhere else: not in the operator's log, however much it is told
//! to log, nor in any other object.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64, BASE64_NOPAD, HEXLOWER};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use serde_json::json;

use crate::program::Program;
use crate::scene::Scene;

/// What a part of a secret could look like in a text.
fn forms(secret: &[u8]) -> Vec<String> {
    let decimal: Vec<_> = secret.iter().map(ToString::to_string).collect();
    // Base64 of a part depends on where in the whole it begins; the ends depend on what is beside it.
    let shifted = (0..3).map(|shift| {
        let text = BASE64.encode(&[&vec![0; shift], secret].concat());
        text[4..text.len() - 4].to_owned()
    });
    let escaped: String = secret.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
    shifted
        .chain([
            HEXLOWER.encode(secret),
            BASE64_NOPAD.encode(secret),
            BASE32_NOPAD.encode(secret),
            decimal.join(", "),
            decimal.join(","),
            escaped,
        ])
        .collect()
}

fn find<'a>(text: &str, needles: &'a BTreeMap<&'static str, Vec<String>>) -> Vec<(&'a str, &'a str)> {
    let lower = text.to_lowercase();
    let found = needles.iter().flat_map(|(name, forms)| forms.iter().map(|form| (*name, form.as_str())));
    found.filter(|(_, form)| lower.contains(&form.to_lowercase())).collect()
}

/// Every object of the namespace, by kind and name.
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
async fn no_secret_is_in_the_log_or_in_another_object() {
    let scene = Scene::set_without_operator("secrecy").await;
    let mut program = Program::start("operator", &scene.namespace, "trace");
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    scene.address("web").await;
    // A key that is not whole is refused, in words of ours; it is secret all the same.
    let half: Vec<u8> = (100..148).collect();
    scene.create_key("half", &half).await;
    scene.create("other", json!({"masterKey": {"secretName": "half"}})).await;
    scene.wait_condition("other", "MasterKeyReady", "False KeyInvalid").await;

    let secrets: Api<Secret> = scene.api();
    let data = async |name: &str, key: &str| secrets.get(name).await.unwrap().data.unwrap()[key].0.clone();
    let key = data("web-master-key", "hs_ed25519_secret_key").await;
    let token = data("web-agent-token", "token").await;
    let token_bytes = HEXLOWER.decode(&token).unwrap();
    let mut token_forms = forms(&token_bytes);
    token_forms.extend(forms(&token));
    token_forms.push(String::from_utf8(token).unwrap());
    let needles = BTreeMap::from([
        ("the master key's scalar", forms(&key[32..64])),
        ("the master key's other half", forms(&key[64..96])),
        ("the agents' token", token_forms),
        ("a key that is not whole", forms(&half)),
    ]);

    let objects = all_objects(&scene).await;
    // That it can be found is shown where it must be.
    let master_key = find(&objects["Secret web-master-key"], &needles);
    assert_eq!(master_key.iter().map(|(name, _)| *name).collect::<std::collections::BTreeSet<_>>().len(), 2);
    assert!(find(&objects["Secret web-agent-token"], &needles).iter().any(|(name, _)| *name == "the agents' token"));
    assert!(find(&objects["Secret half"], &needles).iter().any(|(name, _)| *name == "a key that is not whole"));
    for kind in ["ConfigMap web-backend", "Deployment web-frontend", "OnionBalancedService web", "Lease"] {
        assert!(objects.keys().any(|object| object.starts_with(kind)), "{kind} is not among {:?}", objects.keys());
    }
    for (object, text) in objects.iter().filter(|(object, _)| !object.starts_with("Secret ")) {
        assert_eq!(find(text, &needles), [], "in {object}");
    }

    assert!(program.terminate().await.success());
    let log = program.log();
    assert!(log.contains("TRACE") && log.contains("generated a master key"), "{log}");
    assert_eq!(find(&log, &needles), [], "in the log");
}
