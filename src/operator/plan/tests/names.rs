//! Tests of names that are taken by objects of somebody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::steps::{FIND, applied_deployments, create_all, orphan, server};
use super::support::{Server, condition, fresh, from, healthy, with};
use crate::operator::children::tests::support::environment;
use crate::operator::children::{ChildId, Kind, ids};
use crate::operator::plan::{Last, Observed};

/// Returns the metadata of an object that belongs to somebody else.
fn foreign() -> ObjectMeta {
    from(json!({"name": "x", "uid": "foreign"}))
}

#[test]
fn nothing_is_made_for_a_new_service_while_one_of_its_names_is_taken() {
    let children = ids(&healthy().object, &healthy().environment);
    assert_eq!(children.len(), 16);
    for child in children {
        let name = child.to_string();
        let observed = fresh();
        let mut server = Server { existing: BTreeMap::from([(child, foreign())]), ..server(&observed) };
        let (_, status) = server.run(observed);
        assert_eq!(server.steps, FIND, "not even the key is generated: {name}");
        let expected = format!("False NameTaken: {name} exists and does not belong to this object");
        assert!(condition(&status, "Accepted").starts_with(&expected), "{}", condition(&status, "Accepted"));
        assert!(condition(&status, "MasterKeyReady").starts_with("Unknown NotAccepted: "), "{name}");
    }
}

#[test]
fn while_a_name_is_taken_nothing_is_created_and_what_exists_is_kept_up_to_date() {
    let mut server = Server::default();
    server.run(Observed { owned: None, ..healthy() });
    let config = ChildId { kind: Kind::ConfigMap, name: "web-backend".to_owned() };
    let service = ChildId { kind: Kind::Service, name: "web-backend".to_owned() };
    server.existing.insert(config, foreign());
    server.existing.remove(&service);
    server.labelled = vec![orphan()];
    (server.steps, server.applied) = (Vec::new(), Vec::new());
    let observed = Observed { owned: None, ..healthy() };
    let suspended = Observed { object: with(&observed.object, "spec/suspend", json!(true)), ..observed };
    let (_, status) = server.run(suspended);
    assert_eq!(server.steps, [&FIND[..], &["apply 2 Deployments"]].concat(), "nothing is pruned either");
    assert!(server.applied.iter().all(|(_, manifest)| manifest["spec"]["replicas"] == 0));
    let found = condition(&status, "Accepted");
    assert!(found.starts_with("False NameTaken: ConfigMap web-backend exists"), "{found}");
}

#[test]
fn the_publishers_get_no_access_to_a_secret_of_somebody_else_with_the_name_of_the_guards() {
    let shared = || {
        let mut environment = environment();
        environment.settings.tor_extra_config = String::new();
        Observed { owned: None, environment: Arc::new(environment), ..healthy() }
    };
    let mut server = Server::default();
    server.run(shared());
    let grants = |server: &Server| server.manifests["Role web-frontend"]["rules"].to_string().contains("web-guards");
    assert!(grants(&server));
    // After an upgrade, the Role already exists when the name of the Secret is first looked up.
    server.existing.insert(ChildId { kind: Kind::Secret, name: "web-guards".to_owned() }, foreign());
    server.run(shared());
    assert!(!grants(&server));
}

#[test]
fn a_name_that_is_taken_at_the_last_moment_stops_the_creation() {
    let mut server = Server { taken: &["ConfigMap web-backend"], ..Server::default() };
    let (_, status) = server.run(Observed { owned: None, ..healthy() });
    assert_eq!(server.steps, create_all()[..3]);
    assert!(condition(&status, "Accepted").starts_with("False NameTaken: ConfigMap web-backend exists"));
    assert_eq!(applied_deployments(&server), [""; 0]);
}

#[test]
fn the_account_of_somebody_else_gets_no_frontends() {
    let account = ChildId { kind: Kind::ServiceAccount, name: "web-frontend".to_owned() };
    let mut observed = healthy();
    observed.owned.as_mut().unwrap().existing.insert(account, foreign());
    assert_eq!(observed.frontend_account(), None);
}

#[test]
fn a_name_that_is_known_to_be_taken_is_looked_up_at_once() {
    let id = ChildId { kind: Kind::Deployment, name: "web-backend".to_owned() };
    let mut observed = Observed { owned: None, ..healthy() };
    let was_taken = json!([{
        "type": "Accepted", "status": "False", "reason": "NameTaken", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    observed.object = with(&observed.object, "status/conditions", was_taken);
    let mut server = Server { existing: BTreeMap::from([(id, foreign())]), ..Server::default() };
    let (_, status) = server.run(observed);
    assert_eq!(server.steps, ["find children on the server"]);
    assert!(condition(&status, "Accepted").starts_with("False NameTaken: Deployment web-backend"));
}

#[test]
fn the_server_is_asked_only_if_something_is_missing() {
    let mut server = Server::default();
    server.run(Observed { owned: None, ..healthy() });
    server.steps.clear();
    server.run(Observed { owned: None, ..healthy() });
    assert_eq!(server.steps, ["find children"]);
    // Nothing could be created without a key.
    let mut waiting = Server::default();
    waiting.run(Observed { owned: None, key_secret: None, last: Some(Last::default()), ..healthy() });
    assert_eq!(waiting.steps, ["find children"]);
    server.steps.clear();
    let role = ChildId { kind: Kind::Role, name: "web-frontend".to_owned() };
    server.existing.remove(&role);
    server.run(Observed { owned: None, ..healthy() });
    assert_eq!(server.steps, [&FIND[..], &["apply 1 Prerequisites"]].concat());
}
