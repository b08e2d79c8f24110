//! The operator's part of a service's status.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;

use super::published::SETTLING;
use super::{
    Conclusion, LONGEST_LIST, Observed, RefusedWrite, clients, guards, health, location, published, reachable,
    signing_keys, workload,
};
use crate::crd::names::{self, Component, pod_selector};
use crate::crd::{BackendState, BackendStatus, ConditionType, OnionBalancedServiceStatus, Reason};
use crate::operator::children::Kind;
use crate::operator::conditions::{Finding, Truth, listed, merge};

/// Returns the operator's part of the status. `backends`, `published`, `probes`, `guards` and
/// `vanguards` belong to the publisher, so they are left empty and are not applied. `previous` is
/// the current status.
pub fn status(
    observed: &Observed,
    conclusion: &Conclusion,
    previous: &OnionBalancedServiceStatus,
    now: Timestamp,
) -> OnionBalancedServiceStatus {
    let object = &*observed.object;
    let deployment = observed.backends.as_deref().and_then(|deployment| deployment.status.as_ref());
    let ready_replicas = deployment.and_then(|status| status.ready_replicas).unwrap_or(0);
    let published = published::finding(observed, previous, now);
    let mut clients = clients::finding(object.spec.restricted_discovery.as_ref(), observed.clients_secret.as_ref());
    // The copy of the clients cannot be authenticated without the key, so it stays as it is.
    if names::clients_secret(object).is_some() && conclusion.address.is_none() {
        clients = clients.map(|found| {
            let message = format!("{} Changes to the Secret take effect once MasterKeyReady is True.", found.message);
            Finding { message, ..found }
        });
    }
    let mut found = vec![
        (ConditionType::Accepted, conclusion.accepted.clone()),
        (ConditionType::MasterKeyReady, master_key(observed, conclusion)),
    ];
    found.extend(signing_keys::finding(observed, now).map(|keys| (ConditionType::SigningKeysReady, keys)));
    found.extend(clients.map(|clients| (ConditionType::ClientsReady, clients)));
    let backends = backends(observed, conclusion, ready_replicas);
    let backends = complete(backends, &previous.backends, now);
    // A publisher that does not renew its Lease hears of no check. Its results would also be those
    // of former pods if the service was suspended.
    let is_silent = published::silence(observed.lease.as_ref(), now).is_some();
    let backends = if is_silent { backends } else { health::finding(backends, &previous.backends) };
    found.push((ConditionType::BackendsReady, backends));
    found.push((ConditionType::Published, published));
    // The address is never removed, because a former address keeps the operator from generating a
    // new key.
    let onion_address =
        conclusion.address.map(|address| address.to_string()).or_else(|| previous.onion_address.clone());
    let reachable = reachable::finding(object, previous, observed.lease.as_ref(), now);
    let exposed = location::finding(conclusion.location);
    let ready = summary(&found, reachable.as_ref(), exposed.is_some());
    found.extend(reachable.map(|reachable| (ConditionType::Reachable, reachable)));
    let shared = guards::finding(object, previous, observed.lease.as_ref(), now);
    found.extend(shared.map(|shared| (ConditionType::GuardsShared, shared)));
    found.extend(exposed.map(|exposed| (ConditionType::LocationExposed, exposed)));
    found.push((ConditionType::Ready, ready));
    found.extend(stalled(&found));
    OnionBalancedServiceStatus {
        onion_address,
        observed_generation: object.metadata.generation,
        replicas: Some(deployment.and_then(|status| status.replicas).unwrap_or(0)),
        ready_replicas: Some(ready_replicas),
        ready: Some(format!("{ready_replicas}/{}", conclusion.backends)),
        selector: Some(pod_selector(&object.name_any(), Component::Backend)),
        backends: Vec::new(),
        published: Vec::new(),
        probes: Vec::new(),
        guards: None,
        vanguards: None,
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
/// object is deleted, another service stops using the same key, the Lease expires, or a node takes
/// too long to create a pod's containers.
pub fn requeue_after(observed: &Observed, conclusion: &Conclusion, now: Timestamp) -> Duration {
    let seconds = if !observed.taken.is_empty() || !conclusion.master_key.holds() {
        10
    } else if observed.lease.is_some() {
        60
    } else {
        300
    };
    let pods = observed.pods.iter().filter_map(|pod| Some((pod.stuck_from()?, pod.is_stuck(now))));
    // Nobody reports new Events about a pod that is already stuck.
    let pods = pods.map(|(from, is_stuck)| if is_stuck { 30 } else { from.duration_since(now).as_secs() + 1 });
    let pods = pods.filter_map(|seconds| u64::try_from(seconds).ok());
    Duration::from_secs(pods.chain([seconds]).min().unwrap_or(seconds))
}

/// Returns the finding about the master key. If the API server has refused the key's Secret, the
/// finding reports the refusal.
fn master_key(observed: &Observed, conclusion: &Conclusion) -> Finding {
    let refused = observed.refused.iter().find(|refused| is_key(observed, refused));
    refused.map_or_else(|| conclusion.master_key.clone(), apply_failed)
}

/// Returns true if the API server has refused the Secret of the master key.
fn is_key(observed: &Observed, refused: &RefusedWrite) -> bool {
    refused.child.kind == Kind::Secret && refused.child.name == names::master_key_secret(&observed.object)
}

fn apply_failed(RefusedWrite { child, message }: &RefusedWrite) -> Finding {
    Finding::no(Reason::ApplyFailed, format!("{child}: {message}"))
}

/// Returns the finding about the backends. It names every bad port, every owned object that the API
/// server has refused, and whatever keeps the pods from being ready. The most permanent problem
/// comes first, and its reason is that of the condition.
fn backends(observed: &Observed, conclusion: &Conclusion, ready: i32) -> Finding {
    let refused = observed.refused.iter().filter(|refused| !is_key(observed, refused)).map(apply_failed);
    let problems: Vec<Finding> = conclusion.target_problems.iter().cloned().chain(refused).collect();
    let messages: Vec<_> = problems.iter().map(|problem| problem.message.clone()).collect();
    let pods = workload::backends(observed, conclusion, ready);
    let Some(first) = problems.into_iter().next() else { return pods };
    let problems = Finding { message: listed(&messages, " ", LONGEST_LIST), ..first };
    if pods.holds() {
        return problems;
    }
    // A user who suspends a service wants to know whether it has stopped.
    let (first, second) = if observed.object.spec.suspend { (pods, problems) } else { (problems, pods) };
    Finding { message: format!("{} {}", first.message, second.message), ..first }
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

/// Returns the condition `Stalled` if only a change to the object or its key, or a change of the
/// operator's settings, can help. A problem that could also be resolved by creating or deleting
/// another object is not a stall, because a deployment pipeline may be about to do just that.
fn stalled(found: &[(ConditionType, Finding)]) -> Option<(ConditionType, Finding)> {
    const REASONS: [Reason; 5] =
        [Reason::InvalidSpec, Reason::NotAllowed, Reason::InvalidName, Reason::KeyInvalid, Reason::AddressMismatch];
    let (_, finding) = found.iter().find(|(_, finding)| REASONS.contains(&finding.reason))?;
    Some((ConditionType::Stalled, Finding { truth: Truth::True, ..finding.clone() }))
}

/// Returns the finding about `Ready`, which repeats the first other finding that is not True. A
/// probe that has not ended, or could not be made, says nothing about the service, so the finding
/// about the probes counts only if it is False. If the location of the servers is exposed, the
/// message says so, because lists of objects show it.
fn summary(found: &[(ConditionType, Finding)], reachable: Option<&Finding>, is_exposed: bool) -> Finding {
    let problem = found.iter().map(|(_, finding)| finding).find(|finding| !finding.holds());
    match problem.or(reachable.filter(|reachable| reachable.truth == Truth::False)) {
        None if is_exposed => {
            Finding::yes(Reason::Ready, "The service is reachable. The location of its servers is not hidden.")
        }
        None => Finding::yes(Reason::Ready, "The service is reachable."),
        Some(finding) => finding.clone(),
    }
}
