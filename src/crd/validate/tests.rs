use serde_json::{Value, json};

use super::*;

fn object(spec: &Value) -> OnionBalancedService {
    serde_json::from_value(json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": "web"}, "spec": spec,
    }))
    .unwrap()
}

/// The problems of a good spec with `change` merged in.
fn problems(change: &Value) -> Vec<String> {
    let mut whole = json!({"ports": [{"port": 80, "target": {"service": {"name": "web", "port": "http"}}}]});
    merge(&mut whole, change);
    spec(&object(&whole)).iter().map(ToString::to_string).collect()
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            change.iter().for_each(|(key, value)| merge(into.entry(key.clone()).or_insert(Value::Null), value));
        }
        (into, change) => *into = change.clone(),
    }
}

fn client(name: &str, number: u8) -> Value {
    let key = crate::onion::ClientSecretKey::from_bytes([number; 32]).public();
    json!({"name": name, "publicKey": key.to_string()})
}

const EXTERNAL: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

#[test]
fn external_backends_may_stand_alone() {
    let change = json!({"backends": {"replicas": 0}, "externalBackends": [{"onionAddress": EXTERNAL}]});
    assert_eq!(problems(&change), Vec::<String>::new());
}

#[test]
fn the_smallest_spec_is_fine() {
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

#[test]
fn each_rule_names_the_field_and_the_fix() {
    let target = |target: Value| json!({"ports": [{"port": 80, "target": target}]});
    for (change, expected) in [
        (json!({"ports": []}), "spec.ports: name at least one port"),
        (target(json!({})), "spec.ports[0].target: is empty; set service {name, port} or address \"host:port\""),
        (
            target(json!({"service": {"name": "web", "port": 80}, "address": "a:1"})),
            "spec.ports[0].target: has both service and address; keep one",
        ),
        (
            target(json!({"service": {"name": "Web", "port": 80}})),
            "spec.ports[0].target.service.name: is no name that a Service can have",
        ),
        (
            target(json!({"service": {"name": "web", "port": 65536}})),
            "spec.ports[0].target.service.port: must be from 1 to 65535, or a port's name",
        ),
        (
            target(json!({"service": {"name": "web", "port": ""}})),
            "spec.ports[0].target.service.port: is empty; set the port's name or number",
        ),
        (
            target(json!({"address": "web"})),
            "spec.ports[0].target.address: \"web\" is not of the form host:port, as in \"web.example.org:8080\" or \"[2001:db8::1]:80\"",
        ),
        (
            json!({"ports": [{"port": 80, "target": {"address": "a:1"}}, {"port": 80, "target": {"address": "a:1"}}]}),
            "spec.ports[1].port: 80 is there twice; name each port once",
        ),
        (
            json!({"ports": [{"name": "a", "port": 80, "target": {"address": "a:1"}}, {"name": "a", "port": 81, "target": {"address": "a:1"}}]}),
            "spec.ports[1].name: \"a\" is there twice; give each port its own",
        ),
        (json!({"masterKey": {"secretName": "a/b"}}), "spec.masterKey.secretName: is no name that a Secret can have"),
        (json!({"backends": {"replicas": -1}}), "spec.backends.replicas: must be 0 or more"),
        (json!({"backends": {"introductionPoints": 21}}), "spec.backends.introductionPoints: must be from 3 to 20"),
        (
            json!({"backends": {"drainTimeoutSeconds": 86401}}),
            "spec.backends.drainTimeoutSeconds: must be at most 86400, one day",
        ),
        (
            json!({"backends": {"introDosDefense": {"ratePerSecond": 5, "burstPerSecond": 4}}}),
            "spec.backends.introDosDefense.burstPerSecond: must not be less than ratePerSecond",
        ),
        (
            json!({"backends": {"extraTorrc": "ControlPort 9051"}}),
            "spec.backends.extraTorrc: line 1: the operator sets or needs \"ControlPort\" itself; remove the line",
        ),
        (
            json!({"backends": {"template": {"labels": {"app.kubernetes.io/component": "x"}}}}),
            "spec.backends.template.labels: \"app.kubernetes.io/component\" belongs to the operator; use a key of your own",
        ),
        (
            json!({"frontend": {"template": {"annotations": {"onionbalance.dev/config-hash": "x"}}}}),
            "spec.frontend.template.annotations: \"onionbalance.dev/config-hash\" belongs to the operator; use a key of your own",
        ),
        (
            json!({"frontend": {"template": {"resources": {"tor": {"limits": {"memory": "64 MB"}}}}}}),
            "spec.frontend.template.resources.tor.limits.memory: is no quantity, as in \"100m\", \"64Mi\" or 1",
        ),
        (json!({"frontend": {"replicas": -1}}), "spec.frontend.replicas: must be 0 or more"),
        (
            json!({"externalBackends": [{"onionAddress": EXTERNAL}, {"onionAddress": "x"}]}),
            "spec.externalBackends[1].onionAddress: a v3 onion address has 56 base32 characters, with or without \".onion\"",
        ),
        (
            json!({"externalBackends": [{"onionAddress": EXTERNAL.replace("pg6", "pg7")}]}),
            "spec.externalBackends[0].onionAddress: the onion address has a wrong checksum: is it mistyped?",
        ),
        (
            json!({"externalBackends": [{"onionAddress": EXTERNAL}, {"onionAddress": EXTERNAL.to_uppercase()}]}),
            "spec.externalBackends[1].onionAddress: is there twice; name each backend once",
        ),
        (
            json!({"masterKey": {"onionAddress": EXTERNAL}, "externalBackends": [{"onionAddress": EXTERNAL}]}),
            "spec.externalBackends[0].onionAddress: is this service's own address; name the backend's, which its tor wrote to hostname",
        ),
        (
            json!({"restrictedDiscovery": {"secretName": "a/b"}}),
            "spec.restrictedDiscovery.secretName: is no name that a Secret can have",
        ),
        (
            json!({"restrictedDiscovery": {"clients": [{"name": "a", "publicKey": "descriptor:x25519:AAAA"}]}}),
            "spec.restrictedDiscovery.clients[0].publicKey: is not of the form descriptor:x25519:<52 base32 characters>",
        ),
        (
            json!({"restrictedDiscovery": {"clients": [client("a", 1), client("a", 2)]}}),
            "spec.restrictedDiscovery.clients[1].name: \"a\" is there twice; give each client its own",
        ),
        (
            json!({"restrictedDiscovery": {"clients": [client("a", 1), client("b", 1)]}}),
            "spec.restrictedDiscovery.clients[1].publicKey: is the key of \"a\" too; remove one of the two",
        ),
    ] {
        assert_eq!(problems(&change), [expected], "{change}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    assert_eq!(problems(&json!({"backends": {"replicas": -1, "introductionPoints": 2}})).len(), 2);
}

#[test]
fn hosts_and_ports() {
    for good in ["a:1", "web.example.org:65535", "web.example.org.:80", "192.0.2.1:80", "[2001:db8::1]:443", "a_b:1"] {
        assert!(is_host_and_port(good), "{good}");
    }
    for bad in ["", ":80", "a:", "a:0", "a:65536", "a:+1", "a b:1", "2001:db8::1:80", "[a]:1", "a..b:1", "unix:/run/x"]
    {
        assert!(!is_host_and_port(bad), "{bad}");
    }
}

#[test]
fn quantities_as_people_write_them() {
    for good in ["1", "0.5", "100m", "64Mi", "1Gi"] {
        assert!(is_quantity(good), "{good}");
    }
    for bad in ["", "Mi", "64MB", "-1", "1 Gi", "inf", "nan", "0x1"] {
        assert!(!is_quantity(bad), "{bad}");
    }
}

#[test]
fn names_that_children_can_bear() {
    let named = |text: &str| {
        let mut object = object(&json!({"ports": []}));
        object.metadata.name = Some(text.to_owned());
        name(&object).map(|problem| problem.to_string())
    };
    assert_eq!(named("web-1"), None);
    assert_eq!(named(&"a".repeat(54)), None);
    assert_eq!(
        named(&"a".repeat(55)).unwrap(),
        "metadata.name: it has 55 characters; use at most 54, so that the children's names fit into 63"
    );
    for bad in ["1web", "web.example"] {
        assert!(named(bad).unwrap().starts_with("metadata.name: use lower-case letters"), "{bad}");
    }
}
