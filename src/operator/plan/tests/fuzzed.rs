//! Property tests of the plan: it never panics, and any spec that our types can represent is either
//! refused or built.

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::{Server, healthy, last_good};
use crate::crd::names::{OUR_PREFIX, RECOMMENDED_PREFIX};
use crate::crd::validate;
use crate::operator::plan::Observed;
use crate::operator::policy::ObjectPolicy;

/// Returns a strategy for typical, harmful and arbitrary texts.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("web".to_owned()),
        Just("a:1".to_owned()),
        Just("100m".to_owned()),
        Just("pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion".to_owned()),
        Just("MaxMemInQueues 200 MB\nHiddenServiceMaxStreams 100".to_owned()),
        Just("ControlPort 9051\\\n%include /x".to_owned()),
        Just("é\u{0}\u{1F9C5}\"'\n---\n".to_owned()),
        ".{0,40}",
        "[a-z.:\\[\\]0-9-]{0,70}",
    ]
}

fn int_or_text() -> impl Strategy<Value = Value> {
    prop_oneof![any::<i32>().prop_map(Value::from), text().prop_map(Value::from)]
}

fn map_of(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    btree_map(text(), value, 0..3).prop_map(|map| json!(map))
}

/// Returns a strategy for arbitrary JSON, for the fields that only the API server validates.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), int_or_text()];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map(text(), inner, 0..3).prop_map(|map| json!(map))
        ]
    })
}

fn port() -> impl Strategy<Value = Value> {
    let service = (text(), int_or_text()).prop_map(|(name, port)| json!({"name": name, "port": port}));
    let options = (any::<bool>(), option::of(any::<u32>()));
    (option::of(text()), any::<u16>(), option::of(service), option::of(text()), options).prop_map(
        |(name, port, service, address, (header, idle))| {
            let header = header.then_some("v1");
            json!({
                "name": name, "port": port, "target": {"service": service, "address": address}, "proxyProtocol": header,
                "idleTimeoutSeconds": idle,
            })
        },
    )
}

fn template() -> impl Strategy<Value = Value> {
    let quantities = || map_of(int_or_text().boxed());
    let resources = (quantities(), quantities()).prop_map(|(requests, limits)| {
        json!({"tor": {"requests": requests, "limits": limits}, "agent": {"requests": limits, "limits": requests}})
    });
    let texts = || map_of(text().prop_map(Value::from).boxed());
    (texts(), texts(), option::of(resources), texts(), anything(), vec(anything(), 0..3), option::of(text())).prop_map(
        |(labels, annotations, resources, nodes, affinity, tolerations, class)| {
            json!({
                "labels": labels, "annotations": annotations, "resources": resources, "nodeSelector": nodes,
                "affinity": affinity, "tolerations": tolerations, "topologySpreadConstraints": tolerations,
                "priorityClassName": class, "runtimeClassName": class, "imagePullSecrets": [{"name": class.unwrap_or_default()}],
            })
        },
    )
}

fn backends() -> impl Strategy<Value = Value> {
    let dos =
        (any::<u32>(), any::<u32>()).prop_map(|(rate, burst)| json!({"ratePerSecond": rate, "burstPerSecond": burst}));
    let number = || option::of(any::<u32>());
    let limits = (number(), number(), number(), number()).prop_map(|(open, rate, burst, bytes)| {
        json!({
            "openStreams": open.unwrap_or(256), "streamsPerSecond": rate, "streamBurst": burst, "bytesPerSecond": bytes,
        })
    });
    (any::<i32>(), any::<u8>(), any::<u32>(), option::of(dos), option::of(limits), text(), template()).prop_map(
        |(replicas, points, drain, dos, limits, torrc, template)| {
            json!({
                "replicas": replicas, "introductionPoints": points, "drainTimeoutSeconds": drain, "introDosDefense": dos,
                "circuitLimits": limits, "extraTorrc": torrc, "template": template,
            })
        },
    )
}

fn spec() -> impl Strategy<Value = Value> {
    let frontend = (any::<i32>(), prop::sample::select(vec!["Auto", "Always", "Never"]), text(), template()).prop_map(
        |(replicas, distinct, torrc, template)| {
            json!({"replicas": replicas, "distinctDescriptors": distinct, "extraTorrc": torrc, "template": template})
        },
    );
    let client = (text(), text()).prop_map(|(name, key)| json!({"name": name, "publicKey": key}));
    let restricted = (vec(client, 0..3), option::of(text()))
        .prop_map(|(clients, secret)| json!({"clients": clients, "secretName": secret}));
    let external = (text(), any::<u8>())
        .prop_map(|(address, points)| json!({"onionAddress": address, "maxIntroductionPoints": points}));
    (
        vec(port(), 0..4),
        (option::of(text()), option::of(text())),
        (any::<bool>(), any::<bool>()),
        backends(),
        vec(external, 0..3),
        frontend,
        option::of(restricted),
    )
        .prop_map(|(ports, (secret, address), (delete, suspend), backends, external, frontend, restricted)| {
            json!({
                "ports": ports, "masterKey": {"secretName": secret, "onionAddress": address},
                "deletionPolicy": if delete { "Delete" } else { "Retain" }, "suspend": suspend, "backends": backends,
                "externalBackends": external, "frontend": frontend, "restrictedDiscovery": restricted,
            })
        })
}

/// Returns the facts about a service with the given name and spec, before the first step. A bare
/// service has no key, backends or Lease yet.
fn observed(name: &str, spec: Value, bare: bool) -> Option<Observed> {
    let mut observed = Observed { owned: None, last: None, ..healthy() };
    let mut whole = serde_json::to_value(&*observed.object).ok()?;
    whole["spec"] = spec;
    whole["metadata"]["name"] = name.into();
    if bare {
        whole["status"] = Value::Null;
        observed = Observed { key_secret: None, backends: None, lease: None, ..observed };
    }
    observed.object = Arc::new(serde_json::from_value(whole).ok()?);
    Some(observed)
}

proptest! {
    #[test]
    fn no_spec_makes_planning_panic(name in text(), spec in spec(), bare in any::<bool>()) {
        let Some(observed) = observed(&name, spec, bare) else { return Err(TestCaseError::reject("not of our types")) };
        let mut problems = validate::spec(&observed.object);
        problems.extend(observed.environment.settings.policy.problems(&observed.object));
        let misnamed = validate::name(&observed.object).is_some();
        let refused = misnamed || !problems.is_empty();
        let mut server = Server { object: Some((*observed.object).clone()), ..Server::default() };
        let (_, status) = server.run(observed);
        // No pods are configured from settings that validation or the policy refuses and that have
        // no last values.
        prop_assert!(!misnamed || server.applied.is_empty());
        for (component, path) in [("web-backend", "spec.backends"), ("web-frontend", "spec.frontend")] {
            if problems.iter().any(|problem| problem.field.starts_with(path)) {
                let configures = |name: &str| ["ConfigMap", "Deployment"].iter().any(|kind| name == format!("{kind} {component}"));
                prop_assert!(!server.applied.iter().any(|(name, _)| configures(name)), "{problems:?}");
            }
        }
        let accepted = status.conditions.iter().find(|condition| condition.type_ == "Accepted");
        let accepted = accepted.map(|found| &*found.status);
        prop_assert_eq!(accepted == Some("True"), !refused);
    }

    /// No template reaches the pods of a running service against the default policy, whatever else
    /// the spec contains.
    #[test]
    fn no_template_escapes_the_default_policy(spec in spec()) {
        let Some(mut observed) = observed("web", spec, false) else { return Err(TestCaseError::reject("not of our types")) };
        observed.last = Some(last_good());
        Arc::make_mut(&mut observed.environment).settings.policy = ObjectPolicy::default();
        let mut server = Server { object: Some((*observed.object).clone()), ..Server::default() };
        server.run(observed);
        for (name, manifest) in server.applied.iter().filter(|(name, _)| name.starts_with("Deployment")) {
            let template = &manifest["spec"]["template"];
            for field in ["priorityClassName", "runtimeClassName", "tolerations"] {
                // An empty name stands for no class.
                prop_assert!(template["spec"].get(field).is_none_or(|value| value == ""), "{} {}", name, template);
            }
            for field in ["labels", "annotations"] {
                let is_ours = |key: &String| {
                    [OUR_PREFIX, RECOMMENDED_PREFIX, "kubectl.kubernetes.io/default-container"].iter().any(|ours| key.starts_with(ours))
                };
                let keys = template["metadata"][field].as_object().into_iter().flat_map(|map| map.keys());
                prop_assert!(keys.clone().all(is_ours), "{} {}", name, template);
            }
        }
    }

    /// Most templates in the other property test are refused. The templates in this test pass
    /// validation and reach the builders.
    #[test]
    fn every_valid_template_can_be_built(template in template(), replicas in 0..i32::MAX) {
        let spec = json!({
            "ports": [{"port": 80, "target": {"address": "web:80"}}],
            "backends": {"replicas": replicas, "template": template}, "frontend": {"template": template},
        });
        let Some(observed) = observed("web", spec, false) else { return Err(TestCaseError::reject("not of our types")) };
        if validate::spec(&observed.object).is_empty() {
            // The tests' policy allows every template.
            let mut server = Server::default();
            server.run(observed);
            prop_assert_eq!(server.applied.len(), 16);
        }
    }
}
