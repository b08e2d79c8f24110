//! Tests of the master key: when a key is generated, which key is used, and who owns its Secret.

use serde_json::{Value, json};

use super::support::{Server, address, concluded, condition, fresh, from, healthy, key_secret, other_key, with};
use crate::operator::plan::key::{address as address_of, shares_key};
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
    for annotations in [json!({}), json!({"onionbalance.dev/generated": "false"}), json!({"other": "true"})] {
        own.key_secret.as_mut().unwrap().metadata.annotations = Some(from(annotations));
        assert_eq!(new_owners(&own), None);
    }
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

#[test]
fn services_share_a_key_if_they_name_one_secret_or_have_its_address() {
    let object = &healthy().object;
    let (same_name, same_address) = (json!("web-master-key"), json!({"onionAddress": address()}));
    for (namespace, secret, status, shares) in [
        ("shop", same_name.clone(), Value::Null, true),
        ("other", same_name, Value::Null, false),
        ("other", json!("own"), same_address, true),
        ("shop", json!("own"), json!({"onionAddress": other_key().address().to_string()}), false),
    ] {
        let other = with(object, "metadata/name", json!("other"));
        let other = with(&other, "metadata/namespace", json!(namespace));
        let other = with(&other, "spec/masterKey/secretName", secret);
        let other = with(&other, "status", status);
        assert_eq!(shares_key(object, &other, Some(&address())), shares, "{other:?}");
    }
}

#[test]
fn an_older_service_with_another_key_takes_no_precedence() {
    let mut observed = healthy();
    let older = with(&observed.object, "metadata/creationTimestamp", json!("2020-01-01T00:00:00Z"));
    let renamed = with(&with(&older, "metadata/name", json!("a")), "metadata/uid", json!("uid-of-a"));
    let unrelated = with(&with(&renamed, "status", Value::Null), "spec/masterKey/secretName", json!("own"));
    observed.rivals = vec![older, unrelated];
    let (_, status) = concluded(&observed);
    assert!(condition(&status, "MasterKeyReady").starts_with("True "), "neither itself nor a stranger is a rival");
}

#[test]
fn the_address_of_a_secret_is_that_of_its_key() {
    assert_eq!(address_of(&key_secret(&other_key())), Some(other_key().address()));
    let mut damaged = key_secret(&other_key());
    damaged.data.clear();
    assert_eq!(address_of(&damaged), None);
}

#[test]
fn the_other_owners_of_a_generated_key_remain() {
    let others = [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "web", "uid": "map"}),
        json!({"apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "name": "b", "uid": "b"}),
    ];
    let owners = json!([others[0], owner("old"), others[1]]);
    let kept = ["map", "b"].map(str::to_owned).to_vec();
    assert_eq!(new_owners(&generated("Retain", &owners)), Some(kept.clone()));
    assert_eq!(new_owners(&generated("Delete", &owners)), Some([kept, vec!["uid-of-web".to_owned()]].concat()));
    // The label names another service.
    let mut foreign = generated("Delete", &json!([]));
    foreign.key_secret.as_mut().unwrap().metadata.labels = from(json!({"onionbalance.dev/service": "other"}));
    assert_eq!(new_owners(&foreign), None);
}
