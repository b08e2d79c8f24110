//! The watch cache: the services, their owned objects, and the objects that they refer to. Each
//! watch event yields the services to reconcile.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::channel::mpsc::UnboundedSender;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::core::ApiResource;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt as _};

use super::children::Kind;
use super::drift;
use super::echoes::{Echoes, Reconciliation};
use super::guarded::Guarded;
use super::plan;
use super::pods::{self, KnownPods, PodState, state};
use super::served::Served;
use super::watches::Watches;
use crate::crd::OnionBalancedService;
use crate::crd::names::{self, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_LABEL};

type Metadata = PartialObjectMeta<DynamicObject>;

/// The watched objects in one namespace, or in all namespaces.
pub struct Cache {
    objects: Store<Guarded>,
    deployments: Store<Deployment>,
    pods: Store<Pod>,
    metadata: BTreeMap<Kind, (ApiResource, Store<Metadata>)>,
    echoes: Echoes,
}

/// The page size of list requests, in objects. Pages are small because an object takes many times
/// more memory while it is being decoded than in the cache, and all kinds are listed at the same
/// time.
const PAGE: u32 = 100;

/// The stream of services that must be reconciled.
pub type Changes = SelectAll<BoxStream<'static, ObjectRef<Guarded>>>;

impl Cache {
    /// Starts the watches. The cache fills while the returned stream is polled. Failing watches are
    /// reported to `watches`.
    pub fn watch(client: &Client, namespace: Option<&str>, served: Served, watches: &Watches) -> (Self, Changes) {
        let echoes = Echoes::default();
        let mut changes = SelectAll::new();
        let (objects, writer) = reflector::store();
        let monitor = |kind: &str| watches.of(kind, namespace);
        let all = watcher::Config::default().page_size(PAGE);
        let ours = all.clone().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
        let events = watcher(typed::<Guarded>(client, namespace), all.clone());
        let events = monitor(&OnionBalancedService::plural(&())).monitor(events.default_backoff());
        let events = events.modify(|object: &mut Guarded| object.meta_mut().managed_fields = None).reflect(writer);
        let itself = |object: &Guarded| Some(ObjectRef::from_obj(object));
        changes.push(to_objects(events, &echoes, itself, same_key(objects.clone())));

        let (deployments, writer) = reflector::store();
        let events = watcher(typed::<Deployment>(client, namespace), ours.clone());
        let events = monitor("deployments").monitor(events.default_backoff()).modify(shrink_deployment).reflect(writer);
        changes.push(to_objects(events, &echoes, |deployment: &Deployment| owner(deployment.meta()), |_| Vec::new()));

        let (pods, writer) = reflector::store();
        let events = watcher(typed::<Pod>(client, namespace), ours.clone());
        let events = monitor("pods").monitor(events.default_backoff()).modify(pods::shrink).reflect(writer);
        changes.push(to_services(events));

        let mut metadata = BTreeMap::new();
        for kind in Kind::all(served).into_iter().filter(|kind| *kind != Kind::Deployment) {
            let resource = kind.resource();
            let writer = reflector::store::Writer::new(resource.clone());
            metadata.insert(kind, (resource.clone(), writer.as_reader()));
            // Master keys and target Services belong to the user and do not have our labels.
            let config = if refers_to(kind) { &all } else { &ours };
            let events = watcher(metadata_of(client, namespace, &resource), config.clone());
            let events = monitor(&resource.plural).monitor(events.default_backoff()).modify(shrink).reflect(writer);
            let objects = objects.clone();
            let referring = move |touched: &Metadata| referring(&objects, kind, touched.meta());
            changes.push(to_objects(events, &echoes, |touched: &Metadata| owner(touched.meta()), referring));
        }
        (Self { objects, deployments, pods, metadata, echoes }, changes)
    }

    /// Returns the record of our own writes, which is used to recognise their watch events as
    /// echoes.
    pub fn echoes(&self) -> Echoes {
        self.echoes.clone()
    }

    /// Marks the beginning of a reconciliation, which ends when the returned guard is dropped. If
    /// the object has changed in the meantime, a reference to it is sent through `again`.
    pub fn begin_reconciliation(
        &self,
        object: ObjectRef<Guarded>,
        again: UnboundedSender<ObjectRef<Guarded>>,
    ) -> Reconciliation {
        self.echoes.begin(object, again)
    }

    /// Returns the store of the watched services.
    pub fn objects(&self) -> Store<Guarded> {
        self.objects.clone()
    }

    /// Waits until the objects of every watched kind have been listed once.
    pub async fn wait_until_ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.objects.wait_until_ready().await?;
        self.deployments.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        for (_, store) in self.metadata.values() {
            store.wait_until_ready().await?;
        }
        Ok(())
    }

    /// Returns the cached metadata of an object that has our labels.
    pub fn child(&self, kind: Kind, namespace: &str, name: &str) -> Option<ObjectMeta> {
        if kind == Kind::Deployment {
            return self.deployment(namespace, name).map(|deployment| deployment.metadata.clone());
        }
        let (resource, store) = self.metadata.get(&kind)?;
        let key = ObjectRef::new_with(name, resource.clone()).within(namespace);
        let found = store.get(&key)?;
        is_labelled(&found.metadata).then(|| found.metadata.clone())
    }

    /// Returns a cached Deployment that has our labels.
    pub fn deployment(&self, namespace: &str, name: &str) -> Option<Arc<Deployment>> {
        self.deployments.get(&ObjectRef::new(name).within(namespace))
    }

    /// Returns the states of a service's pods that have not finished or were rejected by their
    /// nodes, sorted by pod name.
    pub fn pods(&self, namespace: &str, service: &str) -> Vec<PodState> {
        let belongs = |pod: &Pod| {
            pod.metadata.namespace.as_deref() == Some(namespace)
                && pod.labels().get(SERVICE_LABEL).is_some_and(|name| name == service)
        };
        let mut found: Vec<_> = self.pods.state_filter(belongs).iter().filter_map(|pod| state(pod)).collect();
        found.sort();
        found
    }

    /// Returns the cached objects that have a service's labels and whose names begin with the
    /// service's name.
    pub fn children(&self, namespace: &str, service: &str) -> Vec<(Kind, ObjectMeta)> {
        let belongs = |metadata: &ObjectMeta| {
            metadata.name.as_ref().is_some_and(|name| name.starts_with(service))
                && metadata.namespace.as_deref() == Some(namespace)
                && metadata
                    .labels
                    .as_ref()
                    .and_then(|labels| labels.get(SERVICE_LABEL))
                    .is_some_and(|name| name == service)
        };
        let deployments = self.deployments.state_filter(|deployment| belongs(&deployment.metadata));
        let deployments = deployments.into_iter().map(|deployment| (Kind::Deployment, deployment.metadata.clone()));
        let others = self.metadata.iter().flat_map(|(kind, (_, store))| {
            store
                .state_filter(|found| belongs(&found.metadata))
                .into_iter()
                .map(|found| (*kind, found.metadata.clone()))
        });
        deployments.chain(others).collect()
    }
}

/// Maps watch events to the services to reconcile. These are the services that `others` returns
/// and, unless the event is an echo of our own write, the service that the object belongs to.
fn to_objects<K: Resource + Send + 'static>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
    echoes: &Echoes,
    its_object: impl Fn(&K) -> Option<ObjectRef<Guarded>> + Send + 'static,
    others: impl Fn(&K) -> Vec<ObjectRef<Guarded>> + Send + 'static,
) -> BoxStream<'static, ObjectRef<Guarded>> {
    let echoes = echoes.clone();
    let concerned = move |event: Event<K>| {
        let (Event::Apply(touched) | Event::InitApply(touched) | Event::Delete(touched)) = &event else {
            return Vec::new();
        };
        let its_object = its_object(touched);
        let mut concerned = others(touched);
        concerned.retain(|other| Some(other) != its_object.as_ref());
        concerned.extend(its_object.filter(|object| echoes.is_change(&event, object)));
        concerned
    };
    // `Watches` reports the failures.
    let events = events.filter_map(|event| std::future::ready(event.ok()));
    events.flat_map(move |event| stream::iter(concerned(event))).boxed()
}

/// Maps the watch events of pods to services. An event yields the pod's service if the pod's state
/// has changed.
fn to_services(
    events: impl Stream<Item = Result<Event<Pod>, watcher::Error>> + Send + 'static,
) -> BoxStream<'static, ObjectRef<Guarded>> {
    let mut known = KnownPods::default();
    // `Watches` reports the failures.
    let events = events.filter_map(|event| std::future::ready(event.ok()));
    let concerned = events.flat_map(move |event| stream::iter(known.update(&event)));
    concerned.map(|(namespace, service)| ObjectRef::new(&service).within(&namespace)).boxed()
}

/// Returns a function that finds the other services that may use the same key as a given service. A
/// change to one of these services can decide which of them is allowed to use the key. The
/// addresses in the statuses only say which services to reconcile; a reconciliation reads the keys.
fn same_key(objects: Store<Guarded>) -> impl Fn(&Guarded) -> Vec<ObjectRef<Guarded>> {
    move |touched| {
        let Some(touched) = touched.object() else { return Vec::new() };
        let shares = |other: &Guarded| other.object().is_some_and(|other| may_share_key(touched, other));
        objects.state_filter(shares).iter().map(|other| ObjectRef::from_obj(&**other)).collect()
    }
}

fn may_share_key(one: &OnionBalancedService, other: &OnionBalancedService) -> bool {
    let address = one.status.as_ref().and_then(|status| status.onion_address.as_deref());
    plan::may_share_key(one, other, address) && one.metadata.uid != other.metadata.uid
}

/// Returns the service that an object belongs to according to its owner reference or its label.
fn owner(child: &ObjectMeta) -> Option<ObjectRef<Guarded>> {
    let namespace = child.namespace.as_deref()?;
    // A reference may name any version of the API.
    let group = OnionBalancedService::group(&());
    let by_reference = child.owner_references.iter().flatten().find(|owner| {
        let of_group = owner.api_version.split_once('/').is_some_and(|(name, _)| name == group);
        owner.kind == OnionBalancedService::kind(&()) && of_group
    });
    let name = by_reference.map(|owner| &owner.name).or_else(|| child.labels.as_ref()?.get(SERVICE_LABEL))?;
    Some(ObjectRef::new(name).within(namespace))
}

fn refers_to(kind: Kind) -> bool {
    matches!(kind, Kind::Secret | Kind::Service)
}

/// Returns the services that refer to one of the user's Secrets or Services.
fn referring(objects: &Store<Guarded>, kind: Kind, named: &ObjectMeta) -> Vec<ObjectRef<Guarded>> {
    let Some(name) = named.name.as_deref().filter(|_| refers_to(kind)) else { return Vec::new() };
    let refers = |object: &OnionBalancedService| match kind {
        Kind::Secret => names::is_master_key_secret(object, name) || names::clients_secret(object) == Some(name),
        _ => object
            .spec
            .ports
            .iter()
            .any(|port| port.target.service.as_ref().is_some_and(|service| service.name == name)),
    };
    let found = objects.state_filter(|object| {
        object.object().is_some_and(|object| object.metadata.namespace == named.namespace && refers(object))
    });
    found.iter().map(|object| ObjectRef::from_obj(&**object)).collect()
}

/// Strips an object before it is cached. If the object does not have our labels, its labels,
/// annotations and managed fields are dropped. A labelled object keeps the fields that a
/// reconciliation needs; see [`drift::compact`].
fn shrink(found: &mut Metadata) {
    let metadata = &mut found.metadata;
    if is_labelled(metadata) {
        drift::compact(metadata);
    } else {
        (metadata.managed_fields, metadata.annotations, metadata.labels) = (None, None, None);
    }
}

/// Drops the spec of a Deployment before it is cached, except for the number of replicas. A
/// reconciliation needs only this number, the status and the metadata.
fn shrink_deployment(deployment: &mut Deployment) {
    deployment.spec =
        deployment.spec.as_ref().map(|spec| DeploymentSpec { replicas: spec.replicas, ..DeploymentSpec::default() });
    drift::compact(&mut deployment.metadata);
}

fn is_labelled(metadata: &ObjectMeta) -> bool {
    metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY_LABEL)).is_some_and(|by| by == MANAGED_BY)
}

fn typed<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn metadata_of(client: &Client, namespace: Option<&str>, resource: &ApiResource) -> Api<Metadata> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}
