//! Tests of the adoption of existing objects: the operator adopts only objects that it created.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::steps::{APPLY_ALL, FIND};
use super::support::{Server, condition, healthy, key_secret, other_key, with};
use crate::operator::children::{ChildId, Kind};
use crate::operator::plan::{Due, Next, Observed, Outcome, plan};

/// Returns the kind and name of the only owned object without a controller.
fn guards() -> ChildId {
    ChildId { kind: Kind::Secret, name: "web-guards".to_owned() }
}

/// Returns the owned objects as they are after the operator has created them and their owner
/// references have been lost.
fn ownerless() -> BTreeMap<ChildId, ObjectMeta> {
    let mut server = Server::default();
    server.run(Observed { owned: None, ..healthy() });
    server.existing.values_mut().for_each(|metadata| metadata.owner_references = None);
    server.existing
}

#[test]
fn owned_objects_that_have_lost_their_owner_are_adopted() {
    let mut observed = Observed { owned: None, ..healthy() };
    observed.object = with(&observed.object, "metadata/uid", json!("uid-of-restored"));
    let mut server = Server { existing: ownerless(), ..Server::default() };
    let (_, status) = server.run(observed);
    // The Secret of the guards has no owner that it could lose.
    assert_eq!(server.steps, [&FIND[..1], &["apply 12 Prerequisites"], &APPLY_ALL[1..]].concat());
    assert!(condition(&status, "Accepted").starts_with("True "));
    assert_eq!(server.existing.remove(&guards()).unwrap().owner_references, None);
    let owned = |metadata: &ObjectMeta| metadata.owner_references.as_ref().unwrap()[0].uid == "uid-of-restored";
    assert!(server.existing.values().all(owned));
}

#[test]
fn only_the_fields_of_objects_that_were_never_applied_are_taken_over() {
    for is_restored in [false, true] {
        let mut existing = ownerless();
        for metadata in existing.values_mut().filter(|_| is_restored) {
            metadata.managed_fields = None;
        }
        let uids: Vec<_> = existing.iter().map(|(id, found)| (id.clone(), found.uid.clone())).collect();
        let mut observed = Observed { owned: None, ..healthy() };
        observed.object = with(&observed.object, "metadata/uid", json!("uid-of-restored"));
        observed.learn(Outcome::ChildrenFound { existing, labelled: Vec::new(), asked_server: true });
        let Next::Apply(_, due) = plan(&observed) else { panic!("nothing is applied") };
        assert!(due.iter().all(|due| due.exists && due.takes_over == is_restored));
        let has_seen_uid = |due: &Due| due.uid.is_some() && uids.contains(&(due.id.clone(), due.uid.clone()));
        assert!(due.iter().all(has_seen_uid), "an update is meant for the object that was found");
    }
}

#[test]
fn an_object_without_an_owner_and_without_the_right_mark_is_not_adopted() {
    let existing = ownerless();
    let other = ChildId { kind: Kind::ConfigMap, name: "web-frontend".to_owned() };
    for id in existing.keys().filter(|id| ![&other, &guards()].contains(id)) {
        for annotations in [None, existing[&other].annotations.clone()] {
            let unmarked = ObjectMeta { annotations, ..existing[id].clone() };
            let mut server = Server { existing: BTreeMap::from([(id.clone(), unmarked)]), ..Server::default() };
            let (_, status) = server.run(Observed { owned: None, ..healthy() });
            assert_eq!(server.steps, FIND, "{id}");
            let expected = format!("False NameTaken: {id} exists and does not belong to this object");
            assert!(condition(&status, "Accepted").starts_with(&expected), "{}", condition(&status, "Accepted"));
        }
    }
}

#[test]
fn a_mark_of_another_key_is_no_proof() {
    let mut observed = Observed { owned: None, key_secret: Some(key_secret(&other_key())), ..healthy() };
    observed.object = with(&observed.object, "status", Value::Null);
    let mut server = Server { existing: ownerless(), ..Server::default() };
    let (_, status) = server.run(observed);
    // Only the Secret of the guards is still ours. Its content proves its own origin.
    assert_eq!(server.steps, ["find children", "apply 1 Prerequisites"]);
    assert!(condition(&status, "Accepted").starts_with("False NameTaken: "));
}
