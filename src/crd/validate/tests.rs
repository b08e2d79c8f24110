use serde_json::{Value, json};

use super::*;
use crate::crd::tests::refused::{EXTERNAL, Refused, allowed, changed, refused};

fn object(spec: &Value) -> OnionBalancedService {
    serde_json::from_value(json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": "web"}, "spec": spec,
    }))
    .unwrap()
}

/// Returns the problems found in a valid spec with `change` merged in.
fn problems(change: &Value) -> Vec<String> {
    messages_about(&json!({ "spec": change })).unwrap()
}

fn client(name: &str, number: u8) -> Value {
    let key = crate::onion::ClientSecretKey::from_bytes([number; 32]).public();
    json!({"name": name, "publicKey": key.to_string()})
}

#[test]
fn a_service_may_have_only_external_backends() {
    let change = json!({"backends": {"replicas": 0}, "externalBackends": [{"onionAddress": EXTERNAL}]});
    assert_eq!(problems(&change), Vec::<String>::new());
}

#[test]
fn the_smallest_spec_is_valid() {
    assert_eq!(problems(&json!({})), [] as [String; 0]);
}

#[test]
fn restricted_discovery_may_name_clients_a_secret_both_or_none() {
    for restricted in [
        json!({}),
        json!({"clients": []}),
        json!({"clients": [client("a", 1), client("b", 2)], "secretName": "clients"}),
    ] {
        assert_eq!(problems(&json!({ "restrictedDiscovery": restricted })), [] as [String; 0]);
    }
}

/// Returns the operator's messages about an object, or `None` if the object cannot be deserialized.
fn messages_about(change: &Value) -> Option<Vec<String>> {
    let object: OnionBalancedService = serde_json::from_value(changed(change)).ok()?;
    Some(name(&object).into_iter().chain(spec(&object)).map(|problem| problem.to_string()).collect())
}

#[test]
fn each_error_names_the_field_and_the_fix() {
    for Refused { change, operator, schema, .. } in refused() {
        match operator {
            Some(operator) => assert_eq!(messages_about(&change), Some(vec![operator]), "{change}"),
            None => assert!(schema.is_some(), "nothing rejects {change}"),
        }
    }
}

#[test]
fn valid_objects_pass() {
    for change in allowed() {
        assert_eq!(messages_about(&change), Some(Vec::new()), "{change}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    assert_eq!(problems(&json!({"backends": {"replicas": -1, "introductionPoints": 2}})).len(), 2);
}

#[test]
fn hosts_and_ports_are_recognised() {
    for good in ["a:1", "web.example.org:65535", "web.example.org.:80", "192.0.2.1:80", "[2001:db8::1]:443", "a_b:1"] {
        assert!(is_host_and_port(good), "{good}");
    }
    for bad in ["", ":80", "a:", "a:0", "a:65536", "a:+1", "a b:1", "2001:db8::1:80", "[a]:1", "a..b:1", "unix:/run/x"]
    {
        assert!(!is_host_and_port(bad), "{bad}");
    }
}

#[test]
fn quantities_are_accepted_in_all_common_forms() {
    for good in ["1", "0.5", "100m", "64Mi", "1Gi", ".5", "128e6", "1E", "1E-3"] {
        assert!(is_quantity(good), "{good}");
    }
    for bad in ["", "Mi", "64MB", "-1", "1 Gi", "inf", "nan", "0x1", "1e", "1e+", "1.2.3", ".", "é"] {
        assert!(!is_quantity(bad), "{bad}");
    }
}

#[test]
fn names_must_be_usable_in_the_names_of_owned_objects() {
    let named = |text: &str| {
        let mut object = object(&json!({"ports": []}));
        object.metadata.name = Some(text.to_owned());
        name(&object).map(|problem| problem.to_string())
    };
    assert_eq!(named("web-1"), None);
    assert_eq!(named(&"a".repeat(54)), None);
    assert_eq!(
        named(&"a".repeat(55)).unwrap(),
        "metadata.name: has 55 characters; use at most 54, so that the names of the owned objects have at most 63"
    );
    for bad in ["1web", "web.example"] {
        assert!(named(bad).unwrap().starts_with("metadata.name: must consist of lower-case letters"), "{bad}");
    }
}
