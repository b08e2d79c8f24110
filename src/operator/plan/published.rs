//! The finding about the published descriptor.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::observed::Observed;
use super::workload::{obstacle, rolled_out, suspended};
use crate::crd::names::Component;
use crate::crd::{
    BackendState, BackendStatus, ConditionType, OnionBalancedService, OnionBalancedServiceStatus, Reason,
};
use crate::operator::conditions::Finding;

/// The minimum time without a renewal after which the holder of a Lease is considered silent. It is
/// much longer than the Lease's duration, because a publisher keeps publishing when it cannot reach
/// the API server or when its clock differs from the operator's.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);

/// The time for which HSDirs keep a descriptor.
const DESCRIPTOR_LIFETIME: SignedDuration = SignedDuration::from_hours(3);
/// The time for which `Published` stays True although no HSDir has accepted the new descriptor yet,
/// or a new publisher has not found any backends yet.
pub(super) const SETTLING: SignedDuration = SignedDuration::from_secs(60);

/// Returns the finding about the published descriptor. `status` is the current status. A known
/// problem of the frontends' pods replaces the finding if it explains the finding, and is added to
/// the message otherwise.
pub(super) fn finding(observed: &Observed, status: &OnionBalancedServiceStatus, now: Timestamp) -> Finding {
    if observed.object.spec.suspend {
        return with_remaining_descriptor(suspended(observed), status, now);
    }
    let published = published(&observed.object, status, observed.lease.as_ref(), now);
    let wanted = observed.object.spec.frontend.replicas;
    let is_complete = observed.deployment(Component::Frontend).is_some_and(|deployment| {
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        ready >= wanted && rolled_out(deployment, wanted)
    });
    let Some(obstacle) = obstacle(observed, Component::Frontend).filter(|_| !is_complete) else { return published };
    let message = format!("Frontend: {}", obstacle.message);
    if [Reason::NotPublished, Reason::PublisherSilent, Reason::Expired].contains(&published.reason) {
        return Finding { message, ..obstacle };
    }
    Finding { message: format!("{} {message}", published.message), ..published }
}

/// Adds the time at which the HSDirs drop the last descriptor of a suspended service. Nobody can
/// remove a descriptor from the HSDirs earlier.
fn with_remaining_descriptor(suspended: Finding, status: &OnionBalancedServiceStatus, now: Timestamp) -> Finding {
    let newest = status.published.iter().map(|period| period.last_published.0).max();
    let dropped = newest.and_then(|newest| newest.checked_add(DESCRIPTOR_LIFETIME).ok());
    let Some(dropped) = dropped.filter(|dropped| *dropped > now) else { return suspended };
    let message = format!("{} The HSDirs may keep the last descriptor until {dropped:.0}.", suspended.message);
    Finding { message, ..suspended }
}

fn published(
    object: &OnionBalancedService,
    status: &OnionBalancedServiceStatus,
    lease: Option<&Lease>,
    now: Timestamp,
) -> Finding {
    if status.published.is_empty() {
        return Finding::no(Reason::NotPublished, "No descriptor has been published yet.");
    }
    let is_open = status.published.iter().any(|period| period.authorized_clients.is_none());
    if object.spec.restricted_discovery.is_some() && is_open {
        let message = "The published descriptor is open to everyone; check the frontend pods.";
        return Finding::no(Reason::NotRestricted, message);
    }
    if let Some(message) = silence(lease, now) {
        return Finding::unknown(Reason::PublisherSilent, message);
    }
    let newest = status.published.iter().map(|period| period.last_published.0).max().unwrap_or(now);
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
    let foreign = status.published.iter().filter_map(|period| period.foreign_publisher.as_ref());
    if let Some(noticed) = foreign.map(|at| at.0).max() {
        let message = format!(
            "Another publisher with the same master key was noticed at {noticed:.0}; clients may get its descriptor. Stop \
             it, or replace the key if it has been copied."
        );
        return Finding::no(Reason::ForeignPublisher, message);
    }
    Finding::yes(Reason::Published, "The descriptor is published.")
}

/// Returns a sentence about the publishers if none of them renews the Lease.
pub(super) fn silence(lease: Option<&Lease>, now: Timestamp) -> Option<String> {
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let Some(MicroTime(renewed)) = spec.and_then(|spec| spec.renew_time.clone()) else {
        return Some("No publisher holds the Lease; check the frontend pods.".to_owned());
    };
    let duration = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    let is_silent = now.duration_since(renewed) > SILENCE.max(SignedDuration::from_secs(i64::from(duration) * 3));
    is_silent.then(|| format!("The publisher has not renewed its Lease since {renewed:.0}; check the frontend pods."))
}
