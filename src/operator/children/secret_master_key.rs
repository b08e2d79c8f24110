//! The Secret of a generated master key.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

use super::owner;
use crate::crd::{DeletionPolicy, OnionBalancedService, names};
use crate::onion::MasterKey;

/// The Secret's entry for the master key, which has the format of Tor's file of the same name.
pub const SECRET_KEY_FILE: &str = "hs_ed25519_secret_key";
/// The Secret's entry for the signing kit of a delegated service.
pub const SIGNING_KIT_FILE: &str = "signing.kit";
/// The annotation that marks a Secret whose key the operator generated. The operator never changes
/// the owners of any other Secret.
pub const GENERATED_ANNOTATION: &str = "onionbalance.dev/generated";

/// Builds the Secret of a generated key. The Secret is immutable, so that nobody changes the
/// address by mistake. The service owns it only if the deletion policy says so, and never as its
/// controller, so that pruning does not delete it. It has no label `app.kubernetes.io/instance`: by
/// default, Argo CD before version 3 would assign an object without owners to the application that
/// this label names, and prune it because it is not in git.
pub fn secret_master_key(object: &OnionBalancedService, key: &MasterKey) -> Secret {
    let name = object.name_any();
    let mut labels = names::labels(&name, None);
    labels.remove(names::INSTANCE_LABEL);
    let data = BTreeMap::from([
        (SECRET_KEY_FILE.to_owned(), ByteString(key.to_tor_secret_key_file().to_vec())),
        ("hs_ed25519_public_key".to_owned(), ByteString(key.to_tor_public_key_file())),
        ("hostname".to_owned(), ByteString(key.to_tor_hostname_file().into_bytes())),
    ]);
    Secret {
        metadata: ObjectMeta {
            name: Some(names::default_master_key_secret(&name)),
            namespace: object.namespace(),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(GENERATED_ANNOTATION.to_owned(), "true".to_owned())])),
            owner_references: match object.spec.deletion_policy {
                DeletionPolicy::Delete => Some(vec![owner(object, false)]),
                DeletionPolicy::Retain => None,
            },
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        immutable: Some(true),
        data: Some(data),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::children::tests::support::Fixture;

    #[test]
    fn the_secret_holds_tors_three_files_and_is_immutable() {
        let fixture = Fixture::new();
        let secret = secret_master_key(&fixture.object, &fixture.key);
        let data = secret.data.unwrap();
        let read = MasterKey::from_tor_secret_key_file(&data[SECRET_KEY_FILE].0).unwrap();
        assert_eq!(read.address(), fixture.key.address());
        assert_eq!(data["hostname"].0, format!("{}\n", fixture.key.address()).into_bytes());
        assert_eq!(data["hs_ed25519_public_key"].0.len(), 64);
        assert_eq!(secret.immutable, Some(true));
        assert_eq!(secret.metadata.name.as_deref(), Some("web-master-key"));
        assert_eq!(secret.metadata.owner_references, None);
    }

    #[test]
    fn the_secret_lacks_the_label_by_which_argo_cd_would_prune_it() {
        let fixture = Fixture::new();
        let labels = secret_master_key(&fixture.object, &fixture.key).metadata.labels.unwrap();
        assert!(names::is_labelled(Some(&labels), "web"));
        assert_eq!(labels.get("app.kubernetes.io/instance"), None);
    }

    #[test]
    fn the_service_owns_the_secret_only_if_the_policy_says_so() {
        let fixture = Fixture::of(&json!({"deletionPolicy": "Delete"}));
        let owners = secret_master_key(&fixture.object, &fixture.key).metadata.owner_references.unwrap();
        assert_eq!(owners.len(), 1);
        assert_eq!((owners[0].uid.as_str(), owners[0].controller), ("uid-of-web", None));
    }
}
