//! An `OnionBalancedService` on the cluster, as observed by the tests and the demo.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use onionbalance_operator::crd::names::agent_token_secret;
use onionbalance_operator::crd::{
    BackendState, BackendStatus, OnionBalancedService, OnionBalancedServiceStatus, PublishedStatus,
};
use onionbalance_operator::link::AgentToken;

use crate::wait::{Seen, until};

/// A handle to an `OnionBalancedService`, which may or may not exist.
#[derive(Clone)]
pub struct Service {
    client: Client,
    namespace: String,
    name: String,
}

/// A backend pod that is not terminating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendPod {
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// The pod's address.
    pub address: String,
}

impl Service {
    /// Returns a handle to the `OnionBalancedService` with the given name.
    pub fn new(client: &Client, namespace: &str, name: &str) -> Self {
        Self { client: client.clone(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Returns the API for `OnionBalancedService`s in the object's namespace.
    pub fn api(&self) -> Api<OnionBalancedService> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Returns the object's status, which is empty until the operator has written one.
    pub async fn status(&self) -> Result<OnionBalancedServiceStatus> {
        Ok(self.api().get(&self.name).await?.status.unwrap_or_default())
    }

    /// Waits until the object has an onion address, and returns the address.
    pub async fn onion_address(&self) -> Result<String> {
        until(&format!("{} has an onion address", self.name), Duration::from_secs(60), async || {
            let status = self.status().await?;
            Ok(status.onion_address.clone().map_or_else(|| Seen::NotYet(summary(&status)), Seen::Yes))
        })
        .await
    }

    /// Waits until a condition has the given status for the current generation, and returns the
    /// condition.
    pub async fn wait_condition(&self, kind: &str, status: &str, limit: Duration) -> Result<Condition> {
        until(&format!("{} is {kind}={status}", self.name), limit, async || {
            let object = self.api().get(&self.name).await?;
            let seen = object.status.unwrap_or_default();
            let condition = seen.conditions.iter().find(|condition| {
                condition.type_ == kind
                    && condition.status == status
                    && condition.observed_generation.is_none_or(|seen| Some(seen) == object.metadata.generation)
            });
            Ok(condition.cloned().map_or_else(|| Seen::NotYet(summary(&seen)), Seen::Yes))
        })
        .await
    }

    /// Waits until a condition has the given status and reason for the current generation, and a
    /// message that begins with `message`.
    pub async fn wait_condition_message(
        &self,
        kind: &str,
        status: &str,
        reason: &str,
        message: &str,
        limit: Duration,
    ) -> Result<()> {
        until(&format!("{} is {kind}={status} {reason}: {message}", self.name), limit, async || {
            let condition = self.wait_condition(kind, status, limit).await?;
            let matches = condition.reason == reason && condition.message.starts_with(message);
            Ok(if matches { Seen::Yes(()) } else { Seen::NotYet(format!("{condition:?}")) })
        })
        .await
    }

    /// Waits until the service is published with exactly this many backends: each has introduction
    /// points, and the HSDirs have accepted the descriptors.
    pub async fn wait_published(&self, backends: usize, limit: Duration) -> Result<OnionBalancedServiceStatus> {
        until(&format!("{} is published with {backends} backends", self.name), limit, async || {
            let status = self.status().await?;
            let pods = self.backends().await?;
            let serving =
                status.backends.iter().filter(|b| b.state == BackendState::Ready && b.introduction_points > 0);
            let accepted = status.published.iter().all(|period| period.hsdirs_accepted == period.hsdirs_total);
            let done = pods.len() == backends
                && serving.clone().count() == backends
                && serving.clone().all(|backend| pods.iter().any(|pod| pod.name == backend.name))
                && accepted
                && !status.published.is_empty();
            Ok(if done { Seen::Yes(status) } else { Seen::NotYet(summary(&status)) })
        })
        .await
    }

    /// Returns the object's pods, both backends and frontends, in any state.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        self.list(&format!("onionbalance.dev/service={}", self.name)).await
    }

    /// Returns the object's backend pods, except those that are terminating or have no address yet.
    pub async fn backends(&self) -> Result<Vec<BackendPod>> {
        let lives = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        Ok(self.backend_pods().await?.into_iter().filter(lives).filter_map(backend_pod).collect())
    }

    /// Returns the UIDs of the backend pods that are Ready.
    pub async fn ready_backends(&self) -> Result<Vec<String>> {
        let is_ready = |pod: &Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        Ok(self.backend_pods().await?.iter().filter(|pod| is_ready(pod)).filter_map(Pod::uid).collect())
    }

    /// Returns the number of the object's backend pods in any state, including those that are
    /// terminating.
    pub async fn backends_in_any_state(&self) -> Result<usize> {
        Ok(self.backend_pods().await?.len())
    }

    async fn backend_pods(&self) -> Result<Vec<Pod>> {
        self.list(&format!("app.kubernetes.io/component=backend,onionbalance.dev/service={}", self.name)).await
    }

    async fn list(&self, selector: &str) -> Result<Vec<Pod>> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        Ok(pods.list(&ListParams::default().labels(selector)).await?.items)
    }

    /// Returns the token that authenticates the service's agents and publishers to each other.
    pub async fn agent_token(&self) -> Result<AgentToken> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get(&agent_token_secret(&self.name)).await?;
        let token =
            secret.data.as_ref().and_then(|data| data.get("token")).context("the agent Secret has no key `token`")?;
        Ok(AgentToken::from_hex(&token.0)?)
    }
}

fn backend_pod(pod: Pod) -> Option<BackendPod> {
    let (name, uid) = (pod.name_any(), pod.uid()?);
    Some(BackendPod { name, uid, address: pod.status?.pod_ip? })
}

/// Returns the status as lines of text: one per condition, backend and published time period.
pub fn lines(status: &OnionBalancedServiceStatus) -> Vec<String> {
    let condition = |c: &Condition| format!("{}={} {} ({})", c.type_, c.status, c.reason, c.message);
    let backend = |b: &BackendStatus| format!("{} {:?}, {} points", b.name, b.state, b.introduction_points);
    let published =
        |p: &PublishedStatus| format!("period {}: {} of {} HSDirs", p.time_period, p.hsdirs_accepted, p.hsdirs_total);
    let mut lines: Vec<String> = status.conditions.iter().map(condition).collect();
    lines.extend(status.backends.iter().map(backend));
    lines.extend(status.published.iter().map(published));
    lines
}

/// Describes the status in one line, for the error message of a wait that timed out.
fn summary(status: &OnionBalancedServiceStatus) -> String {
    format!("status: {}", lines(status).join("; "))
}
