//! Reads what a plan rests on.

use std::collections::BTreeMap;
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
use super::plan::{KeySecret, Observed, Taken, resolve};
use super::settings::Settings;
use crate::crd::OnionBalancedService;
use crate::crd::clients::ClientList;
use crate::crd::names::{self, Component};
use crate::link::AgentConfig;

/// Reads all but [`Observed::rivals`], [`Observed::frontend_account`] and who holds the children's names, which matter only where
/// children are to be applied. A Lease that is not ours is seen here: no publisher would take it.
pub async fn observe(
    client: &Client,
    cache: &Cache,
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
    let troubles = cache.troubles(&namespace, &object.name_any());
    let (lease, taken) = match lease {
        Some(lease) if holder(&lease.metadata, &object) != Holder::Us => {
            let child = ChildId { kind: Kind::Lease, name: lease.name_any() };
            (None, vec![Taken { child, by_predecessor: false }])
        }
        lease => (lease, Vec::new()),
    };
    Ok(Observed {
        object,
        rivals: Vec::new(),
        key_secret,
        clients_secret,
        services,
        last_config,
        taken,
        frontend_account: None,
        backends,
        frontends,
        troubles,
        lease,
    })
}

/// The master key's Secret. Read each time: no key is kept in memory.
pub async fn key_secret(client: &Client, object: &OnionBalancedService) -> Result<Option<KeySecret>, kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let secret = get_named(&secrets, &names::master_key_secret(object)).await?;
    Ok(secret.map(|secret| KeySecret::new(secret.metadata, secret.data)))
}

/// The publishers' Lease, or somebody else's of its name.
async fn lease(client: &Client, namespace: &str, object: &OnionBalancedService) -> Result<Option<Lease>, kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    leases.get_opt(&Component::Frontend.child_name(&object.name_any())).await
}

/// The authorized clients' Secret, if one is named. Read each time, as the key's is.
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
    let names: std::collections::BTreeSet<_> = targets.map(|service| service.name.clone()).collect();
    let found = try_join_all(names.iter().map(|name| get_named(&services, name))).await?;
    Ok(names.into_iter().zip(found).filter_map(|(name, service)| Some((name, service?))).collect())
}

async fn last_config(client: &Client, namespace: &str, name: &str) -> Result<Option<AgentConfig>, kube::Error> {
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config_map = config_maps.get_opt(name).await?;
    let text = config_map.and_then(|config_map| config_map.data?.remove("agent.yaml"));
    Ok(text.and_then(|text| AgentConfig::from_yaml(&text).ok()))
}

/// A name from the spec: one that no object can have is one that is not there. (In a path it could name something else.)
async fn get_named<K>(api: &Api<K>, name: &str) -> Result<Option<K>, kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let possible = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    if possible { api.get_opt(name).await } else { Ok(None) }
}

/// Children that are looked up at once: each look-up has a connection of its own.
const LOOK_UPS: usize = 4;

/// What bears the names of the children and is labelled as ours, as the cache has it: it may be behind.
pub fn cached_children(
    cache: &Cache,
    object: &OnionBalancedService,
    settings: &Settings,
) -> BTreeMap<ChildId, ObjectMeta> {
    let namespace = object.namespace().unwrap_or_default();
    let ids = ids(&object.name_any(), settings).into_iter();
    ids.filter_map(|id| Some((cache.child(id.kind, &namespace, &id.name)?, id)))
        .map(|(found, id)| (id, found))
        .collect()
}

/// What bears the names of the children: from the cache, or, where it is not labelled as ours, from the API server.
pub async fn live_children(
    client: &Client,
    cache: &Cache,
    object: &OnionBalancedService,
    settings: &Settings,
) -> Result<BTreeMap<ChildId, ObjectMeta>, kube::Error> {
    let namespace = object.namespace().unwrap_or_default();
    let mut live = cached_children(cache, object, settings);
    let others = ids(&object.name_any(), settings).into_iter().filter(|id| !live.contains_key(id));
    let look_ups = stream::iter(others.collect::<Vec<_>>()).map(async |id| {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &id.kind.resource());
        let found = api.get_metadata_opt(&id.name).await?;
        Ok::<_, kube::Error>(found.map(|found| (id, found.metadata)))
    });
    let found: Vec<_> = look_ups.buffer_unordered(LOOK_UPS).try_collect().await?;
    live.extend(found.into_iter().flatten());
    Ok(live)
}

/// The UID of the frontends' `ServiceAccount` among them, unless it is about to go.
pub fn frontend_account(live: &BTreeMap<ChildId, ObjectMeta>, object: &OnionBalancedService) -> Option<String> {
    let name = Component::Frontend.child_name(&object.name_any());
    let account = live.get(&ChildId { kind: Kind::ServiceAccount, name })?;
    account.uid.clone().filter(|_| account.deletion_timestamp.is_none())
}

/// Whether a child that is there is not ours.
pub fn taken(child: &ChildId, metadata: &ObjectMeta, object: &OnionBalancedService) -> Option<Taken> {
    let by_predecessor = match holder(metadata, object) {
        Holder::Us => return None,
        Holder::Predecessor => true,
        Holder::Another => false,
    };
    Some(Taken { child: child.clone(), by_predecessor })
}
