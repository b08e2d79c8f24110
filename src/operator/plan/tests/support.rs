//! Fixtures for the tests of the plan: a healthy service with three backends for a test to change,
//! and a fake API server that executes steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::{
    Applied, Conclusion, Due, KeyPermit, KeySecret, Labelled, Last, LastObjects, Next, Observed, Outcome, OwnedObjects,
    RefusedWrite, Scale, Taken, plan, status,
};
use crate::crd::{OnionBalancedService, OnionBalancedServiceStatus};
use crate::onion::MasterKey;
use crate::operator::children::tests::support::{Fixture, all_children, environment, object};
use crate::operator::children::{ChildId, Kind, Stage, ids};
use crate::operator::holder::holder;

pub const NOW: i64 = 1_767_225_600;

pub fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

/// Returns a copy of the object with a new value at a path such as `spec/ports/0/port`.
pub fn with(object: &OnionBalancedService, path: &str, value: Value) -> Arc<OnionBalancedService> {
    let mut whole = serde_json::to_value(object).unwrap();
    let mut place = &mut whole;
    for step in path.split('/') {
        place = match step.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[step],
        };
    }
    *place = value;
    Arc::new(from(whole))
}

pub fn key_secret(key: &MasterKey) -> KeySecret {
    secret_of(&key.to_tor_secret_key_file())
}

pub fn secret_of(file: &[u8]) -> KeySecret {
    let metadata = from(json!({"name": "web-master-key", "namespace": "shop", "resourceVersion": "7"}));
    KeySecret::new(
        metadata,
        Some(BTreeMap::from([("hs_ed25519_secret_key".to_owned(), k8s_openapi::ByteString(file.to_vec()))])),
    )
}

pub fn service(ports: &Value, cluster_ip: &str) -> BTreeMap<String, Service> {
    let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": cluster_ip, "ports": ports}});
    BTreeMap::from([("web".to_owned(), from(service))])
}

pub fn address() -> String {
    Fixture::new().key.address().to_string()
}

/// Returns a key that does not belong to the service.
pub fn other_key() -> MasterKey {
    MasterKey::generate(&mut StdRng::seed_from_u64(2))
}

/// Returns the facts about a healthy service after all steps have been executed.
pub fn healthy() -> Observed {
    let deployment = json!({
        "metadata": {"name": "web-backend", "generation": 3},
        "status": {"observedGeneration": 3, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 3},
    });
    let object = with(
        &object(&json!({"backends": {"replicas": 3}})),
        "status",
        json!({
            "onionAddress": address(),
            "backends": [{"name": "web-backend-1", "introductionPoints": 3, "state": "Ready", "since": "2025-12-31T00:00:00Z"}],
            "published": [published()],
        }),
    );
    let account = ChildId { kind: Kind::ServiceAccount, name: "web-frontend".to_owned() };
    let account = (account, from(json!({"uid": "uid-of-account", "ownerReferences": [owner()]})));
    Observed {
        rivals: Vec::new(),
        unreadable: Vec::new(),
        object,
        environment: Arc::new(environment()),
        clients_secret: None,
        key_secret: Some(key_secret(&Fixture::new().key)),
        services: service(&json!([{"name": "http", "port": 80}]), "10.0.0.1"),
        last: Some(last_good()),
        taken: Vec::new(),
        backends: Some(Arc::new(from(deployment))),
        frontends: None,
        pods: Vec::new(),
        lease: Some(from(lease())),
        key_permit: KeyPermit::Unknown,
        generated_key: false,
        tried_key_owners: false,
        scaled: false,
        owned: Some(OwnedObjects {
            existing: BTreeMap::from([account]),
            labelled: Vec::new(),
            asked_server: true,
            applied: Some(Stage::Fallbacks),
            written: BTreeSet::new(),
            pruned: true,
        }),
        refused: Vec::new(),
    }
}

/// Returns the publishers' Lease, which has been renewed in time.
pub fn lease() -> Value {
    json!({
        "metadata": {"name": "web-frontend"},
        "spec": {"renewTime": "2025-12-31T23:59:50.000000Z", "leaseDurationSeconds": 15},
    })
}

/// Returns the status of a published descriptor.
pub fn published() -> Value {
    json!({
        "timePeriod": 1, "revisionCounter": 2, "introductionPoints": 9, "hsdirsAccepted": 8, "hsdirsTotal": 8,
        "lastPublished": "2025-12-31T23:00:00Z",
    })
}

/// Returns an owner reference to the service, which makes the service the controller.
pub fn owner() -> Value {
    json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "name": "web", "uid": "uid-of-web",
        "controller": true,
    })
}

/// Returns the last good values of the healthy service.
pub fn last_good() -> Last {
    let fixture = Fixture::of(&json!({"backends": {"replicas": 3}}));
    let children = all_children(&fixture.inputs());
    let object = |id: &str| {
        let mut manifest = children.iter().find(|child| child.id.to_string() == id).unwrap().manifest.clone();
        manifest["metadata"]["managedFields"] = all_fields_are_ours();
        manifest
    };
    let found = LastObjects {
        backends: from(object("Deployment web-backend")["metadata"].clone()),
        frontend: from(object("Deployment web-frontend")["metadata"].clone()),
    };
    Last::read(found, "web", |_, metadata| holder(metadata, &fixture.object, || false))
}

/// Returns the managed fields of an object of which we own all fields: an empty field set.
fn all_fields_are_ours() -> Value {
    json!([{"manager": "onionbalance-operator", "operation": "Apply", "fieldsV1": {}}])
}

/// Returns the facts about a new service, before the first step.
pub fn fresh() -> Observed {
    let observed = healthy();
    let object = with(&observed.object, "status", Value::Null);
    Observed { object, key_secret: None, backends: None, lease: None, owned: None, last: None, ..observed }
}

/// Returns the conclusion and the status of a reconciliation. Panics if a step is left.
pub fn concluded(observed: &Observed) -> (Conclusion, OnionBalancedServiceStatus) {
    let Next::Done(conclusion) = plan(observed) else { panic!("a step is left") };
    let previous = observed.object.status.clone().unwrap_or_default();
    let status = status(observed, &conclusion, &previous, now());
    (conclusion, status)
}

/// Returns a condition as `status reason: message`.
pub fn condition(status: &OnionBalancedServiceStatus, kind: &str) -> String {
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    format!("{} {}: {}", condition.status, condition.reason, condition.message)
}

/// The fake API server's response to the creation of the key's Secret.
#[derive(Default)]
pub enum KeyCreation {
    /// The Secret is created.
    #[default]
    Created,
    /// This Secret already exists.
    Exists(Box<KeySecret>),
    /// A Secret exists, but is deleted before it can be read.
    Vanished,
}

/// A fake API server. It accepts every write by default.
#[derive(Default)]
pub struct Server {
    /// The service as it is stored on the API server.
    pub object: Option<OnionBalancedService>,
    /// The response to the creation of the key's Secret.
    pub key_creation: KeyCreation,
    /// The objects that the API server refuses, such as `ConfigMap web-backend`.
    pub refuses: &'static [&'static str],
    /// True if the API server refuses every Deployment with an affinity.
    pub refuses_affinity: bool,
    /// The owned objects whose names are taken by other objects.
    pub taken: &'static [&'static str],
    /// The existing objects that have the names of owned objects. Applied objects are added.
    pub existing: BTreeMap<ChildId, ObjectMeta>,
    /// The objects with the labels of the service.
    pub labelled: Vec<Labelled>,
    /// Short descriptions of the executed steps.
    pub steps: Vec<String>,
    /// The applied objects with their manifests.
    pub applied: Vec<(String, Value)>,
    /// The newest manifest of each applied object.
    pub manifests: BTreeMap<String, Value>,
    /// The Deployments of which only the number of pods was set.
    pub scaled: Vec<Scale>,
}

impl Server {
    /// Plans and executes steps until nothing is left to do. Returns the facts and the status.
    pub fn run(&mut self, mut observed: Observed) -> (Observed, OnionBalancedServiceStatus) {
        loop {
            match plan(&observed) {
                Next::Done(_) => {
                    let (_, status) = concluded(&observed);
                    return (observed, status);
                }
                step => {
                    let mut outcome = self.execute(step);
                    // Only the names of the spec's own objects are looked up.
                    if let Outcome::ChildrenFound { existing, .. } = &mut outcome {
                        let ids = ids(&observed.object, &observed.environment);
                        existing.retain(|id, _| ids.contains(id));
                    }
                    observed.learn(outcome);
                }
            }
        }
    }

    fn execute(&mut self, step: Next) -> Outcome {
        self.steps.push(describe(&step));
        match step {
            Next::ReadObject => Outcome::ObjectRead(self.object.clone().map(Box::new)),
            Next::GenerateKey => self.generate_key(),
            Next::SetKeyOwners(_) => Outcome::KeyOwnersTried,
            Next::FindChildren { ask_server } => self.find(ask_server),
            Next::ReadLast => Outcome::LastRead(Box::new(self.last())),
            Next::Apply(stage, due) => {
                let mut results = Vec::new();
                for due in due {
                    let (id, result) = self.apply(due);
                    let is_taken = matches!(result, Applied::Taken(_));
                    results.push((id, result));
                    if is_taken {
                        break;
                    }
                }
                Outcome::Applied(stage, results)
            }
            Next::Scale(scales) => {
                self.scaled.extend(scales);
                Outcome::Scaled
            }
            Next::Prune(_) => Outcome::Pruned,
            Next::Done(_) => unreachable!(),
        }
    }

    /// Only labelled objects are in the cache; all others are found only if the server is asked.
    fn find(&self, ask_server: bool) -> Outcome {
        let existing = self.existing.iter().filter(|(_, found)| ask_server || found.labels.is_some());
        let existing = existing.map(|(id, found)| (id.clone(), found.clone())).collect();
        let labelled = self.existing.iter().filter(|(_, found)| found.labels.is_some());
        let labelled = labelled.map(|(id, found)| (id.kind, found.clone())).chain(self.labelled.iter().cloned());
        Outcome::ChildrenFound { existing, labelled: labelled.collect(), asked_server: ask_server }
    }

    fn last(&self) -> Last {
        let metadata = |kind, name: &str| self.existing.get(&ChildId { kind, name: name.to_owned() }).cloned();
        let (backends, frontend) =
            (metadata(Kind::Deployment, "web-backend"), metadata(Kind::Deployment, "web-frontend"));
        let found = LastObjects { backends, frontend };
        Last::read(found, "web", |_, metadata| holder(metadata, &object(&json!({})), || false))
    }

    fn generate_key(&mut self) -> Outcome {
        let child = ChildId { kind: Kind::Secret, name: "web-master-key".to_owned() };
        if self.refuses.contains(&"Secret web-master-key") {
            return Outcome::KeyRefused(RefusedWrite { child, message: "exceeded quota".to_owned() });
        }
        let rivals = Vec::new();
        match std::mem::take(&mut self.key_creation) {
            KeyCreation::Created => Outcome::KeyGenerated { secret: Box::new(key_secret(&Fixture::new().key)), rivals },
            KeyCreation::Exists(secret) => Outcome::KeyExisted { secret: Some(secret), rivals },
            KeyCreation::Vanished => Outcome::KeyExisted { secret: None, rivals },
        }
    }

    fn apply(&mut self, due: Due) -> (ChildId, Applied) {
        let name = due.id.to_string();
        if self.taken.contains(&&*name) {
            return (due.id.clone(), Applied::Taken(Taken { child: due.id, by_predecessor: false }));
        }
        let has_affinity = due.manifest.pointer("/spec/template/spec/affinity").is_some();
        if self.refuses.contains(&&*name) || (self.refuses_affinity && has_affinity) {
            return (due.id, Applied::Refused("exceeded quota".to_owned()));
        }
        let metadata = as_applied(&due);
        self.existing.insert(due.id.clone(), metadata.clone());
        self.manifests.insert(name.clone(), due.manifest.clone());
        self.applied.push((name, due.manifest));
        (due.id, Applied::Written(Box::new(metadata)))
    }
}

/// Returns the metadata that an object has after it was applied.
pub fn as_applied(due: &Due) -> ObjectMeta {
    let mut metadata = due.manifest["metadata"].clone();
    metadata["uid"] = format!("uid-of-{}", due.id).into();
    metadata["generation"] = 1.into();
    metadata["managedFields"] = all_fields_are_ours();
    from(metadata)
}

/// Describes a step in a few words.
pub fn describe(step: &Next) -> String {
    match step {
        Next::ReadObject => "read object".to_owned(),
        Next::GenerateKey => "generate key".to_owned(),
        Next::SetKeyOwners(owners) => format!("set {} key owners", owners.len()),
        Next::FindChildren { ask_server: false } => "find children".to_owned(),
        Next::FindChildren { ask_server: true } => "find children on the server".to_owned(),
        Next::ReadLast => "read last values".to_owned(),
        Next::Apply(stage, due) => format!("apply {} {stage:?}", due.len()),
        Next::Scale(scales) => {
            let scale = |scale: &Scale| format!("{} to {}", scale.id, scale.replicas);
            format!("scale {}", scales.iter().map(scale).collect::<Vec<_>>().join(", "))
        }
        Next::Prune(orphans) => {
            let names: Vec<_> = orphans.iter().map(|orphan| orphan.id.to_string()).collect();
            format!("prune {}", names.join(", "))
        }
        Next::Done(_) => "done".to_owned(),
    }
}
