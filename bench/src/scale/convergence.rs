//! Waits for what the operator makes of the objects.

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

/// For all that are waited for.
const PATIENCE: Duration = Duration::from_secs(600);

enum Seen {
    Object(Box<OnionBalancedService>),
    Deployment(String),
}

/// How far the operator has come.
pub struct Convergence {
    seen: BoxStream<'static, Result<Seen, watcher::Error>>,
    /// The objects whose status says that all their children are there.
    told: BTreeSet<String>,
    /// The Deployments. A frontend's is applied last of all children.
    made: BTreeSet<String>,
}

impl Convergence {
    /// Begins to watch.
    pub fn watch(client: &Client, namespace: &str) -> Self {
        let objects: Api<OnionBalancedService> = Api::namespaced(client.clone(), namespace);
        let objects = watcher(objects, watcher::Config::default()).applied_objects();
        let deployments: Api<PartialObjectMeta<Deployment>> = Api::namespaced(client.clone(), namespace);
        let deployments = watcher(deployments, watcher::Config::default()).applied_objects();
        let seen = stream::select(
            objects.map_ok(|object| Seen::Object(Box::new(object))),
            deployments.map_ok(|deployment| Seen::Deployment(deployment.name_any())),
        );
        Self { seen: seen.boxed(), told: BTreeSet::new(), made: BTreeSet::new() }
    }

    /// Waits until so many objects have all their children, and a status that says so.
    pub async fn reached(&mut self, processes: &Processes, count: usize) -> Result<()> {
        let done = timeout(PATIENCE, async {
            while self.told.len() < count || self.made.len() < 2 * count {
                match self.seen.next().await.context("the watch ended")?? {
                    Seen::Object(object) if reason(&object, "BackendsReady") == Some("Progressing") => {
                        self.told.insert(object.name_any());
                    }
                    Seen::Object(_) => {}
                    Seen::Deployment(name) => {
                        self.made.insert(name);
                    }
                }
            }
            anyhow::Ok(())
        })
        .await;
        processes.check(OPERATOR)?;
        done.with_context(|| {
            format!("{} objects have a status, {} Deployments are there", self.told.len(), self.made.len())
        })?
    }
}

/// Waits until so many objects are Ready.
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
    done.with_context(|| format!("{} objects are Ready", ready.len()))?
}

fn reason<'a>(object: &'a OnionBalancedService, kind: &str) -> Option<&'a str> {
    let conditions = &object.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.reason.as_str())
}
