//! Tests of the master key: when a key is generated, which key is used, and who owns its Secret.

use serde_json::{Value, json};

use super::support::{Server, address, concluded, condition, fresh, from, healthy, key_secret, other_key, with};
use crate::operator::plan::{Next, Observed, plan};

#[test]
fn a_key_is_generated_only_if_there_has_never_been_one() {
    assert!(matches!(plan(&fresh()), Next::ReadObject));

    let mut named = fresh();
    named.object = with(&named.object, "spec/masterKey/secretName", json!("mine"));
    let (_, status) = concluded(&named);
    assert!(
        condition(&status, "MasterKeyReady")
            .starts_with("False SecretNotFound: Secret mine, named by spec.masterKey.secretName")
    );

    let mut pinned = fresh();
    pinned.object = with(&pinned.object, "spec/masterKey/onionAddress", json!(address()));
    let (_, status) = concluded(&pinned);
    assert!(condition(&status, "MasterKeyReady").starts_with("False SecretNotFound: "));

    let mut refused = fresh();
    refused.object = with(&refused.object, "spec/ports", json!([]));
    let (_, status) = concluded(&refused);
    assert!(condition(&status, "MasterKeyReady").starts_with("Unknown NotAccepted: "));
}

#[test]
fn an_existing_key_is_used() {
    let mut observed = fresh();
    observed.key_secret = Some(key_secret(&other_key()));
    let mut server = Server::default();
    let (_, status) = server.run(observed);
    assert_eq!(status.onion_address, Some(other_key().address().to_string()));
    assert_eq!(server.applied.len(), 15);
}

#[test]
fn the_address_changes_if_the_spec_says_so() {
    let mut observed = healthy();
    observed.key_secret = Some(key_secret(&other_key()));
    observed.object = with(&observed.object, "spec/masterKey/onionAddress", json!(other_key().address().to_string()));
    let (conclusion, status) = concluded(&observed);
    assert_eq!(status.onion_address, Some(other_key().address().to_string()));
    assert!(conclusion.applies_children);
}

/// Returns a healthy service with a generated key, whose Secret has the given owners.
fn generated(policy: &str, owners: &Value) -> Observed {
    let mut observed = healthy();
    observed.object = with(&observed.object, "spec/deletionPolicy", json!(policy));
    let secret = observed.key_secret.as_mut().unwrap();
    secret.metadata = from(json!({
        "name": "web-master-key", "ownerReferences": owners,
        "labels": {"onionbalance.dev/service": "web"}, "annotations": {"onionbalance.dev/generated": "true"},
    }));
    observed
}

/// Returns the UIDs of the owners that the next step sets, or `None` if it sets no owners.
fn new_owners(observed: &Observed) -> Option<Vec<String>> {
    match plan(observed) {
        Next::SetKeyOwners(owners) => Some(owners.into_iter().map(|owner| owner.uid).collect()),
        _ => None,
    }
}

fn owner(uid: &str) -> Value {
    json!({"apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "name": "web", "uid": uid})
}

#[test]
fn only_a_generated_secret_is_owned_and_only_if_the_policy_says_so() {
    assert_eq!(new_owners(&generated("Retain", &json!([]))), None);
    assert_eq!(new_owners(&generated("Delete", &json!([owner("uid-of-web")]))), None);
    assert_eq!(new_owners(&generated("Delete", &json!([]))), Some(vec!["uid-of-web".to_owned()]));
    // The current owner is a deleted object of the same name.
    assert_eq!(new_owners(&generated("Delete", &json!([owner("old")]))), Some(vec!["uid-of-web".to_owned()]));
    assert_eq!(new_owners(&generated("Retain", &json!([owner("uid-of-web")]))), Some(vec![]));
    let mut own = generated("Delete", &json!([]));
    own.key_secret.as_mut().unwrap().metadata.annotations = None;
    assert_eq!(new_owners(&own), None);
}

#[test]
fn the_owner_of_a_retained_key_is_removed_even_if_the_key_cannot_be_used() {
    let mut observed = generated("Retain", &json!([owner("uid-of-web")]));
    observed.object = with(&observed.object, "spec/masterKey/onionAddress", json!(other_key().address().to_string()));
    assert_eq!(new_owners(&observed), Some(vec![]));
    observed.tried_key_owners = true;
    let (_, status) = concluded(&observed);
    assert!(condition(&status, "MasterKeyReady").starts_with("False AddressMismatch: "));
    // A copied Secret with the same labels and annotations is not ours.
    observed.tried_key_owners = false;
    observed.key_secret.as_mut().unwrap().metadata.name = Some("copy".to_owned());
    assert_eq!(new_owners(&observed), None);
}
