//! The facts that a plan depends on, including the outcomes of executed steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

use crate::crd::OnionBalancedService;
use crate::crd::clients::ClientList;
use crate::crd::names::Component;
use crate::link::AgentConfig;
use crate::onion::MasterKey;
use crate::operator::children::{ChildId, Kind, SECRET_KEY_FILE, Stage};
use crate::operator::holder::{Holder, holder};
use crate::operator::origin;
use crate::operator::pods::PodProblem;
use crate::operator::settings::Environment;

/// Everything that a reconciliation knows and everything that it has tried.
pub struct Observed {
    /// The service that is being reconciled.
    pub object: Arc<OnionBalancedService>,
    /// The operator's settings and the optional APIs of the API server.
    pub environment: Arc<Environment>,
    /// The other watched services that share the master key's Secret or have the key's address.
    pub rivals: Vec<Arc<OnionBalancedService>>,
    /// The Secret of the master key, if it exists.
    pub key_secret: Option<KeySecret>,
    /// The content of the Secret that `spec.restrictedDiscovery` names.
    pub clients_secret: Option<ClientList>,
    /// The existing target Services, by name.
    pub services: BTreeMap<String, Service>,
    /// The current configuration of the backends. It is read only if a port's target cannot be
    /// found.
    pub last_config: Option<AgentConfig>,
    /// The owned objects that cannot be created because their names are taken by other objects.
    pub taken: Vec<Taken>,
    /// The backends' Deployment, if it exists.
    pub backends: Option<Arc<Deployment>>,
    /// The frontends' Deployment, if it exists.
    pub frontends: Option<Arc<Deployment>>,
    /// The problems that keep the service's pods from starting.
    pub pod_problems: Vec<PodProblem>,
    /// The publishers' Lease, if it belongs to this service.
    pub lease: Option<Lease>,
    /// Whether this reconciliation is allowed to generate a master key.
    pub key_permit: KeyPermit,
    /// True if this reconciliation generated the key.
    pub generated_key: bool,
    /// True if this reconciliation has tried to set the owners of the key's Secret.
    pub tried_key_owners: bool,
    /// The existing owned objects, once they have been looked up.
    pub owned: Option<OwnedObjects>,
    /// The owned objects that the API server refused in this reconciliation.
    pub refused: Vec<RefusedWrite>,
}

/// The Secret of the master key. The data is moved out of the API object, so that it
/// is zeroized when it is dropped.
pub struct KeySecret {
    /// The metadata of the Secret.
    pub metadata: ObjectMeta,
    /// The data of the Secret, by entry.
    pub data: BTreeMap<String, zeroize::Zeroizing<Vec<u8>>>,
}

impl KeySecret {
    /// Creates the Secret from the metadata and data of an API object.
    pub fn new(metadata: ObjectMeta, data: Option<BTreeMap<String, ByteString>>) -> Self {
        let data = data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, zeroize::Zeroizing::new(bytes.0)));
        Self { metadata, data: data.collect() }
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
/// service. `metadata` is the metadata of the existing object, and `is_marked` says whether the
/// object has the operator's mark for this owned object.
pub fn taken(
    child: &ChildId,
    metadata: &ObjectMeta,
    object: &OnionBalancedService,
    is_marked: impl FnOnce() -> bool,
) -> Option<Taken> {
    let by_predecessor = match holder(metadata, object, is_marked) {
        Holder::Us => return None,
        Holder::Predecessor => true,
        Holder::Another => false,
    };
    Some(Taken { child: child.clone(), by_predecessor })
}

/// Returns true if an existing object has the operator's mark for an owned object of the service.
/// The mark cannot be checked without the key, so the result is false if `secret` holds no key.
pub fn is_marked(
    child: &ChildId,
    metadata: &ObjectMeta,
    object: &OnionBalancedService,
    secret: Option<&KeySecret>,
) -> bool {
    secret
        .and_then(KeySecret::master_key)
        .is_some_and(|key| origin::has_mark(metadata, &origin::mark(&key, object, child)))
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
    /// The last stage that was applied, if any.
    pub applied: Option<Stage>,
    /// True if the unused objects have been pruned.
    pub pruned: bool,
}

/// The result of an executed step.
pub enum Outcome {
    /// The object was read. `None` means that it no longer exists.
    ObjectRead(Option<Box<OnionBalancedService>>),
    /// The master key was generated.
    KeyGenerated {
        /// The Secret that was created for the generated key.
        secret: Box<KeySecret>,
        /// The other services that share the Secret or have the key's address.
        rivals: Vec<Arc<OnionBalancedService>>,
    },
    /// A Secret with this name already existed, so no key was generated.
    KeyExisted {
        /// The existing Secret of the master key. `None` means that it no longer exists.
        secret: Option<Box<KeySecret>>,
        /// The other services that share the Secret or have the key's address.
        rivals: Vec<Arc<OnionBalancedService>>,
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
    },
    /// The missing or outdated objects of a stage were applied. If another object had the name of
    /// one of them, the results end with that one.
    Applied(Stage, Vec<(ChildId, Applied)>),
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
            Outcome::ChildrenFound { existing, labelled } => {
                let (object, secret) = (&*self.object, self.key_secret.as_ref());
                self.taken.extend(
                    existing
                        .iter()
                        .filter_map(|(id, found)| taken(id, found, object, || is_marked(id, found, object, secret))),
                );
                self.owned = Some(OwnedObjects { existing, labelled, applied: None, pruned: false });
            }
            Outcome::Applied(stage, results) => {
                self.owned.get_or_insert_default().applied = Some(stage);
                for (id, result) in results {
                    self.learn_applied(id, result);
                }
            }
            Outcome::Pruned => self.owned.get_or_insert_default().pruned = true,
        }
    }

    fn learn_applied(&mut self, child: ChildId, result: Applied) {
        match result {
            Applied::Written(metadata) => {
                if child == self.backends_id() {
                    self.expect_rollout(&metadata);
                }
                self.owned.get_or_insert_default().existing.insert(child, *metadata);
            }
            Applied::Refused(message) => self.refused.push(RefusedWrite { child, message }),
            Applied::Taken(taken) => self.taken.push(taken),
            Applied::Leaving => {}
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

    fn backends_id(&self) -> ChildId {
        ChildId { kind: Kind::Deployment, name: Component::Backend.child_name(&self.object.name_any()) }
    }

    /// Returns the UID of the frontends' `ServiceAccount`, unless it is missing or being deleted.
    pub fn frontend_account(&self) -> Option<&str> {
        let name = Component::Frontend.child_name(&self.object.name_any());
        let account = self.owned.as_ref()?.existing.get(&ChildId { kind: Kind::ServiceAccount, name })?;
        account.uid.as_deref().filter(|_| account.deletion_timestamp.is_none())
    }
}

/// Returns true if the object is still the one that was observed and has never had a key.
fn never_had_a_key(object: &OnionBalancedService, current: &OnionBalancedService) -> bool {
    let had_a_key = current.status.as_ref().is_some_and(|status| status.onion_address.is_some());
    current.metadata.uid == object.metadata.uid
        && current.metadata.generation == object.metadata.generation
        && !had_a_key
}
