//! Writes: children by server-side apply, and only where they are not as applied last; the generated key; the status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource as _, ResourceExt as _};
use serde::Serialize;
use serde_json::json;
use tracing::{info, warn};

use super::build::{Child, ChildId, Kind, ids, secret_master_key};
use super::drift::{is_applied, stamped};
use super::echoes::Echoes;
use super::holder::{Holder, holder};
use super::plan::{Failure, KeySecret};
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

    /// For one request.
    fn counted(&self) -> Client {
        self.telemetry.writes.fetch_add(1, Ordering::Relaxed);
        self.client.clone()
    }
}

/// Applies each child that is not as it should be, and keeps in `live` what the API server makes of it. One that it does not
/// take is told, and the others go on.
pub async fn children(
    writer: &Writer,
    object: &OnionBalancedService,
    live: &mut BTreeMap<ChildId, ObjectMeta>,
    children: Vec<Child>,
) -> Result<Vec<Failure>, kube::Error> {
    let mut failures = Vec::new();
    for child in children {
        let manifest = stamped(&child.manifest);
        let present = live.get(&child.id);
        // What is being deleted cannot be kept; its end brings us back.
        if present.is_some_and(|live| live.deletion_timestamp.is_some() || is_applied(live, &manifest)) {
            continue;
        }
        let api = api(writer.counted(), object, child.id.kind);
        match api.patch_metadata(&child.id.name, &force(), &Patch::Apply(&manifest)).await {
            Ok(applied) => {
                info!(child = %child.id, "{}", if present.is_some() { "updated" } else { "created" });
                // What a Deployment is now, the status is still to tell.
                if child.id.kind != Kind::Deployment {
                    writer.echoes.expect(&applied.metadata);
                }
                live.insert(child.id, applied.metadata);
            }
            Err(kube::Error::Api(status)) => {
                warn!(child = %child.id, error = %status.message, "the API server refuses a child");
                failures.push(Failure { child: child.id, message: status.message });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(failures)
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

/// Applies the operator's part of a status to the object of this UID; false when it is gone.
pub async fn status(
    writer: &Writer,
    metadata: &ObjectMeta,
    status: &(impl Serialize + Sync),
) -> Result<bool, kube::Error> {
    let resource = kube::core::ApiResource::erase::<OnionBalancedService>(&());
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(writer.counted(), namespace, &resource);
    let name = metadata.name.clone().unwrap_or_default();
    let body = json!({
        "apiVersion": OnionBalancedService::api_version(&()),
        "kind": OnionBalancedService::kind(&()),
        "metadata": {"name": name, "namespace": namespace, "uid": metadata.uid},
        "status": status,
    });
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
