//! Observation: reads the facts that a plan depends on from the cache and the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::{try_join_all, try_join4};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject};
use kube::{Client, ResourceExt as _};

use super::cache::Cache;
use super::children::{ChildId, Kind, ids};
use super::holder::{Holder, holder};
use super::plan::{KeyPermit, KeySecret, Observed, Taken, resolve};
use super::settings::Environment;
use crate::crd::OnionBalancedService;
use crate::crd::clients::ClientList;
use crate::crd::names::{self, Component};
use crate::link::AgentConfig;

/// Reads the facts for a new reconciliation, except for [`Observed::rivals`] and the outcomes of
/// steps. A Lease that belongs to another object counts as a taken name, because the publishers
/// would not use it.
pub async fn observe(
    client: &Client,
    cache: &Cache,
    environment: &Arc<Environment>,
    object: Arc<OnionBalancedService>,
) -> Result<Observed, kube::Error> {
    let namespace = object.namespace().unwrap_or_default();
    let (key_secret, clients_secret, services, lease) = try_join4(
        key_secret(client, &object),
        clients_secret(client, &namespace, &object),
        services(client, &namespace, &object),
        lease(client, &namespace, &object),
    )
    .await?;
    let backends = Component::Backend.child_name(&object.name_any());
    let last_config = match resolve(&object, &services, None).problem {
        Some(_) => last_config(client, &namespace, &backends).await?,
        None => None,
    };
    let ours = |name: &str| {
        cache.deployment(&namespace, name).filter(|deployment| holder(&deployment.metadata, &object) == Holder::Us)
    };
    let (backends, frontends) = (ours(&backends), ours(&Component::Frontend.child_name(&object.name_any())));
    let pod_problems = cache.pod_problems(&namespace, &object.name_any());
    let (lease, taken) = match lease {
        Some(lease) if holder(&lease.metadata, &object) != Holder::Us => {
            let child = ChildId { kind: Kind::Lease, name: lease.name_any() };
            (None, vec![Taken { child, by_predecessor: false }])
        }
        lease => (lease, Vec::new()),
    };
    Ok(Observed {
        object,
        environment: Arc::clone(environment),
        rivals: Vec::new(),
        key_secret,
        clients_secret,
        services,
        last_config,
        taken,
        backends,
        frontends,
        pod_problems,
        lease,
        key_permit: KeyPermit::Unknown,
        generated_key: false,
        tried_key_owners: false,
        owned: None,
        refused: Vec::new(),
    })
}

/// Reads the Secret of the master key. It is not cached, so that no key stays in memory.
pub async fn key_secret(client: &Client, object: &OnionBalancedService) -> Result<Option<KeySecret>, kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let secret = get_named(&secrets, &names::master_key_secret(object)).await?;
    Ok(secret.map(|secret| KeySecret::new(secret.metadata, secret.data)))
}

/// Reads the `OnionBalancedService` itself from the API server.
pub async fn object(
    client: &Client,
    object: &OnionBalancedService,
) -> Result<Option<OnionBalancedService>, kube::Error> {
    let objects: Api<OnionBalancedService> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    objects.get_opt(&object.name_any()).await
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

async fn last_config(client: &Client, namespace: &str, name: &str) -> Result<Option<AgentConfig>, kube::Error> {
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config_map = config_maps.get_opt(name).await?;
    let text = config_map.and_then(|config_map| config_map.data?.remove("agent.yaml"));
    Ok(text.and_then(|text| AgentConfig::from_yaml(&text).ok()))
}

/// Reads an object that a spec names. An object with an invalid name is treated as missing. No
/// request is made for it, because the name would become part of a URL path.
async fn get_named<K>(api: &Api<K>, name: &str) -> Result<Option<K>, kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let possible = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    if possible { api.get_opt(name).await } else { Ok(None) }
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
