//! Writes: children by server-side apply, and only where they are not as applied last; the generated key; the status.

use std::collections::BTreeMap;
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

use super::children::{Child, ChildId, Kind, ids, secret_master_key};
use super::drift::{is_applied, stamped};
use super::echoes::Echoes;
use super::holder::{Holder, holder};
use super::observe::taken;
use super::plan::{Failure, KeySecret, Taken};
use super::settings::Settings;
use super::telemetry::Telemetry;
use crate::crd::{OPERATOR_MANAGER, OnionBalancedService};
use crate::onion::MasterKey;

/// The API, a count of what is written through it, and what will come back through the watches.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    telemetry: Arc<Telemetry>,
    echoes: Echoes,
}

impl Writer {
    /// Counts into `telemetry`.
    pub fn new(client: Client, telemetry: Arc<Telemetry>, echoes: Echoes) -> Self {
        Self { client, telemetry, echoes }
    }

    /// What is expected to come back.
    pub fn echoes(&self) -> &Echoes {
        &self.echoes
    }

    /// For one request.
    fn counted(&self) -> Client {
        self.telemetry.writes.fetch_add(1, Ordering::Relaxed);
        self.client.clone()
    }
}

/// Children that are applied at once: each has a connection of its own. Not Deployments: after a name that is somebody else's no pods
/// are made.
fn at_once(kind: Kind) -> usize {
    if kind == Kind::Deployment { 1 } else { 4 }
}

/// What became of the children that were not as they should be, but for those that are so now.
#[derive(Debug, Default)]
pub struct Applied {
    /// Those that the API server does not take.
    pub failures: Vec<Failure>,
    /// The one whose name turned out to be somebody else's.
    pub taken: Option<Taken>,
}

/// Applies each child that is not as it should be, and keeps in `live` what the API server makes of it. One that it does not
/// take is told, and the others go on, but not after one whose name is taken.
pub async fn children<'a>(
    writer: &Writer,
    object: &OnionBalancedService,
    live: &mut BTreeMap<ChildId, ObjectMeta>,
    children: impl Iterator<Item = &'a Child>,
) -> Result<Applied, kube::Error> {
    let mut due = Vec::new();
    for child in children {
        let manifest = stamped(&child.manifest);
        let present = live.get(&child.id);
        // What is being deleted cannot be kept; its end brings us back.
        if !present.is_some_and(|live| live.deletion_timestamp.is_some() || is_applied(live, &manifest)) {
            due.push((child.id.clone(), manifest, present.is_some()));
        }
    }
    let at_once = due.iter().map(|(id, ..)| at_once(id.kind)).min().unwrap_or(1);
    let outcomes = stream::iter(due).map(|(id, manifest, present)| async move {
        let outcome = if present {
            update(writer, object, &id, &manifest).await?
        } else {
            create(writer, object, &id, &manifest).await?
        };
        Ok::<_, kube::Error>((id, outcome))
    });
    let mut outcomes = outcomes.buffered(at_once);
    let mut applied = Applied::default();
    while let Some((id, outcome)) = outcomes.try_next().await? {
        match outcome {
            Outcome::Applied(metadata) => _ = live.insert(id, *metadata),
            Outcome::Refused(status) => {
                warn!(child = %id, error = %status.message, "the API server refuses a child");
                applied.failures.push(Failure { child: id, message: status.message });
            }
            Outcome::Taken(taken) => {
                applied.taken = Some(taken);
                break;
            }
            Outcome::IsLeaving => {}
        }
    }
    Ok(applied)
}

enum Outcome {
    Applied(Box<ObjectMeta>),
    Refused(Box<Status>),
    Taken(Taken),
    /// It is being deleted, which cannot be undone; its end brings us back, if it bears our label, or else the next look.
    IsLeaving,
}

/// Applies a child that is there.
async fn update(
    writer: &Writer,
    object: &OnionBalancedService,
    id: &ChildId,
    manifest: &Value,
) -> Result<Outcome, kube::Error> {
    let outcome = apply(writer, object, id, manifest).await?;
    if let Outcome::Applied(applied) = &outcome {
        info!(child = %id, "updated");
        // Where nothing had to be changed, the version is that of the last change of a Deployment's status, which is still to be told.
        if id.kind != Kind::Deployment {
            writer.echoes.expect(applied);
        }
    }
    Ok(outcome)
}

/// The version of no object: etcd counts its writes, and begins with this before the first.
const VERSION_OF_NONE: &str = "1";

/// Applies a child that is in no cache, hence most likely nowhere: so that one that is there all the same, somebody else's, is not
/// changed. An apply that asks for a version creates what is not there, and is refused where another version is. Where it is
/// refused, but not for what the child is, we look.
async fn create(
    writer: &Writer,
    object: &OnionBalancedService,
    id: &ChildId,
    manifest: &Value,
) -> Result<Outcome, kube::Error> {
    // Older API servers take no version of a new Service: there only the look tells.
    if id.kind != Kind::Service {
        let mut only_new = manifest.clone();
        only_new["metadata"]["resourceVersion"] = VERSION_OF_NONE.into();
        let outcome = apply(writer, object, id, &only_new).await?;
        match &outcome {
            Outcome::Applied(created) => {
                info!(child = %id, "created");
                writer.echoes.expect(created);
                return Ok(outcome);
            }
            Outcome::Refused(status) if status.is_forbidden() || status.is_invalid() => return Ok(outcome),
            _ => {}
        }
    }
    let found = api(writer.client.clone(), object, id.kind).get_metadata_opt(&id.name).await?;
    if let Some(found) = found {
        return match taken(id, &found.metadata, object) {
            Some(taken) => Ok(Outcome::Taken(taken)),
            None if found.metadata.deletion_timestamp.is_some() => Ok(Outcome::IsLeaving),
            // Ours, and the cache is behind.
            None => update(writer, object, id, manifest).await,
        };
    }
    let outcome = apply(writer, object, id, manifest).await?;
    if let Outcome::Applied(created) = &outcome {
        info!(child = %id, "created");
        writer.echoes.expect(created);
    }
    Ok(outcome)
}

/// One request.
async fn apply(
    writer: &Writer,
    object: &OnionBalancedService,
    id: &ChildId,
    manifest: &Value,
) -> Result<Outcome, kube::Error> {
    match api(writer.counted(), object, id.kind).patch_metadata(&id.name, &force(), &Patch::Apply(manifest)).await {
        Ok(applied) => Ok(Outcome::Applied(Box::new(applied.metadata))),
        Err(kube::Error::Api(status)) => Ok(Outcome::Refused(status)),
        Err(error) => Err(error),
    }
}

/// Deletes what we made for this object under names that are no longer used. Never a Secret.
pub async fn prune(
    writer: &Writer,
    object: &OnionBalancedService,
    settings: &Settings,
    labelled: Vec<(Kind, ObjectMeta)>,
) -> Result<(), kube::Error> {
    let current = ids(&object.name_any(), settings);
    for (kind, metadata) in labelled {
        let id = ChildId { kind, name: metadata.name.clone().unwrap_or_default() };
        let controlled = metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
        if kind == Kind::Secret || current.contains(&id) || !controlled || holder(&metadata, object) != Holder::Us {
            continue;
        }
        let only_this = Preconditions { uid: metadata.uid, resource_version: None };
        let parameters = DeleteParams { preconditions: Some(only_this), ..DeleteParams::background() };
        match api(writer.counted(), object, kind).delete(&id.name, &parameters).await {
            Ok(_) => info!(child = %id, "removed: no longer used"),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What became of a key's Secret.
pub enum Generated {
    /// It was created.
    Created(Box<KeySecret>),
    /// One is there: that one is to be used.
    AlreadyThere,
    /// The API server does not take it.
    Refused(Failure),
}

/// Creates the Secret with a fresh key, unless one is there.
pub async fn generate_key(writer: &Writer, object: &OnionBalancedService) -> Result<Generated, kube::Error> {
    #[allow(clippy::disallowed_methods, reason = "the one place where the operator makes a key")]
    let key = MasterKey::generate(&mut rand::rng());
    let mut secret = secret_master_key(object, &key);
    let parameters = PostParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), ..PostParams::default() };
    let created = secrets(writer.counted(), object).create(&parameters, &secret).await;
    wipe(&mut secret);
    match created {
        Ok(created) => {
            info!(address = %key.address(), "generated a master key");
            writer.echoes.expect(&created.metadata);
            Ok(Generated::Created(Box::new(KeySecret::new(created.metadata, created.data))))
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Generated::AlreadyThere),
        Err(kube::Error::Api(status)) => {
            let child = ChildId { kind: Kind::Secret, name: secret.name_any() };
            Ok(Generated::Refused(Failure { child, message: status.message }))
        }
        Err(error) => Err(error),
    }
}

fn wipe(secret: &mut Secret) {
    for (_, bytes) in secret.data.iter_mut().flatten() {
        zeroize::Zeroize::zeroize(&mut bytes.0);
    }
}

/// Sets the owners of the generated Secret; its data is immutable, its metadata is not.
pub async fn set_key_owners(
    writer: &Writer,
    object: &OnionBalancedService,
    secret: &KeySecret,
    owners: &[OwnerReference],
) -> Result<(), kube::Error> {
    let name = secret.metadata.name.clone().unwrap_or_default();
    let metadata = json!({"resourceVersion": secret.metadata.resource_version, "ownerReferences": owners});
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let parameters = PatchParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), ..PatchParams::default() };
    secrets(writer.counted(), object).patch_metadata(&name, &parameters, &patch).await?;
    info!(secret = name, policy = ?object.spec.deletion_policy, "set the owner of the master key");
    Ok(())
}

/// Applies the operator's part of a status to the object of this UID and, where one is given, this version; false when it is gone.
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
            // Another spec is yet to be looked at.
            if written.metadata.generation == metadata.generation {
                writer.echoes.expect(&written.metadata);
            }
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

fn force() -> PatchParams {
    PatchParams::apply(OPERATOR_MANAGER).force()
}

fn secrets(client: Client, object: &OnionBalancedService) -> Api<Secret> {
    Api::namespaced(client, &object.namespace().unwrap_or_default())
}

fn api(client: Client, object: &OnionBalancedService, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client, &object.namespace().unwrap_or_default(), &kind.resource())
}
