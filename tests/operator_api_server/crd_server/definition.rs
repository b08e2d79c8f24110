//! Tests that the server accepts the CRD, and that it would find a fault in the CRD.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PatchParams};
use onionbalance_operator::crd::custom_resource_definition;
use serde_json::{Value, json};

use super::{Answer, apply_crd, crd_server};

#[tokio::test(flavor = "multi_thread")]
async fn accepts_the_crd_with_all_its_rules_and_without_warnings() {
    let (client, answer) = crd_server().await;
    assert_eq!(answer.warnings, [] as [&str; 0]);

    let ours = custom_resource_definition();
    let name = ours.metadata.name.as_deref().unwrap();
    let stored = Api::<CustomResourceDefinition>::all(client).get(name).await.unwrap();
    let schema = |crd: &CustomResourceDefinition| serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
    assert!(schema(&ours).to_string().matches("x-kubernetes-validations").count() > 15);
    assert_eq!(schema(&stored), schema(&ours), "the server has changed the schema");
    let conditions = stored.status.unwrap().conditions.unwrap();
    let conditions: Vec<_> = conditions.iter().map(|condition| (&*condition.type_, &*condition.status)).collect();
    assert_eq!(conditions, [("NamesAccepted", "True"), ("Established", "True")]);
}

/// Applies our CRD with one value of the schema replaced, without storing the result. A value of
/// null removes the field.
async fn apply_changed(pointer: &str, value: Value) -> Answer {
    let (client, _) = crd_server().await;
    let mut crd = serde_json::to_value(custom_resource_definition()).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = crd.pointer_mut(&format!("{spec}{parent}")).expect("the schema has no such field");
    let before = parent.as_object_mut().unwrap().insert(field.to_owned(), value.clone());
    assert!(before.is_some_and(|before| before != value), "the schema has no such field");
    let mut parameters = PatchParams::apply("test").force();
    parameters.dry_run = true;
    apply_crd(&client, &crd, &parameters).await
}

#[tokio::test(flavor = "multi_thread")]
async fn warns_about_an_unknown_format() {
    let answer = apply_changed("/properties/ports/items/properties/port/format", json!("uint16")).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    assert!(answer.warnings.iter().any(|warning| warning.contains("unrecognized format")), "{answer:?}");
}

/// Each limit that a rule needs is also checked without a server, in `src/crd/rules/tests.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_rule_that_could_cost_too_much() {
    for limit in [
        "/properties/ports/maxItems",
        "/properties/restrictedDiscovery/properties/clients/maxItems",
        "/properties/backends/properties/extraTorrc/maxLength",
    ] {
        let answer = apply_changed(limit, Value::Null).await;
        assert_eq!(answer.code, 422, "{limit}: {answer:?}");
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains("estimated rule cost exceeds budget"), "{limit}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_rule_that_does_not_compile() {
    let rules = json!([{"rule": "self.all(port, port.nam != '')", "message": "a"}]);
    let answer = apply_changed("/properties/ports/x-kubernetes-validations", rules).await;
    let message = answer.body["message"].as_str().unwrap_or_default();
    assert!(answer.code == 422 && message.contains("undefined field 'nam'"), "{answer:?}");
}
