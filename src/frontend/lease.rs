//! Executes the API server calls that the leadership state machine requests: reading and writing
//! the Lease, and listing the ready publishers.

use std::collections::BTreeSet;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;

use super::conduct::{CallError, CallId, LeaseAnswer, LeaseRequest, lease_object};
use super::pods::is_ready;
use crate::common::complaint::cause;
use crate::crd::PUBLISHER_MANAGER;
use crate::crd::names::{self, Component};

/// The executor of the API server calls that concern the Lease.
pub(super) struct LeaseKeeper {
    leases: Api<Lease>,
    pods: Api<Pod>,
    service: String,
}

impl LeaseKeeper {
    /// Creates the executor of the calls that concern the Lease of a service.
    pub(super) fn new(client: Client, namespace: &str, service: &str) -> Self {
        Self {
            leases: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client, namespace),
            service: service.to_owned(),
        }
    }

    /// Executes calls until their sender is dropped. A new call replaces the one in progress.
    pub(super) async fn run(
        self,
        mut calls: mpsc::UnboundedReceiver<(CallId, LeaseRequest)>,
        answers: mpsc::Sender<(CallId, Result<LeaseAnswer, CallError>)>,
    ) {
        let mut next = calls.recv().await;
        while let Some((id, request)) = next {
            next = tokio::select! {
                answer = self.execute(request) => {
                    if answers.send((id, answer)).await.is_err() {
                        return;
                    }
                    calls.recv().await
                }
                newer = calls.recv() => newer,
            };
        }
    }

    async fn execute(&self, request: LeaseRequest) -> Result<LeaseAnswer, CallError> {
        let name = lease_object::name(&self.service);
        let answer = match request {
            LeaseRequest::ReadLease => {
                self.leases.get_opt(&name).await.map(|lease| LeaseAnswer::Read(lease.map(Box::new)))
            }
            LeaseRequest::WriteLease(lease) if lease.metadata.resource_version.is_none() => {
                self.leases.create(&as_publisher(), &lease).await.map(|lease| LeaseAnswer::Written(Box::new(lease)))
            }
            LeaseRequest::WriteLease(lease) => self
                .leases
                .replace(&name, &as_publisher(), &lease)
                .await
                .map(|lease| LeaseAnswer::Written(Box::new(lease))),
            LeaseRequest::ListReady => self.list_ready().await.map(LeaseAnswer::Ready),
        };
        answer.map_err(|error| match error {
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => CallError::Conflict,
            error => CallError::Failed(cause(&error)),
        })
    }

    /// Lists the publishers of the service whose pods are Ready. A pod is Ready only if its tor has
    /// bootstrapped.
    async fn list_ready(&self) -> kube::Result<BTreeSet<String>> {
        let frontends = ListParams::default().labels(&names::pod_selector(&self.service, Component::Frontend));
        let pods = self.pods.list(&frontends).await?.items;
        let ready = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod));
        Ok(ready.map(|pod| identity(&pod.name_any(), &pod.uid().unwrap_or_default())).collect())
    }
}

/// Returns the identity under which a publisher holds the Lease.
pub(super) fn identity(pod_name: &str, pod_uid: &str) -> String {
    format!("{pod_name}_{pod_uid}")
}

fn as_publisher() -> PostParams {
    PostParams { field_manager: Some(PUBLISHER_MANAGER.to_owned()), ..PostParams::default() }
}
