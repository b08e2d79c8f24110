//! Tests of the master key: when a key is generated, which key is used, and who owns its Secret.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::support::{Server, address, concluded, condition, fresh, from, healthy, key_secret, now, other_key, with};
use crate::crd::OnionBalancedService;
use crate::onion::{Kit, MasterKey, OnionAddress, PeriodCalendar};
use crate::operator::children::tests::support::Fixture;
use crate::operator::plan::key::{address as address_of, may_share_key};
use crate::operator::plan::{KeySecret, Last, Next, Observed, Rival, plan};

#[test]
fn a_key_is_generated_only_if_there_has_never_been_one() {
    let fresh = || Observed { owned: healthy().owned, last: Some(Last::default()), ..fresh() };
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

    let mut misnamed = fresh();
    misnamed.object = with(&misnamed.object, "metadata/name", json!("web.example"));
    let (_, status) = concluded(&misnamed);
    assert!(condition(&status, "MasterKeyReady").starts_with("Unknown NotAccepted: "));

    // A bad part of the spec that does not concern the key is no reason to wait.
    let mut bad = fresh();
    bad.object = with(&bad.object, "spec/ports", json!([]));
    assert!(matches!(plan(&bad), Next::ReadObject));
}

#[test]
fn an_existing_key_is_used() {
    let mut observed = fresh();
    observed.key_secret = Some(key_secret(&other_key()));
    let mut server = Server::default();
    let (_, status) = server.run(observed);
    assert_eq!(status.onion_address, Some(other_key().address().to_string()));
    assert_eq!(server.applied.len(), 16);
}

#[test]
fn the_address_changes_if_the_spec_says_so() {
    let mut observed = healthy();
    observed.key_secret = Some(key_secret(&other_key()));
    observed.object = with(&observed.object, "spec/masterKey/onionAddress", json!(other_key().address().to_string()));
    let (conclusion, status) = concluded(&observed);
    assert_eq!(status.onion_address, Some(other_key().address().to_string()));
    assert!(conclusion.withheld.is_empty());
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
fn services_may_share_a_key_if_they_name_one_secret_or_have_its_address() {
    let object = &healthy().object;
    let (same_name, same_address) = (json!("web-master-key"), json!({"onionAddress": address()}));
    for (namespace, secret, status, may_share) in [
        ("shop", same_name.clone(), Value::Null, true),
        ("other", same_name, Value::Null, false),
        ("other", json!("own"), same_address, true),
        ("shop", json!("own"), json!({"onionAddress": other_key().address().to_string()}), false),
    ] {
        let other = other_service(object, namespace, &secret, status);
        assert_eq!(may_share_key(object, &other, Some(&address())), may_share, "{other:?}");
    }
}

/// Returns a service that is older than `object`.
fn other_service(
    object: &OnionBalancedService,
    namespace: &str,
    secret: &Value,
    status: Value,
) -> OnionBalancedService {
    let other = with(
        object,
        "metadata",
        json!({
            "name": "other", "namespace": namespace, "uid": "uid-of-other", "creationTimestamp": "2020-01-01T00:00:00Z",
        }),
    );
    let other = with(&other, "spec/masterKey/secretName", secret.clone());
    (*with(&other, "status", status)).clone()
}

/// A tenant can write any address into the status of its own service.
#[test]
fn a_status_is_no_evidence_of_a_key() {
    let ours: OnionAddress = address().parse().unwrap();
    for (namespace, secret, read, is_rival) in [
        ("other", "own", None, false),
        ("other", "own", Some(other_key().address()), false),
        ("other", "own", Some(ours), true),
        ("other", "web-master-key", None, false),
        ("shop", "own", None, false),
        ("shop", "own", Some(ours), true),
        ("shop", "web-master-key", None, true),
    ] {
        let mut observed = healthy();
        let claim = json!({"onionAddress": address()});
        let object = other_service(&observed.object, namespace, &json!(secret), claim).into();
        observed.rivals = vec![Rival { object, key: read }];
        let found = condition(&concluded(&observed).1, "MasterKeyReady");
        let expected = if is_rival { "False KeyConflict: " } else { "True KeyLoaded: " };
        assert!(found.starts_with(expected), "{namespace}/{secret} {read:?}: {found}");
    }
}

#[test]
fn a_service_is_not_its_own_rival() {
    let mut observed = healthy();
    let older = with(&observed.object, "metadata/creationTimestamp", json!("2020-01-01T00:00:00Z"));
    observed.rivals = vec![Rival { object: older, key: None }];
    assert!(condition(&concluded(&observed).1, "MasterKeyReady").starts_with("True "));
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

/// Returns a healthy delegated service whose Secret has these entries.
fn delegated(entries: &[(&str, &[u8])]) -> Observed {
    let mut observed = healthy();
    observed.object = with(&observed.object, "spec/masterKey", json!({"secretName": "kits", "delegated": true}));
    let data = entries.iter().map(|(name, bytes)| ((*name).to_owned(), k8s_openapi::ByteString(bytes.to_vec())));
    let metadata = from(json!({"name": "kits", "namespace": "shop", "resourceVersion": "7"}));
    observed.key_secret = Some(KeySecret::new(metadata, Some(data.collect())));
    observed
}

#[test]
fn a_delegated_service_uses_its_signing_kit_and_reports_its_end() {
    let key = Fixture::new().key;
    let present = PeriodCalendar::PUBLIC.period_at(now().into()).unwrap().number;
    let kit = |first, count| Kit::issue(&key, PeriodCalendar::PUBLIC, first, count).unwrap().to_bytes();
    for (kit, expected) in [
        (kit(present - 1, 40), "True KitsLoaded: The signing kits end at "),
        (kit(present - 1, 10), "True SigningKeysExpiring: The signing kits end at "),
        (kit(present + 5, 10), "False SigningKeysMissing: No signing kit covers 2 of the 2 time periods"),
    ] {
        let (_, status) = concluded(&delegated(&[("signing.kit", &kit)]));
        let using = format!("True KeyLoaded: Using the signing kits of {}.", address());
        assert_eq!(condition(&status, "MasterKeyReady"), using);
        assert!(
            condition(&status, "SigningKeysReady").starts_with(expected),
            "{}",
            condition(&status, "SigningKeysReady")
        );
    }
}

#[test]
fn a_delegated_service_needs_a_kit_of_its_own_and_no_master_key() {
    let file = Fixture::new().key.to_tor_secret_key_file();
    let kit = |key: &MasterKey| Kit::issue(key, PeriodCalendar::PUBLIC, 20_000, 1).unwrap().to_bytes();
    let own = kit(&Fixture::new().key);
    let state = |entries: &[(&str, &[u8])]| {
        let (_, status) = concluded(&delegated(entries));
        condition(&status, "MasterKeyReady")
    };
    let both = state(&[("signing.kit", &own), ("hs_ed25519_secret_key", &file)]);
    assert!(
        both.starts_with("False KeyInvalid: Secret kits: the entry hs_ed25519_secret_key holds a master key"),
        "{both}"
    );
    let truncated = state(&[("signing.kit", &own[..100])]);
    assert!(truncated.contains("entry signing.kit: the signing kit is truncated"), "{truncated}");
    assert!(state(&[]).contains("the entry signing.kit is missing; create a kit"), "{}", state(&[]));
    assert!(state(&[("signing.kit", &kit(&other_key()))]).starts_with("False AddressMismatch: "));

    let mut online = delegated(&[("signing.kit", &own)]);
    online.object = with(&online.object, "spec/masterKey", json!({"secretName": "kits"}));
    let (_, status) = concluded(&online);
    assert!(condition(&status, "MasterKeyReady").contains("set spec.masterKey.delegated: true"));

    let mut missing = delegated(&[]);
    missing.key_secret = None;
    let (_, status) = concluded(&missing);
    assert!(
        condition(&status, "MasterKeyReady").starts_with("False SecretNotFound: Secret kits with the signing kits of")
    );
}

/// Returns the manifests without their annotations, which contain marks and hashes.
fn contents(server: &Server) -> BTreeMap<String, Value> {
    let mut manifests = server.manifests.clone();
    for manifest in manifests.values_mut() {
        manifest["metadata"]["annotations"] = Value::Null;
    }
    manifests
}

/// Returns the name of the Secret and of its entry that the frontends mount.
fn mounted(manifests: &mut BTreeMap<String, Value>) -> (Value, Value) {
    let pod = &mut manifests.get_mut("Deployment web-frontend").unwrap()["spec"]["template"]["spec"];
    let mut volumes = pod["volumes"].as_array_mut().unwrap().iter_mut();
    let secret = volumes.find(|volume| volume["name"] == "master-key").unwrap()["secret"].take();
    (secret["secretName"].clone(), secret["items"][0]["key"].clone())
}

/// A move must restart neither the backends nor change the token with which they know publishers.
#[test]
fn a_move_between_the_master_key_and_kits_changes_only_what_the_frontends_mount() {
    let present = PeriodCalendar::PUBLIC.period_at(now().into()).unwrap().number;
    let kit = Kit::issue(&Fixture::new().key, PeriodCalendar::PUBLIC, present - 1, 40).unwrap().to_bytes();
    let mut server = Server::default();
    let mut before = None;
    for (moved, secret, entry) in [
        (healthy(), "web-master-key", "hs_ed25519_secret_key"),
        (delegated(&[("signing.kit", &kit)]), "kits", "signing.kit"),
        (healthy(), "web-master-key", "hs_ed25519_secret_key"),
    ] {
        let (_, status) = server.run(Observed { owned: None, last: None, ..moved });
        assert!(condition(&status, "MasterKeyReady").starts_with("True KeyLoaded: "), "{secret}");
        assert!(condition(&status, "Accepted").starts_with("True "), "{secret}");
        let mut now = contents(&server);
        assert_eq!(mounted(&mut now), (json!(secret), json!(entry)));
        assert_eq!(before.get_or_insert_with(|| now.clone()), &now, "{secret}");
    }
}

/// The order of the steps of a move must not matter.
#[test]
fn the_frontends_keep_the_master_key_until_the_kits_can_be_used() {
    let truncated = Kit::issue(&Fixture::new().key, PeriodCalendar::PUBLIC, 20_000, 1).unwrap().to_bytes();
    let missing = Observed { key_secret: None, ..delegated(&[]) };
    for (moved, reason) in
        [(missing, "False SecretNotFound: "), (delegated(&[("signing.kit", &truncated[..100])]), "False KeyInvalid: ")]
    {
        let mut server = Server::default();
        server.run(Observed { owned: None, last: None, ..healthy() });
        let before = contents(&server);
        let (_, status) = server.run(Observed { owned: None, last: None, ..moved });
        assert!(condition(&status, "MasterKeyReady").starts_with(reason), "{reason}");
        assert_eq!(contents(&server), before, "{reason}");
    }
}
