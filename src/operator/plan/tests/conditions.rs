//! Tests of the conditions that a plan results in.

mod scenarios;

use serde_json::json;

use self::scenarios::SCENARIOS;
use super::support::{address, concluded, condition, healthy, now, with};
use crate::crd::names::Component;
use crate::operator::children::{ChildId, Kind};
use crate::operator::plan::{Observed, RefusedWrite, Taken, forbidden, requeue_after, status, unreadable};
use crate::operator::pods::{PodProblem, PodState};

#[test]
fn a_healthy_service_is_ready() {
    let (conclusion, status) = concluded(&healthy());
    for kind in ["Accepted", "MasterKeyReady", "BackendsReady", "Published"] {
        assert!(condition(&status, kind).starts_with("True "), "{}", condition(&status, kind));
    }
    assert_eq!(condition(&status, "Ready"), "True Ready: The service is reachable.");
    assert_eq!(status.onion_address, Some(address()));
    assert!(conclusion.withheld.is_empty());
    assert_eq!((status.ready.as_deref(), status.replicas, status.ready_replicas), (Some("3/3"), Some(3), Some(3)));
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(status.selector.as_deref(), Some("app.kubernetes.io/component=backend,onionbalance.dev/service=web"));
}

#[test]
fn the_operator_does_not_write_the_publishers_part_of_the_status() {
    let (_, status) = concluded(&healthy());
    let written = serde_json::to_value(&status).unwrap();
    assert!(written.get("backends").is_none() && written.get("published").is_none());
}

#[test]
fn an_unchanged_status_keeps_its_transition_times() {
    let mut observed = healthy();
    let (conclusion, first) = concluded(&observed);
    observed.object = with(&observed.object, "status/conditions", serde_json::to_value(&first.conditions).unwrap());
    let later = now() + jiff::SignedDuration::from_secs(5);
    let second = status(&observed, &conclusion, observed.object.status.as_ref().unwrap(), later);
    assert_eq!(second, first);
}

#[test]
fn each_problem_has_its_condition_and_stops_nothing_that_is_running() {
    for (name, change, kind, expected, applied) in SCENARIOS {
        let mut observed = healthy();
        change(&mut observed);
        let (conclusion, status) = concluded(&observed);
        let found = condition(&status, kind);
        assert!(found.starts_with(expected), "{name}: {found}");
        assert_eq!(!conclusion.withheld.contains(&Component::Backend), *applied, "{name}");
        // Ready repeats the first problem, and the address is never removed.
        let kinds = ["Accepted", "MasterKeyReady", "BackendsReady", "Published"];
        let first = kinds.map(|kind| condition(&status, kind)).into_iter().find(|found| !found.starts_with("True "));
        let first = first.unwrap_or_else(|| "True Ready: The service is reachable.".to_owned());
        assert_eq!(condition(&status, "Ready"), first, "{name}");
        assert_eq!(status.onion_address, Some(address()), "{name}");
        let is_for_good = ["InvalidSpec", "NotAllowed", "InvalidName", "KeyInvalid", "AddressMismatch"]
            .iter()
            .any(|reason| kinds.iter().any(|kind| condition(&status, kind).starts_with(&format!("False {reason}: "))));
        let stalled = status.conditions.iter().find(|condition| condition.type_ == "Stalled");
        assert_eq!(stalled.map(|stalled| &*stalled.status), is_for_good.then_some("True"), "{name}");
    }
}

#[test]
fn published_stays_true_for_a_while_after_a_new_descriptor_replaces_an_old_one() {
    let mut observed = healthy();
    observed.object = with(&observed.object, "status/published/0/hsdirsAccepted", json!(0));
    observed.object = with(&observed.object, "status/published/0/lastPublished", json!("2025-12-31T23:59:30Z"));
    assert!(
        condition(&concluded(&observed).1, "Published").starts_with("False NotOnHSDirs: "),
        "never published before"
    );

    let mut before = concluded(&healthy()).1.conditions;
    observed.object = with(&observed.object, "status/conditions", serde_json::to_value(&before).unwrap());
    assert!(condition(&concluded(&observed).1, "Published").starts_with("True Published: "));
    before
        .iter_mut()
        .filter(|condition| condition.type_ == "Published")
        .for_each(|old| old.status = "False".to_owned());
    let object = with(&observed.object, "status/conditions", serde_json::to_value(&before).unwrap());
    let not_before = Observed { object, ..healthy() };
    assert!(condition(&concluded(&not_before).1, "Published").starts_with("False NotOnHSDirs: "), "not before");
    observed.object = with(&observed.object, "status/published/0/lastPublished", json!("2025-12-31T23:59:00Z"));
    assert!(condition(&concluded(&observed).1, "Published").starts_with("False NotOnHSDirs: "), "for too long");
}

#[test]
fn a_refused_object_is_reported_with_the_servers_message() {
    let backend = ChildId { kind: Kind::Deployment, name: "web-backend".to_owned() };
    let mut observed = healthy();
    observed.refused = vec![RefusedWrite { child: backend, message: "denied by the webhook".to_owned() }];
    assert_eq!(
        condition(&concluded(&observed).1, "BackendsReady"),
        "False ApplyFailed: Deployment web-backend: denied by the webhook"
    );
}

#[test]
fn every_refused_object_and_every_bad_port_is_named() {
    let mut observed = healthy();
    observed.services.clear();
    observed.refused = ["web-backend", "web-frontend"]
        .map(|name| RefusedWrite {
            child: ChildId { kind: Kind::ConfigMap, name: name.to_owned() },
            message: "exceeded quota".to_owned(),
        })
        .into();
    let found = condition(&concluded(&observed).1, "BackendsReady");
    for part in
        ["False TargetNotFound: spec.ports[0]", "ConfigMap web-backend: exceeded", "ConfigMap web-frontend: exceeded"]
    {
        assert!(found.contains(part), "{part} is missing in {found}");
    }
}

#[test]
fn only_the_refusal_of_the_keys_own_secret_concerns_the_key() {
    for (kind, name, expected) in [
        (Kind::Secret, "web-master-key", "False ApplyFailed: Secret web-master-key: "),
        (Kind::Secret, "web-agent-token", "True KeyLoaded: "),
        (Kind::ConfigMap, "web-master-key", "True KeyLoaded: "),
    ] {
        let child = ChildId { kind, name: name.to_owned() };
        let refused = vec![RefusedWrite { child, message: "exceeded quota".to_owned() }];
        let found = condition(&concluded(&Observed { refused, ..healthy() }).1, "MasterKeyReady");
        assert!(found.starts_with(expected), "{kind:?} {name}: {found}");
    }
}

#[test]
fn a_missing_permission_is_reported_and_the_other_conditions_stay() {
    let (_, before) = concluded(&healthy());
    let conditions = forbidden("secrets is forbidden", &before.conditions, Some(4), now());
    assert_eq!(conditions.len(), before.conditions.len());
    for condition in &conditions {
        let known = before.conditions.iter().find(|known| known.type_ == condition.type_).unwrap();
        assert_eq!(condition == known, condition.type_ != "Ready", "{condition:?}");
    }
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("Unknown", "Forbidden"));
    assert!(ready.message.contains("secrets is forbidden") && ready.message.contains("deploy/rbac.yaml"));
}

#[test]
fn the_requeue_delay_depends_on_the_changes_that_no_watch_reports() {
    let seconds = |observed: &Observed| requeue_after(observed, &concluded(observed).0, now()).as_secs();
    assert_eq!(seconds(&healthy()), 60);
    assert_eq!(seconds(&Observed { lease: None, ..healthy() }), 300);
    assert_eq!(seconds(&Observed { taken: vec![taken(false)], ..healthy() }), 10);
    assert_eq!(seconds(&Observed { key_secret: None, ..healthy() }), 10);
    let creating = |since: i64| {
        let creating_since = Some(now() - jiff::SignedDuration::from_secs(since));
        vec![PodState { creating_since, ..pod(Component::Backend, None) }]
    };
    assert_eq!(seconds(&Observed { pods: creating(20), ..healthy() }), 41);
    assert_eq!(seconds(&Observed { pods: creating(60), ..healthy() }), 30);
    assert_eq!(seconds(&Observed { pods: vec![pod(Component::Backend, None)], ..healthy() }), 60);
}

#[test]
fn an_unreadable_object_is_reported_as_stalled() {
    let conditions = unreadable("invalid type", &[], Some(3), now());
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "InvalidSpec"));
    assert_eq!(ready.message, "The object cannot be read: invalid type");
    assert!(conditions.iter().any(|condition| condition.type_ == "Stalled" && condition.status == "True"));
}

fn taken(by_predecessor: bool) -> Taken {
    Taken { child: ChildId { kind: Kind::Deployment, name: "web-backend".to_owned() }, by_predecessor }
}

fn pod(component: Component, problem: Option<PodProblem>) -> PodState {
    PodState { pod: "x".to_owned(), uid: "u".to_owned(), component, problem, creating_since: None, rejected: None }
}
