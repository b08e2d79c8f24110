//! What to say: the status, as far as it is the operator's.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::ResourceExt as _;

use super::{Observed, Plan, clients};
use crate::crd::names::{self, Component, pod_selector};
use crate::crd::{BackendState, BackendStatus, OnionBalancedService, OnionBalancedServiceStatus};
use crate::operator::children::{ChildId, Kind};
use crate::operator::conditions::{Status, Type, Verdict, merge};

/// A child that the API server did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub child: ChildId,
    /// The API server's words.
    pub message: String,
}

/// How long a Lease may go without renewal before we say so. Much longer than its duration: a publisher that has lost the
/// API server goes on, and so does one whose clock differs from ours.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);

/// How long HSDirs keep a descriptor.
const DESCRIPTOR_LIFETIME: SignedDuration = SignedDuration::from_hours(3);
/// A new descriptor begins with no HSDir, and a new publisher with no backend: what was published stands meanwhile.
const SETTLING: SignedDuration = SignedDuration::from_secs(60);

/// The operator's part of the status. `backends` and `published` are left empty, hence not applied: they are the
/// publisher's. `previous` is the status as it stands.
pub fn status(
    observed: &Observed,
    plan: &Plan,
    failures: &[Failure],
    previous: &OnionBalancedServiceStatus,
    now: Timestamp,
) -> OnionBalancedServiceStatus {
    let object = &*observed.object;
    let deployment = observed.backends.as_deref().and_then(|deployment| deployment.status.as_ref());
    let ready_replicas = deployment.and_then(|status| status.ready_replicas).unwrap_or(0);
    let wanted = if object.spec.suspend { 0 } else { object.spec.backends.replicas };
    let backends = backends(observed, plan, failures, ready_replicas, wanted);
    let published = explained(published(object, previous, observed.lease.as_ref(), now), observed);
    let key_secret = names::master_key_secret(object);
    let refused = |failure: &&Failure| failure.child.kind == Kind::Secret && failure.child.name == key_secret;
    let master_key = match failures.iter().find(refused) {
        Some(Failure { child, message }) => Verdict::no("ApplyFailed", format!("{child}: {message}")),
        None => plan.master_key.clone(),
    };
    let clients = clients::verdict(object.spec.restricted_discovery.as_ref(), observed.clients_secret.as_ref());
    let mut found = vec![(Type::Accepted, plan.accepted.clone()), (Type::MasterKeyReady, master_key)];
    found.extend(clients.map(|clients| (Type::ClientsReady, clients)));
    found.extend([(Type::BackendsReady, backends), (Type::Published, published)]);
    // Never forgotten: an address that once was is what forbids a new key.
    let onion_address = plan.address.map(|address| address.to_string()).or_else(|| previous.onion_address.clone());
    let ready = summary(&found, onion_address.as_deref());
    found.push((Type::Ready, ready));
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

/// The conditions of an object that cannot be read: its spec is not even of our types.
pub fn unreadable(error: &str, previous: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let accepted = Verdict::no("InvalidSpec", format!("The object cannot be read: {error}"));
    let unknown = Verdict::unknown("InvalidSpec", "The object cannot be read; see Accepted.");
    let found = [
        (Type::Accepted, accepted.clone()),
        (Type::MasterKeyReady, unknown.clone()),
        (Type::BackendsReady, unknown.clone()),
        (Type::Published, unknown),
        (Type::Ready, accepted.clone()),
        (Type::Stalled, Verdict { status: Status::True, ..accepted }),
    ];
    merge(previous, &found, generation, now)
}

/// The conditions of an object for which the operator lacks a right: what was found before stands, but that all is well.
pub fn forbidden(error: &str, previous: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let message = format!("The operator may not do its work: {error}; give it the rights of deploy/rbac.yaml.");
    let others = previous.iter().filter(|condition| condition.type_ != Type::Ready.as_str()).cloned();
    let ready = merge(previous, &[(Type::Ready, Verdict::unknown("Forbidden", message))], generation, now);
    others.chain(ready).collect()
}

/// When to look again though nothing was seen to change: what bears the name of a child but no label of ours is not watched,
/// an object that held our key can drop it without a word of us, and a Lease goes stale by itself.
pub fn next_look(observed: &Observed, plan: &Plan) -> std::time::Duration {
    let seconds = if !observed.taken.is_empty() || !plan.master_key.holds() {
        10
    } else if observed.lease.is_some() {
        60
    } else {
        300
    };
    std::time::Duration::from_secs(seconds)
}

fn backends(observed: &Observed, plan: &Plan, failures: &[Failure], ready: i32, wanted: i32) -> Verdict {
    if let Some(problem) = &plan.target_problem {
        return problem.clone();
    }
    if let Some(Failure { child, message }) = failures.first() {
        return Verdict::no("ApplyFailed", format!("{child}: {message}"));
    }
    if observed.object.spec.suspend {
        return Verdict::no("Suspended", "spec.suspend is true.");
    }
    let Some(deployment) = observed.backends.as_deref() else {
        return if plan.children.is_some() {
            Verdict::no("Progressing", format!("0 of {wanted} backends are ready."))
        } else {
            Verdict::no("Waiting", "The pods are made once Accepted and MasterKeyReady are True.")
        };
    };
    let external = observed.object.spec.external_backends.len();
    if wanted == 0 && external > 0 {
        return Verdict::yes("OnlyExternal", format!("spec.backends.replicas is 0; external backends: {external}."));
    }
    if wanted == 0 {
        return Verdict::no("ScaledToZero", "spec.backends.replicas is 0.");
    }
    if let Some(message) = cannot_make_pods(deployment) {
        return Verdict::no("PodsRefused", message);
    }
    let trouble = observed.troubles.iter().find(|trouble| trouble.component == Component::Backend);
    if let Some(trouble) = trouble.filter(|_| ready < wanted || !rolled_out(deployment, wanted)) {
        return Verdict::no(trouble.reason, format!("{ready} of {wanted} backends are ready. {}", trouble.message));
    }
    if ready < wanted {
        return Verdict::no("Progressing", format!("{ready} of {wanted} backends are ready."));
    }
    if !rolled_out(deployment, wanted) {
        return Verdict::no("RollingOut", "A new version of the backends is being rolled out.");
    }
    Verdict::yes("AllReady", format!("All {wanted} backends are ready."))
}

/// All pods are of the newest version. One of an older version that is still there may be what makes enough of them ready.
fn rolled_out(deployment: &Deployment, wanted: i32) -> bool {
    let status = deployment.status.as_ref();
    let seen = status.and_then(|status| status.observed_generation) >= deployment.metadata.generation;
    let updated = status.and_then(|status| status.updated_replicas).unwrap_or(0);
    seen && updated >= wanted && updated >= status.and_then(|status| status.replicas).unwrap_or(0)
}

/// A quota or an admission rule, in the words of the Deployment.
fn cannot_make_pods(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure =
        conditions.iter().find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    Some(format!("Pods cannot be made: {}", failure.message.as_deref().unwrap_or("no reason is given")))
}

fn published(
    object: &OnionBalancedService,
    status: &OnionBalancedServiceStatus,
    lease: Option<&Lease>,
    now: Timestamp,
) -> Verdict {
    if object.spec.suspend {
        return Verdict::no("Suspended", "spec.suspend is true.");
    }
    if status.published.is_empty() {
        return Verdict::no("NotPublished", "No descriptor has been published yet.");
    }
    let is_open = status.published.iter().any(|period| period.authorized_clients.is_none());
    if object.spec.restricted_discovery.is_some() && is_open {
        return Verdict::no("NotRestricted", "The published descriptor is open to everybody; see the frontend's pods.");
    }
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let Some(MicroTime(renewed)) = spec.and_then(|spec| spec.renew_time.clone()) else {
        return Verdict::unknown("PublisherSilent", "No publisher holds the Lease; see the frontend's pods.");
    };
    let duration = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    if now.duration_since(renewed) > SILENCE.max(SignedDuration::from_secs(i64::from(duration) * 3)) {
        return Verdict::unknown(
            "PublisherSilent",
            format!("The publisher has not renewed its Lease since {renewed:.0}; see the frontend's pods."),
        );
    }
    let newest = status.published.iter().map(|period| period.last_published.0).max().unwrap_or(renewed);
    if now.duration_since(newest) > DESCRIPTOR_LIFETIME {
        return Verdict::no("Expired", format!("The newest descriptor is of {newest:.0}: HSDirs have dropped it."));
    }
    let was_published =
        status.conditions.iter().any(|old| old.type_ == Type::Published.as_str() && old.status == "True");
    let settles = was_published && now.duration_since(newest) < SETTLING;
    if !settles && status.published.iter().all(|period| period.hsdirs_accepted == 0) {
        return Verdict::no("NotOnHSDirs", "No HSDir has accepted the descriptor.");
    }
    let idle = |backend: &BackendStatus| {
        // One that waits for its turn could serve.
        let is_idle = !matches!(backend.state, BackendState::Ready | BackendState::Waiting);
        is_idle && now.duration_since(backend.since.0) >= SETTLING
    };
    if !status.backends.is_empty() && status.backends.iter().all(idle) {
        return Verdict::no(
            "NoBackends",
            "No backend has introduction points; the last descriptor stays until it expires.",
        );
    }
    Verdict::yes("Published", "The descriptor is published.")
}

/// Why there is no publisher, where that is known.
fn explained(published: Verdict, observed: &Observed) -> Verdict {
    if !["NotPublished", "PublisherSilent", "Expired"].contains(&published.reason) {
        return published;
    }
    if let Some(message) = observed.frontends.as_deref().and_then(cannot_make_pods) {
        return Verdict::no("PodsRefused", format!("Frontend: {message}"));
    }
    match observed.troubles.iter().find(|trouble| trouble.component == Component::Frontend) {
        Some(trouble) => Verdict::no(trouble.reason, trouble.message.clone()),
        None => published,
    }
}

/// What waiting does not help against: the object or its key must be changed. Not what another object that comes or goes can end,
/// for a pipeline may just be about to see to that.
fn stalled(found: &[(Type, Verdict)]) -> Option<(Type, Verdict)> {
    const REASONS: [&str; 4] = ["InvalidSpec", "InvalidName", "KeyInvalid", "AddressMismatch"];
    let (_, Verdict { reason, message, .. }) = found.iter().find(|(_, verdict)| REASONS.contains(&verdict.reason))?;
    Some((Type::Stalled, Verdict::yes(reason, message.clone())))
}

/// True when all hold; otherwise the first that does not.
fn summary(found: &[(Type, Verdict)], address: Option<&str>) -> Verdict {
    match found.iter().find(|(_, verdict)| !verdict.holds()) {
        None => Verdict::yes("Ready", format!("Reachable at {}.", address.unwrap_or_default())),
        Some((_, Verdict { status: Status::Unknown, reason, message })) => Verdict::unknown(reason, message.clone()),
        Some((_, Verdict { reason, message, .. })) => Verdict::no(reason, message.clone()),
    }
}
