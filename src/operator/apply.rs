//! The operator's write requests: server-side applies of owned objects that have drifted, the
//! creation of a generated master key's Secret, and status updates.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Client, Resource as _, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::children::{ChildId, Kind, secret_master_key};
use super::drift::has_applied;
use super::echoes::Echoes;
use super::holder::{holder, is_kept_guards};
use super::origin;
use super::plan::{Applied, Due, KeySecret, Orphan, RefusedWrite, Scale, taken};
use super::takeover;
use super::telemetry::Telemetry;
use crate::crd::{OPERATOR_MANAGER, OnionBalancedService};
use crate::onion::MasterKey;

/// The client for write requests. It counts every write and records the result, so that the watch
/// event that the write causes can be recognised as an echo.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    telemetry: Arc<Telemetry>,
    echoes: Echoes,
}

impl Writer {
    /// Creates a writer that counts its requests in `telemetry` and records its writes in `echoes`.
    pub fn new(client: Client, telemetry: Arc<Telemetry>, echoes: Echoes) -> Self {
        Self { client, telemetry, echoes }
    }

    /// Returns the client for one write request, and counts the request.
    fn counted(&self) -> Client {
        self.telemetry.writes.fetch_add(1, Ordering::Relaxed);
        self.client.clone()
    }
}

/// Returns how many objects of a kind are applied concurrently. Each concurrent apply needs its own
/// connection. Deployments are applied one at a time: if the name of one is taken, the next one is
/// not applied.
fn concurrency(kind: Kind) -> usize {
    if kind == Kind::Deployment { 1 } else { 4 }
}

/// Applies the due objects of a stage. If the API server refuses an object, the others are still
/// applied. If the name of an object is taken, the remaining objects are not applied. In a
/// namespace that is being deleted, the first refusal ends the stage with an error.
pub async fn children(
    writer: &Writer,
    object: &OnionBalancedService,
    due: Vec<Due>,
) -> Result<Vec<(ChildId, Applied)>, kube::Error> {
    let concurrency = due.iter().map(|due| concurrency(due.id.kind)).min().unwrap_or(1);
    let outcomes = stream::iter(due).map(|due| async move {
        let outcome =
            if due.exists { update(writer, object, &due).await? } else { create(writer, object, &due).await? };
        Ok::<_, kube::Error>((due.id, outcome))
    });
    let mut outcomes = outcomes.buffered(concurrency);
    let mut results = Vec::new();
    while let Some((id, outcome)) = outcomes.try_next().await? {
        let result = match outcome {
            Ok(result) => result,
            Err(status) if namespace_ends(&status) => return Err(kube::Error::Api(status)),
            Err(status) => {
                let (namespace, name) = (object.namespace(), object.name_any());
                warn!(namespace, name, child = %id, error = status.message, "the API server refused an owned object");
                Applied::Refused(status.message)
            }
        };
        let is_taken = matches!(result, Applied::Taken(_));
        results.push((id, result));
        if is_taken {
            break;
        }
    }
    Ok(results)
}

/// Returns true if the API server refused to create an object because its namespace is being
/// deleted.
pub fn namespace_ends(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// The result of an apply, or the error status with which the API server refused it.
type Attempt = Result<Applied, Box<Status>>;

/// Applies an owned object that existed when its name was looked up. If another object has the name
/// now, or none, the name is looked up again.
async fn update(writer: &Writer, object: &OnionBalancedService, due: &Due) -> Result<Attempt, kube::Error> {
    match update_only(writer, object, due, due.uid.as_deref(), due.takes_over).await? {
        Err(status) if is_replaced(&status) => apply_after_lookup(writer, object, due).await,
        attempt => Ok(attempt),
    }
}

/// Applies an owned object to the existing object with this UID and to no other. If `takes_over` is
/// true, its fields belong to others, so the operator first becomes their only owner.
async fn update_only(
    writer: &Writer,
    object: &OnionBalancedService,
    due: &Due,
    uid: Option<&str>,
    takes_over: bool,
) -> Result<Attempt, kube::Error> {
    if takes_over && let Err(status) = take_over(writer, object, due, uid).await? {
        return Ok(Err(status));
    }
    let attempt = apply(writer, object, &due.id, &only_for(uid, &due.manifest)).await?;
    if let Ok(metadata) = &attempt {
        info!(namespace = object.namespace(), name = object.name_any(), child = %due.id, "updated an owned object");
        // An apply that changes nothing returns the version of the last change. For a Deployment,
        // that can be a status change that the watch has not delivered yet.
        if due.id.kind != Kind::Deployment {
            writer.echoes.expect(metadata);
        }
    }
    Ok(attempt.map(written))
}

/// Returns the manifest with the UID of the object that an apply may change. The API server refuses
/// the apply if the object has another UID or does not exist.
fn only_for(uid: Option<&str>, manifest: &Value) -> Value {
    let mut only = manifest.clone();
    if let Some(uid) = uid {
        only["metadata"]["uid"] = uid.into();
    }
    only
}

/// Returns true if the API server refused an apply because no object has the given name and UID, or
/// because the object has changed during the apply.
fn is_replaced(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_conflict() || causes.any(|cause| cause.field == "metadata.uid")
}

/// A resource version that no object can have: it is etcd's revision before the first write.
const VERSION_OF_NONE: &str = "1";

/// Returns the manifest for an apply that creates an object and never changes an existing one. An
/// apply with a resource version creates a missing object, but is refused if the object exists with
/// another version. Older API servers reject a new Service that has a resource version, so the
/// manifest of a Service is not changed.
fn only_new(kind: Kind, manifest: &Value) -> Value {
    let mut new = manifest.clone();
    if kind != Kind::Service {
        new["metadata"]["resourceVersion"] = VERSION_OF_NONE.into();
    }
    new
}

/// Creates an object that is not in the cache and therefore most likely does not exist. If an
/// object with this name does exist, it probably belongs to somebody else and must not be changed.
/// The existing object is then looked up to find its owner. A Service is always looked up first.
async fn create(writer: &Writer, object: &OnionBalancedService, due: &Due) -> Result<Attempt, kube::Error> {
    let Due { id, manifest, .. } = due;
    if id.kind != Kind::Service {
        match apply(writer, object, id, &only_new(id.kind, manifest)).await? {
            Ok(created) => return Ok(Ok(announce(writer, object, id, created))),
            Err(status) if status.is_forbidden() || status.is_invalid() => return Ok(Err(status)),
            Err(_) => {}
        }
    }
    apply_after_lookup(writer, object, due).await
}

/// Looks up the present object with the name of an owned object on the API server, and applies the
/// owned object if the name is free or the present object is ours. If the present object changes at
/// the same moment, the whole reconciliation has to be repeated.
async fn apply_after_lookup(writer: &Writer, object: &OnionBalancedService, due: &Due) -> Result<Attempt, kube::Error> {
    let Due { id, manifest, .. } = due;
    let found = api(writer.client.clone(), object, id.kind).get_metadata_opt(&id.name).await?;
    let attempt = if let Some(found) = found.map(|found| found.metadata) {
        let is_proven = || origin::has_mark_of(&found, manifest) || is_kept_guards(id, &found, object);
        let holder = holder(&found, object, is_proven);
        match taken(id, holder) {
            Some(taken) => Ok(Applied::Taken(taken)),
            None if found.deletion_timestamp.is_some() => Ok(Applied::Leaving),
            // The object is ours, so the cache is stale.
            None => update_only(writer, object, due, found.uid.as_deref(), !has_applied(&found)).await?,
        }
    } else {
        let attempt = apply(writer, object, id, &only_new(id.kind, manifest)).await?;
        attempt.map(|created| announce(writer, object, id, created))
    };
    match attempt {
        Err(status) if is_replaced(&status) => Err(kube::Error::Api(status)),
        attempt => Ok(attempt),
    }
}

/// Logs the creation of an object, and records the write so that its watch event is recognised as
/// an echo.
fn announce(writer: &Writer, object: &OnionBalancedService, id: &ChildId, created: ObjectMeta) -> Applied {
    info!(namespace = object.namespace(), name = object.name_any(), child = %id, "created an owned object");
    writer.echoes.expect(&created);
    written(created)
}

fn written(metadata: ObjectMeta) -> Applied {
    Applied::Written(Box::new(metadata))
}

/// Replaces the owners of the fields of the existing object with this UID. Returns the error status
/// if the API server refuses the change, except if the object has changed in the meantime: then the
/// whole reconciliation has to be repeated.
async fn take_over(
    writer: &Writer,
    object: &OnionBalancedService,
    Due { id, manifest, .. }: &Due,
    uid: Option<&str>,
) -> Result<Result<(), Box<Status>>, kube::Error> {
    let found = api(writer.client.clone(), object, id.kind).get_metadata_opt(&id.name).await?;
    let is_due = |found: &ObjectMeta| !has_applied(found) && uid.is_none_or(|uid| found.uid.as_deref() == Some(uid));
    let Some(metadata) = found.map(|found| found.metadata).filter(is_due) else {
        return Ok(Ok(()));
    };
    let fields = takeover::managed_fields(&metadata, manifest);
    let version = &metadata.resource_version;
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version, "managedFields": fields}}));
    let parameters = ours();
    match api(writer.counted(), object, id.kind).patch_metadata(&id.name, &parameters, &patch).await {
        Ok(_) => {
            let (namespace, name) = (object.namespace(), object.name_any());
            info!(namespace, name, child = %id, "took over the fields of an owned object");
            Ok(Ok(()))
        }
        Err(kube::Error::Api(status)) if !status.is_conflict() => Ok(Err(status)),
        Err(error) => Err(error),
    }
}

/// Sends a single server-side apply request for an owned object.
async fn apply(
    writer: &Writer,
    object: &OnionBalancedService,
    id: &ChildId,
    manifest: &Value,
) -> Result<Result<ObjectMeta, Box<Status>>, kube::Error> {
    match api(writer.counted(), object, id.kind).patch_metadata(&id.name, &force(), &Patch::Apply(manifest)).await {
        Ok(applied) => Ok(Ok(applied.metadata)),
        Err(kube::Error::Api(status)) => Ok(Err(status)),
        Err(error) => Err(error),
    }
}

/// Sets the number of pods of Deployments that cannot be applied, and nothing else. Tries all of
/// them and returns the first error.
pub async fn scale(writer: &Writer, object: &OnionBalancedService, scales: Vec<Scale>) -> Result<(), kube::Error> {
    let parameters = ours();
    let mut result = Ok(());
    for Scale { id, uid, replicas } in scales {
        // The UID keeps the patch from changing another Deployment of the same name.
        let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "spec": {"replicas": replicas}}));
        match api(writer.counted(), object, id.kind).patch_metadata(&id.name, &parameters, &patch).await {
            Ok(_) => {
                let (namespace, name) = (object.namespace(), object.name_any());
                info!(namespace, name, child = %id, replicas, "scaled a Deployment that cannot be applied");
            }
            Err(error) => result = result.and(Err(error)),
        }
    }
    result
}

/// Deletes owned objects that are no longer used.
pub async fn prune(writer: &Writer, object: &OnionBalancedService, orphans: Vec<Orphan>) -> Result<(), kube::Error> {
    for Orphan { id, uid } in orphans {
        let only_this = Preconditions { uid, resource_version: None };
        let parameters = DeleteParams { preconditions: Some(only_this), ..DeleteParams::background() };
        match api(writer.counted(), object, id.kind).delete(&id.name, &parameters).await {
            Ok(_) => {
                let (namespace, name) = (object.namespace(), object.name_any());
                info!(namespace, name, child = %id, "deleted an owned object that is no longer used");
            }
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The result of an attempt to create the Secret for a generated key.
pub enum KeyCreation {
    /// The Secret for the generated key was created.
    Created(Box<KeySecret>),
    /// A Secret with this name already exists, and its key must be used instead.
    Exists,
    /// The API server refused to create the Secret for the generated key.
    Refused(RefusedWrite),
}

/// Generates a master key and creates its Secret, unless a Secret with this name already exists.
pub async fn generate_key(writer: &Writer, object: &OnionBalancedService) -> Result<KeyCreation, kube::Error> {
    #[allow(clippy::disallowed_methods, reason = "the one place where the operator generates a key")]
    let key = MasterKey::generate(&mut rand::rng());
    let mut secret = secret_master_key(object, &key);
    let parameters = PostParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), ..PostParams::default() };
    let created = secrets(writer.counted(), object).create(&parameters, &secret).await;
    wipe(&mut secret);
    match created {
        Ok(created) => {
            let (namespace, name) = (object.namespace(), object.name_any());
            info!(namespace, name, address = %key.address(), "generated a master key");
            writer.echoes.expect(&created.metadata);
            Ok(KeyCreation::Created(Box::new(KeySecret::new(created.metadata, created.data))))
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(KeyCreation::Exists),
        Err(kube::Error::Api(status)) if !namespace_ends(&status) => {
            let child = ChildId { kind: Kind::Secret, name: secret.name_any() };
            Ok(KeyCreation::Refused(RefusedWrite { child, message: status.message }))
        }
        Err(error) => Err(error),
    }
}

fn wipe(secret: &mut Secret) {
    for (_, bytes) in secret.data.iter_mut().flatten() {
        zeroize::Zeroize::zeroize(&mut bytes.0);
    }
}

/// Sets the owner references of the generated key's Secret. Its data is immutable, but its metadata
/// is not.
pub async fn set_key_owners(
    writer: &Writer,
    object: &OnionBalancedService,
    secret: &ObjectMeta,
    owners: &[OwnerReference],
) -> Result<(), kube::Error> {
    let secret_name = secret.name.clone().unwrap_or_default();
    let metadata = json!({"resourceVersion": secret.resource_version, "ownerReferences": owners});
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let parameters = ours();
    secrets(writer.counted(), object).patch_metadata(&secret_name, &parameters, &patch).await?;
    let (namespace, name) = (object.namespace(), object.name_any());
    info!(
        namespace,
        name,
        secret = secret_name,
        policy = ?object.spec.deletion_policy,
        "set the owners of the master key's Secret"
    );
    Ok(())
}

/// Applies the operator's part of the status to the object with this UID. If a resource version is
/// given, the object must also have that version. Returns false if no object matches.
pub async fn status(
    writer: &Writer,
    metadata: &ObjectMeta,
    version: Option<&str>,
    status: &(impl Serialize + Sync),
) -> Result<bool, kube::Error> {
    let resource = kube::core::ApiResource::erase::<OnionBalancedService>(&());
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(writer.counted(), namespace, &resource);
    let name = metadata.name.clone().unwrap_or_default();
    let mut body = json!({
        "apiVersion": OnionBalancedService::api_version(&()),
        "kind": OnionBalancedService::kind(&()),
        "metadata": {"name": name, "namespace": namespace, "uid": metadata.uid},
        "status": status,
    });
    if let Some(version) = version {
        body["metadata"]["resourceVersion"] = version.into();
    }
    match api.patch_status(&name, &force(), &Patch::Apply(&body)).await {
        Ok(written) => {
            // A newer generation has a spec that has not been reconciled yet.
            if written.metadata.generation == metadata.generation {
                writer.echoes.expect(&written.metadata);
            }
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

fn ours() -> PatchParams {
    PatchParams::apply(OPERATOR_MANAGER)
}

fn force() -> PatchParams {
    ours().force()
}

fn secrets(client: Client, object: &OnionBalancedService) -> Api<Secret> {
    Api::namespaced(client, &object.namespace().unwrap_or_default())
}

fn api(client: Client, object: &OnionBalancedService, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client, &object.namespace().unwrap_or_default(), &kind.resource())
}

#[cfg(test)]
mod tests;
