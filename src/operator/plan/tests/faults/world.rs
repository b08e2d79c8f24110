//! A service with faults, and its fake API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::super::support::{Server, address, condition, from, key_secret, lease, other_key, published, with};
use crate::crd::names::Component;
use crate::crd::validate::Problem;
use crate::crd::{OnionBalancedServiceStatus, Reason};
use crate::onion::{ClientSecretKey, Kit, PeriodCalendar};
use crate::operator::children::tests::support::{Fixture, environment, object};
use crate::operator::children::{ChildId, Kind};
use crate::operator::plan::{KeyPermit, KeySecret, Observed, Rival};
use crate::operator::pods::{PodProblem, PodState};
use crate::operator::policy::ObjectPolicy;
use crate::operator::settings::Environment;

/// A bad part of a service, or of its surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    MissingTarget,
    InvalidPort,
    BackendTorrc,
    BackendLabels,
    BackendReplicas,
    BackendToleration,
    UnreadableDrainTimeout,
    UnreadableCircuitLimits,
    RefusedAffinity,
    FrontendTorrc,
    FrontendLabels,
    FrontendProbe,
    ForbiddenTarget,
    HealthCheck,
    UnreadablePort,
    UnreadableGuards,
    ExternalBackend,
    AuthorizedClient,
    MasterKeyField,
    DelegatedWithoutSecret,
    LostKey,
    OtherKey,
    TruncatedKit,
    Rival,
    TakenName,
    Unschedulable,
}

impl Fault {
    pub(super) const ALL: [Self; 26] = [
        Self::MissingTarget,
        Self::InvalidPort,
        Self::BackendTorrc,
        Self::BackendLabels,
        Self::BackendReplicas,
        Self::BackendToleration,
        Self::UnreadableDrainTimeout,
        Self::UnreadableCircuitLimits,
        Self::RefusedAffinity,
        Self::FrontendTorrc,
        Self::FrontendLabels,
        Self::FrontendProbe,
        Self::ForbiddenTarget,
        Self::HealthCheck,
        Self::UnreadablePort,
        Self::UnreadableGuards,
        Self::ExternalBackend,
        Self::AuthorizedClient,
        Self::MasterKeyField,
        Self::DelegatedWithoutSecret,
        Self::LostKey,
        Self::OtherKey,
        Self::TruncatedKit,
        Self::Rival,
        Self::TakenName,
        Self::Unschedulable,
    ];

    /// The bad parts that have no last good values.
    const LEFT_OUT: [Self; 2] = [Self::ExternalBackend, Self::AuthorizedClient];

    /// The faults without which there would be a usable key.
    pub(super) const OF_KEY: [Self; 6] = [
        Self::MasterKeyField,
        Self::DelegatedWithoutSecret,
        Self::LostKey,
        Self::OtherKey,
        Self::TruncatedKit,
        Self::Rival,
    ];

    /// The faults in the spec's fields of the key. No key is read while one of them is present.
    const OF_KEY_FIELDS: [Self; 2] = [Self::MasterKeyField, Self::DelegatedWithoutSecret];

    /// Returns the part of the spec that does not match our types, if this is the fault.
    fn unreadable(self) -> Option<&'static str> {
        match self {
            Self::UnreadableDrainTimeout => Some("spec.backends.drainTimeoutSeconds"),
            Self::UnreadableCircuitLimits => Some("spec.backends.circuitLimits"),
            Self::UnreadablePort => Some("spec.ports[5]"),
            Self::UnreadableGuards => Some("spec.anonymity"),
            _ => None,
        }
    }

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
            Self::UnreadableCircuitLimits => ("Accepted", "spec.backends.circuitLimits: cannot be read"),
            Self::RefusedAffinity => ("BackendsReady", "Deployment web-backend: exceeded quota"),
            Self::FrontendTorrc => ("Accepted", "spec.frontend.extraTorrc: "),
            Self::FrontendLabels => ("Accepted", "spec.frontend.template.labels: "),
            Self::FrontendProbe => ("Accepted", "spec.frontend.probe.periodSeconds: "),
            Self::HealthCheck => ("Accepted", "spec.ports[4].healthCheck.periodSeconds: "),
            Self::UnreadablePort => ("Accepted", "spec.ports[5]: cannot be read"),
            Self::UnreadableGuards => ("Accepted", "spec.anonymity: cannot be read"),
            Self::ForbiddenTarget => ("Accepted", "spec.ports[3].target.address: "),
            Self::ExternalBackend => ("Accepted", "spec.externalBackends[1].onionAddress: "),
            Self::AuthorizedClient => ("Accepted", "spec.restrictedDiscovery.clients[1].publicKey: "),
            Self::MasterKeyField => ("Accepted", "spec.masterKey.secretName: "),
            Self::DelegatedWithoutSecret => ("Accepted", "spec.masterKey.delegated: "),
            Self::LostKey => ("MasterKeyReady", "SecretNotFound: "),
            Self::OtherKey => ("MasterKeyReady", "AddressMismatch: "),
            Self::TruncatedKit => ("MasterKeyReady", "entry signing.kit: the signing kit is truncated"),
            Self::Rival => ("MasterKeyReady", "KeyConflict: "),
            Self::TakenName => ("Accepted", "Service web-frontend exists and does not belong to this object"),
            Self::Unschedulable => ("BackendsReady", "0/1 nodes are available"),
        }
    }
}

/// The values that a user changes while parts of the service are bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Good {
    pub(super) replicas: i32,
    pub(super) frontends: i32,
    pub(super) suspend: bool,
    pub(super) points: u8,
    pub(super) target: u8,
    pub(super) image: u8,
}

impl Good {
    pub(super) const FIRST: Self = Self { replicas: 2, frontends: 1, suspend: false, points: 3, target: 0, image: 0 };
}

/// A change to a service.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Begin(Fault),
    End(Fault),
    Replicas(i32),
    Frontends(i32),
    Suspend(bool),
    Points(u8),
    Target(u8),
    Image(u8),
}

pub(super) fn change() -> impl Strategy<Value = Change> {
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

/// Returns a Secret whose signing kit ends too early.
fn truncated_kit() -> KeySecret {
    static KIT: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let kit = Kit::issue(&Fixture::new().key, PeriodCalendar::PUBLIC, 20_000, 1).unwrap();
        kit.to_bytes()[..100].to_vec()
    });
    let metadata = from(json!({"name": "mine", "namespace": "shop", "resourceVersion": "7"}));
    KeySecret::new(metadata, Some(BTreeMap::from([("signing.kit".to_owned(), ByteString(KIT.clone()))])))
}

/// A service with its fake API server.
pub(super) struct World {
    pub(super) server: Server,
    pub(super) faults: BTreeSet<Fault>,
    pub(super) good: Good,
    pub(super) status: OnionBalancedServiceStatus,
}

impl World {
    pub(super) fn new(faults: BTreeSet<Fault>, good: Good) -> Self {
        let server = Server { refuses_affinity: true, ..Server::default() };
        Self { server, faults, good, status: OnionBalancedServiceStatus::default() }
    }

    /// Returns the manifests of a service without faults.
    pub(super) fn without_faults(good: Good) -> BTreeMap<String, Value> {
        let mut world = Self::new(BTreeSet::new(), good);
        world.reconcile();
        world.server.manifests
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    pub(super) fn has_any(&self, faults: &[Fault]) -> bool {
        faults.iter().any(|fault| self.has(*fault))
    }

    pub(super) fn apply(&mut self, change: Change) {
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
        let reserved = json!({"app.kubernetes.io/x": "y"});
        let mut template = json!({"labels": bad(Fault::BackendLabels, reserved.clone(), json!({"team": "a"}))});
        if self.has(Fault::BackendToleration) {
            template["tolerations"] = json!([{"operator": "Exists"}]);
        }
        if self.has(Fault::RefusedAffinity) {
            template["affinity"] = json!({"refused": {}});
        }
        let mut external = vec![json!({"onionAddress": other_key().address().to_string()})];
        if self.has(Fault::ExternalBackend) {
            external.push(json!({"onionAddress": "a.onion"}));
        }
        let client = ClientSecretKey::from_bytes([1; 32]).public().to_string();
        let mut clients = vec![json!({"name": "ann", "publicKey": client})];
        if self.has(Fault::AuthorizedClient) {
            clients.push(json!({"name": "bob", "publicKey": "no key"}));
        }
        // An unreadable part has a default value.
        let unreadable_port = json!({"port": 85, "target": {}});
        let port = json!({"port": 85, "target": {"address": "a:4"}, "proxyProtocol": "v1"});
        let probe = json!({"enabled": true, "periodSeconds": 1});
        json!({
            "ports": [
                {"name": "http", "port": 80, "target": {"address": format!("web-{}:80", self.good.target)}},
                {"port": 81, "target": {"service": {"name": "chat", "port": 1}}},
                {"port": 82, "target": {"address": bad(Fault::InvalidPort, json!("no port"), json!("a:1"))}},
                {"port": 83, "target": {"address": bad(Fault::ForbiddenTarget, json!("127.0.0.1:1"), json!("a:2"))}},
                {"port": 84, "target": {"address": "a:3"}, "healthCheck": {
                    "periodSeconds": bad(Fault::HealthCheck, json!(0), json!(30)),
                }},
                bad(Fault::UnreadablePort, unreadable_port, port),
            ],
            "masterKey": self.master_key(),
            "anonymity": {"guards": bad(Fault::UnreadableGuards, json!("Shared"), json!("PerPod"))},
            "externalBackends": external,
            "restrictedDiscovery": {"clients": clients},
            "suspend": self.good.suspend,
            "backends": {
                "replicas": bad(Fault::BackendReplicas, json!(-1), json!(self.good.replicas)),
                "introductionPoints": self.good.points,
                "circuitLimits": bad(Fault::UnreadableCircuitLimits, Value::Null, json!({"openStreams": 9})),
                "extraTorrc": bad(Fault::BackendTorrc, refused.clone(), json!("NumCPUs 1")),
                "template": template,
            },
            "frontend": {
                "replicas": self.good.frontends,
                "probe": bad(Fault::FrontendProbe, probe, json!({"enabled": false})),
                "extraTorrc": bad(Fault::FrontendTorrc, refused, json!("NumCPUs 2")),
                "template": {"labels": bad(Fault::FrontendLabels, reserved, json!({"team": "b"}))},
            },
        })
    }

    fn master_key(&self) -> Value {
        if self.has(Fault::DelegatedWithoutSecret) {
            return json!({"delegated": true, "onionAddress": address()});
        }
        let name = if self.has(Fault::MasterKeyField) { "No Name" } else { "mine" };
        json!({"secretName": name, "onionAddress": address(), "delegated": self.has(Fault::TruncatedKit)})
    }

    fn key_secret(&self) -> Option<KeySecret> {
        let key = if self.has(Fault::OtherKey) { other_key() } else { Fixture::new().key };
        let is_missing = self.has(Fault::LostKey) || self.has_any(&Fault::OF_KEY_FIELDS);
        let secret = || if self.has(Fault::TruncatedKit) { truncated_kit() } else { key_secret(&key) };
        (!is_missing).then(secret)
    }

    /// Returns an older service in another namespace that has the same key.
    fn rivals(&self) -> Vec<Rival> {
        let created = with(&object(&json!({})), "metadata/creationTimestamp", json!("2025-01-01T00:00:00Z"));
        let elsewhere = with(&created, "metadata/namespace", json!("other"));
        let other = with(&elsewhere, "metadata/uid", json!("uid-of-other"));
        let object = with(&other, "status", json!({ "onionAddress": address() }));
        let rival = Rival { object, key: Some(Fixture::new().key.address()) };
        self.has(Fault::Rival).then_some(rival).into_iter().collect()
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
        vec![PodState { pod, uid, component: Component::Backend, problem, creating_since: None, rejected: None }]
    }

    fn observed(&self) -> Observed {
        let mut object = object(&self.spec());
        object.status = Some(self.status.clone());
        let mut environment: Environment = environment();
        environment.settings.data_plane_image = format!("operator:{}", self.good.image);
        environment.settings.policy = ObjectPolicy::without_tolerations();
        // Without bridges, it matters whether the pods share their guards.
        environment.settings.tor_extra_config = String::new();
        let unreadable = self.faults.iter().filter_map(|fault| fault.unreadable());
        let unreadable =
            unreadable.map(|field| Problem { field: field.to_owned(), message: "cannot be read".to_owned() });
        let chat = json!({"metadata": {"name": "chat"}, "spec": {"clusterIP": "10.0.0.2", "ports": [{"port": 1}]}});
        let chat = (!self.has(Fault::MissingTarget)).then(|| ("chat".to_owned(), from(chat)));
        Observed {
            object: Arc::new(object),
            unreadable: unreadable.collect(),
            environment: Arc::new(environment),
            rivals: self.rivals(),
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
    pub(super) fn reconcile(&mut self) {
        self.take_or_free_a_name();
        for _ in 0..2 {
            self.server.applied.clear();
            let (_, status) = self.server.run(self.observed());
            // The publisher publishes a descriptor after the first reconciliation.
            let mut published = published();
            published["authorizedClients"] = json!(1);
            self.status = OnionBalancedServiceStatus { published: from(json!([published])), ..status };
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
    pub(super) fn check_names(&self) {
        for fault in &self.faults {
            let is_hidden = match fault {
                // No key is read for an invalid name. A key that is read is first compared with the
                // address.
                Fault::MasterKeyField => self.has(Fault::DelegatedWithoutSecret),
                Fault::LostKey => self.has_any(&Fault::OF_KEY_FIELDS),
                Fault::TruncatedKit => self.has(Fault::LostKey) || self.has_any(&Fault::OF_KEY_FIELDS),
                Fault::OtherKey => {
                    self.has_any(&[Fault::LostKey, Fault::TruncatedKit]) || self.has_any(&Fault::OF_KEY_FIELDS)
                }
                Fault::Rival => {
                    self.has_any(&[Fault::LostKey, Fault::TruncatedKit, Fault::OtherKey])
                        || self.has_any(&Fault::OF_KEY_FIELDS)
                }
                Fault::Unschedulable => {
                    self.good.suspend || !self.server.manifests.contains_key("Deployment web-backend")
                }
                // Nothing is refused before the backends can be configured.
                Fault::RefusedAffinity => !self.server.manifests.contains_key("ConfigMap web-backend"),
                // Without a key, nothing is about to be created, so nobody looks for the names.
                Fault::TakenName => self.server.manifests.is_empty() && self.has_any(&Fault::OF_KEY),
                _ => false,
            };
            let (kind, text) = fault.name();
            let found = condition(&self.status, kind);
            assert!(is_hidden || found.contains(text), "{fault:?} of {:?} is not named: {found}", self.faults);
        }
        self.check_consequence();
    }

    /// Checks that the conditions say which bad parts are left out, and which ones keep their last
    /// good values.
    fn check_consequence(&self) {
        let in_spec = |fault: &&Fault| fault.name().0 == "Accepted" && **fault != Fault::TakenName;
        let keeps_any = self.faults.iter().filter(in_spec).any(|fault| !Fault::LEFT_OUT.contains(fault));
        let accepted = condition(&self.status, "Accepted");
        for (text, expected) in [
            ("these backends and clients are left out", self.has_any(&Fault::LEFT_OUT)),
            ("keep the values that were last accepted", keeps_any),
        ] {
            assert_eq!(accepted.contains(text), expected, "{:?}: {accepted}", self.faults);
        }
        let clients = condition(&self.status, "ClientsReady");
        assert_eq!(clients.starts_with("True "), !self.has(Fault::AuthorizedClient), "{clients}");
        assert!(clients.ends_with("1 client may connect."), "{clients}");
    }

    /// Checks that a service without faults is ready, or has stopped if the user wants that.
    pub(super) fn check_health(&self) {
        assert!(self.faults.is_empty());
        let expected = if self.good.suspend { "False Suspended: " } else { "True Ready: " };
        let found = condition(&self.status, "Ready");
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(self.server.manifests, World::without_faults(self.good));
    }
}
