//! Tests of faults in one service, one by one and in combinations: every good part takes effect,
//! every bad part keeps its last good value and is named in a condition, and the service is ready
//! again once the last fault is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::support::{Server, address, condition, from, key_secret, lease, other_key, published};
use crate::crd::names::Component;
use crate::crd::validate::Problem;
use crate::crd::{OnionBalancedServiceStatus, Reason};
use crate::operator::children::tests::support::{Fixture, environment, object};
use crate::operator::children::{ChildId, Kind};
use crate::operator::plan::{KeyPermit, KeySecret, Observed};
use crate::operator::pods::{PodProblem, PodState};
use crate::operator::policy::ObjectPolicy;
use crate::operator::settings::Environment;

/// A bad part of a service, or of its surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    MissingTarget,
    InvalidPort,
    BackendTorrc,
    BackendLabels,
    BackendReplicas,
    BackendToleration,
    UnreadableDrainTimeout,
    RefusedAffinity,
    FrontendTorrc,
    ForbiddenTarget,
    LostKey,
    OtherKey,
    TakenName,
    Unschedulable,
}

impl Fault {
    const ALL: [Self; 14] = [
        Self::MissingTarget,
        Self::InvalidPort,
        Self::BackendTorrc,
        Self::BackendLabels,
        Self::BackendReplicas,
        Self::BackendToleration,
        Self::UnreadableDrainTimeout,
        Self::RefusedAffinity,
        Self::FrontendTorrc,
        Self::ForbiddenTarget,
        Self::LostKey,
        Self::OtherKey,
        Self::TakenName,
        Self::Unschedulable,
    ];

    /// Returns the condition that names the fault, and a part of its text.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::MissingTarget => ("BackendsReady", "spec.ports[1].target.service: Service chat does not exist"),
            Self::InvalidPort => ("Accepted", "spec.ports[2].target.address: "),
            Self::BackendTorrc => ("Accepted", "spec.backends.extraTorrc: "),
            Self::BackendLabels => ("Accepted", "spec.backends.template.labels: "),
            Self::BackendReplicas => ("Accepted", "spec.backends.replicas: "),
            Self::BackendToleration => ("Accepted", "spec.backends.template.tolerations[0]: "),
            Self::UnreadableDrainTimeout => ("Accepted", "spec.backends.drainTimeoutSeconds: cannot be read"),
            Self::RefusedAffinity => ("BackendsReady", "Deployment web-backend: exceeded quota"),
            Self::FrontendTorrc => ("Accepted", "spec.frontend.extraTorrc: "),
            Self::ForbiddenTarget => ("Accepted", "spec.ports[3].target.address: "),
            Self::LostKey => ("MasterKeyReady", "SecretNotFound: "),
            Self::OtherKey => ("MasterKeyReady", "AddressMismatch: "),
            Self::TakenName => ("Accepted", "Service web-frontend exists and does not belong to this object"),
            Self::Unschedulable => ("BackendsReady", "0/1 nodes are available"),
        }
    }
}

/// The values that a user changes while parts of the service are bad.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Good {
    replicas: i32,
    frontends: i32,
    suspend: bool,
    points: u8,
    target: u8,
    image: u8,
}

impl Good {
    const FIRST: Self = Self { replicas: 2, frontends: 1, suspend: false, points: 3, target: 0, image: 0 };
}

/// A change to a service.
#[derive(Debug, Clone, Copy)]
enum Change {
    Begin(Fault),
    End(Fault),
    Replicas(i32),
    Frontends(i32),
    Suspend(bool),
    Points(u8),
    Target(u8),
    Image(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => select(Fault::ALL.to_vec()).prop_map(Change::Begin),
        2 => select(Fault::ALL.to_vec()).prop_map(Change::End),
        1 => (1..5).prop_map(Change::Replicas),
        1 => (1..4).prop_map(Change::Frontends),
        1 => any::<bool>().prop_map(Change::Suspend),
        1 => (3..9_u8).prop_map(Change::Points),
        1 => (0..3_u8).prop_map(Change::Target),
        1 => (0..3_u8).prop_map(Change::Image),
    ]
}

/// A service with its fake API server.
struct World {
    server: Server,
    faults: BTreeSet<Fault>,
    good: Good,
    status: OnionBalancedServiceStatus,
}

impl World {
    fn new(faults: BTreeSet<Fault>, good: Good) -> Self {
        let server = Server { refuses_affinity: true, ..Server::default() };
        Self { server, faults, good, status: OnionBalancedServiceStatus::default() }
    }

    /// Returns the manifests of a service without faults.
    fn without_faults(good: Good) -> BTreeMap<String, Value> {
        let mut world = Self::new(BTreeSet::new(), good);
        world.reconcile();
        world.server.manifests
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn apply(&mut self, change: Change) {
        let good = &mut self.good;
        match change {
            Change::Begin(fault) => {
                self.faults.insert(fault);
            }
            Change::End(fault) => {
                self.faults.remove(&fault);
            }
            Change::Replicas(replicas) => good.replicas = replicas,
            Change::Frontends(frontends) => good.frontends = frontends,
            Change::Suspend(suspend) => good.suspend = suspend,
            Change::Points(points) => good.points = points,
            Change::Target(target) => good.target = target,
            Change::Image(image) => good.image = image,
        }
    }

    fn spec(&self) -> Value {
        let bad = |fault, bad: Value, good: Value| if self.has(fault) { bad } else { good };
        let refused = json!("ControlPor 9051");
        let mut template =
            json!({"labels": bad(Fault::BackendLabels, json!({"app.kubernetes.io/x": "y"}), json!({"team": "a"}))});
        if self.has(Fault::BackendToleration) {
            template["tolerations"] = json!([{"operator": "Exists"}]);
        }
        if self.has(Fault::RefusedAffinity) {
            template["affinity"] = json!({"refused": {}});
        }
        json!({
            "ports": [
                {"name": "http", "port": 80, "target": {"address": format!("web-{}:80", self.good.target)}},
                {"port": 81, "target": {"service": {"name": "chat", "port": 1}}},
                {"port": 82, "target": {"address": bad(Fault::InvalidPort, json!("no port"), json!("a:1"))}},
                {"port": 83, "target": {"address": bad(Fault::ForbiddenTarget, json!("127.0.0.1:1"), json!("a:2"))}},
            ],
            "masterKey": {"secretName": "mine", "onionAddress": address()},
            "suspend": self.good.suspend,
            "backends": {
                "replicas": bad(Fault::BackendReplicas, json!(-1), json!(self.good.replicas)),
                "introductionPoints": self.good.points,
                "extraTorrc": bad(Fault::BackendTorrc, refused.clone(), json!("NumCPUs 1")),
                "template": template,
            },
            "frontend": {
                "replicas": self.good.frontends,
                "extraTorrc": bad(Fault::FrontendTorrc, refused, json!("NumCPUs 2")),
            },
        })
    }

    fn key_secret(&self) -> Option<KeySecret> {
        let key = if self.has(Fault::OtherKey) { other_key() } else { Fixture::new().key };
        (!self.has(Fault::LostKey)).then(|| key_secret(&key))
    }

    /// Returns a component's Deployment, whose pods are all ready, except for an unschedulable one.
    fn deployment(&self, component: Component) -> Option<Arc<Deployment>> {
        let manifest = self.server.manifests.get(&format!("Deployment {}", component.child_name("web")))?;
        let replicas = manifest["spec"]["replicas"].as_i64().unwrap();
        let missing = i64::from(component == Component::Backend && self.has(Fault::Unschedulable));
        Some(Arc::new(from(json!({
            "metadata": {"name": manifest["metadata"]["name"], "generation": 1},
            "spec": {"replicas": replicas},
            "status": {
                "observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas,
                "readyReplicas": (replicas - missing).max(0),
            },
        }))))
    }

    fn pods(&self) -> Vec<PodState> {
        if !self.has(Fault::Unschedulable) || self.good.suspend {
            return Vec::new();
        }
        let message = "Pod x: Unschedulable: 0/1 nodes are available".to_owned();
        let problem = Some(PodProblem { reason: Reason::Unschedulable, message });
        let (pod, uid) = ("x".to_owned(), "u".to_owned());
        vec![PodState { pod, uid, component: Component::Backend, problem, creating_since: None }]
    }

    fn observed(&self) -> Observed {
        let mut object = object(&self.spec());
        object.status = Some(self.status.clone());
        let mut environment: Environment = environment();
        environment.settings.data_plane_image = format!("operator:{}", self.good.image);
        environment.settings.policy = ObjectPolicy::without_tolerations();
        let drain = self.has(Fault::UnreadableDrainTimeout).then(|| Problem {
            field: "spec.backends.drainTimeoutSeconds".to_owned(),
            message: "cannot be read".to_owned(),
        });
        let chat = json!({"metadata": {"name": "chat"}, "spec": {"clusterIP": "10.0.0.2", "ports": [{"port": 1}]}});
        let chat = (!self.has(Fault::MissingTarget)).then(|| ("chat".to_owned(), from(chat)));
        Observed {
            object: Arc::new(object),
            unreadable: drain.into_iter().collect(),
            environment: Arc::new(environment),
            rivals: Vec::new(),
            key_secret: self.key_secret(),
            clients_secret: None,
            services: chat.into_iter().collect(),
            last: None,
            taken: Vec::new(),
            backends: self.deployment(Component::Backend),
            frontends: self.deployment(Component::Frontend),
            pods: self.pods(),
            lease: Some(from(lease())),
            key_permit: KeyPermit::Unknown,
            generated_key: false,
            tried_key_owners: false,
            scaled: false,
            owned: None,
            refused: Vec::new(),
        }
    }

    /// Reconciles twice: the second reconciliation sees the Deployments that the first one has
    /// changed. The second one must not change anything.
    fn reconcile(&mut self) {
        self.take_or_free_a_name();
        for _ in 0..2 {
            self.server.applied.clear();
            let (_, status) = self.server.run(self.observed());
            // The publisher publishes a descriptor after the first reconciliation.
            self.status = OnionBalancedServiceStatus { published: from(json!([published()])), ..status };
        }
        assert!(self.server.applied.is_empty(), "{:?} {:?} applied: {:?}", self.faults, self.good, self.server.applied);
    }

    fn take_or_free_a_name(&mut self) {
        let id = ChildId { kind: Kind::Service, name: "web-frontend".to_owned() };
        let is_foreign = self.server.existing.get(&id).is_some_and(|found| found.labels.is_none());
        if self.has(Fault::TakenName) {
            self.server.existing.insert(id, from(json!({"name": "web-frontend", "uid": "foreign"})));
        } else if is_foreign {
            self.server.existing.remove(&id);
        }
    }

    /// Checks that the conditions name every fault.
    fn check_names(&self) {
        for fault in &self.faults {
            let is_hidden = match fault {
                // Without a key, nobody can see whether it is another one.
                Fault::OtherKey => self.has(Fault::LostKey),
                Fault::Unschedulable => {
                    self.good.suspend || !self.server.manifests.contains_key("Deployment web-backend")
                }
                // Nothing is refused before the backends can be configured.
                Fault::RefusedAffinity => !self.server.manifests.contains_key("ConfigMap web-backend"),
                // Without a key, nothing is about to be created, so nobody looks for the names.
                Fault::TakenName => {
                    self.server.manifests.is_empty() && (self.has(Fault::LostKey) || self.has(Fault::OtherKey))
                }
                _ => false,
            };
            let (kind, text) = fault.name();
            let found = condition(&self.status, kind);
            assert!(is_hidden || found.contains(text), "{fault:?} of {:?} is not named: {found}", self.faults);
        }
    }

    /// Checks that a service without faults is ready, or has stopped if the user wants that.
    fn check_health(&self) {
        assert!(self.faults.is_empty());
        let expected = if self.good.suspend { "False Suspended: " } else { "True Ready: " };
        let found = condition(&self.status, "Ready");
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(self.server.manifests, World::without_faults(self.good));
    }
}

/// Checks that the owned objects are those of a service without faults, except for parts whose
/// values are unknown.
fn assert_same(world: &World, expected: &BTreeMap<String, Value>) {
    for (name, manifest) in &world.server.manifests {
        assert_eq!(manifest, &expected[name], "{name}: {:?} {:?}", world.faults, world.good);
    }
}

/// Checks a new service, which has no last good values: the ports that are good are served, and a
/// component whose settings are bad waits.
fn assert_started(world: &World) {
    let exists = |name: &str| world.server.manifests.contains_key(name);
    let has_any = |faults: &[Fault]| faults.iter().any(|fault| world.has(*fault));
    let is_blocked = has_any(&[Fault::LostKey, Fault::OtherKey, Fault::TakenName]);
    let is_bad = has_any(&[
        Fault::BackendTorrc,
        Fault::BackendLabels,
        Fault::BackendReplicas,
        Fault::BackendToleration,
        Fault::UnreadableDrainTimeout,
    ]);
    let faults = &world.faults;
    let (configured, accepted) = (!is_blocked && !is_bad, !world.has(Fault::RefusedAffinity));
    assert_eq!(exists("ConfigMap web-backend"), configured, "{faults:?}");
    assert_eq!(exists("Deployment web-backend"), configured && accepted, "{faults:?}");
    assert_eq!(exists("Deployment web-frontend"), !is_blocked && !world.has(Fault::FrontendTorrc), "{faults:?}");
    let Some(config) = world.server.manifests.get("ConfigMap web-backend") else { return };
    let config = config["data"]["agent.yaml"].as_str().unwrap();
    for (target, fault) in [
        ("web-0:80", None),
        ("chat.shop.svc:1", Some(Fault::MissingTarget)),
        ("a:1", Some(Fault::InvalidPort)),
        ("a:2", Some(Fault::ForbiddenTarget)),
    ] {
        let is_served = !fault.is_some_and(|fault| world.has(fault));
        assert_eq!(config.contains(target), is_served, "{target}: {faults:?}");
    }
}

/// Ends one fault after the other, and checks that the service is ready in the end.
fn recover(world: &mut World) {
    while world.faults.pop_first().is_some() {
        world.reconcile();
        world.check_names();
    }
    world.check_health();
}

#[test]
fn each_bad_part_of_a_running_service_harms_nothing_else() {
    let changed = Good { replicas: 4, frontends: 2, suspend: false, points: 5, target: 1, image: 1 };
    for suspend in [false, true] {
        for fault in Fault::ALL {
            let mut world = World::new(BTreeSet::new(), Good::FIRST);
            world.reconcile();
            world.faults.insert(fault);
            world.good = Good { suspend, ..changed };
            world.reconcile();
            let replicas = if fault == Fault::BackendReplicas { Good::FIRST.replicas } else { changed.replicas };
            assert_same(&world, &World::without_faults(Good { replicas, ..world.good }));
            world.check_names();
            recover(&mut world);
        }
    }
}

#[test]
fn each_bad_part_of_a_new_service_harms_nothing_else() {
    for fault in Fault::ALL {
        let mut world = World::new(BTreeSet::from([fault]), Good::FIRST);
        world.reconcile();
        world.check_names();
        assert_started(&world);
        recover(&mut world);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn bad_parts_of_a_running_service_harm_nothing_else(changes in vec(change(), 1..12)) {
        let mut world = World::new(BTreeSet::new(), Good::FIRST);
        world.reconcile();
        world.check_health();
        let mut replicas = Good::FIRST.replicas;
        let (mut known, mut expected) = (Good::FIRST, World::without_faults(Good::FIRST));
        for change in changes {
            world.apply(change);
            world.reconcile();
            if !world.has(Fault::BackendReplicas) {
                replicas = world.good.replicas;
            }
            // While the number of backends is invalid, a new number is unknown.
            let good = Good { replicas, ..world.good };
            if known != good {
                (known, expected) = (good, World::without_faults(good));
            }
            assert_same(&world, &expected);
            world.check_names();
            if world.good.suspend {
                for kind in ["BackendsReady", "Published"] {
                    prop_assert!(condition(&world.status, kind).starts_with("False Suspended: "));
                }
            }
        }
        recover(&mut world);
    }

    #[test]
    fn bad_parts_of_a_new_service_harm_nothing_else(faults in btree_set(select(Fault::ALL.to_vec()), 0..5)) {
        let mut world = World::new(faults, Good::FIRST);
        world.reconcile();
        world.check_names();
        assert_started(&world);
        recover(&mut world);
    }
}
