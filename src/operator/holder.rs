//! Determines who is responsible for an existing object that has the name of an owned object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource as _, ResourceExt as _};

use crate::crd::OnionBalancedService;
use crate::crd::names;

/// The holder of an existing object: whoever is responsible for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The service controls the object, or the object has the service's labels and no controller.
    /// The operator may change it.
    Us,
    /// A deleted service of the same name controls the object. The garbage collector will remove
    /// the object.
    Predecessor,
    /// Someone else holds the object. The operator must not change it.
    Another,
}

/// Returns who holds an existing object, from the point of view of a service.
pub fn holder(child: &ObjectMeta, object: &OnionBalancedService) -> Holder {
    match child.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)) {
        Some(owner) if Some(&owner.uid) == object.metadata.uid.as_ref() => Holder::Us,
        Some(owner) if owner.kind == OnionBalancedService::kind(&()) && owner.name == object.name_any() => {
            Holder::Predecessor
        }
        None if names::is_labelled(child.labels.as_ref(), &object.name_any()) => Holder::Us,
        _ => Holder::Another,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::names::{MANAGED_BY, MANAGED_BY_LABEL, SERVICE_LABEL};
    use crate::operator::children::tests::support::object;

    fn held_by(metadata: &Value) -> Holder {
        holder(&serde_json::from_value(metadata.clone()).unwrap(), &object(&json!({})))
    }

    fn owned(kind: &str, name: &str, uid: &str) -> Value {
        json!({"ownerReferences": [{"apiVersion": "x/v1", "kind": kind, "name": name, "uid": uid, "controller": true}]})
    }

    #[test]
    fn the_controller_takes_precedence_over_the_labels() {
        assert_eq!(held_by(&owned("OnionBalancedService", "web", "uid-of-web")), Holder::Us);
        assert_eq!(held_by(&owned("OnionBalancedService", "web", "uid-of-old")), Holder::Predecessor);
        assert_eq!(held_by(&owned("OnionBalancedService", "other", "uid-of-other")), Holder::Another);
        assert_eq!(held_by(&owned("Application", "web", "1")), Holder::Another);
        let labels = |by: &str, service: &str| json!({"labels": {MANAGED_BY_LABEL: by, SERVICE_LABEL: service}});
        assert_eq!(held_by(&labels(MANAGED_BY, "web")), Holder::Us);
        assert_eq!(held_by(&labels(MANAGED_BY, "other")), Holder::Another);
        assert_eq!(held_by(&labels("Helm", "web")), Holder::Another);
        assert_eq!(held_by(&json!({})), Holder::Another);
    }
}
