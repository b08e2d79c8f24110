//! What to do: a pure function of what was observed.

mod clients;
mod key;
mod status;
mod targets;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt as _;

pub use key::{address, shares_key};
pub use status::{Failure, forbidden, next_look, status, unreadable};
pub use targets::resolve;

use super::children::{Child, ChildId, Inputs, children};
use super::conditions::Verdict;
use super::pods::Trouble;
use super::settings::Settings;
use crate::crd::clients::ClientList;
use crate::crd::{OnionBalancedService, validate};
use crate::link::{AgentConfig, AgentToken};
use crate::onion::OnionAddress;

/// All that a decision rests on.
pub struct Observed {
    /// The object.
    pub object: Arc<OnionBalancedService>,
    /// The other objects that we look after and that may use the same key.
    pub rivals: Vec<Arc<OnionBalancedService>>,
    /// The master key's Secret.
    pub key_secret: Option<KeySecret>,
    /// What is in the Secret that `spec.restrictedDiscovery` names.
    pub clients_secret: Option<ClientList>,
    /// The target Services that are there, by name.
    pub services: BTreeMap<String, Service>,
    /// What the backends were told last; read only where a target is not to be found.
    pub last_config: Option<AgentConfig>,
    /// Children whose name is taken by an object that is not ours.
    pub taken: Vec<Taken>,
    /// The UID of the frontends' `ServiceAccount`.
    pub frontend_account: Option<String>,
    /// The backends' Deployment.
    pub backends: Option<Arc<Deployment>>,
    /// The frontends' Deployment.
    pub frontends: Option<Arc<Deployment>>,
    /// What keeps pods from starting.
    pub troubles: Vec<Trouble>,
    /// The frontend's Lease, if it is ours.
    pub lease: Option<Lease>,
}

/// The master key's Secret. Its data is taken out of the API object, so that it is wiped when no longer needed.
pub struct KeySecret {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Its data.
    pub data: BTreeMap<String, zeroize::Zeroizing<Vec<u8>>>,
}

impl KeySecret {
    /// Takes the data out of an API object.
    pub fn new(metadata: ObjectMeta, data: Option<BTreeMap<String, ByteString>>) -> Self {
        let data = data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, zeroize::Zeroizing::new(bytes.0)));
        Self { metadata, data: data.collect() }
    }
}

/// A child's name is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Which child.
    pub child: ChildId,
    /// By a child of a former object of the same name, which the garbage collector is about to remove.
    pub by_predecessor: bool,
}

/// What to do about the master key.
pub enum KeyStep {
    /// Nothing.
    Keep,
    /// Make one, and plan again: nothing else is done without a key.
    Generate,
    /// Set the owners of the generated Secret.
    SetOwners(Vec<OwnerReference>),
}

/// What to do, and what to say.
pub struct Plan {
    /// About the master key.
    pub key_step: KeyStep,
    /// The children as they should be; None: what is there stays as it is.
    pub children: Option<Vec<Child>>,
    accepted: Verdict,
    master_key: Verdict,
    /// What is wrong with a target, if anything.
    target_problem: Option<Verdict>,
    address: Option<OnionAddress>,
}

/// Decides.
pub fn plan(observed: &Observed, settings: &Settings) -> Plan {
    let object = &*observed.object;
    let mut accepted = accept(object, &observed.taken);
    let key = key::decide(object, &observed.rivals, observed.key_secret.as_ref());
    let targets = resolve(object, &observed.services, observed.last_config.as_ref());
    let owners = observed.key_secret.as_ref().and_then(|secret| key::wanted_owners(object, secret));
    let mut key_step = owners.map_or(KeyStep::Keep, KeyStep::SetOwners);
    let (master_key, usable_key) = match key {
        key::Decision::Use(key) => {
            (Verdict::yes("KeyLoaded", format!("The key of {} is used.", key.address())), Some(key))
        }
        key::Decision::Generate if accepted.holds() => {
            key_step = KeyStep::Generate;
            (Verdict::unknown("Generating", "A key is being generated."), None)
        }
        key::Decision::Generate => {
            (Verdict::unknown("NotAccepted", "A key is generated once the object is accepted."), None)
        }
        key::Decision::Refuse(verdict) => (verdict, None),
    };
    let children = match (&usable_key, &targets.ports) {
        (Some(key), Some(ports)) if accepted.holds() => {
            let token = AgentToken::derive(key);
            let frontend_account = observed.frontend_account.as_deref();
            let inputs = Inputs { object, settings, address: key.address(), token: &token, ports, frontend_account };
            match children(&inputs) {
                Ok(children) => Some(children),
                Err(error) => {
                    accepted = Verdict::no("InvalidSpec", error.to_string());
                    None
                }
            }
        }
        _ => None,
    };
    let address = usable_key.map(|key| key.address());
    Plan { key_step, children, accepted, master_key, target_problem: targets.problem, address }
}

/// Whether the status says that the name of a child is taken.
pub fn name_was_taken(object: &OnionBalancedService) -> bool {
    object.status.iter().flat_map(|status| &status.conditions).any(|condition| condition.reason == "NameTaken")
}

fn accept(object: &OnionBalancedService, taken: &[Taken]) -> Verdict {
    if let Some(problem) = validate::name(object) {
        return Verdict::no("InvalidName", problem.to_string());
    }
    let problems = validate::spec(object);
    if !problems.is_empty() {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        return Verdict::no("InvalidSpec", lines.join("; "));
    }
    match taken.first() {
        None => Verdict::yes("Valid", "The spec is valid."),
        Some(Taken { child, by_predecessor: true }) => Verdict::no(
            "NameTaken",
            format!(
                "{child} still belongs to a deleted {} of the same name; it will be replaced once it is gone",
                object.name_any()
            ),
        ),
        Some(Taken { child, by_predecessor: false }) => Verdict::no(
            "NameTaken",
            format!("{child} is there and does not belong to this object; remove it, or give this object another name"),
        ),
    }
}

#[cfg(test)]
mod fuzzed;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
