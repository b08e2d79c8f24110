//! Reads the facts about a service from the API server. A request that fails leaves its part
//! unknown. Only without an answer about the object itself is there nothing to examine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Event, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::backing::{Backing, of_endpoints};
use super::facts::{Facts, Metrics, Read, TargetFacts, Unread};
use super::key_facts::KeyFacts;
use super::metrics::{self, Asked};
use crate::crd::OnionBalancedService;
use crate::crd::names::{self, Component, MANAGED_BY, SERVICE_LABEL};
use crate::status::Error;
use crate::status::read::{self, Selection};

/// The name of the CRD.
pub const DEFINITION: &str = "onionbalancedservices.onionbalance.dev";
/// The greatest number of pods that are asked for their metrics.
const MOST_ASKED: usize = 8;
/// The time after which a pod that is asked for its metrics is given up. A network policy may drop
/// the API server's packets without an answer.
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads all facts about the service that `selection` names.
pub async fn facts(client: Client, selection: &Selection) -> Result<Facts, Error> {
    let name = selection.name.clone().unwrap_or_default();
    let view = match read::once(client.clone(), selection).await {
        Ok(views) => views.into_iter().next(),
        Err(Error::NotFound { .. } | Error::NoDefinition(_)) => None,
        Err(error) => return Err(error),
    };
    let namespace = selection.namespace.clone().unwrap_or_default();
    let reader = Reader { client, namespace };
    let now = reader.now().await;
    let object = view.as_ref().and_then(|view| view.object.as_deref().ok());
    let (definition, operators, key, pods, events) = tokio::join!(
        reader.definition(),
        reader.operators(),
        reader.key(object, now),
        reader.list::<Pod>("pods", ListParams::default().labels(&format!("{SERVICE_LABEL}={name}"))),
        reader.list::<Event>("events", ListParams::default().fields("involvedObject.kind=Pod,type=Warning")),
    );
    let lease_name = Component::Frontend.child_name(&name);
    let (lease, targets, policies) = tokio::join!(
        reader.get::<Lease>("leases.coordination.k8s.io", &lease_name),
        reader.targets(object),
        reader.list::<NetworkPolicy>("networkpolicies.networking.k8s.io", ListParams::default()),
    );
    let metrics = match &pods {
        Ok(pods) => reader.metrics(metrics::asked(pods, lease.as_ref().ok().and_then(Option::as_ref))).await,
        Err(_) => BTreeMap::new(),
    };
    let (version, namespace) = (env!("CARGO_PKG_VERSION"), reader.namespace);
    Ok(Facts {
        now,
        namespace,
        name,
        version,
        definition,
        operators,
        view,
        key,
        pods,
        events,
        metrics,
        lease,
        targets,
        policies,
    })
}

struct Reader {
    client: Client,
    namespace: String,
}

impl Reader {
    /// Returns the time of the API server's clock, or of our own if the server does not tell its
    /// time. The clock of a user's computer may be wrong.
    #[allow(clippy::disallowed_methods, reason = "ages are relative to the current time")]
    async fn now(&self) -> Timestamp {
        let request = hyper::Request::get("/version").body(kube::client::Body::empty()).ok();
        let answer = match request {
            Some(request) => self.client.send(request).await.ok(),
            None => None,
        };
        let date = answer.as_ref().and_then(|answer| answer.headers().get("date")?.to_str().ok());
        let told = date.and_then(|date| rfc2822::parse(date).ok()).map(|date| date.timestamp());
        told.unwrap_or_else(Timestamp::now)
    }

    /// Lists objects in the namespace.
    async fn list<K>(&self, resource: &'static str, parameters: ListParams) -> Read<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.list(&parameters).await;
        found.map(|list| list.items).map_err(|error| unread("list", resource, Some(&self.namespace), error))
    }

    /// Reads one object in the namespace, if it exists.
    async fn get<K>(&self, resource: &'static str, name: &str) -> Read<Option<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        api.get_opt(name).await.map_err(|error| unread("get", resource, Some(&self.namespace), error))
    }

    async fn definition(&self) -> Read<Option<CustomResourceDefinition>> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let found = api.get_opt(DEFINITION).await;
        found.map_err(|error| unread("get", "customresourcedefinitions.apiextensions.k8s.io", None, error))
    }

    async fn operators(&self) -> Read<Vec<Deployment>> {
        let api: Api<Deployment> = Api::all(self.client.clone());
        let ours = ListParams::default().labels(&format!("app.kubernetes.io/name={MANAGED_BY}"));
        let found = api.list(&ours).await;
        found.map(|list| list.items).map_err(|error| unread("list", "deployments.apps", None, error))
    }

    async fn key(&self, object: Option<&OnionBalancedService>, now: Timestamp) -> Read<Option<KeyFacts>> {
        let Some(object) = object else { return Ok(None) };
        let secret = self.get::<Secret>("secrets", &names::master_key_secret(object)).await?;
        Ok(secret.map(|secret| KeyFacts::of(secret, object.spec.master_key.delegated, now)))
    }

    async fn targets(&self, object: Option<&OnionBalancedService>) -> BTreeMap<String, TargetFacts> {
        let ports = object.map(|object| object.spec.ports.as_slice()).unwrap_or_default();
        let services: BTreeSet<&str> =
            ports.iter().filter_map(|port| Some(port.target.service.as_ref()?.name.as_str())).collect();
        let read = services.into_iter().map(async |name| {
            let (service, backing) = tokio::join!(self.get::<Service>("services", name), self.backing(name));
            (name.to_owned(), TargetFacts { service, backing })
        });
        join_all(read).await.into_iter().collect()
    }

    /// Returns the addresses behind a Service. API servers before 1.21 serve no `EndpointSlice` of
    /// version 1, and an `Endpoints` object that somebody wrote may have no slices yet.
    async fn backing(&self, service: &str) -> Read<Vec<Backing>> {
        const RESOURCE: &str = "endpointslices.discovery.k8s.io";
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let found: Vec<_> = match slices.list(&of_service).await {
            Ok(list) => list.items.into_iter().map(Backing::from).collect(),
            Err(kube::Error::Api(status)) if status.is_not_found() => Vec::new(),
            Err(error) => return Err(unread("list", RESOURCE, Some(&self.namespace), error)),
        };
        if !found.is_empty() {
            return Ok(found);
        }
        Ok(self.get::<Endpoints>("endpoints", service).await?.map(of_endpoints).unwrap_or_default())
    }

    /// Asks pods for their metrics, through the API server.
    async fn metrics(&self, pods: Vec<Asked>) -> BTreeMap<String, Read<Metrics>> {
        let asked = pods.into_iter().take(MOST_ASKED).map(async |asked| {
            let read = tokio::time::timeout(METRICS_TIMEOUT, self.metrics_of(&asked)).await;
            let read = read.unwrap_or_else(|_| {
                let cause = Some("the pod does not answer".to_owned());
                Err(Unread { verb: "get", resource: "pods/proxy", namespace: Some(self.namespace.clone()), cause })
            });
            (asked.pod, read)
        });
        join_all(asked).await.into_iter().collect()
    }

    async fn metrics_of(&self, Asked { pod, port }: &Asked) -> Read<Metrics> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/metrics", self.namespace);
        let failed = |error| unread("get", "pods/proxy", Some(&self.namespace), error);
        let request =
            hyper::Request::get(path).body(Vec::new()).map_err(|error| failed(kube::Error::HttpError(error)))?;
        self.client.request_text(request).await.map(|text| metrics::parse(&text)).map_err(failed)
    }
}

fn unread(verb: &'static str, resource: &'static str, namespace: Option<&str>, error: kube::Error) -> Unread {
    let cause = match error {
        kube::Error::Api(status) if status.is_forbidden() => None,
        kube::Error::Api(status) => Some(status.message.trim_end_matches('.').to_owned()),
        error => Some(read::cause(&error)),
    };
    Unread { verb, resource, namespace: namespace.map(ToOwned::to_owned), cause }
}
