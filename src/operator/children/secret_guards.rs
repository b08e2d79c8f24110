//! The Secret of the entry guards that all tors of a service share.

use k8s_openapi::api::core::v1::Secret;

use super::{Inputs, owner};
use crate::crd::{DeletionPolicy, names};

/// Builds the Secret without its content, which belongs to the leading publisher. The Secret is
/// kept like a generated master key: a service that is created again uses the same guards. It
/// therefore has neither an owner nor the label by which a pipeline could prune it, unless the
/// deletion policy says that the service owns it. The service is never its controller.
pub(super) fn secret(inputs: &Inputs<'_>) -> Secret {
    let mut metadata = inputs.metadata(names::guards_secret(&inputs.name()), None);
    metadata.owner_references = match inputs.object.spec.deletion_policy {
        DeletionPolicy::Delete => Some(vec![owner(inputs.object, false)]),
        DeletionPolicy::Retain => None,
    };
    if let Some(labels) = &mut metadata.labels {
        labels.remove(names::INSTANCE_LABEL);
    }
    Secret { metadata, type_: Some("Opaque".to_owned()), ..Secret::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::operator::children::tests::support::Fixture;

    fn manifest(spec: &Value) -> Value {
        Fixture::of(spec).child("Secret web-guards")
    }

    #[test]
    fn the_operator_never_writes_the_guards() {
        let secret = manifest(&json!({}));
        assert_eq!(secret["type"], "Opaque");
        for field in ["data", "stringData", "immutable"] {
            assert!(secret.get(field).is_none(), "{field}");
        }
    }

    #[test]
    fn the_guards_are_kept_like_the_master_key() {
        let kept = manifest(&json!({}));
        assert_eq!(kept["metadata"].get("ownerReferences"), None);
        assert_eq!(kept["metadata"]["labels"].get("app.kubernetes.io/instance"), None);
        let deleted = manifest(&json!({"deletionPolicy": "Delete"}));
        let owners = deleted["metadata"]["ownerReferences"].as_array().unwrap();
        assert_eq!((owners.len(), &owners[0]["uid"], owners[0].get("controller")), (1, &json!("uid-of-web"), None));
    }
}
