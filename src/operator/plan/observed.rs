//! The facts that a plan depends on, including the outcomes of executed steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

use super::last::Last;
use crate::crd::OnionBalancedService;
use crate::crd::clients::ClientList;
use crate::crd::names::Component;
use crate::crd::validate::Problem;
use crate::onion::{Kit, Kits, MasterKey, OnionAddress, ServiceKey};
use crate::operator::children::{ChildId, Kind, SECRET_KEY_FILE, SIGNING_KIT_FILE, Stage};
use crate::operator::holder::{Holder, holder, is_kept_guards};
use crate::operator::origin;
use crate::operator::pods::PodState;
use crate::operator::settings::Environment;

/// Everything that a reconciliation knows and everything that it has tried.
pub struct Observed {
    /// The service that is being reconciled.
    pub object: Arc<OnionBalancedService>,
    /// The parts of the service that do not match our types. They have default values in `object`.
    pub unreadable: Vec<Problem>,
    /// The operator's settings and the optional APIs of the API server.
    pub environment: Arc<Environment>,
    /// The other watched services that may use the same key.
    pub rivals: Vec<Rival>,
    /// The Secret of the master key, if it exists.
    pub key_secret: Option<KeySecret>,
    /// The content of the Secret that `spec.restrictedDiscovery` names.
    pub clients_secret: Option<ClientList>,
    /// The existing target Services, by name.
    pub services: BTreeMap<String, Service>,
    /// The last good values of the owned objects. They are read only if they are needed.
    pub last: Option<Last>,
    /// The owned objects that cannot be created because their names are taken by other objects.
    pub taken: Vec<Taken>,
    /// The backends' Deployment, if it exists.
    pub backends: Option<Arc<Deployment>>,
    /// The frontends' Deployment, if it exists.
    pub frontends: Option<Arc<Deployment>>,
    /// The service's pods that have not finished, and those that their nodes have rejected lately,
    /// sorted by name.
    pub pods: Vec<PodState>,
    /// The publishers' Lease, if it belongs to this service.
    pub lease: Option<Lease>,
    /// Whether this reconciliation is allowed to generate a master key.
    pub key_permit: KeyPermit,
    /// True if this reconciliation generated the key.
    pub generated_key: bool,
    /// True if this reconciliation has tried to set the owners of the key's Secret.
    pub tried_key_owners: bool,
    /// True if this reconciliation has set the number of pods of the Deployments that cannot be
    /// applied.
    pub scaled: bool,
    /// The existing owned objects, once they have been looked up.
    pub owned: Option<OwnedObjects>,
    /// The owned objects that the API server refused in this reconciliation.
    pub refused: Vec<RefusedWrite>,
}

/// Another service that may use the same key.
pub struct Rival {
    /// The other service.
    pub object: Arc<OnionBalancedService>,
    /// The address of the key that the operator has read from the other service's own Secret. None
    /// if both services name the same Secret, or if the other Secret holds no valid key. The status
    /// of the other service is no evidence, because a tenant may be able to write it.
    pub key: Option<OnionAddress>,
}

/// The Secret of the master key. The data is moved out of the API object, so that it
/// is zeroized when it is dropped.
pub struct KeySecret {
    /// The metadata of the Secret.
    pub metadata: ObjectMeta,
    /// The data of the Secret, by entry.
    pub data: BTreeMap<String, zeroize::Zeroizing<Vec<u8>>>,
    /// The signing kit in the Secret. It is parsed once, because this takes long.
    kits: OnceLock<Result<Arc<Kits>, String>>,
}

impl KeySecret {
    /// Creates the Secret from the metadata and data of an API object.
    pub fn new(metadata: ObjectMeta, data: Option<BTreeMap<String, ByteString>>) -> Self {
        let data = data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, zeroize::Zeroizing::new(bytes.0)));
        Self { metadata, data: data.collect(), kits: OnceLock::new() }
    }

    /// Returns the signing kit in the Secret, or the reason why there is none that can be used.
    pub fn kits(&self) -> Result<&Arc<Kits>, &str> {
        let kits = self.kits.get_or_init(|| match self.data.get(SIGNING_KIT_FILE) {
            Some(bytes) => Kit::parse(bytes)
                .map(|kit| Arc::new(kit.into()))
                .map_err(|error| format!("entry {SIGNING_KIT_FILE}: {error}")),
            None => Err(format!("the entry {SIGNING_KIT_FILE} is missing")),
        });
        kits.as_ref().map_err(String::as_str)
    }

    /// Returns the master key in the Secret or, if the Secret has none, its signing kit.
    pub fn service_key(&self) -> Option<ServiceKey> {
        match self.master_key() {
            Some(key) => Some(key.into()),
            None => self.kits().ok().cloned().map(ServiceKey::Kits),
        }
    }

    /// Returns the key in the Secret, if the Secret holds a valid key.
    pub fn master_key(&self) -> Option<MasterKey> {
        MasterKey::from_tor_secret_key_file(self.data.get(SECRET_KEY_FILE)?).ok()
    }
}

/// Whether a reconciliation is allowed to generate a master key. This depends on the object's state
/// on the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPermit {
    /// The object has not been read from the API server yet.
    Unknown,
    /// On the API server, the object has the observed UID and generation, and no address.
    Granted,
    /// The object has changed or been deleted, or it already has an address.
    Denied,
    /// A key was generated, or the attempt failed.
    Used,
}

/// An owned object that cannot be created because another object has its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The owned object that cannot be created.
    pub child: ChildId,
    /// True if the other object belongs to a deleted service of the same name. The garbage
    /// collector is about to remove it.
    pub by_predecessor: bool,
}

/// Returns a name conflict for `child` if the existing object of that name does not belong to the
/// service, but to `holder`.
pub fn taken(child: &ChildId, holder: Holder) -> Option<Taken> {
    let by_predecessor = match holder {
        Holder::Us => return None,
        Holder::Predecessor => true,
        Holder::Another => false,
    };
    Some(Taken { child: child.clone(), by_predecessor })
}

/// Returns who holds an existing object that has the kind and name of an owned object. The service
/// holds an object without a controller only if the object has the operator's mark, or is the kept
/// Secret of the guards. The mark cannot be checked if `secret` holds no key.
pub fn holder_of(
    child: &ChildId,
    metadata: &ObjectMeta,
    object: &OnionBalancedService,
    secret: Option<&KeySecret>,
) -> Holder {
    let is_marked = |key: ServiceKey| origin::has_mark(metadata, &origin::service_mark(&key, object, child));
    holder(metadata, object, || {
        is_kept_guards(child, metadata, object) || secret.and_then(KeySecret::service_key).is_some_and(is_marked)
    })
}

/// An owned object that the API server refused to create or update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedWrite {
    /// The owned object that the API server refused.
    pub child: ChildId,
    /// The API server's explanation of the refusal.
    pub message: String,
}

/// The kind and metadata of an object that has a service's labels.
pub type Labelled = (Kind, ObjectMeta);

/// The existing owned objects, and the progress of this reconciliation in applying and pruning
/// them.
#[derive(Debug, Clone, Default)]
pub struct OwnedObjects {
    /// The existing objects that have the names of owned objects.
    pub existing: BTreeMap<ChildId, ObjectMeta>,
    /// All objects with the labels of the service.
    pub labelled: Vec<Labelled>,
    /// True if the API server has been asked for the names that are not in the cache.
    pub asked_server: bool,
    /// The last stage that was applied, if any.
    pub applied: Option<Stage>,
    /// The owned objects that this reconciliation has written.
    pub written: BTreeSet<ChildId>,
    /// True if the unused objects have been pruned.
    pub pruned: bool,
}

impl OwnedObjects {
    /// Returns the metadata of the existing object that has the kind and name of an owned object.
    /// The names were looked up for the spec, which may lack an object that a last good value
    /// needs; such an object is among the labelled ones.
    pub fn find(&self, child: &ChildId) -> Option<&ObjectMeta> {
        let is_it = |(kind, found): &&Labelled| *kind == child.kind && found.name.as_ref() == Some(&child.name);
        let labelled = || self.labelled.iter().find(is_it).map(|(_, found)| found);
        self.existing.get(child).or_else(labelled)
    }
}

/// The result of an executed step.
pub enum Outcome {
    /// The object was read. `None` means that it no longer exists.
    ObjectRead(Option<Box<OnionBalancedService>>),
    /// The master key was generated.
    KeyGenerated {
        /// The Secret that was created for the generated key.
        secret: Box<KeySecret>,
        /// The other services that may use the same key.
        rivals: Vec<Rival>,
    },
    /// A Secret with this name already existed, so no key was generated.
    KeyExisted {
        /// The existing Secret of the master key. `None` means that it no longer exists.
        secret: Option<Box<KeySecret>>,
        /// The other services that may use the same key.
        rivals: Vec<Rival>,
    },
    /// The API server refused the Secret with the generated key.
    KeyRefused(RefusedWrite),
    /// The owners of the key's Secret were set, or the API server refused the change.
    KeyOwnersTried,
    /// The existing objects with the names of owned objects were looked up.
    ChildrenFound {
        /// The existing objects that have the names of owned objects.
        existing: BTreeMap<ChildId, ObjectMeta>,
        /// All objects with the labels of the service.
        labelled: Vec<Labelled>,
        /// True if the API server was asked for the names that are not in the cache.
        asked_server: bool,
    },
    /// The last good values of the owned objects were read.
    LastRead(Box<Last>),
    /// The missing or outdated objects of a stage were applied. If another object had the name of
    /// one of them, the results end with that one.
    Applied(Stage, Vec<(ChildId, Applied)>),
    /// The number of pods of the Deployments that cannot be applied was set, or the API server
    /// refused the change.
    Scaled,
    /// The unused objects were deleted, or the API server refused the deletion.
    Pruned,
}

/// The result of applying one object.
pub enum Applied {
    /// The object was written and now matches the manifest.
    Written(Box<ObjectMeta>),
    /// The API server refused the object with this message.
    Refused(String),
    /// The name of the owned object is taken by another object.
    Taken(Taken),
    /// The object is being deleted, which cannot be undone. If it has our labels, its removal
    /// triggers another reconciliation.
    Leaving,
}

impl Observed {
    /// Updates the facts with the outcome of a step.
    pub fn learn(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::ObjectRead(current) => {
                let granted = current.is_some_and(|current| never_had_a_key(&self.object, &current));
                self.key_permit = if granted { KeyPermit::Granted } else { KeyPermit::Denied };
            }
            Outcome::KeyGenerated { secret, rivals } => {
                self.key_permit = KeyPermit::Used;
                self.generated_key = true;
                (self.key_secret, self.rivals) = (Some(*secret), rivals);
            }
            Outcome::KeyExisted { secret, rivals } => {
                self.key_permit = KeyPermit::Used;
                (self.key_secret, self.rivals) = (secret.map(|secret| *secret), rivals);
            }
            Outcome::KeyRefused(refused) => {
                self.key_permit = KeyPermit::Used;
                self.refused.push(refused);
            }
            Outcome::KeyOwnersTried => self.tried_key_owners = true,
            Outcome::ChildrenFound { existing, labelled, asked_server } => {
                let taken = |(id, found)| taken(id, self.holder_of(id, found));
                for taken in existing.iter().filter_map(taken).collect::<Vec<_>>() {
                    self.learn_taken(taken);
                }
                self.owned = Some(OwnedObjects { existing, labelled, asked_server, ..OwnedObjects::default() });
            }
            Outcome::LastRead(last) => self.last = Some(*last),
            Outcome::Applied(stage, results) => {
                self.owned.get_or_insert_default().applied = Some(stage);
                for (id, result) in results {
                    self.learn_applied(id, result);
                }
            }
            Outcome::Scaled => self.scaled = true,
            Outcome::Pruned => self.owned.get_or_insert_default().pruned = true,
        }
    }

    fn learn_applied(&mut self, child: ChildId, result: Applied) {
        match result {
            Applied::Written(metadata) => {
                if child == self.deployment_id(Component::Backend) {
                    self.expect_rollout(&metadata);
                }
                let owned = self.owned.get_or_insert_default();
                owned.written.insert(child.clone());
                owned.existing.insert(child, *metadata);
            }
            Applied::Refused(message) => {
                // If a fallback is refused too, the first message says what to correct.
                if !self.is_refused(&child) {
                    self.refused.push(RefusedWrite { child, message });
                }
            }
            Applied::Taken(taken) => self.learn_taken(taken),
            Applied::Leaving => {}
        }
    }

    fn learn_taken(&mut self, taken: Taken) {
        if !self.taken.contains(&taken) {
            self.taken.push(taken);
        }
    }

    /// Raises the known generation of the backends' Deployment to the one that an apply returned.
    /// The observed status belongs to the older generation, so the backends are considered to be
    /// rolling out.
    fn expect_rollout(&mut self, applied: &ObjectMeta) {
        let deployment = self.backends.get_or_insert_default();
        if applied.generation > deployment.metadata.generation {
            Arc::make_mut(deployment).metadata.generation = applied.generation;
        }
    }

    /// Returns who holds an existing object that has the kind and name of an owned object.
    pub fn holder_of(&self, child: &ChildId, metadata: &ObjectMeta) -> Holder {
        holder_of(child, metadata, &self.object, self.key_secret.as_ref())
    }

    /// Returns the kind and name of a component's Deployment.
    pub fn deployment_id(&self, component: Component) -> ChildId {
        ChildId { kind: Kind::Deployment, name: component.child_name(&self.object.name_any()) }
    }

    /// Returns a component's Deployment, if it exists and belongs to the service.
    pub fn deployment(&self, component: Component) -> Option<&Deployment> {
        match component {
            Component::Backend => self.backends.as_deref(),
            Component::Frontend => self.frontends.as_deref(),
        }
    }

    /// Returns true if the API server refused an owned object in this reconciliation.
    pub fn is_refused(&self, child: &ChildId) -> bool {
        self.refused.iter().any(|refused| refused.child == *child)
    }

    /// Returns the UID of the frontends' `ServiceAccount`, unless the account is missing, belongs
    /// to somebody else, or is being deleted.
    pub fn frontend_account(&self) -> Option<&str> {
        let name = Component::Frontend.child_name(&self.object.name_any());
        let id = ChildId { kind: Kind::ServiceAccount, name };
        let account = self.owned.as_ref()?.existing.get(&id)?;
        let is_usable = account.deletion_timestamp.is_none() && self.holder_of(&id, account) == Holder::Us;
        account.uid.as_deref().filter(|_| is_usable)
    }
}

/// Returns true if the object is still the one that was observed and has never had a key.
fn never_had_a_key(object: &OnionBalancedService, current: &OnionBalancedService) -> bool {
    let had_a_key = current.status.as_ref().is_some_and(|status| status.onion_address.is_some());
    current.metadata.uid == object.metadata.uid
        && current.metadata.generation == object.metadata.generation
        && !had_a_key
}
