//! The annotation that proves that the operator created an owned object.
//!
//! Labels prove nothing: anyone who may create a `ConfigMap` may also label it. Owner references
//! can be lost: some backup tools omit them, and `kubectl delete --cascade=orphan` removes them.
//! The mark in this annotation is derived from the master key, so only the operator and those who
//! can read the key can compute it, and it survives a backup.

use std::fmt;

use data_encoding::HEXLOWER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::crd::OnionBalancedService;
use crate::onion::{MasterKey, ServiceKey};

/// The name of the annotation with the mark.
const ORIGIN_ANNOTATION: &str = "onionbalance.dev/origin";

/// Returns the mark of an owned object of a service: 64 hexadecimal digits, derived with
/// HKDF-SHA256 from the master key. The label is `onionbalance.dev/origin/v1`, followed by the
/// namespace, the kind and the name of the owned object, each after a space. `child` displays the
/// kind and the name.
pub fn mark(key: &MasterKey, object: &OnionBalancedService, child: &impl fmt::Display) -> String {
    HEXLOWER.encode(key.derive(label(object, child).as_bytes()).as_slice())
}

/// Returns the mark of an owned object of a service that may be delegated. The mark of a delegated
/// service is derived from a secret in its signing kits, so a service that moves between its master
/// key and kits gets new marks.
pub fn service_mark(key: &ServiceKey, object: &OnionBalancedService, child: &impl fmt::Display) -> String {
    HEXLOWER.encode(key.derive(label(object, child).as_bytes()).as_slice())
}

fn label(object: &OnionBalancedService, child: &impl fmt::Display) -> String {
    format!("{ORIGIN_ANNOTATION}/v1 {} {child}", object.namespace().unwrap_or_default())
}

/// Returns the manifest with the mark, if there is one, added as an annotation.
pub fn marked(mut manifest: Value, mark: Option<String>) -> Value {
    if let Some(mark) = mark {
        manifest["metadata"]["annotations"][ORIGIN_ANNOTATION] = mark.into();
    }
    manifest
}

/// Returns the mark that an object has, right or wrong.
pub fn mark_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get(ORIGIN_ANNOTATION).map(String::as_str)
}

/// Returns true if an object has the mark.
pub fn has_mark(metadata: &ObjectMeta, mark: &str) -> bool {
    mark_of(metadata) == Some(mark)
}

/// Returns true if an object has the same mark as a manifest.
pub fn has_mark_of(metadata: &ObjectMeta, manifest: &Value) -> bool {
    manifest["metadata"]["annotations"][ORIGIN_ANNOTATION].as_str().is_some_and(|mark| has_mark(metadata, mark))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use serde_json::json;

    use super::*;
    use crate::operator::children::tests::support::Fixture;

    #[test]
    fn a_mark_depends_on_the_key_the_namespace_the_kind_and_the_name() {
        let Fixture { key, object, .. } = Fixture::new();
        let other_key = MasterKey::generate(&mut StdRng::seed_from_u64(2));
        let mut elsewhere = object.clone();
        elsewhere.metadata.namespace = Some("shop2".to_owned());
        let ours = mark(&key, &object, &"ConfigMap web-backend");
        assert_eq!(ours.len(), 64);
        assert_eq!(ours, mark(&key, &object, &"ConfigMap web-backend"));
        for other in [
            mark(&other_key, &object, &"ConfigMap web-backend"),
            mark(&key, &elsewhere, &"ConfigMap web-backend"),
            mark(&key, &object, &"Secret web-backend"),
            mark(&key, &object, &"ConfigMap web-frontend"),
        ] {
            assert_ne!(ours, other);
        }
    }

    #[test]
    fn a_mark_is_not_the_agents_token() {
        let Fixture { key, object, token, .. } = Fixture::new();
        assert_ne!(mark(&key, &object, &"ConfigMap web-backend"), *token.to_hex());
    }

    #[test]
    fn an_object_has_the_mark_of_its_manifest() {
        let manifest = marked(json!({"metadata": {"annotations": {"a": "b"}}}), Some("1f".to_owned()));
        assert_eq!(manifest["metadata"]["annotations"]["a"], "b");
        let metadata: ObjectMeta = serde_json::from_value(manifest["metadata"].clone()).unwrap();
        assert!(has_mark(&metadata, "1f") && has_mark_of(&metadata, &manifest));
        assert!(!has_mark(&metadata, "1e") && !has_mark(&ObjectMeta::default(), "1f"));
        assert!(!has_mark_of(&metadata, &marked(manifest.clone(), Some("1e".to_owned()))));
        assert!(!has_mark_of(&ObjectMeta::default(), &json!({})), "no mark is no proof");
    }
}
