//! Waits until the operator has created the children of all objects, or until all objects are
//! Ready.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use onionbalance_e2e::process::Processes;
use onionbalance_operator::crd::OnionBalancedService;
use tokio::time::timeout;

use super::OPERATOR;

/// The maximum time to wait for all objects.
const PATIENCE: Duration = Duration::from_secs(600);

/// A change that a watch has reported.
enum Observation {
    Object(Box<OnionBalancedService>),
    Deployment(String),
}

/// The progress of the operator, as seen through watches.
pub struct Convergence {
    seen: BoxStream<'static, Result<Observation, watcher::Error>>,
    /// The objects whose status says that all of their children exist.
    reported: BTreeSet<String>,
    /// The existing Deployments. The operator applies the frontends' Deployment after all other
    /// children.
    deployments: BTreeSet<String>,
}

impl Convergence {
    /// Starts the watches on objects and Deployments.
    pub fn watch(client: &Client, namespace: &str) -> Self {
        let objects: Api<OnionBalancedService> = Api::namespaced(client.clone(), namespace);
        let objects = watcher(objects, watcher::Config::default()).applied_objects();
        let deployments: Api<PartialObjectMeta<Deployment>> = Api::namespaced(client.clone(), namespace);
        let deployments = watcher(deployments, watcher::Config::default()).applied_objects();
        let seen = stream::select(
            objects.map_ok(|object| Observation::Object(Box::new(object))),
            deployments.map_ok(|deployment| Observation::Deployment(deployment.name_any())),
        );
        Self { seen: seen.boxed(), reported: BTreeSet::new(), deployments: BTreeSet::new() }
    }

    /// Waits until the given number of objects have all of their children and a status that says
    /// so.
    pub async fn reached(&mut self, processes: &Processes, count: usize) -> Result<()> {
        let done = timeout(PATIENCE, async {
            while self.reported.len() < count || self.deployments.len() < 2 * count {
                match self.seen.next().await.context("the watch ended")?? {
                    Observation::Object(object) if reason(&object, "BackendsReady") == Some("Progressing") => {
                        self.reported.insert(object.name_any());
                    }
                    Observation::Object(_) => {}
                    Observation::Deployment(name) => {
                        self.deployments.insert(name);
                    }
                }
            }
            anyhow::Ok(())
        })
        .await;
        processes.check(OPERATOR)?;
        done.with_context(|| {
            format!(
                "timed out: {} objects have reported progress and {} Deployments exist",
                self.reported.len(),
                self.deployments.len()
            )
        })?
    }
}

/// Waits until the given number of objects are Ready.
pub async fn all_ready(processes: &Processes, client: &Client, namespace: &str, count: usize) -> Result<()> {
    let objects: Api<OnionBalancedService> = Api::namespaced(client.clone(), namespace);
    let seen = watcher(objects, watcher::Config::default()).applied_objects();
    let mut ready = BTreeSet::new();
    let wait = async {
        futures::pin_mut!(seen);
        while let Some(object) = seen.next().await {
            let object = object?;
            if reason(&object, "Ready") == Some("Ready") {
                ready.insert(object.name_any());
            }
            if ready.len() == count {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    let done = timeout(PATIENCE, wait).await;
    processes.check(OPERATOR)?;
    done.with_context(|| format!("timed out: {} of {count} objects are Ready", ready.len()))?
}

fn reason<'a>(object: &'a OnionBalancedService, kind: &str) -> Option<&'a str> {
    let conditions = &object.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.reason.as_str())
}
