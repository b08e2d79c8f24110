//! What the API server refuses by the schema's types and limits, and what it leaves to the operator: each row of the table that
//! the schema's rules and the operator's checks are tested with. Servers before Kubernetes 1.25 know no rules; a newer one is
//! asked for the rules' messages too. (None runs here: Debian has 1.20 alone. So how dear a server thinks the rules are is not
//! shown by a test.)

use kube::api::{Api, DynamicObject, PostParams};
use kube::core::ApiResource;
use onionbalance_operator::crd::OnionBalancedService;
use serde_json::Value;

use crate::scene::Scene;

#[allow(dead_code, reason = "what the operator says is looked at elsewhere")]
#[path = "../../src/crd/tests/refused.rs"]
mod refused;

/// Without the numbers of a list's items: servers name them or not.
fn without_indices(text: &str) -> String {
    let mut parts = text.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match part.split_once(']') {
        Some((index, rest)) if index.bytes().all(|byte| byte.is_ascii_digit()) => text + rest,
        _ => text + "[" + part,
    })
}

/// Why the server refuses the good object with a change; nothing where it would take it.
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
async fn the_schema_refuses_what_it_should_and_nothing_else() {
    let scene = Scene::set_without_operator("refused").await;
    let version = scene.client.apiserver_version().await.unwrap();
    let knows_rules = version.minor.trim_end_matches('+').parse::<u32>().unwrap() >= 25;
    for row in refused::refused() {
        let said = refusal(&scene, &row.change).await;
        let by_rule = row.rule.filter(|_| knows_rules);
        match (&row.schema, by_rule) {
            (Some(field), _) => {
                let said = said.map(|said| without_indices(&said)).unwrap_or_default();
                assert!(said.contains(field), "{}: {said:?}", row.change);
            }
            (None, Some(rule)) => {
                let said = said.unwrap_or_default();
                let (field, message) = rule.split_once(": ").unwrap();
                assert!(said.contains(field) && said.contains(message), "{}: {said:?}", row.change);
            }
            (None, None) => assert_eq!(said, None, "{}", row.change),
        }
    }
    for change in refused::allowed() {
        assert_eq!(refusal(&scene, &change).await, None, "{change}");
    }
}
