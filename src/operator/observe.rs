//! Observation: reads the facts that a plan depends on from the cache and the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::{try_join, try_join_all, try_join4};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt as _};

use super::cache::Cache;
use super::children::{ChildId, Kind, ids};
use super::guarded::Readable;
use super::holder::{Holder, holder};
use super::plan::{self, KeyPermit, KeySecret, Last, LastObjects, Observed, Taken};
use super::pods::PodState;
use super::settings::Environment;
use crate::crd::OnionBalancedService;
use crate::crd::clients::ClientList;
use crate::crd::names::{self, Component};
use crate::crd::validate::is_dns_subdomain;
use crate::onion::OnionAddress;

/// Reads the facts for a new reconciliation, except for [`Observed::rivals`] and the outcomes of
/// steps. A Lease that belongs to another object counts as a taken name, because the publishers
/// would not use it.
pub async fn observe(
    client: &Client,
    cache: &Cache,
    environment: &Arc<Environment>,
    Readable { object, problems }: Readable,
    now: Timestamp,
) -> Result<Observed, kube::Error> {
    let object = Arc::new(object);
    let namespace = object.namespace().unwrap_or_default();
    let (key_secret, clients_secret, services, lease) = try_join4(
        key_secret(client, &object),
        clients_secret(client, &namespace, &object),
        services(client, &namespace, &object),
        lease(client, &namespace, &object),
    )
    .await?;
    let ours = |component: Component| {
        let child = ChildId { kind: Kind::Deployment, name: component.child_name(&object.name_any()) };
        let found = cache.deployment(&namespace, &child.name)?;
        (plan::holder_of(&child, &found.metadata, &object, key_secret.as_ref()) == Holder::Us).then_some(found)
    };
    let (backends, frontends) = (ours(Component::Backend), ours(Component::Frontend));
    let mut pods = cache.pods(&namespace, &object.name_any());
    pods.retain(|pod| !pod.is_outdated(now));
    explain_stuck(client, &namespace, &mut pods, now).await?;
    let (lease, taken) = match lease {
        Some(lease) if lease_holder(&lease.metadata, &object) != Holder::Us => {
            let child = ChildId { kind: Kind::Lease, name: lease.name_any() };
            (None, vec![Taken { child, by_predecessor: false }])
        }
        lease => (lease, Vec::new()),
    };
    Ok(Observed {
        object,
        unreadable: problems,
        environment: Arc::clone(environment),
        rivals: Vec::new(),
        key_secret,
        clients_secret,
        services,
        last: None,
        taken,
        backends,
        frontends,
        pods,
        lease,
        key_permit: KeyPermit::Unknown,
        generated_key: false,
        tried_key_owners: false,
        scaled: false,
        owned: None,
        refused: Vec::new(),
    })
}

/// Returns who holds a Lease that has the name of the publishers' Lease. The publishers create it
/// without the operator's mark, and recognize it by its labels.
fn lease_holder(lease: &ObjectMeta, object: &OnionBalancedService) -> Holder {
    holder(lease, object, || names::is_labelled(lease.labels.as_ref(), &object.name_any()))
}

/// Reads the Secret of the master key. It is not cached, so that no key stays in memory.
pub async fn key_secret(client: &Client, object: &OnionBalancedService) -> Result<Option<KeySecret>, kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let secret = get_named(&secrets, &names::master_key_secret(object)).await?;
    Ok(secret.map(|secret| KeySecret::new(secret.metadata, secret.data)))
}

/// Reads the address of the key in another service's Secret. A Secret that the API server refuses
/// to return proves nothing, and must not keep this service from being reconciled.
pub async fn key_of_other(client: &Client, other: &OnionBalancedService) -> Result<Option<OnionAddress>, kube::Error> {
    match key_secret(client, other).await {
        Ok(secret) => Ok(secret.as_ref().and_then(plan::address)),
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != TOO_MANY => Ok(None),
        Err(error) => Err(error),
    }
}

/// The HTTP status of an API server that has too many requests to serve.
const TOO_MANY: u16 = 429;

/// Reads the `OnionBalancedService` itself from the API server. Its unreadable parts have default
/// values.
pub async fn object(
    client: &Client,
    object: &OnionBalancedService,
) -> Result<Option<OnionBalancedService>, kube::Error> {
    let resource = ApiResource::erase::<OnionBalancedService>(&());
    let namespace = object.namespace().unwrap_or_default();
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let Some(found) = objects.get_opt(&object.name_any()).await? else { return Ok(None) };
    let whole = serde_json::to_value(&found).map_err(kube::Error::SerdeError)?;
    let readable = Readable::read(&whole).map_err(kube::Error::SerdeError)?;
    Ok(Some(readable.object))
}

/// Finds out why nodes take too long to create the containers of pods. Examines only the first such
/// pod of each component, because a condition names only one.
async fn explain_stuck(
    client: &Client,
    namespace: &str,
    pods: &mut [PodState],
    now: Timestamp,
) -> Result<(), kube::Error> {
    for component in [Component::Backend, Component::Frontend] {
        let mut pods = pods.iter_mut().filter(|pod| pod.component == component);
        if let Some(pod) = pods.find(|pod| pod.is_stuck(now)) {
            let events = events(client, namespace, &pod.uid).await?;
            pod.explain(&events);
        }
    }
    Ok(())
}

/// The maximum number of Events to read about one pod.
const MAX_EVENTS: u32 = 100;

/// Reads the Events about a pod. Without the permission, there are none: they are not essential.
/// `events.k8s.io` cannot select Events by the object that they are about.
async fn events(client: &Client, namespace: &str, pod: &str) -> Result<Vec<Event>, kube::Error> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let about = ListParams::default().fields(&format!("involvedObject.uid={pod}")).limit(MAX_EVENTS);
    match events.list(&about).await {
        Ok(found) => Ok(found.items),
        Err(kube::Error::Api(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Reads the Lease that has the name of the publishers' Lease. It may belong to another object.
async fn lease(client: &Client, namespace: &str, object: &OnionBalancedService) -> Result<Option<Lease>, kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    leases.get_opt(&Component::Frontend.child_name(&object.name_any())).await
}

/// Reads the Secret of the authorized clients, if the spec names one. It is not cached, so that no
/// key stays in memory.
async fn clients_secret(
    client: &Client,
    namespace: &str,
    object: &OnionBalancedService,
) -> Result<Option<ClientList>, kube::Error> {
    let Some(name) = names::clients_secret(object) else { return Ok(None) };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = get_named(&secrets, name).await?;
    Ok(secret.map(|secret| ClientList::of_secret(&secret.data.unwrap_or_default())))
}

async fn services(
    client: &Client,
    namespace: &str,
    object: &OnionBalancedService,
) -> Result<BTreeMap<String, Service>, kube::Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let targets = object.spec.ports.iter().filter_map(|port| port.target.service.as_ref());
    let names: BTreeSet<_> = targets.map(|service| service.name.clone()).collect();
    let found = try_join_all(names.iter().map(|name| get_named(&services, name))).await?;
    Ok(names.into_iter().zip(found).filter_map(|(name, service)| Some((name, service?))).collect())
}

/// Reads the last good values of a service from its owned objects. They are read from the API
/// server, because a stale cache could restore older values.
pub async fn last(client: &Client, observed: &Observed) -> Result<Last, kube::Error> {
    let object = &*observed.object;
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let (backend, frontend) = (Component::Backend.child_name(&name), Component::Frontend.child_name(&name));
    let (backends, frontend) =
        try_join(deployments.get_metadata_opt(&backend), deployments.get_metadata_opt(&frontend)).await?;
    let metadata = |found: Option<kube::core::PartialObjectMeta<Deployment>>| found.map(|found| found.metadata);
    let found = LastObjects { backends: metadata(backends), frontend: metadata(frontend) };
    Ok(Last::read(found, &name, |id, metadata| observed.holder_of(id, metadata)))
}

/// Reads an object that a spec names. An object with an invalid name is treated as missing. No
/// request is made for it, because the name would become part of a URL path.
async fn get_named<K>(api: &Api<K>, name: &str) -> Result<Option<K>, kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    if is_dns_subdomain(name) { api.get_opt(name).await } else { Ok(None) }
}

/// The number of concurrent lookups of owned objects. Each needs its own connection.
const LOOKUPS: usize = 4;

/// Returns the cached objects that have our labels and the name of an owned object. The cache may
/// be stale.
pub fn cached_children(
    cache: &Cache,
    object: &OnionBalancedService,
    environment: &Environment,
) -> BTreeMap<ChildId, ObjectMeta> {
    let namespace = object.namespace().unwrap_or_default();
    let ids = ids(object, environment).into_iter();
    ids.filter_map(|id| Some((cache.child(id.kind, &namespace, &id.name)?, id)))
        .map(|(found, id)| (id, found))
        .collect()
}

/// Returns all objects that have the name of an owned object. Objects with our labels come from the
/// cache, all others from the API server.
pub async fn live_children(
    client: &Client,
    cache: &Cache,
    object: &OnionBalancedService,
    environment: &Environment,
) -> Result<BTreeMap<ChildId, ObjectMeta>, kube::Error> {
    let namespace = object.namespace().unwrap_or_default();
    let mut live = cached_children(cache, object, environment);
    let others = ids(object, environment).into_iter().filter(|id| !live.contains_key(id));
    let lookups = stream::iter(others.collect::<Vec<_>>()).map(async |id| {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &id.kind.resource());
        let found = api.get_metadata_opt(&id.name).await?;
        Ok::<_, kube::Error>(found.map(|found| (id, found.metadata)))
    });
    let found: Vec<_> = lookups.buffer_unordered(LOOKUPS).try_collect().await?;
    live.extend(found.into_iter().flatten());
    Ok(live)
}
