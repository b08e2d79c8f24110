//! The facts about a service without problems, from which the tests of each examination start.

use serde_json::{Value, json};

use super::*;
use crate::crd::custom_resource_definition;
use crate::status::doctor::backing::Backing;
use crate::status::doctor::facts::{TargetFacts, Unread};
use crate::status::doctor::key_facts::{KeyContent, KeyFacts};
use crate::status::draw::tests::view;

pub use crate::status::draw::tests::{ADDRESS, condition};

/// Returns the facts about a service that runs well, at noon on the first of January 2026.
pub fn healthy() -> Facts {
    let backend =
        |name: &str| json!({"name": name, "introductionPoints": 3, "state": "Ready", "since": "2026-01-01T11:00:00Z"});
    let status = json!({
        "onionAddress": ADDRESS, "observedGeneration": 2,
        "backends": [backend("web-backend-a"), backend("web-backend-b")],
        "published": [{
            "timePeriod": 20_454, "revisionCounter": 1, "introductionPoints": 6, "hsdirsAccepted": 8, "hsdirsTotal": 8,
            "lastPublished": "2026-01-01T11:30:00Z",
        }],
        "probes": [{"port": 80, "result": "Answered", "since": "2026-01-01T11:50:00Z"}],
        "conditions": [condition("Accepted", "True", "Valid", ""), condition("Ready", "True", "Ready", "")],
    });
    let mut definition = serde_json::to_value(custom_resource_definition()).unwrap();
    definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
    let mut facts = Facts {
        now: "2026-01-01T12:00:00Z".parse().unwrap(),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        definition: Ok(Some(serde_json::from_value(definition).unwrap())),
        operators: Ok(serde_json::from_value(json!([operator()])).unwrap()),
        view: Some(view("web", &status)),
        key: Ok(Some(KeyFacts {
            type_: "Opaque".to_owned(),
            content: Ok(KeyContent { address: ADDRESS.to_owned(), kits_until: None }),
        })),
        pods: Ok(serde_json::from_value(json!([
            pod("web-backend-a", "backend", true),
            pod("web-backend-b", "backend", true),
            pod("web-frontend-a", "frontend", true),
        ]))
        .unwrap()),
        events: Ok(vec![]),
        metrics: [].into(),
        lease: Ok(Some(
            serde_json::from_value(json!({"spec": {
                "holderIdentity": "web-frontend-a_1", "leaseDurationSeconds": 15,
                "renewTime": "2026-01-01T11:59:58.000000Z",
            }}))
            .unwrap(),
        )),
        targets: [(
            "web".to_owned(),
            TargetFacts {
                service: Ok(Some(serde_json::from_value(service()).unwrap())),
                backing: Ok(vec![Backing { ports: vec![Some("http".to_owned())], ready: 2, unready: 0 }]),
            },
        )]
        .into(),
        policies: Ok(vec![]),
    };
    with_spec(&mut facts, "ports", json!([{"port": 80, "target": {"service": {"name": "web", "port": "http"}}}]));
    with_spec(&mut facts, "frontend", json!({"replicas": 1}));
    facts
}

fn operator() -> Value {
    let image = "localhost/onionbalance-operator:dev";
    json!({
        "metadata": {"name": "onionbalance-operator", "namespace": "onionbalance-system"},
        "spec": {
            "replicas": 1, "selector": {},
            "template": {"spec": {"containers": [{"name": "operator", "image": image}]}},
        },
        "status": {"readyReplicas": 1},
    })
}

fn service() -> Value {
    json!({"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}})
}

/// Returns a running pod of the service.
pub fn pod(name: &str, component: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    let labels = json!({"app.kubernetes.io/component": component, "onionbalance.dev/service": "web"});
    json!({
        "metadata": {"name": name, "labels": labels},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    })
}

/// Replaces one field of the object's spec.
pub fn with_spec(facts: &mut Facts, field: &str, value: Value) {
    with(facts, "spec", field, value);
}

/// Replaces one field of the object's status.
pub fn with_status(facts: &mut Facts, field: &str, value: Value) {
    with(facts, "status", field, value);
}

fn with(facts: &mut Facts, part: &str, field: &str, value: Value) {
    let view = facts.view.as_mut().unwrap();
    let mut object = serde_json::to_value(view.object.as_ref().unwrap()).unwrap();
    object[part][field] = value;
    view.object = Ok(Box::new(serde_json::from_value(object).unwrap()));
}

/// Returns the failure of a request for which the user lacks the permission.
pub fn forbidden(verb: &'static str) -> Unread {
    Unread { verb, resource: "things", namespace: Some("shop".to_owned()), cause: None }
}

fn marks(facts: &Facts) -> Vec<(&'static str, Mark)> {
    examine(facts).into_iter().map(|finding| (finding.area, finding.mark)).collect()
}

#[test]
fn a_service_that_runs_well_has_no_problem() {
    let areas = [
        "CRD",
        "operator",
        "object",
        "key",
        "backend pods",
        "frontend pods",
        "tor",
        "policies",
        "target",
        "publisher",
        "backends",
        "HSDirs",
        "address",
    ];
    assert_eq!(marks(&healthy()), areas.map(|area| (area, Mark::Ok)));
}

#[test]
fn without_the_object_only_the_installation_is_examined() {
    let mut facts = healthy();
    facts.view = None;
    assert_eq!(marks(&facts), [("CRD", Mark::Ok), ("operator", Mark::Ok), ("object", Mark::Problem)]);
}

#[test]
fn a_suspended_service_needs_no_pods() {
    let mut facts = healthy();
    with_spec(&mut facts, "suspend", true.into());
    facts.pods = Ok(vec![]);
    facts.lease = Ok(None);
    assert!(marks(&facts).iter().all(|(_, mark)| *mark == Mark::Ok), "{:?}", marks(&facts));
}

#[test]
fn the_report_of_a_silent_publisher_is_not_examined() {
    let mut facts = healthy();
    facts.lease = Ok(None);
    assert_eq!(marks(&facts).last(), Some(&("publisher", Mark::Problem)));
}

#[test]
fn a_user_without_permissions_learns_what_could_not_be_checked() {
    let mut facts = healthy();
    facts.definition = Err(forbidden("get"));
    facts.operators = Err(forbidden("list"));
    facts.key = Err(forbidden("get"));
    facts.pods = Err(forbidden("list"));
    facts.policies = Err(forbidden("list"));
    facts.lease = Err(forbidden("get"));
    let unchecked = ["CRD", "operator", "key", "pods", "policies", "publisher"];
    let found: Vec<_> = examine(&facts).into_iter().filter(|finding| finding.mark == Mark::Unchecked).collect();
    assert_eq!(found.iter().map(|finding| finding.area).collect::<Vec<_>>(), unchecked);
    assert_eq!(found[2].found, "You may not get things in namespace shop.");
    assert_eq!(found[2].remedy.as_ref().unwrap().commands, ["kubectl auth can-i get things -n shop"]);
}
