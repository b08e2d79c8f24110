//! The facts about a service that the Kubernetes API shows. They contain no private key.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::backing::Backing;
use super::key_facts::KeyFacts;
use crate::crd::{OnionBalancedService, OnionBalancedServiceStatus};
use crate::status::view::View;

/// Facts that may be unreadable.
pub type Read<T> = Result<T, Unread>;

/// The reason why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The verb of the request, for example `list`.
    pub verb: &'static str,
    /// The plural name of the resource, for example `pods`.
    pub resource: &'static str,
    /// The namespace of the request. None means the whole cluster.
    pub namespace: Option<String>,
    /// The cause. None means that the user lacks the permission.
    pub cause: Option<String>,
}

impl Unread {
    /// Returns the command that tells whether the user has the permission, if it is lacking.
    pub fn check(&self) -> Option<String> {
        let place = self.namespace.as_ref().map_or_else(|| "-A".to_owned(), |namespace| format!("-n {namespace}"));
        self.cause.is_none().then(|| format!("kubectl auth can-i {} {} {place}", self.verb, self.resource))
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, resource, namespace, cause } = self;
        let place = namespace.as_deref().map_or_else(|| "the cluster".to_owned(), |name| format!("namespace {name}"));
        match cause {
            None => write!(f, "You may not {verb} {resource} in {place}."),
            Some(cause) => write!(f, "Could not {verb} {resource} in {place}: {cause}."),
        }
    }
}

/// The metrics without labels that a pod of the service serves, by name.
pub type Metrics = BTreeMap<String, f64>;

/// What the API server says about the Service that a port leads to.
#[derive(Debug, Clone)]
pub struct TargetFacts {
    /// The Service. None means that it does not exist.
    pub service: Read<Option<Service>>,
    /// The addresses behind the Service.
    pub backing: Read<Vec<Backing>>,
}

/// Everything that is known about a service.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The present time, by the API server's clock if the server tells it.
    pub now: Timestamp,
    /// The namespace of the service.
    pub namespace: String,
    /// The name of the service.
    pub name: String,
    /// The version of this program.
    pub version: &'static str,
    /// The definition of the custom resource in the cluster.
    pub definition: Read<Option<CustomResourceDefinition>>,
    /// The Deployments of operators, in all namespaces.
    pub operators: Read<Vec<Deployment>>,
    /// The object. None means that it does not exist.
    pub view: Option<View>,
    /// The Secret with the master key or the signing kits. None means that it does not exist.
    pub key: Read<Option<KeyFacts>>,
    /// The pods of the service.
    pub pods: Read<Vec<Pod>>,
    /// The Warning Events about pods in the namespace.
    pub events: Read<Vec<Event>>,
    /// The metrics of those pods that were asked for them, by pod name.
    pub metrics: BTreeMap<String, Read<Metrics>>,
    /// The publishers' Lease.
    pub lease: Read<Option<Lease>>,
    /// The Services that the ports lead to, by name.
    pub targets: BTreeMap<String, TargetFacts>,
    /// The `NetworkPolicy` objects in the namespace.
    pub policies: Read<Vec<NetworkPolicy>>,
}

impl Facts {
    /// Returns the object, if it exists and can be read.
    pub fn object(&self) -> Option<&OnionBalancedService> {
        self.view.as_ref()?.object.as_deref().ok()
    }

    /// Returns the status of the object, which is empty if there is none.
    pub fn status(&self) -> OnionBalancedServiceStatus {
        self.view.as_ref().and_then(View::status).cloned().unwrap_or_default()
    }

    /// Returns the seconds since `time`, which are 0 if the time is in the future.
    pub fn seconds_since(&self, time: Timestamp) -> i64 {
        self.now.duration_since(time).as_secs().max(0)
    }
}
