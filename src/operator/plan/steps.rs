//! Plans the next step of a reconciliation, as long as a step is left.

use kube::ResourceExt as _;
use serde_json::Value;

use super::basis::{Basis, COMPONENTS, bad_fields};
use super::key::{self, Decision};
use super::{Due, Facts, KeyPermit, Labelled, Next, Observed, Orphan, OwnedObjects, Scale};
use crate::crd::names::Component;
use crate::crd::validate::Problem;
use crate::crd::{OnionBalancedService, Reason};
use crate::operator::children::{BuildError, Child, ChildId, Kind, Stage, children, ids};
use crate::operator::drift::{has_applied, is_applied};
use crate::operator::holder::{Holder, holder};
use crate::operator::origin;
use crate::operator::stamp::stamped;

/// Plans the next step for an object with a valid name. Returns None if nothing is left to do.
pub(super) fn next(observed: &Observed, facts: &Facts<'_>) -> Result<Option<Next>, BuildError> {
    let object = &*observed.object;
    let Some(owned) = &observed.owned else {
        return Ok(Some(Next::FindChildren { ask_server: name_was_taken(object) }));
    };
    if observed.last.is_none() && needs_last(observed, owned, facts) {
        return Ok(Some(Next::ReadLast));
    }
    let generates = matches!(facts.key, Decision::Generate)
        && matches!(observed.key_permit, KeyPermit::Unknown | KeyPermit::Granted)
        && observed.taken.is_empty();
    let creates = facts.basis.is_some() && is_incomplete(observed, owned);
    // Nothing is created as long as a name may be taken.
    if !owned.asked_server && (generates || creates) {
        return Ok(Some(Next::FindChildren { ask_server: true }));
    }
    if generates {
        let is_granted = observed.key_permit == KeyPermit::Granted;
        return Ok(Some(if is_granted { Next::GenerateKey } else { Next::ReadObject }));
    }
    if let Some(secret) = observed.key_secret.as_ref().filter(|_| !observed.tried_key_owners)
        && let Some(owners) = key::wanted_owners(object, secret)
    {
        return Ok(Some(Next::SetKeyOwners(owners)));
    }
    if let Some(basis) = facts.basis
        && let Some(next) = next_for_children(observed, owned, facts.key, basis)?
    {
        return Ok(Some(next));
    }
    let scales = scales(observed, owned, facts.problems);
    if !observed.scaled && !scales.is_empty() {
        return Ok(Some(Next::Scale(scales)));
    }
    let orphans = orphans(observed, &owned.labelled);
    let prunes = !owned.pruned && observed.taken.is_empty() && !orphans.is_empty();
    Ok(prunes.then_some(Next::Prune(orphans)))
}

/// Returns true if a last good value is needed: for a bad part, for a Deployment that the API
/// server has refused, or for the frontends if their `ServiceAccount` is still missing.
fn needs_last(observed: &Observed, owned: &OwnedObjects, facts: &Facts<'_>) -> bool {
    let is_bad = !facts.problems.is_empty() || !facts.targets.problems.is_empty();
    let is_refused = COMPONENTS.iter().any(|component| observed.is_refused(&observed.deployment_id(*component)));
    let tried_account =
        owned.applied >= Some(Stage::Prerequisites) || owned.existing.contains_key(&account_id(observed));
    let lacks_account = facts.basis.is_some() && tried_account && observed.frontend_account().is_none();
    is_bad || matches!(facts.key, Decision::Refuse(_)) || is_refused || lacks_account
}

fn account_id(observed: &Observed) -> ChildId {
    ChildId { kind: Kind::ServiceAccount, name: Component::Frontend.child_name(&observed.object.name_any()) }
}

/// Returns true if an owned object is missing.
fn is_incomplete(observed: &Observed, owned: &OwnedObjects) -> bool {
    ids(&observed.object, &observed.environment).iter().any(|id| !owned.existing.contains_key(id))
}

/// Plans the next step for the owned objects. Returns None if no such step is left. Builds the
/// objects of a stage only when the stage is reached, and not again after the stage has been
/// applied.
fn next_for_children(
    observed: &Observed,
    owned: &OwnedObjects,
    key: &Decision,
    basis: &Basis<'_>,
) -> Result<Option<Next>, BuildError> {
    let inputs = basis.inputs(observed);
    for stage in Stage::ALL.into_iter().filter(|stage| owned.applied < Some(*stage)) {
        let due = due(children(&inputs, stage)?, observed, owned, key);
        if !due.is_empty() {
            return Ok(Some(Next::Apply(stage, due)));
        }
    }
    if owned.applied < Some(Stage::Fallbacks) {
        let due = fallbacks(observed, owned, key, basis)?;
        if !due.is_empty() {
            return Ok(Some(Next::Apply(Stage::Fallbacks, due)));
        }
    }
    Ok(None)
}

/// Returns the Deployments that the API server has refused, with the pod settings that it last
/// accepted. The pod settings are the only part of a Deployment that only the API server validates.
fn fallbacks(
    observed: &Observed,
    owned: &OwnedObjects,
    key: &Decision,
    basis: &Basis<'_>,
) -> Result<Vec<Due>, BuildError> {
    let mut found = Vec::new();
    for component in COMPONENTS {
        let id = observed.deployment_id(component);
        if !observed.is_refused(&id) {
            continue;
        }
        if let Some(fallback) = basis.with_last_template(observed, component) {
            let children = children(&fallback.inputs(observed), Stage::Fallbacks)?;
            found.extend(children.into_iter().filter(|child| child.id == id));
        }
    }
    Ok(due(found, observed, owned, key))
}

/// Selects the owned objects that must be applied. While a name is taken, nothing is created.
/// Objects of somebody else are never selected. A Deployment whose `ConfigMap` was refused has to
/// wait: otherwise, its new pods would read the old configuration, and nothing would ever replace
/// them.
fn due(children: Vec<Child>, observed: &Observed, owned: &OwnedObjects, key: &Decision) -> Vec<Due> {
    let due = children.into_iter().filter_map(|child| {
        let existing = owned.find(&child.id);
        let mark = match key {
            Decision::Use(key) => Some(origin::service_mark(key, &observed.object, &child.id)),
            // Without a usable key, the mark cannot be derived. The object keeps the one it has.
            Decision::Generate | Decision::Refuse(_) => existing.and_then(origin::mark_of).map(str::to_owned),
        };
        let manifest = stamped(&origin::marked(child.manifest, mark));
        let config = ChildId { kind: Kind::ConfigMap, name: child.id.name.clone() };
        let is_due = match existing {
            _ if child.id.kind == Kind::Deployment && observed.is_refused(&config) => false,
            None => observed.taken.is_empty(),
            // An object that is being deleted cannot be kept. Its removal triggers another
            // reconciliation.
            Some(existing) => {
                existing.deletion_timestamp.is_none()
                    && observed.holder_of(&child.id, existing) == Holder::Us
                    && !(is_applied(existing, &manifest) && has_wanted_replicas(observed, &child.id, &manifest))
            }
        };
        let takes_over = existing.is_some_and(|existing| !has_applied(existing));
        let uid = existing.and_then(|existing| existing.uid.clone());
        is_due.then_some(Due { id: child.id, manifest, exists: existing.is_some(), uid, takes_over })
    });
    due.collect()
}

/// Returns false if an owned object is a Deployment that has another number of replicas than its
/// manifest. Kubernetes before 1.22 does not record in `managedFields` that somebody has changed
/// the number through the scale subresource.
fn has_wanted_replicas(observed: &Observed, id: &ChildId, manifest: &Value) -> bool {
    let component = COMPONENTS.into_iter().find(|component| observed.deployment_id(*component) == *id);
    let present = component.and_then(|component| replicas(observed, component));
    present.is_none_or(|present| manifest["spec"]["replicas"].as_i64() == Some(present.into()))
}

/// Returns the number of replicas in the spec of a component's Deployment.
fn replicas(observed: &Observed, component: Component) -> Option<i32> {
    observed.deployment(component)?.spec.as_ref()?.replicas
}

/// Returns the Deployments that could not be applied and have a wrong number of pods.
fn scales(observed: &Observed, owned: &OwnedObjects, problems: &[Problem]) -> Vec<Scale> {
    let scale = |component: Component| {
        let id = observed.deployment_id(component);
        let deployment = observed.deployment(component)?;
        let wanted = wanted_replicas(&observed.object, problems, component)?;
        let is_due = replicas(observed, component)? != wanted
            && deployment.metadata.deletion_timestamp.is_none()
            && !owned.written.contains(&id);
        is_due.then(|| Scale { id, uid: deployment.uid(), replicas: wanted })
    };
    COMPONENTS.into_iter().filter_map(scale).collect()
}

/// Returns the desired number of pods of a component, or None if the spec does not have a valid
/// one.
fn wanted_replicas(object: &OnionBalancedService, problems: &[Problem], component: Component) -> Option<i32> {
    if object.spec.suspend {
        return Some(0);
    }
    let is_bad = bad_fields(problems, component).iter().any(|path| path.is_empty() || path == &["replicas"]);
    let replicas = match component {
        Component::Backend => object.spec.backends.replicas,
        Component::Frontend => object.spec.frontend.replicas,
    };
    (!is_bad).then_some(replicas)
}

/// Selects the objects that the operator created for this service and whose names are no longer
/// used. Secrets are never selected.
fn orphans(observed: &Observed, labelled: &[Labelled]) -> Vec<Orphan> {
    let object = &*observed.object;
    let current = ids(object, &observed.environment);
    let orphans = labelled.iter().filter_map(|(kind, metadata)| {
        let id = ChildId { kind: *kind, name: metadata.name.clone().unwrap_or_default() };
        // Only an object that the service controls is deleted, whether or not it has a mark.
        let is_ours = holder(metadata, object, || false) == Holder::Us;
        let is_orphan = *kind != Kind::Secret && is_ours && !current.contains(&id);
        is_orphan.then(|| Orphan { id, uid: metadata.uid.clone() })
    });
    orphans.collect()
}

/// Returns true if the status says that the name of an owned object is taken.
fn name_was_taken(object: &OnionBalancedService) -> bool {
    let mut conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.reason == Reason::NameTaken.as_str())
}
