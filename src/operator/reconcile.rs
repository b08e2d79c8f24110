//! The reconciliation of one object: observe, then plan and execute one step after another, then
//! write the status.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference};
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tracing::{debug, info};

use super::apply::{KeyCreation, Writer};
use super::cache::Cache;
use super::events::{Events, notices};
use super::guarded::{Guarded, Readable};
use super::plan::{self, Conclusion, KeySecret, Next, Observed, Outcome, Rival, plan};
use super::settings::Environment;
use super::{apply, observe};
use crate::crd::{ConditionType, OnionBalancedService, OnionBalancedServiceStatus, names};

/// Everything that the reconciliations of one watch cache share.
pub struct Context {
    /// The client for read requests.
    pub client: Client,
    /// The client for write requests.
    pub writer: Writer,
    /// The writer of Kubernetes Events.
    pub events: Arc<Events>,
    /// The operator's settings and the optional APIs of the API server.
    pub environment: Arc<Environment>,
    /// The watch cache of the object's namespace or of all namespaces.
    pub cache: Cache,
    /// The services in all watched namespaces. They are needed because services in different
    /// namespaces can use the same key.
    pub objects: Arc<Vec<Store<Guarded>>>,
}

/// The time after which an object that is being deleted is looked at again.
const UNTIL_DELETED: Duration = Duration::from_secs(300);

/// An error after which the object is reconciled again soon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("could not read or write an object: {0}")]
    Api(#[from] kube::Error),
    /// The API server refused owned objects. The conditions name all of them.
    #[error("the API server refused {0} owned objects")]
    Refused(usize),
    /// Pruning or scaling failed, or the owners of the key's Secret could not be set. No other step
    /// depends on these.
    #[error("could not prune objects, scale Deployments or set the owners of the master key's Secret: {0}")]
    Untidy(kube::Error),
    /// The status could not be converted to JSON.
    #[error("could not convert the status to JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The reconciliation panicked, which indicates a bug.
    #[error("the reconciliation panicked: {0}")]
    Crashed(#[from] tokio::task::JoinError),
}

/// Reconciles an object. Returns the time after which it should be reconciled again.
pub async fn reconcile(object: &Guarded, context: &Context) -> Result<Duration, Error> {
    match &object.0 {
        Ok(readable) => {
            let object = &readable.object;
            let reconciled = reconcile_readable(readable.clone(), context).await;
            if let Err(Error::Api(kube::Error::Api(status))) = &reconciled
                && apply::namespace_ends(status)
            {
                debug!(namespace = object.namespace(), name = object.name_any(), "the namespace is being deleted");
                return Ok(UNTIL_DELETED);
            }
            if let Err(Error::Api(kube::Error::Api(status))) = &reconciled
                && status.is_forbidden()
            {
                let conditions =
                    |previous: &[Condition], generation| plan::forbidden(&status.message, previous, generation, now());
                write_conditions(&object.metadata, conditions, context).await?;
            }
            reconciled
        }
        Err(unreadable) => {
            let conditions =
                |previous: &[Condition], generation| plan::unreadable(&unreadable.error, previous, generation, now());
            write_conditions(&unreadable.metadata, conditions, context).await?;
            Ok(Duration::from_secs(300))
        }
    }
}

async fn reconcile_readable(readable: Readable, context: &Context) -> Result<Duration, Error> {
    // The garbage collector deletes the owned objects; there is nothing else to clean up.
    if readable.object.metadata.deletion_timestamp.is_some() {
        return Ok(UNTIL_DELETED);
    }
    let Context { client, cache, environment, .. } = context;
    let mut observed = observe::observe(client, cache, environment, readable, now()).await?;
    observed.rivals = rivals(context, &observed.object, observed.key_secret.as_ref()).await?;
    let mut executor = Executor { context, untidy: None };
    let conclusion = loop {
        match plan(&observed) {
            Next::Done(conclusion) => break conclusion,
            step => {
                let outcome = executor.execute(step, &observed).await?;
                observed.learn(outcome);
            }
        }
    };
    write_status(context, &observed, &conclusion).await?;
    match executor.untidy {
        Some(error) => Err(Error::Untidy(error)),
        None if !observed.refused.is_empty() => Err(Error::Refused(observed.refused.len())),
        None => Ok(plan::requeue_after(&observed, &conclusion, now())),
    }
}

/// The executor of a plan's steps.
struct Executor<'a> {
    context: &'a Context,
    /// The first error from a step that no other step depends on. It causes a retry, but only after
    /// the status has been written.
    untidy: Option<kube::Error>,
}

impl Executor<'_> {
    async fn execute(&mut self, step: Next, observed: &Observed) -> Result<Outcome, kube::Error> {
        let Context { client, writer, .. } = self.context;
        let object = &*observed.object;
        Ok(match step {
            Next::FindChildren { ask_server } => self.find_children(observed, ask_server).await?,
            Next::ReadLast => Outcome::LastRead(Box::new(observe::last(client, observed).await?)),
            Next::ReadObject => Outcome::ObjectRead(observe::object(client, object).await?.map(Box::new)),
            Next::GenerateKey => self.generate_key(object).await?,
            Next::SetKeyOwners(owners) => self.set_key_owners(observed, &owners).await,
            Next::Apply(stage, due) => Outcome::Applied(stage, apply::children(writer, object, due).await?),
            Next::Scale(scales) => {
                self.tolerate(apply::scale(writer, object, scales).await);
                Outcome::Scaled
            }
            Next::Prune(orphans) => {
                self.tolerate(apply::prune(writer, object, orphans).await);
                Outcome::Pruned
            }
            Next::Done(_) => unreachable!("the loop ends with this step"),
        })
    }

    async fn generate_key(&self, object: &OnionBalancedService) -> Result<Outcome, kube::Error> {
        Ok(match apply::generate_key(&self.context.writer, object).await? {
            KeyCreation::Created(secret) => {
                Outcome::KeyGenerated { rivals: rivals(self.context, object, Some(&secret)).await?, secret }
            }
            KeyCreation::Exists => {
                let secret = observe::key_secret(&self.context.client, object).await?;
                let rivals = rivals(self.context, object, secret.as_ref()).await?;
                Outcome::KeyExisted { rivals, secret: secret.map(Box::new) }
            }
            KeyCreation::Refused(refused) => Outcome::KeyRefused(refused),
        })
    }

    async fn set_key_owners(&mut self, observed: &Observed, owners: &[OwnerReference]) -> Outcome {
        if let Some(secret) = &observed.key_secret {
            let writer = &self.context.writer;
            self.tolerate(apply::set_key_owners(writer, &observed.object, &secret.metadata, owners).await);
        }
        Outcome::KeyOwnersTried
    }

    async fn find_children(&self, observed: &Observed, ask_server: bool) -> Result<Outcome, kube::Error> {
        let Context { client, cache, environment, .. } = self.context;
        let object = &*observed.object;
        let existing = if ask_server {
            observe::live_children(client, cache, object, environment).await?
        } else {
            observe::cached_children(cache, object, environment)
        };
        let labelled = cache.children(&object.namespace().unwrap_or_default(), &object.name_any());
        Ok(Outcome::ChildrenFound { existing, labelled, asked_server: ask_server })
    }

    fn tolerate(&mut self, result: Result<(), kube::Error>) {
        if let Err(error) = result {
            self.untidy.get_or_insert(error);
        }
    }
}

/// Returns the watched services that may use the same key. Matches are rare, so only the matching
/// services are copied. For a service with another Secret, its status only says that its key is
/// worth reading: whoever may write the status does not need to have the key.
async fn rivals(
    context: &Context,
    object: &OnionBalancedService,
    secret: Option<&KeySecret>,
) -> Result<Vec<Rival>, kube::Error> {
    let address = secret.and_then(plan::address).map(|address| address.to_string());
    let is_rival = |other: &OnionBalancedService| {
        plan::may_share_key(object, other, address.as_deref()) && other.metadata.uid != object.metadata.uid
    };
    let found: Vec<_> = context
        .objects
        .iter()
        .flat_map(|objects: &Store<Guarded>| {
            objects.state_filter(|other: &Guarded| other.object().is_some_and(is_rival))
        })
        .filter_map(|found| found.object().cloned().map(Arc::new))
        .collect();
    let mut rivals = Vec::new();
    for other in found {
        let key = if names::same_master_key_secret(object, &other) {
            None
        } else {
            observe::key_of_other(&context.client, &other).await?
        };
        rivals.push(Rival { object: other, key });
    }
    Ok(rivals)
}

/// Writes the status if it differs from the current one, and reports the changes as Events. The
/// status is first computed from the cached object and is written only to that version of the
/// object. Otherwise, a stale cache could restore an old transition time. If the object has another
/// version, the status is computed again from that version.
async fn write_status(context: &Context, observed: &Observed, conclusion: &Conclusion) -> Result<(), Error> {
    let object = &observed.object;
    let cached = object.status.clone().unwrap_or_default();
    let version = object.metadata.resource_version.as_deref();
    let wanted = |present: &OnionBalancedServiceStatus| plan::status(observed, conclusion, present, now());
    if write_over(context, observed, &cached, version, &wanted(&cached)).await? {
        return Ok(());
    }
    let current = observe::object(&context.client, object).await?;
    if let Some(current) = current.filter(|current| current.metadata.uid == object.metadata.uid) {
        let present = current.status.unwrap_or_default();
        write_over(context, observed, &present, None, &wanted(&present)).await?;
    }
    Ok(())
}

/// Replaces the current status if the object still has the given version, or if no version is
/// given. Returns false if the object has another version.
async fn write_over(
    context: &Context,
    observed: &Observed,
    present: &OnionBalancedServiceStatus,
    version: Option<&str>,
    wanted: &OnionBalancedServiceStatus,
) -> Result<bool, Error> {
    if is_written(wanted, present) {
        return Ok(true);
    }
    let object = &observed.object;
    if !apply::status(&context.writer, &object.metadata, version, wanted).await? {
        return Ok(false);
    }
    log_transitions(object, &present.conditions, &wanted.conditions);
    let generated = observed.generated_key.then(|| names::master_key_secret(object));
    let notices = notices(&present.conditions, &wanted.conditions, generated.as_deref());
    context.events.publish(&object.metadata, notices).await;
    Ok(true)
}

/// Returns true if the operator's part of the current status already has the desired content.
fn is_written(wanted: &OnionBalancedServiceStatus, present: &OnionBalancedServiceStatus) -> bool {
    let present = OnionBalancedServiceStatus {
        backends: Vec::new(),
        published: Vec::new(),
        probes: Vec::new(),
        guards: None,
        vanguards: None,
        ..present.clone()
    };
    *wanted == present
}

fn log_transitions(object: &OnionBalancedService, before: &[Condition], after: &[Condition]) {
    for condition in after.iter().filter(|condition| condition.type_ == ConditionType::Ready.as_str()) {
        let same = |old: &&Condition| {
            (&old.type_, &old.status, &old.reason) == (&condition.type_, &condition.status, &condition.reason)
        };
        if !before.iter().any(|old| same(&old)) {
            info!(
                namespace = object.namespace(),
                name = object.name_any(),
                status = condition.status,
                reason = condition.reason,
                detail = condition.message,
                "the Ready condition changed"
            );
        }
    }
}

/// Writes conditions that are computed only from the current ones and the generation. Applies the
/// rest of the operator's status unchanged, because an apply removes the fields that it omits, and
/// the address must be kept.
async fn write_conditions(
    metadata: &ObjectMeta,
    conditions: impl FnOnce(&[Condition], Option<i64>) -> Vec<Condition>,
    context: &Context,
) -> Result<(), Error> {
    let resource = ApiResource::erase::<OnionBalancedService>(&());
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let objects: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let Some(current) = objects.get_opt(metadata.name.as_deref().unwrap_or_default()).await? else { return Ok(()) };
    let present = current.data.get("status").cloned().unwrap_or_else(|| json!({}));
    let before = present.get("conditions").cloned().unwrap_or_default();
    let before: Vec<Condition> = serde_json::from_value(before).unwrap_or_default();
    let generation = current.metadata.generation;
    let after = conditions(&before, generation);
    let mut wanted = present.clone();
    wanted["conditions"] = serde_json::to_value(&after)?;
    wanted["observedGeneration"] = generation.into();
    if wanted == present {
        return Ok(());
    }
    if let Value::Object(fields) = &mut wanted {
        fields.retain(|field, _| !["backends", "published", "probes"].contains(&field.as_str()));
    }
    if apply::status(&context.writer, &current.metadata, None, &wanted).await? {
        context.events.publish(&current.metadata, notices(&before, &after, None)).await;
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the only place where a reconciliation reads the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}
