//! The operator's part of a service's status.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::ResourceExt as _;

use super::{Conclusion, Observed, RefusedWrite, clients};
use crate::crd::names::{self, Component, pod_selector};
use crate::crd::{
    BackendState, BackendStatus, ConditionType, OnionBalancedService, OnionBalancedServiceStatus, Reason,
};
use crate::operator::children::Kind;
use crate::operator::conditions::{Finding, Truth, merge};

/// The minimum time without a renewal after which the holder of a Lease is considered silent. It is
/// much longer than the Lease's duration, because a publisher keeps publishing when it cannot reach
/// the API server or when its clock differs from the operator's.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);

/// The time for which HSDirs keep a descriptor.
const DESCRIPTOR_LIFETIME: SignedDuration = SignedDuration::from_hours(3);
/// The time for which `Published` stays True although no HSDir has accepted the new descriptor yet,
/// or a new publisher has not found any backends yet.
const SETTLING: SignedDuration = SignedDuration::from_secs(60);

/// Returns the operator's part of the status. `backends` and `published` belong to the publisher,
/// so they are left empty and are not applied. `previous` is the current status.
pub fn status(
    observed: &Observed,
    conclusion: &Conclusion,
    previous: &OnionBalancedServiceStatus,
    now: Timestamp,
) -> OnionBalancedServiceStatus {
    let object = &*observed.object;
    let deployment = observed.backends.as_deref().and_then(|deployment| deployment.status.as_ref());
    let ready_replicas = deployment.and_then(|status| status.ready_replicas).unwrap_or(0);
    let wanted = if object.spec.suspend { 0 } else { object.spec.backends.replicas };
    let published = explained(published(object, previous, observed.lease.as_ref(), now), observed);
    let clients = clients::finding(object.spec.restricted_discovery.as_ref(), observed.clients_secret.as_ref());
    let mut found = vec![
        (ConditionType::Accepted, conclusion.accepted.clone()),
        (ConditionType::MasterKeyReady, master_key(observed, conclusion)),
    ];
    found.extend(clients.map(|clients| (ConditionType::ClientsReady, clients)));
    let backends = backends(observed, conclusion, ready_replicas, wanted);
    found.push((ConditionType::BackendsReady, complete(backends, &previous.backends, now)));
    found.push((ConditionType::Published, published));
    // The address is never removed, because a former address keeps the operator from generating a
    // new key.
    let onion_address =
        conclusion.address.map(|address| address.to_string()).or_else(|| previous.onion_address.clone());
    let ready = summary(&found, onion_address.as_deref());
    found.push((ConditionType::Ready, ready));
    found.extend(stalled(&found));
    OnionBalancedServiceStatus {
        onion_address,
        observed_generation: object.metadata.generation,
        replicas: Some(deployment.and_then(|status| status.replicas).unwrap_or(0)),
        ready_replicas: Some(ready_replicas),
        ready: Some(format!("{ready_replicas}/{wanted}")),
        selector: Some(pod_selector(&object.name_any(), Component::Backend)),
        backends: Vec::new(),
        published: Vec::new(),
        conditions: merge(&previous.conditions, &found, object.metadata.generation, now),
    }
}

/// Returns the conditions of an object that cannot be read because it does not match our types.
pub fn unreadable(error: &str, previous: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let accepted = Finding::no(Reason::InvalidSpec, format!("The object cannot be read: {error}"));
    let unknown = Finding::unknown(Reason::InvalidSpec, "The object cannot be read; see the condition Accepted.");
    let found = [
        (ConditionType::Accepted, accepted.clone()),
        (ConditionType::MasterKeyReady, unknown.clone()),
        (ConditionType::BackendsReady, unknown.clone()),
        (ConditionType::Published, unknown),
        (ConditionType::Ready, accepted.clone()),
        (ConditionType::Stalled, Finding { truth: Truth::True, ..accepted }),
    ];
    merge(previous, &found, generation, now)
}

/// Returns the conditions of an object that the operator cannot reconcile because it lacks a
/// permission. All previous conditions except `Ready` are kept.
pub fn forbidden(error: &str, previous: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let message = format!("The operator lacks a permission: {error}; grant it the permissions in deploy/rbac.yaml.");
    let ready = Finding::unknown(Reason::Forbidden, message);
    let others = previous.iter().filter(|condition| condition.type_ != ConditionType::Ready.as_str()).cloned();
    others.chain(merge(previous, &[(ConditionType::Ready, ready)], generation, now)).collect()
}

/// Returns the time after which the object is reconciled again even if no watch reports a change.
/// Some changes cause no event for the object: an unlabelled object that has the name of an owned
/// object is deleted, another service stops using the same key, or the Lease expires.
pub fn requeue_after(observed: &Observed, conclusion: &Conclusion) -> Duration {
    let seconds = if !observed.taken.is_empty() || !conclusion.master_key.holds() {
        10
    } else if observed.lease.is_some() {
        60
    } else {
        300
    };
    Duration::from_secs(seconds)
}

/// Returns the finding about the master key. If the API server has refused the key's Secret, the
/// finding reports the refusal.
fn master_key(observed: &Observed, conclusion: &Conclusion) -> Finding {
    let key_secret = names::master_key_secret(&observed.object);
    let is_key = |refused: &&RefusedWrite| refused.child.kind == Kind::Secret && refused.child.name == key_secret;
    observed.refused.iter().find(is_key).map_or_else(|| conclusion.master_key.clone(), apply_failed)
}

fn apply_failed(RefusedWrite { child, message }: &RefusedWrite) -> Finding {
    Finding::no(Reason::ApplyFailed, format!("{child}: {message}"))
}

fn backends(observed: &Observed, conclusion: &Conclusion, ready: i32, wanted: i32) -> Finding {
    if let Some(problem) = &conclusion.target_problem {
        return problem.clone();
    }
    if let Some(refused) = observed.refused.first() {
        return apply_failed(refused);
    }
    if observed.object.spec.suspend {
        return Finding::no(Reason::Suspended, "spec.suspend is true.");
    }
    let Some(deployment) = observed.backends.as_deref() else {
        return if conclusion.applies_children {
            Finding::no(Reason::Progressing, format!("0 of {wanted} backends are ready."))
        } else {
            Finding::no(Reason::Waiting, "The pods are created once Accepted and MasterKeyReady are True.")
        };
    };
    let external = observed.object.spec.external_backends.len();
    if wanted == 0 && external > 0 {
        let message = format!("spec.backends.replicas is 0; external backends: {external}.");
        return Finding::yes(Reason::OnlyExternal, message);
    }
    if wanted == 0 {
        return Finding::no(Reason::ScaledToZero, "spec.backends.replicas is 0.");
    }
    if let Some(message) = refused_pods(deployment) {
        return Finding::no(Reason::PodsRefused, message);
    }
    let problem = observed.pod_problems.iter().find(|problem| problem.component == Component::Backend);
    if let Some(problem) = problem.filter(|_| ready < wanted || !rolled_out(deployment, wanted)) {
        return Finding::no(problem.reason, format!("{ready} of {wanted} backends are ready. {}", problem.message));
    }
    if ready < wanted {
        return Finding::no(Reason::Progressing, format!("{ready} of {wanted} backends are ready."));
    }
    if !rolled_out(deployment, wanted) {
        return Finding::no(Reason::RollingOut, "A new version of the backends is being rolled out.");
    }
    Finding::yes(Reason::AllReady, format!("All {wanted} backends are ready."))
}

/// Replaces the finding that all backends are ready if the publisher excludes one of them. While
/// backends are replaced, a new version of tor can be in the minority for a moment, which is not
/// reported.
fn complete(backends: Finding, seen: &[BackendStatus], now: Timestamp) -> Finding {
    let is_excluded = |backend: &&BackendStatus| {
        backend.state == BackendState::Excluded && now.duration_since(backend.since.0) >= SETTLING
    };
    match seen.iter().find(is_excluded).filter(|_| backends.holds()) {
        Some(BackendStatus { name, message, .. }) => {
            let message = message.as_deref().unwrap_or("the publisher gives no reason");
            Finding::no(Reason::BackendExcluded, format!("Backend {name} is excluded: {message}"))
        }
        None => backends,
    }
}

/// Returns true if all pods are of the newest version. If not, the ready pods may include older
/// ones.
fn rolled_out(deployment: &Deployment, wanted: i32) -> bool {
    let status = deployment.status.as_ref();
    let seen = status.and_then(|status| status.observed_generation) >= deployment.metadata.generation;
    let updated = status.and_then(|status| status.updated_replicas).unwrap_or(0);
    seen && updated >= wanted && updated >= status.and_then(|status| status.replicas).unwrap_or(0)
}

/// Returns a message with the reason why the API server refuses to create pods, for example a quota
/// or an admission webhook. The reason comes from the Deployment's status.
fn refused_pods(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure =
        conditions.iter().find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    Some(format!("Pods cannot be created: {}", failure.message.as_deref().unwrap_or("the Deployment gives no reason")))
}

fn published(
    object: &OnionBalancedService,
    status: &OnionBalancedServiceStatus,
    lease: Option<&Lease>,
    now: Timestamp,
) -> Finding {
    if object.spec.suspend {
        return Finding::no(Reason::Suspended, "spec.suspend is true.");
    }
    if status.published.is_empty() {
        return Finding::no(Reason::NotPublished, "No descriptor has been published yet.");
    }
    let is_open = status.published.iter().any(|period| period.authorized_clients.is_none());
    if object.spec.restricted_discovery.is_some() && is_open {
        let message = "The published descriptor is open to everyone; check the frontend pods.";
        return Finding::no(Reason::NotRestricted, message);
    }
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let Some(MicroTime(renewed)) = spec.and_then(|spec| spec.renew_time.clone()) else {
        let message = "No publisher holds the Lease; check the frontend pods.";
        return Finding::unknown(Reason::PublisherSilent, message);
    };
    let duration = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    if now.duration_since(renewed) > SILENCE.max(SignedDuration::from_secs(i64::from(duration) * 3)) {
        let message = format!("The publisher has not renewed its Lease since {renewed:.0}; check the frontend pods.");
        return Finding::unknown(Reason::PublisherSilent, message);
    }
    let newest = status.published.iter().map(|period| period.last_published.0).max().unwrap_or(renewed);
    if now.duration_since(newest) > DESCRIPTOR_LIFETIME {
        let message = format!("The newest descriptor was published at {newest:.0}; the HSDirs have dropped it.");
        return Finding::no(Reason::Expired, message);
    }
    let was_published =
        status.conditions.iter().any(|old| old.type_ == ConditionType::Published.as_str() && old.status == "True");
    let settles = was_published && now.duration_since(newest) < SETTLING;
    if !settles && status.published.iter().all(|period| period.hsdirs_accepted == 0) {
        return Finding::no(Reason::NotOnHSDirs, "No HSDir has accepted the descriptor.");
    }
    let idle = |backend: &BackendStatus| {
        // A backend that is waiting for its turn is able to serve.
        let is_idle = !matches!(backend.state, BackendState::Ready | BackendState::Waiting);
        is_idle && now.duration_since(backend.since.0) >= SETTLING
    };
    if !status.backends.is_empty() && status.backends.iter().all(idle) {
        let message = "No backend has introduction points; the last descriptor remains until it expires.";
        return Finding::no(Reason::NoBackends, message);
    }
    Finding::yes(Reason::Published, "The descriptor is published.")
}

/// Replaces the finding with a known problem of the frontends' pods if such a problem explains it.
/// This is possible if nothing is published, if the publisher is silent, or if the descriptor has
/// expired.
fn explained(published: Finding, observed: &Observed) -> Finding {
    if ![Reason::NotPublished, Reason::PublisherSilent, Reason::Expired].contains(&published.reason) {
        return published;
    }
    if let Some(message) = observed.frontends.as_deref().and_then(refused_pods) {
        return Finding::no(Reason::PodsRefused, format!("Frontend: {message}"));
    }
    match observed.pod_problems.iter().find(|problem| problem.component == Component::Frontend) {
        Some(problem) => Finding::no(problem.reason, problem.message.clone()),
        None => published,
    }
}

/// Returns the condition `Stalled` if only a change to the object or its key can help. A problem
/// that could also be resolved by creating or deleting another object is not a stall, because a
/// deployment pipeline may be about to do just that.
fn stalled(found: &[(ConditionType, Finding)]) -> Option<(ConditionType, Finding)> {
    const REASONS: [Reason; 4] =
        [Reason::InvalidSpec, Reason::InvalidName, Reason::KeyInvalid, Reason::AddressMismatch];
    let (_, finding) = found.iter().find(|(_, finding)| REASONS.contains(&finding.reason))?;
    Some((ConditionType::Stalled, Finding { truth: Truth::True, ..finding.clone() }))
}

/// Returns the finding about `Ready`, which repeats the first other finding that is not True.
fn summary(found: &[(ConditionType, Finding)], address: Option<&str>) -> Finding {
    match found.iter().find(|(_, finding)| !finding.holds()) {
        None => Finding::yes(Reason::Ready, format!("Reachable at {}.", address.unwrap_or_default())),
        Some((_, finding)) => finding.clone(),
    }
}
