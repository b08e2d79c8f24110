//! Tests of the conditions that a plan results in.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

use super::support::{
    address, concluded, condition, from, healthy, key_secret, now, other_key, secret_of, service, with,
};
use crate::crd::Reason;
use crate::crd::names::Component;
use crate::crd::validate::Problem;
use crate::operator::children::tests::support::Fixture;
use crate::operator::children::{ChildId, Kind};
use crate::operator::plan::{Last, Observed, RefusedWrite, Rival, Taken, forbidden, requeue_after, status, unreadable};
use crate::operator::pods::{PodProblem, PodState};
use crate::operator::policy::ObjectPolicy;

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

/// A scenario: its name, a change to the healthy service, the type of the condition to check, the
/// beginning of this condition after the change (written as `status reason: message`), and true if
/// the backends are still configured.
type Scenario = (&'static str, fn(&mut Observed), &'static str, &'static str, bool);

#[rustfmt::skip]
const SCENARIOS: &[Scenario] = &[
    ("name", |o| o.object = with(&o.object, "metadata/name", json!("web.example")),
        "Accepted", "False InvalidName: metadata.name: must consist of lower-case letters, digits and \"-\"", false),
    ("spec", |o| o.object = with(&o.object, "spec/backends/introductionPoints", json!(2)),
        "Accepted", "False InvalidSpec: spec.backends.introductionPoints: must be from 3 to 20. Until this is corrected, ", true),
    ("spec without last values", |o| {
        o.last = Some(Last::default());
        o.object = with(&o.object, "spec/backends/introductionPoints", json!(2));
    }, "Accepted", "False InvalidSpec: spec.backends.introductionPoints: must be from 3 to 20. Until this is corrected, \
        these parts keep the values that were last accepted, if there are any; the other parts are not affected. The backend pods have no \
        such values, so they are neither created nor updated.", false),
    ("frontend's spec without last values", |o| {
        o.last = Some(Last::default());
        o.object = with(&o.object, "spec/frontend/extraTorrc", json!("ControlPor 9051"));
    }, "Accepted", "False InvalidSpec: spec.frontend.extraTorrc: line 1: ", true),
    ("unreadable part", |o| o.unreadable = vec![unreadable_part("spec.backends.template.resources")],
        "Accepted", "False InvalidSpec: spec.backends.template.resources: cannot be read: ", true),
    ("unreadable key", |o| o.unreadable = vec![unreadable_part("spec.masterKey")],
        "MasterKeyReady", "Unknown NotAccepted: spec.masterKey is invalid; see the condition Accepted.", true),
    ("invalid pin", |o| o.object = with(&o.object, "spec/masterKey/onionAddress", json!("a.onion")),
        "MasterKeyReady", "Unknown NotAccepted: spec.masterKey is invalid", true),
    ("external backend", |o| o.object = with(&o.object, "spec/externalBackends", json!([{"onionAddress": "a.onion"}])),
        "Accepted", "False InvalidSpec: spec.externalBackends[0].onionAddress: ", true),
    ("target in the pod", |o| o.object = with(&o.object, "spec/ports/0/target", json!({"address": "127.0.0.1:9401"})),
        "Accepted", "False NotAllowed: spec.ports[0].target.address: \"127.0.0.1:9401\" is not allowed, because \
         --refused-targets contains 127.0.0.0/8; ", true),
    ("strict policy", |o| {
        Arc::make_mut(&mut o.environment).settings.policy = ObjectPolicy::default();
        o.object = with(&o.object, "spec/frontend/template", json!({"priorityClassName": "system-node-critical"}));
    }, "Accepted", "False NotAllowed: spec.frontend.template.priorityClassName: \"system-node-critical\" is not allowed; ",
        true),
    ("invalid and not allowed", |o| {
        o.object = with(&o.object, "spec/ports/0/target", json!({"address": "127.0.0.1:9401"}));
        o.object = with(&o.object, "spec/backends/introductionPoints", json!(2));
    }, "Accepted", "False InvalidSpec: spec.backends.introductionPoints: must be from 3 to 20; spec.ports[0].target.address: ",
        true),
    ("strict policy, and defaults of the administrator", |o| {
        let settings = &mut Arc::make_mut(&mut o.environment).settings;
        settings.policy = ObjectPolicy::default();
        settings.default_templates.backend.priority_class_name = Some("system-node-critical".to_owned());
    }, "Accepted", "True Valid: The spec is valid.", true),
    ("name taken", |o| o.taken = vec![taken(false)],
        "Accepted", "False NameTaken: Deployment web-backend exists and does not belong to this object; remove it", true),
    ("predecessor", |o| o.taken = vec![taken(true)],
        "Accepted", "False NameTaken: Deployment web-backend still belongs to a deleted web", true),
    ("spec, and name taken", |o| {
        o.taken = vec![taken(false)];
        o.object = with(&o.object, "spec/backends/introductionPoints", json!(2));
    }, "Accepted", "False InvalidSpec: spec.backends.introductionPoints: must be from 3 to 20. Until this is corrected, \
        these parts keep the values that were last accepted, if there are any; the other parts are not affected. In addition, Deployment \
        web-backend exists and does not belong to this object; ", true),
    ("key missing", |o| o.key_secret = None,
        "MasterKeyReady", "False SecretNotFound: Secret web-master-key with the key of ", true),
    ("key missing without last values", |o| { o.key_secret = None; o.last = Some(Last::default()); },
        "MasterKeyReady", "False SecretNotFound: Secret web-master-key with the key of ", false),
    ("key truncated", |o| o.key_secret = Some(secret_of(b"abc")),
        "MasterKeyReady", "False KeyInvalid: Secret web-master-key: hs_ed25519_secret_key must be 96 bytes long but is 3 bytes long", true),
    ("no key in the secret", |o| o.key_secret.as_mut().unwrap().data.clear(),
        "MasterKeyReady", "False KeyInvalid: Secret web-master-key: hs_ed25519_secret_key is missing", true),
    ("key encoded twice", |o| o.key_secret = Some(secret_of(base64_key().as_bytes())),
        "MasterKeyReady", "False KeyInvalid: Secret web-master-key: instead of tor's 96 bytes, hs_ed25519_secret_key holds a \
         key file as base64 text; run kubectl-onionbalance key convert FILE --output DIRECTORY. In the cluster: \
         kubectl get secret NAME -o yaml | kubectl onionbalance key convert - --secret NEW_NAME | kubectl create -f -", true),
    ("key with a line break", |o| {
        let file = Fixture::new().key.to_tor_secret_key_file();
        o.key_secret = Some(secret_of(&[file.as_slice(), b"\n"].concat()));
    }, "MasterKeyReady", "False KeyInvalid: Secret web-master-key: hs_ed25519_secret_key is damaged: the key file \
         has a line break after its 96 bytes; remove it with head -c 96 FILE >NEW_FILE. To save the entry as FILE: \
         kubectl get secret NAME -o jsonpath='{.data.hs_ed25519_secret_key}' | base64 -d >FILE", true),
    ("PEM key", |o| o.key_secret = Some(secret_of(b"-----BEGIN PRIVATE KEY-----\n")),
        "MasterKeyReady", "False KeyInvalid: Secret web-master-key: hs_ed25519_secret_key holds a PEM key instead \
         of tor's 96 bytes; convert it with kubectl-onionbalance key convert. In the cluster: kubectl get secret NAME ", true),
    ("key under another name", |o| {
        let data = &mut o.key_secret.as_mut().unwrap().data;
        let file = data.remove("hs_ed25519_secret_key").unwrap();
        data.insert("onion.key".to_owned(), file);
        data.insert("a-token".to_owned(), vec![0x9c; 32].into());
    }, "MasterKeyReady", "False KeyInvalid: Secret web-master-key: hs_ed25519_secret_key is missing, but the entry onion.key \
         seems to hold a key; make a Secret with the right entry: ", true),
    ("perhaps a key under another name", |o| {
        let data = &mut o.key_secret.as_mut().unwrap().data;
        data.clear();
        data.insert("token".to_owned(), vec![0x9c; 32].into());
    }, "MasterKeyReady", "False KeyInvalid: Secret web-master-key: hs_ed25519_secret_key is missing, but the \
         entry token may hold a key; this command says how to use it: kubectl get secret NAME -o yaml | kubectl onionbalance key show -",
        true),
    ("public key of another service", |o| {
        let file = zeroize::Zeroizing::new(other_key().to_tor_public_key_file());
        o.key_secret.as_mut().unwrap().data.insert("hs_ed25519_public_key".to_owned(), file);
    }, "MasterKeyReady", "False KeyInvalid: Secret web-master-key: hs_ed25519_public_key does not match", true),
    ("key replaced", |o| o.key_secret = Some(key_secret(&other_key())),
        "MasterKeyReady", "False AddressMismatch: Secret web-master-key holds the key of ", true),
    ("pin", |o| o.object = with(&o.object, "spec/masterKey/onionAddress", json!(other_key().address().to_string())),
        "MasterKeyReady", "False AddressMismatch: Secret web-master-key holds the key of ", true),
    ("older rival", |o| rival(o, "a", "2025-01-01T00:00:00Z", true),
        "MasterKeyReady", "False KeyConflict: ", true),
    ("younger rival", |o| rival(o, "a", "2026-02-01T00:00:00Z", true),
        "MasterKeyReady", "True KeyLoaded: ", true),
    ("older rival without the address", |o| rival(o, "a", "2025-01-01T00:00:00Z", false),
        "MasterKeyReady", "True KeyLoaded: ", true),
    ("target missing", |o| o.services.clear(),
        "BackendsReady", "False TargetNotFound: spec.ports[0].target.service: Service web does not exist in namespace shop; \
        create it, or correct the name. Until then, port 80 still leads to web.shop.svc:8080.", true),
    ("target port", |o| o.services = service(&json!([{"name": "web", "port": 80}, {"port": 53, "protocol": "UDP"}]), "10.0.0.1"),
        "BackendsReady", "False TargetPortNotFound: spec.ports[0].target.service: Service web has no TCP port \"http\"; \
         its TCP ports: web (80). Until then, port 80 still leads to web.shop.svc:8080.", true),
    ("target of a new port missing", |o| o.object = with(&o.object, "spec/ports", json!([
        {"port": 80, "target": {"address": "a:1"}}, {"port": 81, "target": {"service": {"name": "none", "port": 1}}}])),
        "BackendsReady", "False TargetNotFound: spec.ports[1].target.service: Service none does not exist in namespace shop; \
        create it, or correct the name. Until then, port 81 is not served.", true),
    ("only target missing", |o| { o.services.clear(); o.last = Some(Last::default()); },
        "BackendsReady", "False TargetNotFound: ", false),
    ("target missing, and a new version", |o| {
        o.services.clear();
        deployment(o, &json!({"observedGeneration": 3, "readyReplicas": 2, "updatedReplicas": 3}));
    }, "BackendsReady", "False TargetNotFound: spec.ports[0].target.service: Service web does not exist in namespace shop; \
        create it, or correct the name. Until then, port 80 still leads to web.shop.svc:8080. 2 of 3 backends are ready.", true),
    ("suspended", |o| { stop(o); suspend(o); },
        "BackendsReady", "False Suspended: spec.suspend is true. No pod is running.", true),
    ("suspended with a descriptor", |o| { stop(o); suspend(o); },
        "Published", "False Suspended: spec.suspend is true. No pod is running. The HSDirs may keep the last descriptor until \
        2026-01-01T02:00:00Z.", true),
    ("suspended, but the Deployment has pods", suspend,
        "BackendsReady", "False Stopping: spec.suspend is true. Still running: 3 backends.", true),
    ("suspended, but a frontend drains", |o| { stop(o); suspend(o); o.pods = vec![pod(Component::Frontend, None)]; },
        "Published", "False Stopping: spec.suspend is true. Still running: 1 frontend.", true),
    ("suspended without a target", |o| { stop(o); suspend(o); o.services.clear(); },
        "BackendsReady", "False Suspended: spec.suspend is true. No pod is running. spec.ports[0].target.service: ", true),
    ("no replicas", |o| { stop(o); o.object = with(&o.object, "spec/backends/replicas", json!(0)); },
        "BackendsReady", "False ScaledToZero: spec.backends.replicas is 0.", true),
    ("no replicas, but a backend drains", |o| {
        stop(o);
        o.pods = vec![pod(Component::Backend, None)];
        o.object = with(&o.object, "spec/backends/replicas", json!(0));
    }, "BackendsReady", "False Stopping: spec.backends.replicas is 0. Still running: 1 backend.", true),
    ("no replicas, but external backends", |o| {
        o.object = with(&o.object, "spec/backends/replicas", json!(0));
        o.object = with(&o.object, "spec/externalBackends", json!([{"onionAddress": EXTERNAL}]));
    }, "BackendsReady", "True OnlyExternal: spec.backends.replicas is 0; external backends: 1.", true),
    ("no replicas, and an invalid external backend", |o| {
        stop(o);
        o.object = with(&o.object, "spec/backends/replicas", json!(0));
        o.object = with(&o.object, "spec/externalBackends", json!([{"onionAddress": "a.onion"}]));
    }, "BackendsReady", "False ScaledToZero: spec.backends.replicas is 0.", true),
    ("more replicas wanted", |o| o.object = with(&o.object, "spec/backends/replicas", json!(5)),
        "BackendsReady", "False Progressing: 3 of 5 backends are ready.", true),
    ("no deployment yet", |o| o.backends = None,
        "BackendsReady", "False Progressing: 0 of 3 backends are ready.", true),
    ("no deployment, and no key", |o| { o.backends = None; o.key_secret = None; o.last = Some(Last::default()); },
        "BackendsReady", "False Waiting: The backends are created once the problems in the conditions are solved.", false),
    ("rollout", |o| deployment(o, &json!({"observedGeneration": 3, "readyReplicas": 3, "updatedReplicas": 1})),
        "BackendsReady", "False RollingOut: A new version of the backends is being rolled out.", true),
    ("rollout's last pod",
        |o| deployment(o, &json!({"observedGeneration": 3, "replicas": 4, "readyReplicas": 3, "updatedReplicas": 3})),
        "BackendsReady", "False RollingOut: A new version of the backends is being rolled out.", true),
    ("quota", |o| deployment(o, &json!({"observedGeneration": 3, "conditions": [
        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]})),
        "BackendsReady", "False PodsRefused: 0 of 3 backends are ready. Pods cannot be created: exceeded quota", true),
    ("rollout without progress", |o| deployment(o, &json!({"observedGeneration": 3, "readyReplicas": 2, "updatedReplicas": 3,
        "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        "message": "ReplicaSet \"web-backend-1\" has timed out progressing."}]})),
        "BackendsReady", "False ProgressDeadlineExceeded: 2 of 3 backends are ready. ReplicaSet \"web-backend-1\" has timed out", true),
    ("paused rollout", |o| deployment(o, &json!({"observedGeneration": 3, "readyReplicas": 2, "updatedReplicas": 3,
        "conditions": [{"type": "Progressing", "status": "False", "reason": "DeploymentPaused"}]})),
        "BackendsReady", "False Progressing: 2 of 3 backends are ready.", true),
    ("no quota", |o| deployment(o, &json!({"observedGeneration": 3, "readyReplicas": 2, "updatedReplicas": 3,
        "conditions": [{"type": "Available", "status": "True"}, {"type": "ReplicaFailure", "status": "False"}]})),
        "BackendsReady", "False Progressing: 2 of 3 backends are ready.", true),
    ("image", |o| {
        deployment(o, &json!({"observedGeneration": 3, "readyReplicas": 2, "updatedReplicas": 3}));
        pod_problem(o, Component::Backend);
    }, "BackendsReady", "False ImagePullFailed: 2 of 3 backends are ready. Pod x: no image", true),
    ("image of a surplus pod", |o| pod_problem(o, Component::Backend),
        "BackendsReady", "True AllReady: All 3 backends are ready.", true),
    ("a backend is excluded", |o| excluded(o, "2025-12-31T23:59:00Z"),
        "BackendsReady", "False BackendExcluded: Backend web-backend-1 is excluded: its congestion control differs", true),
    ("a backend was excluded a moment ago", |o| excluded(o, "2025-12-31T23:59:01Z"),
        "BackendsReady", "True AllReady: All 3 backends are ready.", true),
    ("an external backend is excluded", |o| {
        o.object = with(&o.object, "spec/backends/replicas", json!(0));
        o.object = with(&o.object, "spec/externalBackends", json!([{"onionAddress": EXTERNAL}]));
        excluded(o, "2025-12-31T23:00:00Z");
    }, "BackendsReady", "False BackendExcluded: Backend web-backend-1 is excluded: ", true),
    ("a backend is excluded during a rollout", |o| {
        deployment(o, &json!({"observedGeneration": 3, "readyReplicas": 3, "updatedReplicas": 1}));
        excluded(o, "2025-12-31T23:00:00Z");
    }, "BackendsReady", "False RollingOut: A new version of the backends is being rolled out.", true),
    ("a target fails at one backend", unhealthy,
        "BackendsReady", "False BackendUnhealthy: Backend web-backend-1 is withdrawn: port 80 fails.", true),
    ("a target failed before the publishers stopped", |o| {
        unhealthy(o);
        o.lease = Some(lease("2025-12-31T23:58:59.000000Z", 15));
    }, "BackendsReady", "True AllReady: All 3 backends are ready.", true),
    ("frontend's image", |o| {
        o.object = with(&o.object, "status/published", json!([]));
        pod_problem(o, Component::Frontend);
    }, "Published", "False ImagePullFailed: Frontend: Pod x: no image", true),
    ("frontend's image, while another publishes", |o| pod_problem(o, Component::Frontend),
        "Published", "True Published: The descriptor is published. Frontend: Pod x: no image", true),
    ("frontend's rollout without progress", |o| {
        o.lease = None;
        o.frontends = Some(Arc::new(from(json!({"status": {"conditions": [{"type": "Progressing", "status": "False",
            "reason": "ProgressDeadlineExceeded", "message": "timed out"}]}}))));
    }, "Published", "False ProgressDeadlineExceeded: Frontend: timed out", true),
    ("image of a surplus frontend", |o| {
        pod_problem(o, Component::Frontend);
        o.frontends = Some(Arc::new(from(json!({"status": {"readyReplicas": 1, "updatedReplicas": 1}}))));
    }, "Published", "True Published: The descriptor is published.", true),
    ("frontend's quota", |o| {
        o.object = with(&o.object, "status/published", json!([]));
        o.frontends = Some(Arc::new(from(json!({"status": {"conditions": [
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]}}))));
    }, "Published", "False PodsRefused: Frontend: Pods cannot be created: exceeded quota", true),
    ("never published", |o| o.object = with(&o.object, "status/published", json!([])),
        "Published", "False NotPublished: No descriptor has been published yet.", true),
    ("refused by all HSDirs", |o| o.object = with(&o.object, "status/published", json!([
        {"timePeriod": 1, "revisionCounter": 2, "introductionPoints": 9, "hsdirsAccepted": 0, "hsdirsTotal": 8,
         "lastPublished": "2025-12-31T23:58:00Z"}])),
        "Published", "False NotOnHSDirs: No HSDir has accepted the descriptor.", true),
    ("expired", |o| o.object = with(&o.object, "status/published/0/lastPublished", json!("2025-12-31T20:59:59Z")),
        "Published", "False Expired: The newest descriptor was published at 2025-12-31T20:59:59Z; the HSDirs have dropped it.", true),
    ("a foreign publisher", |o| o.object = with(&o.object, "status/published/0/foreignPublisher", json!("2025-12-31T23:30:00Z")),
        "Published", "False ForeignPublisher: Another publisher with the same master key was noticed at 2025-12-31T23:30:00Z; ", true),
    ("about to expire", |o| o.object = with(&o.object, "status/published/0/lastPublished", json!("2025-12-31T21:00:00Z")),
        "Published", "True Published: ", true),
    ("no backends", |o| {
        o.object = with(&o.object, "status/backends/0/state", json!("Lost"));
    }, "Published", "False NoBackends: No backend has introduction points", true),
    ("a backend waits for its turn", |o| {
        o.object = with(&o.object, "status/backends/0/state", json!("Waiting"));
    }, "Published", "True Published: ", true),
    ("no backends yet", |o| {
        let starting = json!([{"name": "web-backend-1", "introductionPoints": 0, "state": "Starting",
            "since": "2025-12-31T23:59:30Z"}]);
        o.object = with(&o.object, "status/backends", starting);
    }, "Published", "True Published: ", true),
    ("no lease", |o| o.lease = None,
        "Published", "Unknown PublisherSilent: No publisher holds the Lease", true),
    ("stale lease", |o| o.lease = Some(lease("2025-12-31T23:58:59.000000Z", 15)),
        "Published", "Unknown PublisherSilent: The publisher has not renewed its Lease since 2025-12-31T23:58:59Z", true),
    ("lease renewed in time", |o| o.lease = Some(lease("2025-12-31T23:59:00.000000Z", 15)),
        "Published", "True Published: ", true),
    ("long lease renewed in time", |o| o.lease = Some(lease("2025-12-31T23:57:00.000000Z", 60)),
        "Published", "True Published: ", true),
];

const EXTERNAL: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

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

fn base64_key() -> String {
    data_encoding::BASE64.encode(&Fixture::new().key.to_tor_secret_key_file())
}

/// Adds a backend that the publisher has excluded since the given time.
fn excluded(observed: &mut Observed, since: &str) {
    let backends = json!([
        {"name": "web-backend-0", "introductionPoints": 3, "state": "Ready", "since": "2025-12-31T00:00:00Z"},
        {"name": "web-backend-1", "introductionPoints": 0, "state": "Excluded", "since": since,
            "message": "its congestion control differs"},
    ]);
    observed.object = with(&observed.object, "status/backends", backends);
}

/// Adds a backend that the publisher has withdrawn because of its target.
fn unhealthy(observed: &mut Observed) {
    let backends = json!([
        {"name": "web-backend-0", "introductionPoints": 3, "state": "Ready", "since": "2025-12-31T00:00:00Z"},
        {"name": "web-backend-1", "introductionPoints": 0, "state": "Unhealthy", "since": "2025-12-31T23:00:00Z",
            "failingPorts": [80], "message": "port 80 fails"},
    ]);
    observed.object = with(&observed.object, "status/backends", backends);
}

fn rival(observed: &mut Observed, name: &str, created: &str, has_address: bool) {
    let rival = with(
        &observed.object,
        "metadata",
        json!({
            "name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "creationTimestamp": created,
        }),
    );
    let rival = with(&rival, "spec/masterKey/secretName", json!("web-master-key"));
    let address = has_address.then(address);
    let object = with(&rival, "status", json!({ "onionAddress": address }));
    observed.rivals.push(Rival { object, key: None });
}

fn unreadable_part(field: &str) -> Problem {
    Problem { field: field.to_owned(), message: "cannot be read: x".to_owned() }
}

fn suspend(observed: &mut Observed) {
    observed.object = with(&observed.object, "spec/suspend", json!(true));
}

/// Removes all backends, as the Deployment controller reports them.
fn stop(observed: &mut Observed) {
    deployment(observed, &json!({"observedGeneration": 3, "replicas": 0, "readyReplicas": 0}));
}

fn pod(component: Component, problem: Option<PodProblem>) -> PodState {
    PodState { pod: "x".to_owned(), uid: "u".to_owned(), component, problem, creating_since: None, rejected: None }
}

fn pod_problem(observed: &mut Observed, component: Component) {
    let problem = PodProblem { reason: Reason::ImagePullFailed, message: "Pod x: no image".to_owned() };
    observed.pods = vec![pod(component, Some(problem))];
}

fn deployment(observed: &mut Observed, status: &Value) {
    observed.backends = Some(Arc::new(from(json!({"metadata": {"generation": 3}, "status": status}))));
}

fn lease(renewed: &str, seconds: i32) -> Lease {
    from(json!({"metadata": {}, "spec": {"renewTime": renewed, "leaseDurationSeconds": seconds}}))
}
