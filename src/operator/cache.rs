//! What is watched: the objects, their children, and what they refer to. Each change names the objects to look at again.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::core::{ApiResource, DeserializeGuard};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt as _};

use super::children::{Kind, PolicyVersion};
use super::drift;
use super::echoes::Echoes;
use super::pods::{self, News, Trouble, trouble};
use super::watches::Watches;
use crate::crd::OnionBalancedService;
use crate::crd::names::{self, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_LABEL};

/// An object that may not be of our types: one such must not blind us to the others.
pub type Guarded = DeserializeGuard<OnionBalancedService>;
type Metadata = PartialObjectMeta<DynamicObject>;

/// The watched objects of one namespace, or of all.
pub struct Cache {
    objects: Store<Guarded>,
    deployments: Store<Deployment>,
    pods: Store<Pod>,
    metadata: BTreeMap<Kind, (ApiResource, Store<Metadata>)>,
}

/// How many objects are listed at once: while they are read they take many times the memory that is kept of them, and all kinds are
/// listed at the same time.
const PAGE: u32 = 100;

/// Changes: each names an object to look at.
pub type Changes = SelectAll<BoxStream<'static, ObjectRef<Guarded>>>;

impl Cache {
    /// Begins to watch. The cache fills as the stream is read; what keeps a watch from its work is told to `watches`, and what of it
    /// are `echoes` is no change.
    pub fn watch(
        client: &Client,
        namespace: Option<&str>,
        policy: Option<PolicyVersion>,
        watches: &Watches,
        echoes: &Echoes,
    ) -> (Self, Changes) {
        let mut changes = SelectAll::new();
        let (objects, writer) = reflector::store();
        let told = |kind: &str| watches.of(kind, namespace);
        let all = watcher::Config::default().page_size(PAGE);
        let ours = all.clone().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
        let events = watcher(typed::<Guarded>(client, namespace), all.clone());
        let events = told(&OnionBalancedService::plural(&())).listen(events.default_backoff());
        let events = events.modify(|object: &mut Guarded| object.meta_mut().managed_fields = None).reflect(writer);
        let itself = |object: &Guarded| Some(ObjectRef::from_obj(object));
        changes.push(to_objects(events, echoes, itself, same_key(objects.clone())));

        let (deployments, writer) = reflector::store();
        let events = watcher(typed::<Deployment>(client, namespace), ours.clone());
        let events = told("deployments").listen(events.default_backoff()).modify(shrink_deployment).reflect(writer);
        changes.push(to_objects(events, echoes, |deployment: &Deployment| owner(deployment.meta()), |_| Vec::new()));

        let (pods, writer) = reflector::store();
        let events = watcher(typed::<Pod>(client, namespace), ours.clone());
        let events = told("pods").listen(events.default_backoff()).modify(pods::shrink).reflect(writer);
        let mut news = News::default();
        let concerned = events.try_filter_map(move |event| std::future::ready(Ok(news.of(&event))));
        let object = |(namespace, service): (String, String)| ObjectRef::new(&service).within(&namespace);
        changes.push(concerned.filter_map(move |found| std::future::ready(found.ok().map(object))).boxed());

        let mut metadata = BTreeMap::new();
        for kind in Kind::all(policy).into_iter().filter(|kind| *kind != Kind::Deployment) {
            let resource = kind.resource();
            let writer = reflector::store::Writer::new(resource.clone());
            metadata.insert(kind, (resource.clone(), writer.as_reader()));
            // Master keys and targets belong to the user, and bear no label of ours.
            let config = if refers_to(kind) { &all } else { &ours };
            let events = watcher(metadata_of(client, namespace, &resource), config.clone());
            let events = told(&resource.plural).listen(events.default_backoff()).modify(shrink).reflect(writer);
            let objects = objects.clone();
            let referring = move |touched: &Metadata| referring(&objects, kind, touched.meta());
            changes.push(to_objects(events, echoes, |touched: &Metadata| owner(touched.meta()), referring));
        }
        (Self { objects, deployments, pods, metadata }, changes)
    }

    /// The objects' store.
    pub fn objects(&self) -> Store<Guarded> {
        self.objects.clone()
    }

    /// Waits until everything was listed once.
    pub async fn wait_until_ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.objects.wait_until_ready().await?;
        self.deployments.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        for (_, store) in self.metadata.values() {
            store.wait_until_ready().await?;
        }
        Ok(())
    }

    /// The metadata of a labelled child, as last seen.
    pub fn child(&self, kind: Kind, namespace: &str, name: &str) -> Option<ObjectMeta> {
        if kind == Kind::Deployment {
            return self.deployment(namespace, name).map(|deployment| deployment.metadata.clone());
        }
        let (resource, store) = self.metadata.get(&kind)?;
        let key = ObjectRef::new_with(name, resource.clone()).within(namespace);
        let found = store.get(&key)?;
        is_labelled(&found.metadata).then(|| found.metadata.clone())
    }

    /// A labelled Deployment, as last seen.
    pub fn deployment(&self, namespace: &str, name: &str) -> Option<Arc<Deployment>> {
        self.deployments.get(&ObjectRef::new(name).within(namespace))
    }

    /// What keeps pods of a service from starting, in the order of their names.
    pub fn troubles(&self, namespace: &str, service: &str) -> Vec<Trouble> {
        let belongs = |pod: &Pod| {
            pod.metadata.namespace.as_deref() == Some(namespace)
                && pod.labels().get(SERVICE_LABEL).is_some_and(|name| name == service)
        };
        let mut found: Vec<_> = self.pods.state_filter(belongs).iter().filter_map(|pod| trouble(pod)).collect();
        found.sort();
        found
    }

    /// The labelled children of a service, as last seen: all whose names begin with its.
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

/// What is touched, turned into the objects to look at: the one that it belongs to, unless that one's look wrote it, and others.
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
        concerned.extend(its_object.filter(|object| echoes.is_news(&event, object)));
        concerned
    };
    // Failures are told by `Watches`.
    let events = events.filter_map(|event| std::future::ready(event.ok()));
    events.flat_map(move |event| stream::iter(concerned(event))).boxed()
}

/// Those that use an object's key: what becomes of it decides which of them may.
fn same_key(objects: Store<Guarded>) -> impl Fn(&Guarded) -> Vec<ObjectRef<Guarded>> {
    move |touched| {
        let DeserializeGuard(Ok(touched)) = touched else { return Vec::new() };
        let shares = |other: &Guarded| other.0.as_ref().is_ok_and(|other| share_key(touched, other));
        objects.state_filter(shares).iter().map(|other| ObjectRef::from_obj(&**other)).collect()
    }
}

fn share_key(one: &OnionBalancedService, other: &OnionBalancedService) -> bool {
    let [one_address, other_address] =
        [one, other].map(|object| object.status.as_ref().and_then(|status| status.onion_address.as_deref()));
    let same_address = one_address.is_some() && one_address == other_address;
    (same_address || names::same_master_key_secret(one, other)) && one.metadata.uid != other.metadata.uid
}

/// The object that a child belongs to.
fn owner(child: &ObjectMeta) -> Option<ObjectRef<Guarded>> {
    let namespace = child.namespace.as_deref()?;
    let by_reference = child.owner_references.iter().flatten().find(|owner| {
        owner.kind == OnionBalancedService::kind(&()) && owner.api_version == OnionBalancedService::api_version(&())
    });
    let name = by_reference.map(|owner| &owner.name).or_else(|| child.labels.as_ref()?.get(SERVICE_LABEL))?;
    Some(ObjectRef::new(name).within(namespace))
}

fn refers_to(kind: Kind) -> bool {
    matches!(kind, Kind::Secret | Kind::Service)
}

/// The objects that name a Secret or a Service of the user.
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
        object.0.as_ref().is_ok_and(|object| object.metadata.namespace == named.namespace && refers(object))
    });
    found.iter().map(|object| ObjectRef::from_obj(&**object)).collect()
}

/// Of what is not ours only the name is kept; of what is ours, what a look needs: see [`drift::compact`].
fn shrink(found: &mut Metadata) {
    let metadata = &mut found.metadata;
    if is_labelled(metadata) {
        drift::compact(metadata);
    } else {
        (metadata.managed_fields, metadata.annotations, metadata.labels) = (None, None, None);
    }
}

/// What a Deployment is to be, the look makes anew; what counts is what has become of it.
fn shrink_deployment(deployment: &mut Deployment) {
    deployment.spec = None;
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(value: serde_json::Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_child_leads_to_its_object_by_reference_and_by_label() {
        let referenced = metadata(json!({"namespace": "shop", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other", "uid": "1"},
            {"apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "name": "web", "uid": "2"},
        ]}));
        let labelled = metadata(json!({"namespace": "shop", "labels": {"onionbalance.dev/service": "web"}}));
        for child in [referenced, labelled] {
            assert_eq!(owner(&child), Some(ObjectRef::new("web").within("shop")));
        }
        assert_eq!(owner(&metadata(json!({"namespace": "shop", "name": "web"}))), None);
    }

    #[test]
    fn of_what_is_not_ours_only_the_name_is_kept() {
        let whole = json!({"name": "a", "annotations": {"big": "x"}, "labels": {"app": "y"}});
        let mut found: Metadata = serde_json::from_value(json!({ "metadata": whole })).unwrap();
        shrink(&mut found);
        assert_eq!(found.metadata, metadata(json!({"name": "a"})));
    }

    #[test]
    fn objects_share_a_key_by_secret_or_by_address() {
        let object =
            |name: &str, namespace: &str, secret: Option<&str>, address: Option<&str>| -> OnionBalancedService {
                serde_json::from_value(json!({
                    "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
                    "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}")},
                    "spec": {"ports": [], "masterKey": {"secretName": secret}},
                    "status": {"onionAddress": address},
                }))
                .unwrap()
            };
        let web = object("web", "shop", None, Some("a.onion"));
        assert!(!share_key(&web, &web));
        assert!(share_key(&web, &object("b", "shop", Some("web-master-key"), None)));
        assert!(!share_key(&web, &object("b", "other", Some("web-master-key"), None)));
        assert!(share_key(&web, &object("b", "other", None, Some("a.onion"))));
        assert!(!share_key(&object("a", "shop", None, None), &object("b", "shop", None, None)));
    }
}
