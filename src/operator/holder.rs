//! Determines who is responsible for an existing object that has the name of an owned object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource as _, ResourceExt as _};

use super::children::{ChildId, Kind};
use super::drift::has_applied;
use crate::crd::{OnionBalancedService, names};

/// The holder of an existing object: whoever is responsible for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The service controls the object, or the object has no controller and there is proof that it
    /// belongs to the service. The operator may change it.
    Us,
    /// A deleted service of the same name controls the object. The garbage collector will remove
    /// the object.
    Predecessor,
    /// Someone else holds the object. The operator must not change it.
    Another,
}

/// Returns who holds an existing object, from the point of view of a service. `is_proven` says
/// whether there is proof that an object without a controller belongs to the service.
pub fn holder(child: &ObjectMeta, object: &OnionBalancedService, is_proven: impl FnOnce() -> bool) -> Holder {
    match child.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)) {
        Some(owner) if Some(&owner.uid) == object.metadata.uid.as_ref() => Holder::Us,
        Some(owner) if owner.kind == OnionBalancedService::kind(&()) && owner.name == object.name_any() => {
            Holder::Predecessor
        }
        None if is_proven() => Holder::Us,
        _ => Holder::Another,
    }
}

/// Returns true if an object is the Secret of the guards that the operator has applied for a
/// service of this name. This Secret has no controller, and it outlives the master key from which
/// its mark was derived. Anyone who can forge this proof can also read and write the Secret, which
/// holds nothing else of value.
pub fn is_kept_guards(child: &ChildId, metadata: &ObjectMeta, object: &OnionBalancedService) -> bool {
    let service = object.name_any();
    child.kind == Kind::Secret
        && child.name == names::guards_secret(&service)
        && names::is_labelled(metadata.labels.as_ref(), &service)
        && has_applied(metadata)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::operator::children::tests::support::object;

    fn held_by(metadata: &Value, is_proven: bool) -> Holder {
        holder(&serde_json::from_value(metadata.clone()).unwrap(), &object(&json!({})), || is_proven)
    }

    fn owned(kind: &str, name: &str, uid: &str) -> Value {
        json!({"ownerReferences": [{"apiVersion": "x/v1", "kind": kind, "name": name, "uid": uid, "controller": true}]})
    }

    #[test]
    fn the_controller_takes_precedence_over_a_proof() {
        for is_proven in [false, true] {
            assert_eq!(held_by(&owned("OnionBalancedService", "web", "uid-of-web"), is_proven), Holder::Us);
            assert_eq!(held_by(&owned("OnionBalancedService", "web", "uid-of-old"), is_proven), Holder::Predecessor);
            assert_eq!(held_by(&owned("OnionBalancedService", "other", "uid-of-other"), is_proven), Holder::Another);
            assert_eq!(held_by(&owned("Application", "web", "1"), is_proven), Holder::Another);
        }
    }

    #[test]
    fn only_the_guards_are_recognised_without_a_mark() {
        let labels = names::labels("web", None);
        let applied = json!({
            "labels": labels,
            "managedFields": [{"manager": crate::crd::OPERATOR_MANAGER, "operation": "Apply", "fieldsV1": {}}],
        });
        let is_kept = |name: &str, metadata: &Value| {
            let id = ChildId { kind: Kind::Secret, name: name.to_owned() };
            is_kept_guards(&id, &serde_json::from_value(metadata.clone()).unwrap(), &object(&json!({})))
        };
        assert!(is_kept("web-guards", &applied));
        assert!(!is_kept("web-agent-token", &applied));
        assert!(!is_kept("web-guards", &json!({ "labels": labels })), "labels alone prove nothing");
        assert!(!is_kept("web-guards", &json!({"managedFields": applied["managedFields"]})));
    }

    #[test]
    fn an_object_without_a_controller_needs_a_proof() {
        let mut uncontrolled = owned("OnionBalancedService", "web", "uid-of-web");
        uncontrolled["ownerReferences"][0]["controller"] = json!(false);
        let labels =
            json!({"app.kubernetes.io/managed-by": "onionbalance-operator", "onionbalance.dev/service": "web"});
        for metadata in [json!({}), json!({ "labels": labels }), uncontrolled] {
            assert_eq!(held_by(&metadata, false), Holder::Another, "{metadata}");
            assert_eq!(held_by(&metadata, true), Holder::Us, "{metadata}");
        }
    }
}
