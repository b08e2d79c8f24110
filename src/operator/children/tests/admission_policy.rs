//! Evaluates the chart's admission policies, without a server: they must allow everything that the
//! operator writes, and nothing that its account could be abused for.

use kube_cel::{AdmissionRequest, VapEvaluator, VapExpression};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{Kind, secret_master_key};
use super::closing_circuits;
use super::support::{Fixture, all_children};
use crate::crd::names::SERVICE_LABEL;

/// One policy in the chart's file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Policy {
    name: String,
    resource_rules: Vec<Rule>,
    validations: Vec<Validation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    api_groups: Vec<String>,
    #[serde(rename = "apiVersions")]
    _api_versions: Vec<String>,
    operations: Vec<String>,
    resources: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Validation {
    expression: String,
    message: String,
}

/// A write request of the operator's account.
#[derive(Clone)]
struct Write {
    operation: &'static str,
    group: String,
    resource: String,
    namespace: String,
    object: Value,
    old: Option<Value>,
}

fn policies() -> Vec<Policy> {
    let text = include_str!("../../../../charts/onionbalance-operator/files/admission-policy.yaml");
    let text = text.replace("{namespace}", "onionbalance-system").replace("{lease}", "operator-leader");
    serde_saphyr::from_str(&text).unwrap()
}

/// Returns an expression, or an object in JSON, with simpler names for the keys of maps that would
/// need escaping as the names of fields. The evaluator escapes all keys, an API server does not.
fn simple(text: &str) -> String {
    text.replace(SERVICE_LABEL, "service").replace("\"namespace\":", "\"space\":").replace("'namespace'", "'space'")
}

fn simple_object(object: &Value) -> Value {
    serde_json::from_str(&simple(&object.to_string())).unwrap()
}

/// Returns the messages of the policies that deny a request. If no policy matches the request, the
/// only message says so.
fn denials(write: &Write) -> Vec<String> {
    let matches = |rule: &Rule| {
        let has = |list: &[String], value: &str| list.iter().any(|item| item == value || item == "*");
        has(&rule.api_groups, &write.group)
            && has(&rule.operations, write.operation)
            && has(&rule.resources, &write.resource)
    };
    let request = AdmissionRequest {
        operation: write.operation.to_owned(),
        namespace: write.namespace.clone(),
        name: write.object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        ..AdmissionRequest::default()
    };
    let mut evaluator = VapEvaluator::builder().request(request);
    if write.operation != "DELETE" {
        evaluator = evaluator.object(simple_object(&write.object));
    }
    if let Some(old) = &write.old {
        evaluator = evaluator.old_object(simple_object(old));
    }
    let evaluator = evaluator.build();
    let policies = policies();
    let mut matching = policies.iter().filter(|policy| policy.resource_rules.iter().any(matches)).peekable();
    if matching.peek().is_none() {
        return vec!["no policy matches".to_owned()];
    }
    let expressions: Vec<_> = matching
        .flat_map(|policy| &policy.validations)
        .map(|Validation { expression, message }| VapExpression {
            expression: simple(expression),
            message: Some(message.clone()),
            message_expression: None,
        })
        .collect();
    evaluator.evaluate(&expressions).into_iter().filter_map(|result| result.message).collect()
}

/// Returns the requests that create all owned objects of a service, including its key.
fn creations() -> Vec<Write> {
    let mut spec = closing_circuits();
    spec["restrictedDiscovery"] = json!({"secretName": "clients"});
    let mut fixture = Fixture::of(&spec);
    // Without bridges, the pods share their guards, so the Role grants access to their Secret.
    fixture.environment.settings.tor_extra_config = String::new();
    let children = all_children(&fixture.inputs());
    let key = serde_json::to_value(secret_master_key(&fixture.object, &fixture.key)).unwrap();
    let manifests = children.into_iter().map(|child| (child.id.kind, child.manifest));
    let creation = |(kind, object): (Kind, Value)| {
        let resource = kind.resource();
        let namespace = object["metadata"]["namespace"].as_str().unwrap().to_owned();
        Write { operation: "CREATE", group: resource.group, resource: resource.plural, namespace, object, old: None }
    };
    manifests.chain([(Kind::Secret, key)]).map(creation).collect()
}

/// Returns the request that creates an owned object, given its resource.
fn creation(resource: &str) -> Write {
    creations().into_iter().find(|write| write.resource == resource).unwrap()
}

fn update(write: &Write) -> Write {
    Write { operation: "UPDATE", old: Some(write.object.clone()), ..write.clone() }
}

fn deletion(write: &Write) -> Write {
    Write { operation: "DELETE", old: Some(write.object.clone()), ..write.clone() }
}

#[test]
fn everything_that_the_operator_writes_is_allowed() {
    let creations = creations();
    assert_eq!(creations.len(), 19);
    for write in &creations {
        let name = format!("{} {}", write.resource, write.object["metadata"]["name"]);
        for write in [write.clone(), update(write)] {
            assert_eq!(denials(&write), [""; 0], "{} {name}", write.operation);
        }
        // The operator repairs an object whose labels someone has removed.
        let mut repair = update(write);
        repair.old.as_mut().unwrap()["metadata"].as_object_mut().unwrap().remove("labels");
        let is_owned = write.object["metadata"]["ownerReferences"].is_array();
        assert_eq!(denials(&repair).is_empty(), is_owned, "{name}");
        // The operator deletes no Secrets, so it does not matter that the key has no owner.
        assert_eq!(denials(&deletion(write)).is_empty(), is_owned, "{name}");
    }
    let lease = json!({"metadata": {"name": "operator-leader", "namespace": "onionbalance-system"}});
    let write = Write {
        operation: "CREATE",
        group: "coordination.k8s.io".to_owned(),
        resource: "leases".to_owned(),
        namespace: "onionbalance-system".to_owned(),
        object: lease,
        old: None,
    };
    assert_eq!(denials(&write), [""; 0]);
    assert_eq!(denials(&update(&write)), [""; 0]);
    let other = Write { namespace: "kube-system".to_owned(), ..write };
    assert_eq!(denials(&other), ["the operator may write only its own Lease"]);
}

#[test]
fn objects_of_others_and_of_the_system_are_out_of_reach() {
    for write in creations() {
        let expected = |what: &str| {
            let denials = denials(&Write { namespace: "kube-system".to_owned(), ..write.clone() });
            assert!(denials.iter().any(|message| message.contains(what)), "{}: {denials:?}", write.resource);
        };
        expected("system namespaces kube-*");

        let mut unnamed = write.clone();
        unnamed.object["metadata"]["name"] = "aws-auth".into();
        let mut unlabelled = write.clone();
        unlabelled.object["metadata"].as_object_mut().unwrap().remove("labels");
        for other in [unnamed, unlabelled] {
            let denials = denials(&other);
            let message = "the operator may write only objects that are labelled with a service and named after it";
            assert!(denials.iter().any(|denial| denial == message), "{}: {denials:?}", other.resource);
        }
        let mut foreign = update(&write);
        foreign.old = Some(json!({"metadata": {"name": write.object["metadata"]["name"], "labels": {"app": "x"}}}));
        assert_eq!(
            denials(&foreign),
            ["the operator may not take over an object of someone else"],
            "{}",
            write.resource
        );
        let mut foreign = deletion(&write);
        foreign.old = Some(json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment"}]}}));
        let message = "the operator may delete only objects that belong to an OnionBalancedService";
        assert_eq!(denials(&foreign), [message], "{}", write.resource);
    }
}

/// Returns changes to owned objects that the policies deny: the resource, the changed field as a
/// JSON pointer, its value, and a part of the message.
fn denied_changes() -> Vec<(&'static str, String, Value, &'static str)> {
    let pod = "/spec/template/spec";
    vec![
        (
            "deployments",
            format!("{pod}/serviceAccountName"),
            json!("admin"),
            "the pods may use only the ServiceAccount",
        ),
        ("deployments", format!("{pod}/hostNetwork"), json!(true), "the pods may not use the namespaces of their node"),
        ("deployments", format!("{pod}/hostPID"), json!(true), "the pods may not use the namespaces of their node"),
        (
            "deployments",
            format!("{pod}/volumes"),
            json!([{"name": "h", "hostPath": {"path": "/"}}]),
            "the pods may have only volumes of the types",
        ),
        ("deployments", format!("{pod}/initContainers"), json!([{}]), "the containers may not be privileged"),
        (
            "deployments",
            format!("{pod}/containers/0/securityContext"),
            json!({"allowPrivilegeEscalation": true}),
            "the containers may not be privileged",
        ),
        (
            "deployments",
            format!("{pod}/containers/1/securityContext"),
            json!({}),
            "the containers may not be privileged",
        ),
        (
            "deployments",
            format!("{pod}/containers/1/securityContext/capabilities"),
            json!({"add": ["NET_ADMIN"]}),
            "the containers may not be privileged",
        ),
        ("deployments", format!("{pod}/containers/0/ports"), json!([{"hostPort": 80}]), "ports of their node"),
        (
            "secrets",
            "/type".to_owned(),
            json!("kubernetes.io/service-account-token"),
            "only Secrets of the type Opaque",
        ),
        ("rolebindings", "/roleRef/name".to_owned(), json!("admin"), "only the Role of the same name"),
        ("rolebindings", "/roleRef/kind".to_owned(), json!("ClusterRole"), "only the Role of the same name"),
        ("rolebindings", "/subjects/0/name".to_owned(), json!("mallory"), "only to the ServiceAccount"),
        ("rolebindings", "/subjects/0/kind".to_owned(), json!("User"), "only to the ServiceAccount"),
        ("rolebindings", "/subjects/0/namespace".to_owned(), json!("kube-system"), "only to the ServiceAccount"),
    ]
}

/// Returns changes to Roles that the policies deny, in the same form as [`denied_changes`].
fn denied_rules() -> Vec<(&'static str, String, Value, &'static str)> {
    vec![
        ("roles", "/rules/0/resources".to_owned(), json!(["secrets"]), "only to the Secret of the service's guards"),
        (
            "roles",
            "/rules/0".to_owned(),
            json!({"resources": ["secrets"], "resourceNames": ["web-master-key"], "verbs": ["get"]}),
            "only to the Secret of the service's guards",
        ),
        (
            "roles",
            "/rules/0".to_owned(),
            json!({"resources": ["secrets"], "resourceNames": ["web-guards"], "verbs": ["list"]}),
            "only to the Secret of the service's guards",
        ),
        ("roles", "/rules/0/resources".to_owned(), json!(["services"]), "any other kind of object"),
        ("roles", "/rules/0/resources".to_owned(), json!(["*"]), "any other kind of object"),
        ("roles", "/rules/0/verbs".to_owned(), json!(["bind"]), "any other verb"),
        ("roles", "/rules/0".to_owned(), json!({"resources": ["configmaps"], "verbs": ["get"]}), "only to ConfigMaps"),
    ]
}

#[test]
fn owned_objects_have_only_what_the_service_needs() {
    for (resource, pointer, value, message) in denied_changes().into_iter().chain(denied_rules()) {
        let mut write = creation(resource);
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        match write.object.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[field.parse::<usize>().unwrap()] = value,
            parent => parent[field] = value,
        }
        let denials = denials(&write);
        assert!(denials.iter().any(|denial| denial.contains(message)), "{resource} {pointer}: {denials:?}");
    }
}

/// The tests above try every policy.
#[test]
fn the_chart_has_no_other_policies() {
    let names: Vec<_> = policies().into_iter().map(|policy| policy.name).collect();
    assert_eq!(names, ["owned-objects", "deletions", "deployments", "secrets", "roles", "rolebindings", "leases"]);
}
