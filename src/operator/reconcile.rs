//! One look at one object: observe, plan, apply, and say so in the status, whatever happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, DeserializeGuard};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tracing::info;

use super::apply::{Generated, Writer};
use super::cache::{Cache, Guarded};
use super::children::{ChildId, Kind};
use super::conditions::Type;
use super::events::{Events, notices};
use super::plan::{self, Failure, KeyStep, Observed, Plan, plan};
use super::settings::Settings;
use super::{apply, observe};
use crate::crd::names::Component;
use crate::crd::{OnionBalancedService, OnionBalancedServiceStatus};

/// What a look needs, of one namespace or of all.
pub struct Context {
    /// The API, to read.
    pub client: Client,
    /// The API, to write.
    pub writer: Writer,
    /// Where people are told.
    pub events: Arc<Events>,
    /// Images and the like.
    pub settings: Settings,
    /// What is watched here.
    pub cache: Cache,
    /// The objects of all namespaces that are watched: a key may be used twice across them.
    pub objects: Arc<Vec<Store<Guarded>>>,
}

/// Why a look is repeated soon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API did not answer as it should.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// Children were refused; the status says which.
    #[error("{0} children were refused")]
    Refused(usize),
    /// The API did not take what is put right after the status was written.
    #[error("{0}")]
    Untidy(kube::Error),
    /// A status that is no JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A bug: the look itself crashed.
    #[error("{0}")]
    Crashed(#[from] tokio::task::JoinError),
}

/// Looks at an object, and says when to look again.
pub async fn reconcile(object: &Guarded, context: &Context) -> Result<Duration, Error> {
    match object {
        DeserializeGuard(Ok(object)) => {
            let looked = look(Arc::new(object.clone()), context).await;
            if let Err(Error::Api(kube::Error::Api(status))) = &looked
                && status.is_forbidden()
            {
                let conditions =
                    |previous: &[Condition], generation| plan::forbidden(&status.message, previous, generation, now());
                report(&object.metadata, conditions, context).await?;
            }
            looked
        }
        DeserializeGuard(Err(invalid)) => {
            let conditions =
                |previous: &[Condition], generation| plan::unreadable(&invalid.error, previous, generation, now());
            report(&invalid.metadata, conditions, context).await?;
            Ok(Duration::from_secs(300))
        }
    }
}

async fn look(object: Arc<OnionBalancedService>, context: &Context) -> Result<Duration, Error> {
    let Context { client, writer, settings, cache, .. } = context;
    // The children go by the garbage collector; there is nothing else to clean up.
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Duration::from_secs(300));
    }
    let mut observed = observe::observe(client, cache, object.clone()).await?;
    observed.rivals = rivals(context, &observed);
    let mut plan = plan(&observed, settings);
    let (mut failures, mut generated) = (Vec::new(), None);
    if let KeyStep::Generate = plan.key_step
        && never_had_a_key(client, &object).await?
    {
        match apply::generate_key(writer, &object).await? {
            Generated::Created(secret) => {
                generated.clone_from(&secret.metadata.name);
                observed.key_secret = Some(*secret);
            }
            Generated::AlreadyThere => observed.key_secret = observe::key_secret(client, &object).await?,
            Generated::Refused(failure) => failures.push(failure),
        }
        observed.rivals = rivals(context, &observed);
        plan = self::plan(&observed, settings);
    }
    // What is refused here is repeated, and takes nothing from what the status has to say.
    let mut untidy = Ok(());
    if let (KeyStep::SetOwners(owners), Some(secret)) = (&plan.key_step, &observed.key_secret) {
        untidy = apply::set_key_owners(writer, &object, secret, owners).await;
    }
    if plan.children.is_some() {
        // Names are hardly ever taken, which is also seen when the children are applied.
        let mut live = if plan::name_was_taken(&object) {
            observe::live_children(client, cache, &object, settings).await?
        } else {
            observe::cached_children(cache, &object, settings)
        };
        observed.taken = live.iter().filter_map(|(id, found)| observe::taken(id, found, &object)).collect();
        observed.frontend_account = observe::frontend_account(&live, &object);
        if !observed.taken.is_empty() || observed.frontend_account.is_some() {
            plan = self::plan(&observed, settings);
        }
        if plan.children.is_some() {
            failures = apply_children(context, &mut observed, &mut plan, &mut live).await?;
            let labelled = cache.children(&object.namespace().unwrap_or_default(), &object.name_any());
            untidy = untidy.and(apply::prune(writer, &object, settings, labelled).await);
        }
    }
    write_status(context, &observed, &plan, &failures, generated.as_deref()).await?;
    untidy.map_err(Error::Untidy)?;
    if failures.is_empty() { Ok(plan::next_look(&observed, &plan)) } else { Err(Error::Refused(failures.len())) }
}

/// Applies the children step by step: the frontends' Deployment waits for their account, which may have just been made. Where a name
/// turns out to be taken, nothing more is applied, no pods are made, and `plan` says so.
async fn apply_children(
    context: &Context,
    observed: &mut Observed,
    plan: &mut Plan,
    live: &mut BTreeMap<ChildId, ObjectMeta>,
) -> Result<Vec<Failure>, Error> {
    let mut failures = Vec::new();
    for step in 0..Kind::STEPS {
        let these = plan.children.iter().flatten().filter(|child| child.id.kind.step() == step);
        let applied = apply::children(&context.writer, &observed.object, live, these).await?;
        failures.extend(applied.failures);
        let account = observe::frontend_account(live, &observed.object);
        if applied.taken.is_some() || account != observed.frontend_account {
            observed.taken.extend(applied.taken);
            observed.frontend_account = account;
            *plan = self::plan(observed, &context.settings);
        }
    }
    expect_rollout(observed, live);
    Ok(failures)
}

/// What was observed of a Deployment that was applied after that is of its older generation: it has yet to be rolled out.
fn expect_rollout(observed: &mut Observed, live: &BTreeMap<ChildId, ObjectMeta>) {
    let name = Component::Backend.child_name(&observed.object.name_any());
    let Some(applied) = live.get(&ChildId { kind: Kind::Deployment, name }) else { return };
    let deployment = observed.backends.get_or_insert_default();
    if applied.generation > deployment.metadata.generation {
        Arc::make_mut(deployment).metadata.generation = applied.generation;
    }
}

/// The objects that may use the same key: hardly ever one, so that of many objects few are copied.
fn rivals(context: &Context, observed: &Observed) -> Vec<Arc<OnionBalancedService>> {
    let object = &observed.object;
    let address = observed.key_secret.as_ref().and_then(plan::address).map(|address| address.to_string());
    let is_rival = |other: &OnionBalancedService| {
        plan::shares_key(object, other, address.as_deref()) && other.metadata.uid != object.metadata.uid
    };
    let found = context.objects.iter().flat_map(|objects: &Store<Guarded>| {
        objects.state_filter(|other: &Guarded| other.0.as_ref().is_ok_and(is_rival))
    });
    found.filter_map(|found| found.0.as_ref().ok().cloned().map(Arc::new)).collect()
}

/// Asks the API server itself: a cache may be behind, and a second key would be a second address.
async fn never_had_a_key(client: &Client, object: &OnionBalancedService) -> Result<bool, kube::Error> {
    let objects: Api<OnionBalancedService> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let Some(current) = objects.get_opt(&object.name_any()).await? else { return Ok(false) };
    let had_a_key = current.status.is_some_and(|status| status.onion_address.is_some());
    Ok(current.metadata.uid == object.metadata.uid
        && current.metadata.generation == object.metadata.generation
        && !had_a_key)
}

/// Writes only what differs from what stands. A transition time is never taken from a cache that is behind: what is made of the
/// cache's is for its version alone, and where another one stands, that is read afresh. What changes is told in Events, too.
async fn write_status(
    context: &Context,
    observed: &Observed,
    plan: &Plan,
    failures: &[Failure],
    generated: Option<&str>,
) -> Result<(), Error> {
    let object = &observed.object;
    let cached = object.status.clone().unwrap_or_default();
    let version = object.metadata.resource_version.as_deref();
    let wanted = |present: &OnionBalancedServiceStatus| plan::status(observed, plan, failures, present, now());
    if write_over(context, object, &cached, version, &wanted(&cached), generated).await? {
        return Ok(());
    }
    let objects: Api<OnionBalancedService> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let current = objects.get_opt(&object.name_any()).await?;
    if let Some(current) = current.filter(|current| current.metadata.uid == object.metadata.uid) {
        let present = current.status.unwrap_or_default();
        write_over(context, object, &present, None, &wanted(&present), generated).await?;
    }
    Ok(())
}

/// Writes a status where another is present, if the object has this version or none is given; false when it has not.
async fn write_over(
    context: &Context,
    object: &OnionBalancedService,
    present: &OnionBalancedServiceStatus,
    version: Option<&str>,
    wanted: &OnionBalancedServiceStatus,
    generated: Option<&str>,
) -> Result<bool, Error> {
    if is_written(wanted, present) {
        return Ok(true);
    }
    if !apply::status(&context.writer, &object.metadata, version, wanted).await? {
        return Ok(false);
    }
    log_transitions(object, &present.conditions, &wanted.conditions);
    let news = notices(&present.conditions, &wanted.conditions, generated);
    context.events.tell(&object.metadata, news).await;
    Ok(true)
}

/// Whether the operator's part of the present status is as wanted.
fn is_written(wanted: &OnionBalancedServiceStatus, present: &OnionBalancedServiceStatus) -> bool {
    let present = OnionBalancedServiceStatus { backends: Vec::new(), published: Vec::new(), ..present.clone() };
    *wanted == present
}

fn log_transitions(object: &OnionBalancedService, before: &[Condition], after: &[Condition]) {
    for condition in after.iter().filter(|condition| condition.type_ == Type::Ready.as_str()) {
        let same = |old: &&Condition| {
            (&old.type_, &old.status, &old.reason) == (&condition.type_, &condition.status, &condition.reason)
        };
        if !before.iter().any(|old| same(&old)) {
            info!(
                object = %object.name_any(), namespace = object.namespace(), condition = condition.type_,
                status = condition.status, reason = condition.reason, "{}", condition.message
            );
        }
    }
}

/// Writes conditions, made of those that stand and the generation, where there is nothing else to say. The rest of the status is
/// handed back as it stands: what an apply leaves out is removed, and the address must not be forgotten.
async fn report(
    metadata: &kube::core::ObjectMeta,
    conditions: impl FnOnce(&[Condition], Option<i64>) -> Vec<Condition>,
    context: &Context,
) -> Result<(), Error> {
    let resource = ApiResource::erase::<OnionBalancedService>(&());
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let objects: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    if let Some(current) = objects.get_opt(metadata.name.as_deref().unwrap_or_default()).await? {
        let present = current.data.get("status").cloned().unwrap_or_else(|| json!({}));
        let before = present.get("conditions").cloned().unwrap_or_default();
        let before: Vec<Condition> = serde_json::from_value(before).unwrap_or_default();
        let generation = current.metadata.generation;
        let after = conditions(&before, generation);
        let mut wanted = present.clone();
        wanted["conditions"] = serde_json::to_value(&after)?;
        wanted["observedGeneration"] = generation.into();
        if wanted != present {
            if let Value::Object(fields) = &mut wanted {
                fields.retain(|field, _| field != "backends" && field != "published");
            }
            if apply::status(&context.writer, &current.metadata, None, &wanted).await? {
                context.events.tell(&current.metadata, notices(&before, &after, None)).await;
            }
        }
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the operator's one look at the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}
