//! The planner: a pure function that determines the next step of a reconciliation from everything
//! that has been observed so far.
//!
//! A reconciliation observes, plans one step, executes it, records its outcome with
//! [`Observed::learn`], and plans again until nothing is left to do. The order of the steps follows
//! from the facts alone:
//!
//! 1. Find the existing owned objects. If something must be created, ask the API server first
//!    whether another object has one of the names.
//! 2. Read the object itself and generate the master key, if there has never been one.
//! 3. Set the owners of the generated key's Secret.
//! 4. Apply the owned objects that differ, stage by stage. The frontends' Deployment needs the UID
//!    of the frontends' `ServiceAccount`, which an earlier stage may have created.
//! 5. If a Deployment cannot be applied, set at least its number of pods.
//! 6. Prune the owned objects that are no longer used.
//!
//! A bad part of the object, for example a port whose target is missing, keeps its last good value,
//! and everything else takes effect. The last good values are read from the owned objects in an
//! additional step, as soon as one of them is needed.

mod basis;
mod clients;
mod guards;
mod health;
mod key;
mod last;
mod location;
mod observed;
mod published;
mod reachable;
mod signing_keys;
mod status;
mod steps;
mod targets;
#[cfg(test)]
mod tests;
mod workload;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use serde_json::Value;

pub use key::{address, may_share_key};
pub use last::{Last, LastObjects};
pub use observed::{
    Applied, KeyPermit, KeySecret, Labelled, Observed, Outcome, OwnedObjects, RefusedWrite, Rival, Taken, holder_of,
    taken,
};
pub use status::{forbidden, requeue_after, status, unreadable};

use basis::{Basis, COMPONENTS, bad_fields, has_bad_anonymity};
use key::Decision;
use targets::Targets;

use super::children::{BuildError, ChildId, Stage};
use super::conditions::{Finding, listed};
use crate::crd::names::Component;
use crate::crd::validate::{self, Problem};
use crate::crd::{OnionBalancedService, Reason, ServerLocation};
use crate::onion::OnionAddress;

/// The next step of a reconciliation.
pub enum Next {
    /// Find the existing objects that have the names of owned objects.
    FindChildren {
        /// True if names that are not in the cache must be looked up on the API server. The cache
        /// contains only labelled objects.
        ask_server: bool,
    },
    /// Read the last good values from the owned objects on the API server.
    ReadLast,
    /// Read the object from the API server before a key is generated. The cached object may be
    /// stale: if the service already has a key, another one would change the service's address.
    ReadObject,
    /// Generate the master key and create its Secret.
    GenerateKey,
    /// Set the owners of the generated key's Secret.
    SetKeyOwners(Vec<OwnerReference>),
    /// Apply the owned objects of a stage that are missing or differ.
    Apply(Stage, Vec<Due>),
    /// Set the number of pods of Deployments that cannot be applied.
    Scale(Vec<Scale>),
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
    /// The UID of the existing object. No other object may be updated.
    pub uid: Option<String>,
    /// True if the object exists, but the operator has never applied it, for example because a
    /// backup tool has restored it. Its fields then belong to others.
    pub takes_over: bool,
}

/// A Deployment that must get another number of pods, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// The kind and name of the Deployment.
    pub id: ChildId,
    /// The UID of the Deployment.
    pub uid: Option<String>,
    /// The desired number of pods.
    pub replicas: i32,
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
    /// The problems with the targets of ports.
    target_problems: Vec<Finding>,
    /// The onion address of the master key, if there is a usable one.
    address: Option<OnionAddress>,
    /// The components whose pods cannot be configured. Their Deployments are left unchanged, except
    /// for the number of pods.
    withheld: Vec<Component>,
    /// The desired number of backends.
    backends: i32,
    /// The value of `spec.anonymity.serverLocation` with which the pods are configured.
    location: ServerLocation,
}

/// Plans the next step of a reconciliation.
pub fn plan(observed: &Observed) -> Next {
    let object = &*observed.object;
    let problems = problems(observed);
    let key = key::decide(object, &problems, &observed.rivals, observed.key_secret.as_ref());
    let last_ports = observed.last.as_ref().map(Last::ports).unwrap_or_default();
    let targets = targets::resolve(object, &problems, &observed.services, last_ports);
    // The owned objects cannot have names that are derived from an invalid one.
    let has_name = validate::name(object).is_none();
    let basis = if has_name { Basis::of(observed, &problems, &key, &targets.ports) } else { None };
    let facts = Facts { problems: &problems, key: &key, targets: &targets, basis: basis.as_ref() };
    match if has_name { steps::next(observed, &facts) } else { Ok(None) } {
        Ok(Some(next)) => next,
        Ok(None) => Next::Done(conclude(observed, &facts, None)),
        Err(error) => Next::Done(conclude(observed, &facts, Some(&error))),
    }
}

/// The facts that follow from everything that has been observed.
struct Facts<'a> {
    /// The problems of the spec.
    problems: &'a [Problem],
    key: &'a Decision,
    targets: &'a Targets,
    /// The basis of the owned objects. None if nothing can be built.
    basis: Option<&'a Basis<'a>>,
}

impl Facts<'_> {
    /// Returns the components whose pods cannot be configured.
    fn withheld(&self) -> &[Component] {
        match self.basis {
            Some(basis) => &basis.withheld,
            None => &COMPONENTS,
        }
    }
}

/// Returns all problems of the spec: its invalid parts, and those that the administrator does not
/// allow.
fn problems(observed: &Observed) -> Vec<Problem> {
    let mut problems = invalid_parts(observed);
    problems.extend(observed.environment.settings.policy.problems(&observed.object));
    problems.extend(location::contradicted(observed));
    problems
}

/// Returns the unreadable parts of the spec, and the parts that validation refuses.
fn invalid_parts(observed: &Observed) -> Vec<Problem> {
    let unreadable = &observed.unreadable;
    // An unreadable part has a default value, about which validation has nothing to say.
    let is_known = |problem: &Problem| unreadable.iter().any(|known| problem.field.starts_with(&known.field));
    let refused = validate::spec(&observed.object).into_iter().chain(location::changed(observed));
    let refused = refused.filter(|problem| !is_known(problem));
    // The user does not write the status, and can correct nothing in it.
    let in_spec = unreadable.iter().filter(|problem| problem.field.starts_with("spec"));
    in_spec.cloned().chain(refused).collect()
}

fn conclude(observed: &Observed, facts: &Facts<'_>, error: Option<&BuildError>) -> Conclusion {
    let object = facts.basis.map_or(&*observed.object, |basis| &*basis.object);
    let (master_key, address) = match facts.key {
        Decision::Use(key) => {
            let what = if key.kits().is_some() { "signing kits" } else { "key" };
            let message = format!("Using the {what} of {}.", key.address());
            (Finding::yes(Reason::KeyLoaded, message), Some(key.address()))
        }
        Decision::Generate if observed.taken.is_empty() && validate::name(object).is_none() => {
            (Finding::unknown(Reason::Generating, "A key is being generated."), None)
        }
        Decision::Generate => {
            let message = "A key is generated once the object is accepted.";
            (Finding::unknown(Reason::NotAccepted, message), None)
        }
        Decision::Refuse(finding) => (finding.clone(), None),
    };
    Conclusion {
        accepted: accept(observed, facts, error),
        master_key,
        target_problems: facts.targets.problems.clone(),
        address,
        withheld: facts.withheld().to_vec(),
        backends: if object.spec.suspend { 0 } else { object.spec.backends.replicas.max(0) },
        location: object.spec.anonymity.server_location,
    }
}

/// The approximate maximum length of a list of problems, in characters. A condition message has
/// room for more, so that it also says what follows from the problems.
const LONGEST_LIST: usize = 2500;
/// The approximate maximum length of a list that follows another one, in characters.
const ADDED_LIST: usize = 1000;

fn accept(observed: &Observed, facts: &Facts<'_>, error: Option<&BuildError>) -> Finding {
    let object = &*observed.object;
    if let Some(problem) = validate::name(object) {
        return Finding::no(Reason::InvalidName, problem.to_string());
    }
    let mut problems: Vec<_> = facts.problems.iter().map(ToString::to_string).collect();
    problems.extend(error.map(ToString::to_string));
    let taken: Vec<_> = observed.taken.iter().map(|taken| describe_taken(taken, object)).collect();
    if problems.is_empty() && taken.is_empty() {
        return Finding::yes(Reason::Valid, "The spec is valid.");
    }
    if problems.is_empty() {
        return Finding::no(Reason::NameTaken, listed(&taken, "; ", LONGEST_LIST));
    }
    let problems = listed(&problems, "; ", LONGEST_LIST);
    let mut sentences = vec![format!("{problems}. Until this is corrected, {}", consequence(facts.problems))];
    let lacks_values = |component: &&Component| {
        has_bad_anonymity(facts.problems) || !bad_fields(facts.problems, **component).is_empty()
    };
    let without_values = facts.withheld().iter().filter(lacks_values);
    sentences.extend(without_values.map(|component| {
        let component = component.as_str();
        format!("The {component} pods have no such values, so they are neither created nor updated.")
    }));
    sentences.extend((!taken.is_empty()).then(|| format!("In addition, {}.", listed(&taken, "; ", ADDED_LIST))));
    let is_valid = error.is_none() && invalid_parts(observed).is_empty();
    Finding::no(if is_valid { Reason::NotAllowed } else { Reason::InvalidSpec }, sentences.join(" "))
}

/// Returns what happens to the bad parts of a spec. The publisher reads the external backends and
/// the authorized clients from the object itself, so these have no last values.
fn consequence(problems: &[Problem]) -> &'static str {
    let is_ignored = |problem: &Problem| {
        ["spec.externalBackends", "spec.restrictedDiscovery"].iter().any(|part| problem.field.starts_with(part))
    };
    match (problems.iter().any(is_ignored), problems.iter().all(is_ignored)) {
        (false, _) => {
            "these parts keep the values that were last accepted, if there are any; the other parts are not affected."
        }
        (true, true) => "these backends and clients are left out; the other parts are not affected.",
        (true, false) => {
            "these backends and clients are left out, and the other bad parts keep the values that were last accepted, if \
             there are any; the rest is not affected."
        }
    }
}

fn describe_taken(Taken { child, by_predecessor }: &Taken, object: &OnionBalancedService) -> String {
    if *by_predecessor {
        let name = object.name_any();
        format!(
            "{child} still belongs to a deleted {name} of the same name; it will be replaced once Kubernetes has \
             removed it"
        )
    } else {
        format!("{child} exists and does not belong to this object; remove it, or give this object another name")
    }
}
