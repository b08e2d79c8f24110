use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::*;
use crate::status::view::summary;

pub const ADDRESS: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

pub fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 2,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

pub fn view(name: &str, status: &Value) -> View {
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
        "metadata": {"name": name, "namespace": "shop", "generation": 2},
        "spec": {"ports": [{"port": 80, "target": {"address": "a:1"}}]},
        "status": status,
    }))
    .unwrap();
    View::new(object)
}

pub fn ready() -> View {
    let backend = |name: &str, state: &str, message: Option<&str>| {
        json!({
            "name": name, "introductionPoints": if state == "Ready" { 3 } else { 0 }, "state": state, "message": message,
            "since": "2026-01-01T11:47:00Z",
        })
    };
    let period = |number: u64, accepted: u32| {
        json!({
            "timePeriod": number, "revisionCounter": 123_456, "introductionPoints": 6, "hsdirsAccepted": accepted,
            "hsdirsTotal": 8, "lastPublished": "2026-01-01T11:59:15Z",
        })
    };
    view(
        "web",
        &json!({
            "onionAddress": ADDRESS, "observedGeneration": 2, "replicas": 3, "readyReplicas": 2, "ready": "2/2",
            "backends": [
                backend("web-backend-a", "Ready", None),
                backend("web-backend-b", "Ready", Some("flow-control is left out")),
                backend("web-backend-c", "Draining", None),
            ],
            "published": [period(20_455, 8), period(20_456, 7)],
            "probes": [{"port": 80, "result": "Answered", "since": "2026-01-01T11:58:00Z"}],
            "guards": {"shared": 20, "unlisted": 1, "inUse": 1},
            "vanguards": {"secondHop": 4, "thirdHop": 6, "outdated": 1},
            "conditions": [
                condition("Accepted", "True", "Valid", "The spec is valid."),
                condition("Published", "True", "Published", "All HSDirs have the newest descriptors."),
                condition("Reachable", "True", "Answered", "The address answers."),
                condition("GuardsShared", "True", "GuardsAgree", "All pods use the same guard first."),
                condition("Ready", "True", "Ready", "Reachable."),
            ],
        }),
    )
}

pub fn broken() -> View {
    view(
        "mail",
        &json!({
            "observedGeneration": 2, "ready": "0/2",
            "conditions": [
                condition("Accepted", "True", "Valid", "The spec is valid."),
                condition("MasterKeyReady", "False", "SecretNotFound", "Secret mine is not there; create it."),
                condition("Published", "Unknown", "PublisherSilent", "No publisher holds the Lease."),
                condition("Ready", "False", "SecretNotFound", "Secret mine is not there; create it."),
            ],
        }),
    )
}

pub fn canvas(width: Option<u16>) -> Canvas {
    Canvas { now: "2026-01-01T12:00:00Z".parse().unwrap(), width, lines: None }
}

/// Removes colours and trailing blanks.
pub fn plain(text: &str) -> String {
    let text = anstream::adapter::strip_str(text).to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_end_of_signing_kits_is_shown_before_it_is_a_problem() {
    let delegated = |status: &str| {
        let keys = condition("SigningKeysReady", status, "SigningKeysExpiring", "The signing kits end soon.");
        plain(&canvas(None).service(&view("web", &json!({"observedGeneration": 2, "conditions": [keys]}))))
    };
    assert!(delegated("True").contains("\n  kits      The signing kits end soon."), "{}", delegated("True"));
    assert!(!delegated("False").contains("  kits  "), "{}", delegated("False"));
}

#[test]
fn an_exposed_location_is_shown() {
    let exposed = condition("LocationExposed", "True", "LocationNotHidden", "Not hidden.");
    let status = json!({"observedGeneration": 2, "onionAddress": ADDRESS, "conditions": [exposed]});
    let text = plain(&canvas(None).service(&view("web", &status)));
    assert!(text.contains(&format!("\n  address   {ADDRESS}\n  location  Not hidden.\n")), "{text}");
}

#[test]
fn a_ready_service_is_shown_in_full() {
    let expected = format!(
        "shop/web  Ready
  address   {ADDRESS}
  backends  2/2 ready, 1 draining; 6 introduction points
  published 45s ago, on 15 of 16 HSDirs
  probed    port 80: answers (since 2m0s)
  guards    1 in use, 20 shared, 1 of them not in the consensus
  vanguards 4 at the second and 6 at the third hop; 1 backend does not use them

BACKEND        STATE     POINTS  SINCE  REMARK
web-backend-a  Ready          3  13m
web-backend-b  Ready          3  13m    flow-control is left out
web-backend-c  Draining       0  13m

TIME PERIOD  POINTS  HSDIRS  PUBLISHED  REVISION  OPEN TO
20455             6     8/8  45s ago      123456  all
20456             6     7/8  45s ago      123456  all"
    );
    assert_eq!(plain(&canvas(None).service(&ready())), expected);
}

#[test]
fn the_last_probes_of_a_suspended_service_are_not_shown() {
    let suspended = condition("Published", "False", "Suspended", "spec.suspend is true.");
    let probes = json!([{"port": 80, "result": "Answered", "since": "2026-01-01T11:58:00Z"}]);
    let status = json!({"observedGeneration": 2, "probes": probes, "conditions": [suspended]});
    let text = plain(&canvas(None).service(&view("web", &status)));
    assert!(!text.contains("probed"), "{text}");
}

#[test]
fn the_problems_of_a_service_and_their_remedies_come_first() {
    let expected = "shop/mail  SecretNotFound

MasterKeyReady: SecretNotFound
  Secret mine is not there; create it.
  → restore the key's Secret from your backup: kubectl create -n shop -f BACKUP

Published: PublisherSilent
  No publisher holds the Lease.
  → kubectl get pods -n shop -l onionbalance.dev/service=mail,app.kubernetes.io/component=frontend; kubectl logs -n shop \
     deploy/mail-frontend -c publisher

  address   none yet
  backends  0/2 ready
  published never";
    assert_eq!(plain(&canvas(None).service(&broken())), expected);
}

#[test]
fn outdated_and_unreadable_objects_are_not_ready() {
    let old = view("web", &json!({"observedGeneration": 1, "conditions": [condition("Ready", "True", "Ready", "")]}));
    assert_eq!((old.is_ready(), old.state(), old.problems()[0].reason.as_str()), (false, "Pending", "Pending"));
    let unreadable = view("web", &json!({"replicas": "many"}));
    assert_eq!((unreadable.is_ready(), unreadable.state()), (false, "InvalidSpec"));
    assert!(plain(&canvas(None).service(&unreadable)).contains("Accepted: InvalidSpec\n  invalid type: string"));
}

#[test]
fn ages_are_formatted_like_kubectl() {
    let canvas = canvas(None);
    let age = |seconds: i64| canvas.age(canvas.now - jiff::SignedDuration::from_secs(seconds));
    let ages = [-5, 59, 61, 600, 3600, 36_000, 86_400, 864_000].map(age);
    assert_eq!(ages, ["0s", "59s", "1m1s", "10m", "1h0m", "10h", "1d0h", "10d"]);
}

#[test]
fn the_json_output_has_the_same_content() {
    let summary = summary(&[broken(), ready()]);
    let [mail, web] = [&summary["services"][0], &summary["services"][1]];
    assert_eq!((&mail["ready"], &mail["state"]), (&json!(false), &json!("SecretNotFound")));
    assert_eq!(mail["problems"][0]["type"], "MasterKeyReady");
    assert_eq!((&web["ready"], &web["problems"], &web["onionAddress"]), (&json!(true), &json!([]), &json!(ADDRESS)));
    assert_eq!(web["published"][1]["hsdirsAccepted"], 7);
}
