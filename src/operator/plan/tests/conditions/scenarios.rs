//! The table of scenarios. Each scenario changes a healthy service and names the condition that
//! results.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

use super::{pod, taken};
use crate::crd::Reason;
use crate::crd::names::Component;
use crate::crd::validate::Problem;
use crate::operator::children::tests::support::Fixture;
use crate::operator::plan::tests::support::{address, from, key_secret, other_key, secret_of, service, with};
use crate::operator::plan::{Last, Observed, Rival};
use crate::operator::pods::PodProblem;
use crate::operator::policy::ObjectPolicy;

/// A scenario: its name, a change to the healthy service, the type of the condition to check, the
/// beginning of this condition after the change (written as `status reason: message`), and true if
/// the backends are still configured.
pub(super) type Scenario = (&'static str, fn(&mut Observed), &'static str, &'static str, bool);

#[rustfmt::skip]
pub(super) const SCENARIOS: &[Scenario] = &[
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
