//! Tests of the order of the steps, and of the end of a reconciliation.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::support::{
    KeyCreation, Server, as_applied, concluded, condition, describe, fresh, from, healthy, key_secret, last_good,
    other_key, secret_of, with,
};
use crate::crd::OnionBalancedService;
use crate::operator::children::tests::support::Fixture;
use crate::operator::children::{ChildId, Kind, Stage};
use crate::operator::holder::Holder;
use crate::operator::plan::{
    Applied, Due, KeyPermit, KeySecret, Labelled, Last, Next, Observed, Outcome, RefusedWrite, Taken, plan,
};

/// Returns a fake API server whose copy of the service is exactly the observed one.
pub(super) fn server(observed: &Observed) -> Server {
    Server { object: Some((*observed.object).clone()), ..Server::default() }
}

pub(super) const FIND: [&str; 2] = ["find children", "find children on the server"];
pub(super) const APPLY_ALL: [&str; 3] = ["apply 13 Prerequisites", "apply 1 RoleBindings", "apply 2 Deployments"];

/// Returns the steps that find no owned object and apply all of them.
pub(super) fn create_all() -> Vec<&'static str> {
    [&FIND[..], &APPLY_ALL].concat()
}

#[test]
fn a_new_service_gets_its_key_before_anything_else() {
    let observed = fresh();
    let mut server = server(&observed);
    let (observed, status) = server.run(observed);
    assert_eq!(server.steps, [&FIND[..], &["read object", "generate key"], &APPLY_ALL].concat());
    assert!(observed.generated_key);
    assert_eq!(status.onion_address, Some(Fixture::new().key.address().to_string()));
    assert_eq!(condition(&status, "BackendsReady"), "False Progressing: 0 of 3 backends are ready.");
}

#[test]
fn no_second_key_is_generated_for_an_object_that_had_an_address() {
    let observed = fresh;
    let known = |change: fn(&mut OnionBalancedService)| {
        let mut object = (*observed().object).clone();
        change(&mut object);
        object
    };
    let with_address = |object: &mut OnionBalancedService| {
        object.status.get_or_insert_default().onion_address = Some("a.onion".to_owned());
    };
    for object in [
        None,
        Some(known(with_address)),
        Some(known(|object| object.metadata.uid = Some("another".to_owned()))),
        Some(known(|object| object.metadata.generation = Some(5))),
    ] {
        let mut server = Server { object, ..Server::default() };
        let (_, status) = server.run(observed());
        assert_eq!(server.steps, [&FIND[..], &["read object"]].concat());
        assert_eq!(condition(&status, "MasterKeyReady"), "Unknown Generating: A key is being generated.");
    }
}

#[test]
fn a_refused_key_is_not_tried_again_and_stops_everything() {
    let observed = fresh();
    let mut server = Server { refuses: &["Secret web-master-key"], ..server(&observed) };
    let (observed, status) = server.run(observed);
    assert_eq!(server.steps, [&FIND[..], &["read object", "generate key"]].concat());
    assert_eq!(observed.refused.len(), 1);
    for kind in ["MasterKeyReady", "Ready"] {
        assert_eq!(condition(&status, kind), "False ApplyFailed: Secret web-master-key: exceeded quota");
    }
}

#[test]
fn an_already_existing_key_is_used_instead_of_a_generated_one() {
    let observed = fresh();
    let mut server =
        Server { key_creation: KeyCreation::Exists(Box::new(key_secret(&other_key()))), ..server(&observed) };
    let (observed, status) = server.run(observed);
    assert_eq!(status.onion_address, Some(other_key().address().to_string()));
    assert!(!observed.generated_key);

    let observed = fresh();
    let mut server = Server { key_creation: KeyCreation::Vanished, ..self::server(&observed) };
    server.run(observed);
    let steps = [&FIND[..], &["read object", "generate key"]].concat();
    assert_eq!(server.steps, steps, "the existing Secret was deleted before it could be read");
}

#[test]
fn the_owners_of_the_key_are_set_once_and_before_the_owned_objects() {
    let mut observed = Observed { owned: None, ..healthy() };
    observed.object = with(&observed.object, "spec/deletionPolicy", json!("Delete"));
    observed.key_secret.as_mut().unwrap().metadata = from(json!({
        "name": "web-master-key", "labels": {"onionbalance.dev/service": "web"},
        "annotations": {"onionbalance.dev/generated": "true"},
    }));
    let mut server = Server::default();
    server.run(observed);
    assert_eq!(server.steps, [&FIND[..], &["set 1 key owners"], &APPLY_ALL].concat());
}

#[test]
fn the_frontends_deployment_waits_for_the_uid_of_its_service_account() {
    let mut server = Server::default();
    server.run(Observed { owned: None, ..healthy() });
    let names: Vec<_> = server.applied.iter().map(|(name, _)| &**name).collect();
    let position = |name: &str| names.iter().position(|applied| *applied == name).unwrap();
    assert!(position("ServiceAccount web-frontend") < position("Deployment web-frontend"), "{names:?}");

    // If the account is missing or being deleted, the backends are applied but the frontends are
    // not, unless the UID of an earlier account is known.
    let account = ChildId { kind: Kind::ServiceAccount, name: "web-frontend".to_owned() };
    let owner = json!({"kind": "OnionBalancedService", "name": "web", "uid": "uid-of-web", "controller": true});
    let leaving = json!({"uid": "old", "deletionTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [owner]});
    let leaving =
        || Server { existing: BTreeMap::from([(account.clone(), from(leaving.clone()))]), ..Server::default() };
    let refused = || Server { refuses: &["ServiceAccount web-frontend"], ..Server::default() };
    for mut server in [leaving(), refused()] {
        server.run(Observed { owned: None, last: None, ..healthy() });
        assert_eq!(applied_deployments(&server), ["Deployment web-backend"]);
    }
    for mut server in [leaving(), refused()] {
        server.run(Observed { owned: None, ..healthy() });
        assert_eq!(applied_deployments(&server), ["Deployment web-backend", "Deployment web-frontend"]);
    }
}

pub(super) fn applied_deployments(server: &Server) -> Vec<&str> {
    server.applied.iter().map(|(name, _)| &**name).filter(|name| name.starts_with("Deployment")).collect()
}

#[test]
fn a_refused_object_does_not_stop_the_others() {
    let mut server = Server { refuses: &["ConfigMap web-backend", "RoleBinding web-frontend"], ..Server::default() };
    let (observed, status) = server.run(Observed { owned: None, ..healthy() });
    assert_eq!(server.steps, [&FIND[..], &APPLY_ALL[..2], &["apply 1 Deployments"]].concat());
    assert_eq!(server.applied.len(), 13);
    assert_eq!(
        applied_deployments(&server),
        ["Deployment web-frontend"],
        "the backends would read an old configuration"
    );
    assert_eq!(observed.refused.len(), 2);
    let found = condition(&status, "BackendsReady");
    let expected = "False ApplyFailed: ConfigMap web-backend: exceeded quota RoleBinding web-frontend: exceeded quota";
    assert_eq!(found, expected);
}

#[test]
fn only_unused_objects_that_the_service_controls_are_pruned_and_last() {
    let owned = |kind, name: &str| -> Labelled {
        let owner = json!({"kind": "OnionBalancedService", "name": "web", "uid": "uid-of-web", "controller": true});
        (kind, from(json!({"name": name, "uid": "u", "ownerReferences": [owner]})))
    };
    let mut uncontrolled = owned(Kind::ConfigMap, "web-copy");
    uncontrolled.1.owner_references = None;
    let mut foreign = owned(Kind::ConfigMap, "web-foreign");
    foreign.1.owner_references.as_mut().unwrap()[0].uid = "another".to_owned();
    let labelled = vec![
        orphan(),
        owned(Kind::Secret, "web-old-token"),
        owned(Kind::ConfigMap, "web-backend"),
        uncontrolled,
        foreign,
    ];
    let mut server = Server { labelled: labelled.clone(), ..Server::default() };
    server.run(Observed { owned: None, ..healthy() });
    assert_eq!(server.steps, [&create_all()[..], &["prune ConfigMap web-old"]].concat());

    // The names of the owned objects do not depend on the key.
    let mut server = Server { labelled, ..Server::default() };
    server.run(Observed { owned: None, key_secret: None, last: Some(Last::default()), ..healthy() });
    assert_eq!(server.steps, ["find children", "prune ConfigMap web-old"]);
}

pub(super) fn orphan() -> Labelled {
    let owner = json!({"kind": "OnionBalancedService", "name": "web", "uid": "uid-of-web", "controller": true});
    (Kind::ConfigMap, from(json!({"name": "web-old", "uid": "u", "ownerReferences": [owner]})))
}

#[test]
fn a_second_reconciliation_writes_nothing() {
    let mut server = Server::default();
    server.run(Observed { owned: None, ..healthy() });
    server.steps.clear();
    let (observed, _) = server.run(Observed { owned: None, ..healthy() });
    assert_eq!(server.steps, ["find children"]);
    assert!(concluded(&observed).0.withheld.is_empty());
}

#[test]
fn an_applied_deployment_counts_as_rolling_out() {
    let mut observed = Observed { owned: None, ..healthy() };
    Arc::make_mut(observed.backends.as_mut().unwrap()).metadata.generation = Some(0);
    let (_, status) = Server::default().run(observed);
    assert!(condition(&status, "BackendsReady").starts_with("True "), "the status is of generation 3");
    let mut observed = Observed { owned: None, ..healthy() };
    let backends = Arc::make_mut(observed.backends.as_mut().unwrap());
    backends.metadata.generation = Some(0);
    backends.status.as_mut().unwrap().observed_generation = Some(0);
    let (_, status) = Server::default().run(observed);
    assert!(condition(&status, "BackendsReady").starts_with("False RollingOut: "));
}

/// Returns the position of a step in the order that all reconciliations follow. The last good
/// values may be read at any time.
fn rank(step: &Next) -> Option<usize> {
    Some(match step {
        Next::ReadLast => return None,
        Next::FindChildren { ask_server: false } => 0,
        Next::FindChildren { ask_server: true } => 1,
        Next::ReadObject => 2,
        Next::GenerateKey => 3,
        Next::SetKeyOwners(_) => 4,
        Next::Apply(Stage::Prerequisites, _) => 5,
        Next::Apply(Stage::RoleBindings, _) => 6,
        Next::Apply(Stage::Deployments, _) => 7,
        Next::Apply(Stage::Fallbacks, _) => 8,
        Next::Scale(_) => 9,
        Next::Prune(_) => 10,
        Next::Done(_) => 11,
    })
}

/// A source of random outcomes for steps.
struct Chance(std::vec::IntoIter<u8>);

impl Chance {
    /// Returns a random number below `options`.
    fn of(&mut self, options: u8) -> u8 {
        self.0.next().unwrap_or_default() % options
    }

    fn key(&mut self) -> Option<KeySecret> {
        let mut secret = match self.of(4) {
            0 => return None,
            1 => key_secret(&Fixture::new().key),
            2 => key_secret(&other_key()),
            _ => secret_of(b"abc"),
        };
        if self.of(2) == 0 {
            secret.metadata.labels = from(json!({"onionbalance.dev/service": "web"}));
            secret.metadata.annotations = from(json!({"onionbalance.dev/generated": "true"}));
        }
        Some(secret)
    }

    fn metadata(&mut self) -> ObjectMeta {
        let owner = |uid| json!([{"kind": "OnionBalancedService", "name": "web", "uid": uid, "controller": true}]);
        from(match self.of(4) {
            0 => json!({"name": "web-x", "ownerReferences": owner("uid-of-web"), "uid": "u"}),
            1 => json!({"name": "web-x", "ownerReferences": owner("old")}),
            2 => json!({"ownerReferences": owner("uid-of-web"), "deletionTimestamp": "2026-01-01T00:00:00Z"}),
            _ => json!({"name": "web-backend", "ownerReferences": owner("uid-of-web"), "uid": "u"}),
        })
    }

    fn outcome(&mut self, step: Next, observed: &Observed) -> Outcome {
        match step {
            Next::ReadObject => {
                let object = (*observed.object).clone();
                Outcome::ObjectRead((self.of(3) > 0).then(|| Box::new(object)))
            }
            Next::GenerateKey => match self.of(3) {
                0 => Outcome::KeyExisted { secret: self.key().map(Box::new), rivals: Vec::new() },
                1 => Outcome::KeyRefused(RefusedWrite {
                    child: ChildId { kind: Kind::Secret, name: "web-master-key".to_owned() },
                    message: String::new(),
                }),
                _ => Outcome::KeyGenerated { secret: Box::new(key_secret(&Fixture::new().key)), rivals: Vec::new() },
            },
            Next::SetKeyOwners(_) => Outcome::KeyOwnersTried,
            Next::ReadLast => Outcome::LastRead(Box::new(if self.of(2) == 0 { Last::default() } else { last_good() })),
            Next::FindChildren { ask_server } => Outcome::ChildrenFound {
                asked_server: ask_server,
                existing: (0..self.of(3))
                    .map(|_| (ChildId { kind: Kind::ConfigMap, name: "web-backend".to_owned() }, self.metadata()))
                    .collect(),
                labelled: (0..self.of(3)).map(|_| (Kind::ConfigMap, self.metadata())).collect(),
            },
            Next::Apply(stage, due) => {
                let results = due.into_iter().map(|due| {
                    let result = match self.of(8) {
                        0 => Applied::Refused("no".to_owned()),
                        1 => Applied::Taken(Taken { child: due.id.clone(), by_predecessor: false }),
                        2 => Applied::Leaving,
                        3 => Applied::Written(Box::new(self.metadata())),
                        _ => Applied::Written(Box::new(as_applied(&due))),
                    };
                    (due.id, result)
                });
                Outcome::Applied(stage, results.collect())
            }
            Next::Scale(_) => Outcome::Scaled,
            Next::Prune(_) => Outcome::Pruned,
            Next::Done(_) => unreachable!(),
        }
    }
}

#[test]
fn only_a_new_generation_of_the_backends_is_a_rollout() {
    for (child, generation, expected) in
        [("web-backend", 4, "False RollingOut: "), ("web-backend", 3, "True "), ("web-frontend", 4, "True ")]
    {
        let mut observed = healthy();
        let id = ChildId { kind: Kind::Deployment, name: child.to_owned() };
        let applied = Applied::Written(Box::new(from(json!({ "generation": generation }))));
        observed.learn(Outcome::Applied(Stage::Deployments, vec![(id, applied)]));
        let (_, status) = concluded(&observed);
        assert!(condition(&status, "BackendsReady").starts_with(expected), "{child} of generation {generation}");
    }
}

proptest! {
    /// Each step has a higher rank than the previous one, so there are at most twelve steps, and no
    /// step is executed twice. In particular, at most one key is generated. Nothing is created
    /// before all names have been looked up, or while one of them is taken, and an object of
    /// somebody else is never changed.
    #[test]
    fn the_steps_always_follow_one_order_and_come_to_an_end(choices in vec(any::<u8>(), 0..64), is_new: bool, keeps_key: bool) {
        let mut chance = Chance(choices.into_iter());
        let mut observed = if is_new { fresh() } else { Observed { owned: None, last: None, ..healthy() } };
        let policy = if keeps_key { "Retain" } else { "Delete" };
        observed.object = with(&observed.object, "spec/deletionPolicy", json!(policy));
        if !is_new {
            observed.key_secret = chance.key();
        }
        let mut steps: Vec<String> = Vec::new();
        let mut last = None;
        loop {
            let step = plan(&observed);
            match rank(&step) {
                Some(rank) => {
                    prop_assert!(last < Some(rank), "{} after {steps:?}", describe(&step));
                    last = Some(rank);
                }
                None => prop_assert!(observed.last.is_none(), "read twice: {steps:?}"),
            }
            steps.push(describe(&step));
            match &step {
                Next::Done(_) => break,
                Next::GenerateKey => prop_assert!(is_new && observed.key_permit == KeyPermit::Granted),
                Next::Apply(_, due) => {
                    let owned = observed.owned.as_ref().unwrap();
                    for Due { id, exists, .. } in due {
                        prop_assert!(*exists || (owned.asked_server && observed.taken.is_empty()), "{id}: {steps:?}");
                        let found = owned.existing.get(id);
                        prop_assert!(found.is_none_or(|found| observed.holder_of(id, found) == Holder::Us), "{id}");
                    }
                }
                Next::Prune(_) => prop_assert!(observed.taken.is_empty(), "{steps:?}"),
                _ => {}
            }
            let outcome = chance.outcome(step, &observed);
            observed.learn(outcome);
        }
        concluded(&observed);
    }
}
