//! Tests of the copy of the authorized clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::steps::FIND;
use super::support::{Server, condition, from, healthy, with};
use crate::crd::OnionBalancedService;
use crate::crd::clients::ClientList;
use crate::link::ClientsCopy;
use crate::onion::{ClientPublicKey, ClientSecretKey};
use crate::operator::children::tests::support::Fixture;
use crate::operator::children::{ChildId, Kind};
use crate::operator::plan::{Last, Observed};

const COPY: &str = "ConfigMap web-authorized-clients";

fn key(number: u8) -> ClientPublicKey {
    ClientSecretKey::from_bytes([number; 32]).public()
}

/// Returns the facts about a service that names a Secret with these clients, before the first step.
fn observed(numbers: &[u8]) -> Observed {
    let clients = numbers.iter().map(|number| (number.to_string(), key(*number))).collect();
    let clients = ClientList { clients, problems: Vec::new() };
    Observed { object: restricted(), clients_secret: Some(clients), owned: None, ..healthy() }
}

fn restricted() -> Arc<OnionBalancedService> {
    with(&healthy().object, "spec/restrictedDiscovery", json!({"secretName": "clients"}))
}

/// Returns the last copy that was applied.
fn applied(server: &Server) -> ClientsCopy {
    let (_, manifest) = server.applied.iter().rev().find(|(name, _)| name == COPY).unwrap();
    ClientsCopy::of_data(&from(manifest["data"].clone()), &Fixture::new().token).unwrap()
}

fn copy_of(keys: Option<&[u8]>) -> ClientsCopy {
    let keys = keys.map(|numbers| numbers.iter().map(|number| key(*number)).collect());
    ClientsCopy { object: "uid-of-web".to_owned(), secret: "clients".to_owned(), keys }
}

#[test]
fn the_clients_in_the_secret_are_copied_with_the_other_owned_objects() {
    let mut server = Server::default();
    server.run(observed(&[2, 1]));
    assert_eq!(server.steps[..2], FIND);
    assert_eq!(server.steps[2..], ["apply 14 Prerequisites", "apply 1 RoleBindings", "apply 2 Deployments"]);
    assert_eq!(applied(&server), copy_of(Some(&[2, 1])));

    server.steps.clear();
    server.run(observed(&[2, 1]));
    assert_eq!(server.steps, ["find children"], "nothing has changed");
    server.run(Observed { clients_secret: None, ..observed(&[]) });
    assert_eq!(server.steps.split_off(1), ["find children", "apply 1 Prerequisites"]);
    assert_eq!(applied(&server), copy_of(None), "the Secret was deleted");
}

/// A bad part of the object must not keep a client from losing its access, not even if the pods
/// cannot be configured.
#[test]
fn the_copy_follows_the_secret_whatever_else_is_bad() {
    let invalid = |observed: Observed| {
        let object = with(&observed.object, "spec/backends/introductionPoints", json!(2));
        Observed { object, ..observed }
    };
    let not_allowed = |observed: Observed| {
        let object = with(&observed.object, "spec/ports/0/target", json!({"address": "127.0.0.1:80"}));
        Observed { object, ..observed }
    };
    let without_target = |observed: Observed| Observed { services: BTreeMap::new(), ..observed };
    let without_pods = |observed: Observed| Observed { last: Some(Last::default()), ..without_target(observed) };
    let cases: [(&str, &dyn Fn(Observed) -> Observed); 4] = [
        ("invalid", &invalid),
        ("not allowed", &not_allowed),
        ("no target", &without_target),
        ("no pods", &without_pods),
    ];
    for (name, change) in cases {
        let mut server = Server::default();
        server.run(observed(&[1, 2]));
        server.applied.clear();
        let (_, status) = server.run(change(observed(&[1])));
        assert_eq!(applied(&server), copy_of(Some(&[1])), "{name}");
        assert!(condition(&status, "Ready").starts_with("False "), "{name}");
        server.steps.clear();
        server.run(change(observed(&[1])));
        assert_eq!(server.steps, ["find children"], "{name}: nothing has changed");
    }
}

/// The copy cannot be authenticated without the key, and the publishers would not accept it.
#[test]
fn without_a_usable_key_the_copy_stays_as_it_is() {
    let mut server = Server::default();
    server.run(observed(&[1, 2]));
    server.steps.clear();
    let (_, status) = server.run(Observed { key_secret: None, ..observed(&[1]) });
    assert_eq!(server.steps, ["find children"]);
    let message = condition(&status, "ClientsReady");
    assert!(message.ends_with(" Changes to the Secret take effect once MasterKeyReady is True."), "{message}");
}

#[test]
fn a_foreign_object_with_the_name_of_the_copy_is_left_alone() {
    let id = ChildId { kind: Kind::ConfigMap, name: "web-authorized-clients".to_owned() };
    let foreign = || BTreeMap::from([(id.clone(), from(json!({"name": "web-authorized-clients", "uid": "x"})))]);
    for points in [3, 2] {
        let mut observed = observed(&[1]);
        observed.object = with(&observed.object, "spec/backends/introductionPoints", json!(points));
        let mut server = Server { existing: foreign(), ..Server::default() };
        server.run(observed);
        assert_eq!(server.steps, FIND, "{points}");
    }
}

#[test]
fn a_copy_that_is_no_longer_used_is_deleted() {
    let mut server = Server::default();
    server.run(observed(&[1]));
    server.steps.clear();
    server.run(observed(&[1]));
    assert_eq!(server.steps, ["find children"]);
    let object = with(&restricted(), "spec/restrictedDiscovery", Value::Null);
    server.run(Observed { object, clients_secret: None, ..observed(&[]) });
    assert_eq!(server.steps.split_off(1), ["find children", &format!("prune {COPY}")]);
}
