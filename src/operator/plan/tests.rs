use serde_json::{Value, json};

use super::testing::{address, from, healthy, key_secret, now, planned, said, secret_of, service, with};
use super::*;
use crate::crd::OnionBalancedServiceStatus;
use crate::crd::names::Component;
use crate::link::ForwardedPort;
use crate::onion::MasterKey;
use crate::operator::children::Kind;
use crate::operator::children::testing::{Fixture, settings};

fn other_key() -> MasterKey {
    use rand::SeedableRng as _;
    MasterKey::generate(&mut rand::rngs::StdRng::seed_from_u64(2))
}

fn fresh() -> Observed {
    let mut observed = healthy();
    observed.object = with(&observed.object, "status", Value::Null);
    observed.rivals = Vec::new();
    Observed { key_secret: None, backends: None, lease: None, ..observed }
}

#[test]
fn a_healthy_service_is_ready() {
    let (plan, status) = planned(&healthy());
    for kind in ["Accepted", "MasterKeyReady", "BackendsReady", "Published"] {
        assert!(said(&status, kind).starts_with("True "), "{}", said(&status, kind));
    }
    assert_eq!(said(&status, "Ready"), format!("True Ready: Reachable at {}.", address()));
    assert_eq!(plan.children.unwrap().len(), 15);
    assert_eq!((status.ready.as_deref(), status.replicas, status.ready_replicas), (Some("3/3"), Some(3), Some(3)));
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(status.selector.as_deref(), Some("app.kubernetes.io/component=backend,onionbalance.dev/service=web"));
}

#[test]
fn the_publishers_part_of_the_status_is_not_ours_to_write() {
    let (_, status) = planned(&healthy());
    let written = serde_json::to_value(&status).unwrap();
    assert!(written.get("backends").is_none() && written.get("published").is_none());
}

#[test]
fn the_same_status_again_changes_nothing() {
    let mut observed = healthy();
    let (plan, first) = planned(&observed);
    observed.object = with(&observed.object, "status/conditions", serde_json::to_value(&first.conditions).unwrap());
    let later = now() + jiff::SignedDuration::from_secs(5);
    let second = status(&observed, &plan, &[], observed.object.status.as_ref().unwrap(), later);
    assert_eq!(second, first);
}

/// A change of the healthy service, the condition that tells of it, what it says, and whether children are applied.
type Scenario = (&'static str, fn(&mut Observed), &'static str, &'static str, bool);

#[rustfmt::skip]
const SCENARIOS: &[Scenario] = &[
    ("name", |o| o.object = with(&o.object, "metadata/name", json!("web.example")),
        "Accepted", "False InvalidName: metadata.name: use lower-case letters, digits and \"-\"", false),
    ("spec", |o| o.object = with(&o.object, "spec/backends/introductionPoints", json!(2)),
        "Accepted", "False InvalidSpec: spec.backends.introductionPoints: must be from 3 to 20", false),
    ("name taken", |o| o.taken = vec![taken(false)],
        "Accepted", "False NameTaken: Deployment web-backend is there and does not belong to this object; remove it", false),
    ("predecessor", |o| o.taken = vec![taken(true)],
        "Accepted", "False NameTaken: Deployment web-backend still belongs to a deleted web", false),
    ("key gone", |o| o.key_secret = None,
        "MasterKeyReady", "False SecretNotFound: Secret web-master-key with the key of ", false),
    ("key cut", |o| o.key_secret = Some(secret_of(b"abc")),
        "MasterKeyReady", "False KeyInvalid: Secret web-master-key: hs_ed25519_secret_key must have 96 bytes but has 3", false),
    ("key absent", |o| o.key_secret.as_mut().unwrap().data.clear(),
        "MasterKeyReady", "False KeyInvalid: Secret web-master-key: it has no hs_ed25519_secret_key", false),
    ("public key of another", |o| {
        let file = zeroize::Zeroizing::new(other_key().to_tor_public_key_file());
        o.key_secret.as_mut().unwrap().data.insert("hs_ed25519_public_key".to_owned(), file);
    }, "MasterKeyReady", "False KeyInvalid: Secret web-master-key: hs_ed25519_public_key does not belong to", false),
    ("key replaced", |o| o.key_secret = Some(key_secret(&other_key())),
        "MasterKeyReady", "False AddressMismatch: Secret web-master-key holds the key of ", false),
    ("pin", |o| o.object = with(&o.object, "spec/masterKey/onionAddress", json!(other_key().address().to_string())),
        "MasterKeyReady", "False AddressMismatch: Secret web-master-key holds the key of ", false),
    ("older rival", |o| rival(o, "a", "2025-01-01T00:00:00Z", true),
        "MasterKeyReady", "False KeyConflict: ", false),
    ("younger rival", |o| rival(o, "a", "2026-02-01T00:00:00Z", true),
        "MasterKeyReady", "True KeyLoaded: ", true),
    ("older rival without the address", |o| rival(o, "a", "2025-01-01T00:00:00Z", false),
        "MasterKeyReady", "True KeyLoaded: ", true),
    ("target gone", |o| o.services.clear(),
        "BackendsReady", "False TargetNotFound: spec.ports[0].target.service: Service web is not in namespace shop", false),
    ("target port", |o| o.services = service(&json!([{"name": "web", "port": 80}, {"port": 53, "protocol": "UDP"}]), "10.0.0.1"),
        "BackendsReady", "False TargetPortNotFound: spec.ports[0].target.service: Service web has no TCP port \"http\"; \
         its TCP ports: web (80)", false),
    ("target gone, but once known", |o| { o.services.clear(); o.last_config = Some(config("web.shop.svc:80")); },
        "BackendsReady", "False TargetNotFound: ", true),
    ("target gone, another once known", |o| { o.services.clear(); o.last_config = Some(config("web2.shop.svc:80")); },
        "BackendsReady", "False TargetNotFound: ", false),
    ("suspended", |o| o.object = with(&o.object, "spec/suspend", json!(true)),
        "BackendsReady", "False Suspended: spec.suspend is true.", true),
    ("no replicas", |o| o.object = with(&o.object, "spec/backends/replicas", json!(0)),
        "BackendsReady", "False ScaledToZero: spec.backends.replicas is 0.", true),
    ("no replicas, backends elsewhere", |o| {
        o.object = with(&o.object, "spec/backends/replicas", json!(0));
        o.object = with(&o.object, "spec/externalBackends", json!([{"onionAddress": EXTERNAL}]));
    }, "BackendsReady", "True OnlyExternal: spec.backends.replicas is 0; external backends: 1.", true),
    ("more wanted", |o| o.object = with(&o.object, "spec/backends/replicas", json!(5)),
        "BackendsReady", "False Progressing: 3 of 5 backends are ready.", true),
    ("no deployment yet", |o| o.backends = None,
        "BackendsReady", "False Progressing: 0 of 3 backends are ready.", true),
    ("rollout", |o| deployment(o, &json!({"observedGeneration": 3, "readyReplicas": 3, "updatedReplicas": 1})),
        "BackendsReady", "False RollingOut: A new version of the backends is being rolled out.", true),
    ("rollout's last pod",
        |o| deployment(o, &json!({"observedGeneration": 3, "replicas": 4, "readyReplicas": 3, "updatedReplicas": 3})),
        "BackendsReady", "False RollingOut: A new version of the backends is being rolled out.", true),
    ("quota", |o| deployment(o, &json!({"observedGeneration": 3, "conditions": [
        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]})),
        "BackendsReady", "False PodsRefused: Pods cannot be made: exceeded quota", true),
    ("image", |o| {
        deployment(o, &json!({"observedGeneration": 3, "readyReplicas": 2, "updatedReplicas": 3}));
        trouble(o, Component::Backend);
    }, "BackendsReady", "False ImagePullFailed: 2 of 3 backends are ready. Pod x: no image", true),
    ("image of a pod that is not needed", |o| trouble(o, Component::Backend),
        "BackendsReady", "True AllReady: All 3 backends are ready.", true),
    ("frontend's image", |o| {
        o.object = with(&o.object, "status/published", json!([]));
        trouble(o, Component::Frontend);
    }, "Published", "False ImagePullFailed: Pod x: no image", true),
    ("frontend's image, while another publishes", |o| trouble(o, Component::Frontend),
        "Published", "True Published: The descriptor is published.", true),
    ("frontend's quota", |o| {
        o.object = with(&o.object, "status/published", json!([]));
        o.frontends = Some(Arc::new(from(json!({"status": {"conditions": [
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]}}))));
    }, "Published", "False PodsRefused: Frontend: Pods cannot be made: exceeded quota", true),
    ("never published", |o| o.object = with(&o.object, "status/published", json!([])),
        "Published", "False NotPublished: No descriptor has been published yet.", true),
    ("refused by all", |o| o.object = with(&o.object, "status/published", json!([
        {"timePeriod": 1, "revisionCounter": 2, "introductionPoints": 9, "hsdirsAccepted": 0, "hsdirsTotal": 8,
         "lastPublished": "2025-12-31T23:58:00Z"}])),
        "Published", "False NotOnHSDirs: No HSDir has accepted the descriptor.", true),
    ("expired", |o| o.object = with(&o.object, "status/published/0/lastPublished", json!("2025-12-31T20:59:59Z")),
        "Published", "False Expired: The newest descriptor is of 2025-12-31T20:59:59Z: HSDirs have dropped it.", true),
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
    ("lease gone", |o| o.lease = None,
        "Published", "Unknown PublisherSilent: No publisher holds the Lease", true),
    ("lease stale", |o| o.lease = Some(lease("2025-12-31T23:58:59.000000Z", 15)),
        "Published", "Unknown PublisherSilent: The publisher has not renewed its Lease since 2025-12-31T23:58:59Z", true),
    ("lease in time", |o| o.lease = Some(lease("2025-12-31T23:59:00.000000Z", 15)),
        "Published", "True Published: ", true),
    ("long lease in time", |o| o.lease = Some(lease("2025-12-31T23:57:00.000000Z", 60)),
        "Published", "True Published: ", true),
];

const EXTERNAL: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

#[test]
fn each_trouble_has_its_condition_and_takes_nothing_down() {
    for (name, change, kind, expected, applied) in SCENARIOS {
        let mut observed = healthy();
        change(&mut observed);
        let (plan, status) = planned(&observed);
        let found = said(&status, kind);
        assert!(found.starts_with(expected), "{name}: {found}");
        assert_eq!(plan.children.is_some(), *applied, "{name}");
        // The summary repeats the first trouble; the address is never forgotten.
        let summary = said(&status, "Ready");
        assert!(summary == found || found.starts_with("True "), "{name}: {summary}");
        assert_eq!(status.onion_address, Some(address()), "{name}");
        let is_for_good = ["InvalidSpec", "InvalidName", "KeyInvalid", "AddressMismatch"]
            .iter()
            .any(|reason| found.starts_with(&format!("False {reason}: ")));
        let is_stalled = status.conditions.iter().any(|condition| condition.type_ == "Stalled");
        assert_eq!(is_stalled, is_for_good, "{name}");
        assert!(!matches!(plan.key_step, KeyStep::Generate), "{name}");
    }
}

#[test]
fn a_new_descriptor_may_settle_where_one_was_published() {
    let mut observed = healthy();
    observed.object = with(&observed.object, "status/published/0/hsdirsAccepted", json!(0));
    observed.object = with(&observed.object, "status/published/0/lastPublished", json!("2025-12-31T23:59:30Z"));
    assert!(said(&planned(&observed).1, "Published").starts_with("False NotOnHSDirs: "), "never published before");

    let (_, published) = planned(&healthy());
    observed.object = with(&observed.object, "status/conditions", serde_json::to_value(&published.conditions).unwrap());
    assert!(said(&planned(&observed).1, "Published").starts_with("True Published: "));
    observed.object = with(&observed.object, "status/published/0/lastPublished", json!("2025-12-31T23:58:30Z"));
    assert!(said(&planned(&observed).1, "Published").starts_with("False NotOnHSDirs: "), "for too long");
}

#[test]
fn a_refused_key_secret_is_told_in_the_servers_words() {
    let observed = fresh();
    let plan = plan(&observed, &settings());
    let child = ChildId { kind: Kind::Secret, name: "web-master-key".to_owned() };
    let failures = [Failure { child, message: "exceeded quota".to_owned() }];
    let status = status(&observed, &plan, &failures, &OnionBalancedServiceStatus::default(), now());
    for kind in ["MasterKeyReady", "Ready"] {
        assert_eq!(said(&status, kind), "False ApplyFailed: Secret web-master-key: exceeded quota");
    }
}

#[test]
fn retaining_a_key_takes_its_owner_away_also_while_it_cannot_be_used() {
    let mut observed = healthy();
    let secret = observed.key_secret.as_mut().unwrap();
    secret.metadata.annotations = from(json!({"onionbalance.dev/generated": "true"}));
    secret.metadata.labels = from(json!({"onionbalance.dev/service": "web"}));
    secret.metadata.owner_references = from(json!([{
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "name": "web", "uid": "uid-of-web",
    }]));
    observed.object = with(&observed.object, "spec/masterKey/onionAddress", json!(other_key().address().to_string()));
    let (step, status) = planned(&observed);
    assert!(said(&status, "MasterKeyReady").starts_with("False AddressMismatch: "));
    assert!(matches!(step.key_step, KeyStep::SetOwners(owners) if owners.is_empty()));
    // A copy that bears the same marks is not ours.
    observed.key_secret.as_mut().unwrap().metadata.name = Some("copy".to_owned());
    assert!(matches!(planned(&observed).0.key_step, KeyStep::Keep));
}

fn taken(by_predecessor: bool) -> Taken {
    Taken { child: ChildId { kind: Kind::Deployment, name: "web-backend".to_owned() }, by_predecessor }
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
    observed.rivals.push(with(&rival, "status", json!({ "onionAddress": address })));
}

fn config(target: &str) -> AgentConfig {
    let ports = vec![ForwardedPort { name: None, port: 80, target: target.to_owned(), proxy_header: false }];
    let master_onion_address = Fixture::new().key.address();
    AgentConfig { master_onion_address, ports, introduction_points: 3, drain_timeout_seconds: 1, linger_seconds: 1 }
}

fn trouble(observed: &mut Observed, component: Component) {
    let (pod, message) = ("x".to_owned(), "Pod x: no image".to_owned());
    observed.troubles = vec![Trouble { pod, component, reason: "ImagePullFailed", message }];
}

fn deployment(observed: &mut Observed, status: &Value) {
    observed.backends = Some(Arc::new(from(json!({"metadata": {"generation": 3}, "status": status}))));
}

fn lease(renewed: &str, seconds: i32) -> Lease {
    from(json!({"metadata": {}, "spec": {"renewTime": renewed, "leaseDurationSeconds": seconds}}))
}

#[test]
fn a_key_is_generated_only_where_there_never_was_one() {
    let (first, status) = planned(&fresh());
    assert!(matches!(first.key_step, KeyStep::Generate) && first.children.is_none());
    assert_eq!(status.onion_address, None);

    let mut named = fresh();
    named.object = with(&named.object, "spec/masterKey/secretName", json!("mine"));
    let (step, status) = planned(&named);
    assert!(matches!(step.key_step, KeyStep::Keep));
    assert!(
        said(&status, "MasterKeyReady")
            .starts_with("False SecretNotFound: Secret mine, named by spec.masterKey.secretName")
    );

    let mut pinned = fresh();
    pinned.object = with(&pinned.object, "spec/masterKey/onionAddress", json!(address()));
    let (step, status) = planned(&pinned);
    assert!(matches!(step.key_step, KeyStep::Keep));
    assert!(said(&status, "MasterKeyReady").starts_with("False SecretNotFound: "));

    let mut refused = fresh();
    refused.object = with(&refused.object, "spec/ports", json!([]));
    let (step, status) = planned(&refused);
    assert!(matches!(step.key_step, KeyStep::Keep));
    assert!(said(&status, "MasterKeyReady").starts_with("Unknown NotAccepted: "));
}

#[test]
fn a_key_that_is_there_first_is_used() {
    let mut observed = fresh();
    observed.key_secret = Some(key_secret(&other_key()));
    let (plan, status) = planned(&observed);
    assert_eq!(status.onion_address, Some(other_key().address().to_string()));
    assert!(matches!(plan.key_step, KeyStep::Keep) && plan.children.is_some());
}

#[test]
fn the_address_changes_on_purpose() {
    let mut observed = healthy();
    observed.key_secret = Some(key_secret(&other_key()));
    observed.object = with(&observed.object, "spec/masterKey/onionAddress", json!(other_key().address().to_string()));
    let (plan, status) = planned(&observed);
    assert_eq!(status.onion_address, Some(other_key().address().to_string()));
    assert!(plan.children.is_some());
}

#[test]
fn only_a_generated_secret_is_owned_and_only_where_asked() {
    let generated = |policy: &str, owners: Value| {
        let mut observed = healthy();
        observed.object = with(&observed.object, "spec/deletionPolicy", json!(policy));
        let secret = observed.key_secret.as_mut().unwrap();
        secret.metadata = from(json!({
            "name": "web-master-key", "ownerReferences": owners,
            "labels": {"onionbalance.dev/service": "web"}, "annotations": {"onionbalance.dev/generated": "true"},
        }));
        observed
    };
    let steps = |observed: &Observed| match planned(observed).0.key_step {
        KeyStep::SetOwners(owners) => Some(owners.into_iter().map(|owner| owner.uid).collect::<Vec<_>>()),
        KeyStep::Keep | KeyStep::Generate => None,
    };
    let owner = |uid: &str| json!({"apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "name": "web", "uid": uid});
    assert_eq!(steps(&generated("Retain", json!([]))), None);
    assert_eq!(steps(&generated("Delete", json!([owner("uid-of-web")]))), None);
    assert_eq!(steps(&generated("Delete", json!([]))), Some(vec!["uid-of-web".to_owned()]));
    // Of a former object of this name.
    assert_eq!(steps(&generated("Delete", json!([owner("old")]))), Some(vec!["uid-of-web".to_owned()]));
    assert_eq!(steps(&generated("Retain", json!([owner("uid-of-web")]))), Some(vec![]));
    let mut own = generated("Delete", json!([]));
    own.key_secret.as_mut().unwrap().metadata.annotations = None;
    assert_eq!(steps(&own), None);
}

#[test]
fn targets_are_resolved_to_numbers() {
    let resolved = |target: Value, ports: Value, cluster_ip: &str| {
        let object = with(&healthy().object, "spec/ports", json!([{"port": 80, "target": target}]));
        let targets = resolve(&object, &service(&ports, cluster_ip), None);
        match (targets.ports, targets.problem) {
            (Some(ports), None) => ports[0].target.clone(),
            (_, Some(problem)) => problem.reason.to_owned(),
            (None, None) => "nothing".to_owned(),
        }
    };
    let web = |port: Value| json!({"service": {"name": "web", "port": port}});
    let ports =
        json!([{"name": "http", "port": 80, "targetPort": 8080}, {"port": 81, "targetPort": "named"}, {"port": 82}]);
    for (target, cluster_ip, expected) in [
        (web(json!("http")), "10.0.0.1", "web.shop.svc:80"),
        (web(json!(81)), "10.0.0.1", "web.shop.svc:81"),
        (web(json!("81")), "10.0.0.1", "web.shop.svc:81"),
        (web(json!("http")), "None", "web.shop.svc:8080"),
        (web(json!(82)), "None", "web.shop.svc:82"),
        (web(json!(81)), "None", "TargetPortNotFound"),
        (web(json!(8080)), "10.0.0.1", "TargetPortNotFound"),
        (json!({"address": "db.example.org:5432"}), "10.0.0.1", "db.example.org:5432"),
    ] {
        assert_eq!(resolved(target.clone(), ports.clone(), cluster_ip), expected, "{target} {cluster_ip}");
    }
}

#[test]
fn an_external_name_has_the_port_that_is_asked_for() {
    let object = with(
        &healthy().object,
        "spec/ports",
        json!([{"port": 80, "target": {"service": {"name": "web", "port": 8443}}}]),
    );
    let external =
        json!({"metadata": {"name": "web"}, "spec": {"type": "ExternalName", "externalName": "example.org"}});
    let targets = resolve(&object, &BTreeMap::from([("web".to_owned(), from(external))]), None);
    assert_eq!(targets.ports.unwrap()[0].target, "web.shop.svc:8443");
}

#[test]
fn what_no_watch_tells_is_looked_at_again() {
    let seconds = |observed: &Observed| next_look(observed, &planned(observed).0).as_secs();
    assert_eq!(seconds(&healthy()), 60);
    assert_eq!(seconds(&Observed { lease: None, ..healthy() }), 300);
    assert_eq!(seconds(&Observed { taken: vec![taken(false)], ..healthy() }), 10);
    assert_eq!(seconds(&Observed { key_secret: None, ..healthy() }), 10);
}

#[test]
fn a_refused_child_is_told() {
    let observed = healthy();
    let plan = plan(&observed, &settings());
    let failure = Failure { child: taken(false).child, message: "denied by the webhook".to_owned() };
    let status = status(&observed, &plan, &[failure], &OnionBalancedServiceStatus::default(), now());
    assert_eq!(said(&status, "BackendsReady"), "False ApplyFailed: Deployment web-backend: denied by the webhook");
}

#[test]
fn an_object_that_cannot_be_read_says_so() {
    let conditions = unreadable("invalid type", &[], Some(3), now());
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "InvalidSpec"));
    assert_eq!(ready.message, "The object cannot be read: invalid type");
    assert!(conditions.iter().any(|condition| condition.type_ == "Stalled" && condition.status == "True"));
}
