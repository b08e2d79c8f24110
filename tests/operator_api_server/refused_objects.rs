//! Tests the API server against the table of invalid objects: it must reject the objects that
//! violate the schema's types and limits, and accept the others, which the operator rejects. The
//! tests of the CEL rules and of the operator's validation use the same table.
//!
//! API servers before Kubernetes 1.25 do not support CEL rules. On newer servers, this test also
//! checks the rules' messages. Debian only has Kubernetes 1.20, so no test covers the cost that an
//! API server estimates for the rules.

use kube::api::{Api, DynamicObject, PostParams};
use kube::core::ApiResource;
use onionbalance_operator::crd::OnionBalancedService;
use serde_json::Value;

use crate::scene::Scene;

#[allow(dead_code, reason = "other tests check the operator's messages")]
#[path = "../../src/crd/tests/refused.rs"]
mod refused;

/// Removes the indices of list items, which only some servers include in messages.
fn without_indices(text: &str) -> String {
    let mut parts = text.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match part.split_once(']') {
        Some((index, rest)) if index.bytes().all(|byte| byte.is_ascii_digit()) => text + rest,
        _ => text + "[" + part,
    })
}

/// Applies a change to the valid object. Returns the reason why the server rejects the result, or
/// `None` if the server accepts it.
async fn refusal(scene: &Scene, change: &Value) -> Option<String> {
    let resource = ApiResource::erase::<OnionBalancedService>(&());
    let objects: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
    let object = serde_json::from_value(refused::changed(change)).unwrap();
    match objects.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) if status.code == 422 => Some(status.message),
        Err(error) => panic!("{change}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_rejects_exactly_the_objects_that_violate_it() {
    let scene = Scene::without_operator("refused").await;
    let version = scene.client.apiserver_version().await.unwrap();
    let knows_rules = version.minor.trim_end_matches('+').parse::<u32>().unwrap() >= 25;
    for row in refused::refused() {
        let message = refusal(&scene, &row.change).await;
        let by_rule = row.rule.filter(|_| knows_rules);
        match (&row.schema, by_rule) {
            (Some(field), _) => {
                let message = message.map(|message| without_indices(&message)).unwrap_or_default();
                assert!(message.contains(field), "{}: {message:?}", row.change);
            }
            (None, Some(rule)) => {
                let refusal = message.unwrap_or_default();
                let (field, message) = rule.split_once(": ").unwrap();
                assert!(refusal.contains(field) && refusal.contains(message), "{}: {refusal:?}", row.change);
            }
            (None, None) => assert_eq!(message, None, "{}", row.change),
        }
    }
    for change in refused::allowed() {
        assert_eq!(refusal(&scene, &change).await, None, "{change}");
    }
}
