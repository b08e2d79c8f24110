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
use super::build::{ChildId, Kind};
use super::cache::{Cache, Guarded};
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
        let mut live = observe::live_children(client, cache, &object, settings).await?;
        observed.taken = observe::taken(&live, &object);
        observed.frontend_account = observe::frontend_account(&live, &object);
        plan = self::plan(&observed, settings);
        if let Some(children) = plan.children.clone() {
            failures = apply::children(writer, &object, &mut live, children).await?;
            // The frontends' Deployment waits for their account, which may have just been made.
            let account = observe::frontend_account(&live, &object);
            if failures.is_empty() && account.is_some() && account != observed.frontend_account {
                observed.frontend_account = account;
                plan = self::plan(&observed, settings);
                failures =
                    apply::children(writer, &object, &mut live, plan.children.clone().unwrap_or_default()).await?;
            }
            expect_rollout(&mut observed, &live);
            let labelled = cache.children(&object.namespace().unwrap_or_default(), &object.name_any());
            untidy = untidy.and(apply::prune(writer, &object, settings, labelled).await);
        }
    }
    write_status(context, &observed, &plan, &failures, generated.as_deref()).await?;
    untidy.map_err(Error::Untidy)?;
    if failures.is_empty() { Ok(plan::next_look(&observed, &plan)) } else { Err(Error::Refused(failures.len())) }
}

/// What was observed of a Deployment that was applied after that is of its older generation: it has yet to be rolled out.
fn expect_rollout(observed: &mut Observed, live: &BTreeMap<ChildId, ObjectMeta>) {
    let name = Component::Backend.child_name(&observed.object.name_any());
    if let (Some(deployment), Some(applied)) =
        (&mut observed.backends, live.get(&ChildId { kind: Kind::Deployment, name }))
        && applied.generation > deployment.metadata.generation
    {
        Arc::make_mut(deployment).metadata.generation = applied.generation;
    }
}

/// The objects that may use the same key: hardly ever one, so that of many objects few are copied.
fn rivals(context: &Context, observed: &Observed) -> Vec<Arc<OnionBalancedService>> {
    let address = observed.key_secret.as_ref().and_then(plan::address).map(|address| address.to_string());
    let is_rival = |object: Arc<Guarded>| {
        let other = object.0.as_ref().ok()?;
        (plan::shares_key(&observed.object, other, address.as_deref()) && other.uid() != observed.object.uid())
            .then(|| Arc::new(other.clone()))
    };
    context.objects.iter().flat_map(Store::state).filter_map(is_rival).collect()
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

/// Writes only what differs. The status that stands is read afresh before that, so that a transition time is never taken
/// from a cache that is behind. What changes is told in Events, too.
async fn write_status(
    context: &Context,
    observed: &Observed,
    plan: &Plan,
    failures: &[Failure],
    generated: Option<&str>,
) -> Result<(), Error> {
    let object = &observed.object;
    let wanted = |present: &OnionBalancedServiceStatus| plan::status(observed, plan, failures, present, now());
    let cached = object.status.clone().unwrap_or_default();
    if is_written(&wanted(&cached), &cached) {
        return Ok(());
    }
    let objects: Api<OnionBalancedService> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let Some(current) = objects.get_opt(&object.name_any()).await? else { return Ok(()) };
    let present = current.status.unwrap_or_default();
    let wanted = wanted(&present);
    if current.metadata.uid != object.metadata.uid || is_written(&wanted, &present) {
        return Ok(());
    }
    log_transitions(object, &present.conditions, &wanted.conditions);
    if apply::status(&context.writer, &object.metadata, &wanted).await? {
        let news = notices(&present.conditions, &wanted.conditions, generated);
        context.events.tell(&object.metadata, news).await;
    }
    Ok(())
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
            if apply::status(&context.writer, &current.metadata, &wanted).await? {
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
