//! The planner: a pure function that determines the next step of a reconciliation from everything
//! that has been observed so far.
//!
//! A reconciliation observes, plans one step, executes it, records its outcome with
//! [`Observed::learn`], and plans again until nothing is left to do. The order of the steps follows
//! from the facts alone:
//!
//! 1. Read the object itself and generate the master key, if there has never been one.
//! 2. Set the owners of the generated key's Secret.
//! 3. Find the existing owned objects and apply those that differ, stage by stage. The frontends'
//!    Deployment needs the UID of the frontends' `ServiceAccount`, which an earlier stage may have
//!    created.
//! 4. Prune the owned objects that are no longer used.
//!
//! An object that is not accepted, or has no usable key, keeps its owned objects as they are. Only
//! the copy of the authorized clients still follows the Secret that the user names.

mod clients;
mod key;
mod observed;
mod status;
mod targets;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use serde_json::Value;

pub use key::{address, shares_key};
pub use observed::{
    Applied, KeyPermit, KeySecret, Labelled, Observed, Outcome, OwnedObjects, RefusedWrite, Taken, taken,
};
pub use status::{forbidden, requeue_after, status, unreadable};
pub use targets::resolve;

use super::children::{BuildError, Child, ChildId, Inputs, Kind, Stage, children, clients_copy, ids};
use super::conditions::Finding;
use super::drift::is_applied;
use super::holder::{Holder, holder};
use super::policy::ObjectPolicy;
use super::stamp::stamped;
use crate::crd::{OnionBalancedService, Reason, validate};
use crate::link::AgentToken;
use crate::onion::OnionAddress;

/// The next step of a reconciliation.
pub enum Next {
    /// Read the object from the API server before a key is generated. The cached object may be
    /// stale: if the service already has a key, another one would change the service's address.
    ReadObject,
    /// Generate the master key and create its Secret.
    GenerateKey,
    /// Set the owners of the generated key's Secret.
    SetKeyOwners(Vec<OwnerReference>),
    /// Find the existing objects that have the names of owned objects.
    FindChildren {
        /// True if names that are not in the cache must be looked up on the API server. The cache
        /// contains only labelled objects.
        ask_server: bool,
    },
    /// Apply the owned objects of a stage that are missing or differ.
    Apply(Stage, Vec<Due>),
    /// Delete the owned objects that are no longer used.
    Prune(Vec<Orphan>),
    /// Write the status, because nothing else is left to do.
    Done(Conclusion),
}

/// An owned object that must be created or updated. The manifest can contain a secret, so this type
/// does not implement `Debug`.
pub struct Due {
    /// The kind and name of the owned object.
    pub id: ChildId,
    /// The manifest of the owned object, with its own hash as an annotation.
    pub manifest: Value,
    /// True if an object of this kind and name is known to exist.
    pub exists: bool,
}

/// An owned object that is no longer used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The kind and name of the owned object.
    pub id: ChildId,
    /// The UID of the owned object.
    pub uid: Option<String>,
}

/// The findings of a reconciliation, from which the status is computed.
pub struct Conclusion {
    accepted: Finding,
    master_key: Finding,
    /// The first problem with the target of a port, if there is one.
    target_problem: Option<Finding>,
    /// The onion address of the master key, if there is a usable one.
    address: Option<OnionAddress>,
    /// True if the owned objects are kept in line with the spec. False if they are left unchanged.
    applies_children: bool,
}

/// Plans the next step of a reconciliation.
pub fn plan(observed: &Observed) -> Next {
    let object = &*observed.object;
    let mut accepted = accept(object, &observed.environment.settings.policy, &observed.taken);
    let (master_key, key) = match key::decide(object, &observed.rivals, observed.key_secret.as_ref()) {
        key::Decision::Use(key) => {
            let finding = Finding::yes(Reason::KeyLoaded, format!("Using the key of {}.", key.address()));
            (finding, Some(key))
        }
        key::Decision::Generate if accepted.holds() => {
            match observed.key_permit {
                KeyPermit::Unknown => return Next::ReadObject,
                KeyPermit::Granted => return Next::GenerateKey,
                KeyPermit::Denied | KeyPermit::Used => {}
            }
            (Finding::unknown(Reason::Generating, "A key is being generated."), None)
        }
        key::Decision::Generate => {
            let message = "A key is generated once the object is accepted.";
            (Finding::unknown(Reason::NotAccepted, message), None)
        }
        key::Decision::Refuse(finding) => (finding, None),
    };
    if let Some(secret) = observed.key_secret.as_ref().filter(|_| !observed.tried_key_owners)
        && let Some(owners) = key::wanted_owners(object, secret)
    {
        return Next::SetKeyOwners(owners);
    }
    let targets = resolve(object, &observed.services, observed.last_config.as_ref());
    let mut applies_children = false;
    if let (Some(key), Some(ports), true) = (&key, &targets.ports, accepted.holds()) {
        let inputs = Inputs {
            object,
            environment: &observed.environment,
            address: key.address(),
            token: &AgentToken::derive(key),
            ports,
            clients: observed.clients_secret.as_ref(),
            frontend_account: observed.frontend_account(),
        };
        match next_for_children(observed, &inputs) {
            Ok(Some(next)) => return next,
            Ok(None) => applies_children = true,
            Err(error) => accepted = Finding::no(Reason::InvalidSpec, error.to_string()),
        }
    } else if let Some(next) = next_for_clients(observed) {
        return next;
    }
    let address = key.map(|key| key.address());
    Next::Done(Conclusion { accepted, master_key, target_problem: targets.problem, address, applies_children })
}

/// Plans the next step for the owned objects. Returns None if no such step is left. Builds the
/// objects of a stage only when the stage is reached, and not again after the stage has been
/// applied.
fn next_for_children(observed: &Observed, inputs: &Inputs<'_>) -> Result<Option<Next>, BuildError> {
    let Some(owned) = &observed.owned else {
        // Taken names are rare, and applying detects them too. The API server is therefore asked
        // only if the status says that a name was taken.
        return Ok(Some(Next::FindChildren { ask_server: name_was_taken(inputs.object) }));
    };
    for stage in Stage::ALL.into_iter().filter(|stage| owned.applied < Some(*stage)) {
        let due = due(children(inputs, stage)?, owned);
        if !due.is_empty() {
            return Ok(Some(Next::Apply(stage, due)));
        }
    }
    let orphans = orphans(observed, &owned.labelled);
    Ok((!owned.pruned && !orphans.is_empty()).then_some(Next::Prune(orphans)))
}

/// Plans the next step for the copy of the authorized clients while the other owned objects are kept
/// as they are. A client that the user removes from the Secret loses its access even then. Only an
/// existing copy is updated.
fn next_for_clients(observed: &Observed) -> Option<Next> {
    let object = &*observed.object;
    let copy = clients_copy(object, observed.clients_secret.as_ref()).ok().flatten()?;
    let Some(owned) = &observed.owned else { return Some(Next::FindChildren { ask_server: name_was_taken(object) }) };
    let is_ours = owned.existing.get(&copy.id).is_some_and(|found| holder(found, object) == Holder::Us);
    if !is_ours || owned.applied.is_some() {
        return None;
    }
    let due = due(vec![copy], owned);
    (!due.is_empty()).then_some(Next::Apply(Stage::Prerequisites, due))
}

/// Selects the owned objects that must be applied.
fn due(children: Vec<Child>, owned: &OwnedObjects) -> Vec<Due> {
    let due = children.into_iter().filter_map(|child| {
        let manifest = stamped(&child.manifest);
        let existing = owned.existing.get(&child.id);
        // An object that is being deleted cannot be kept. Its removal triggers another
        // reconciliation.
        let is_settled =
            existing.is_some_and(|existing| existing.deletion_timestamp.is_some() || is_applied(existing, &manifest));
        (!is_settled).then_some(Due { id: child.id, manifest, exists: existing.is_some() })
    });
    due.collect()
}

/// Selects the objects that the operator created for this service and whose names are no longer
/// used. Secrets are never selected.
fn orphans(observed: &Observed, labelled: &[Labelled]) -> Vec<Orphan> {
    let object = &*observed.object;
    let current = ids(object, &observed.environment);
    let orphans = labelled.iter().filter_map(|(kind, metadata)| {
        let id = ChildId { kind: *kind, name: metadata.name.clone().unwrap_or_default() };
        let controlled = metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
        let is_orphan =
            *kind != Kind::Secret && controlled && !current.contains(&id) && holder(metadata, object) == Holder::Us;
        is_orphan.then(|| Orphan { id, uid: metadata.uid.clone() })
    });
    orphans.collect()
}

/// Returns true if the status says that the name of an owned object is taken.
fn name_was_taken(object: &OnionBalancedService) -> bool {
    let mut conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.reason == Reason::NameTaken.as_str())
}

fn accept(object: &OnionBalancedService, policy: &ObjectPolicy, taken: &[Taken]) -> Finding {
    if let Some(problem) = validate::name(object) {
        return Finding::no(Reason::InvalidName, problem.to_string());
    }
    for (reason, problems) in
        [(Reason::InvalidSpec, validate::spec(object)), (Reason::NotAllowed, policy.problems(object))]
    {
        if !problems.is_empty() {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            return Finding::no(reason, lines.join("; "));
        }
    }
    match taken.first() {
        None => Finding::yes(Reason::Valid, "The spec is valid."),
        Some(Taken { child, by_predecessor: true }) => Finding::no(
            Reason::NameTaken,
            format!(
                "{child} still belongs to a deleted {} of the same name; it will be replaced once Kubernetes has \
                 removed it",
                object.name_any()
            ),
        ),
        Some(Taken { child, by_predecessor: false }) => Finding::no(
            Reason::NameTaken,
            format!("{child} exists and does not belong to this object; remove it, or give this object another name"),
        ),
    }
}
