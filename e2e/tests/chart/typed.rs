//! Checks that every object conforms to its Kubernetes type, down to the last field.

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::helm::id;

/// Panics if an object does not conform to its type or has a field that the type does not define.
/// Parsing alone would silently ignore an unknown field.
pub fn check(objects: &[Value]) {
    for object in objects {
        let version_and_kind = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        match version_and_kind {
            ("apps/v1", "Deployment") => parse::<Deployment>(object),
            ("v1", "ConfigMap") => parse::<ConfigMap>(object),
            ("v1", "Namespace") => parse::<Namespace>(object),
            ("v1", "Pod") => parse::<Pod>(object),
            ("v1", "Service") => parse::<Service>(object),
            ("v1", "ServiceAccount") => parse::<ServiceAccount>(object),
            ("policy/v1", "PodDisruptionBudget") => parse::<PodDisruptionBudget>(object),
            ("networking.k8s.io/v1", "NetworkPolicy") => parse::<NetworkPolicy>(object),
            ("rbac.authorization.k8s.io/v1", "ClusterRole") => parse::<ClusterRole>(object),
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => parse::<ClusterRoleBinding>(object),
            ("rbac.authorization.k8s.io/v1", "Role") => parse::<Role>(object),
            ("rbac.authorization.k8s.io/v1", "RoleBinding") => parse::<RoleBinding>(object),
            ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
                parse::<ValidatingAdmissionPolicy>(object);
            }
            ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
                parse::<ValidatingAdmissionPolicyBinding>(object);
            }
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => parse::<CustomResourceDefinition>(object),
            ("monitoring.coreos.com/v1", _) => crate::monitoring::parse(object),
            other => panic!("the test has no type for {other:?}"),
        }
    }
}

fn parse<T: DeserializeOwned + Serialize>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{}: {error}", id(object)));
    let known = serde_json::to_value(typed).unwrap();
    let mut lost = Vec::new();
    find_lost(object, &known, "", &mut lost);
    assert!(lost.is_empty(), "{}: its type does not have these fields: {lost:?}", id(object));
}

/// Collects the fields of `before` that are missing from `after` or have a different value there.
pub fn find_lost(before: &Value, after: &Value, path: &str, lost: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let path = format!("{path}.{key}");
                match after.get(key) {
                    Some(after) => find_lost(value, after, &path, lost),
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                find_lost(before, after, &format!("{path}[{index}]"), lost);
            }
        }
        // The Rust type of a CRD's limits is a floating-point number.
        (Value::Number(before), Value::Number(after)) if before.as_f64() == after.as_f64() => {}
        _ if before == after => {}
        _ => lost.push(format!("{path}: {before} became {after}")),
    }
}

#[test]
fn a_field_that_the_type_does_not_have_is_found() {
    let object = serde_json::json!({"kind": "Service", "spec": {"ports": [{"port": 1, "prot": "TCP"}]}});
    let known = serde_json::to_value(serde_json::from_value::<Service>(object.clone()).unwrap()).unwrap();
    let mut lost = Vec::new();
    find_lost(&object, &known, "", &mut lost);
    assert_eq!(lost, [".spec.ports[0].prot"]);
}
