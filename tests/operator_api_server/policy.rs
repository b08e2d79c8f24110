//! Tests of the administrator's policy on the values in objects.

use std::collections::BTreeMap;

use onionbalance_operator::operator::{ObjectPolicy, Settings};
use serde_json::{Value, json};

use crate::scene::{Scene, settings};

/// Returns changes to an object that the default policy does not allow. Each is written with the
/// field, the value and the flag that the message must name, and the change that takes it back.
fn violations() -> Vec<(Value, [&'static str; 3], Value)> {
    let target = |target: Value| json!({"ports": [{"port": 80, "target": target}]});
    let web = || target(json!({"service": {"name": "web", "port": "http"}}));
    let template = |part: &str, template: Value| json!({ part: {"template": template} });
    vec![
        (
            target(json!({"address": "169.254.169.254:80"})),
            ["spec.ports[0].target.address", "\"169.254.169.254:80\"", "--refused-targets contains 169.254.0.0/16"],
            web(),
        ),
        (
            target(json!({"address": "127.0.0.1:9401"})),
            ["spec.ports[0].target.address", "\"127.0.0.1:9401\"", "--refused-targets contains 127.0.0.0/8"],
            web(),
        ),
        (
            target(json!({"address": "kubernetes.default.svc:443"})),
            ["spec.ports[0].target.address", "\"kubernetes.default.svc:443\"", "--refused-targets contains api-server"],
            web(),
        ),
        (
            template("backends", json!({"labels": {"app": "database"}})),
            ["spec.backends.template.labels", "\"app\"", "--allowed-label-prefixes"],
            template("backends", json!({"labels": null})),
        ),
        (
            template("frontend", json!({"annotations": {"vault.hashicorp.com/agent-inject": "true"}})),
            [
                "spec.frontend.template.annotations",
                "\"vault.hashicorp.com/agent-inject\"",
                "--allowed-annotation-prefixes",
            ],
            template("frontend", json!({"annotations": null})),
        ),
        (
            template("backends", json!({"priorityClassName": "system-node-critical"})),
            ["spec.backends.template.priorityClassName", "\"system-node-critical\"", "--allowed-priority-classes"],
            template("backends", json!({"priorityClassName": null})),
        ),
        (
            template("frontend", json!({"tolerations": [{"operator": "Exists"}]})),
            ["spec.frontend.template.tolerations[0]", "{\"operator\":\"Exists\"}", "--allowed-tolerations"],
            template("frontend", json!({"tolerations": null})),
        ),
        (
            template("backends", json!({"runtimeClassName": "kata"})),
            ["spec.backends.template.runtimeClassName", "\"kata\"", "--allowed-runtime-classes"],
            template("backends", json!({"runtimeClassName": null})),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_policy_refuses_what_concerns_others_and_keeps_the_pods() {
    let mut scene = Scene::without_operator("policy").await;
    scene.start_operator(Settings { policy: ObjectPolicy::default(), ..settings() });
    scene.create("web", json!({})).await;
    let before = scene.wait_children("web").await;
    for (change, parts, back) in violations() {
        scene.change("web", json!({ "spec": change })).await;
        let message = scene.wait_condition("web", "Accepted", "False NotAllowed").await;
        assert!(parts.iter().all(|part| message.contains(part)), "{parts:?} in {message}");
        scene.wait_condition("web", "Stalled", "True NotAllowed").await;
        scene.change("web", json!({ "spec": back })).await;
        scene.wait_condition("web", "Accepted", "True Valid").await;
    }
    assert_eq!(scene.children("web").await, before, "a refused object must keep its pods as they are");

    let refused = json!({"ports": [{"port": 80, "target": {"address": "localhost:9402"}}]});
    scene.create("other", refused).await;
    scene.wait_condition("other", "Accepted", "False NotAllowed").await;
    scene.wait_number_of_children("other", 14).await;
    let children = scene.children("other").await;
    let is_of_backend = |child: &&String| ["ConfigMap other-backend", "Deployment other-backend"].contains(&&***child);
    assert_eq!(children.keys().find(is_of_backend), None, "a refused target is not configured");

    scene.create("exposed", json!({"anonymity": {"serverLocation": "Exposed"}})).await;
    let message = scene.wait_condition("exposed", "Accepted", "False NotAllowed").await;
    assert!(message.contains("--allow-exposed-locations"), "{message}");
    let has_pods = |children: &BTreeMap<String, _>| children.keys().any(|child| child.starts_with("Deployment "));
    assert!(!has_pods(&scene.children("exposed").await), "an exposed location needs a permission");
    // Without pods, nothing has been exposed yet.
    scene.change("exposed", json!({"spec": {"anonymity": {"serverLocation": "Hidden"}}})).await;
    assert!(has_pods(&scene.wait_children("exposed").await));
    scene.end().await;
}
