//! Simulates the Deployment controller and the publishers, because no pods run in this benchmark.

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use onionbalance_operator::crd::names::{Component, labels};
use onionbalance_operator::crd::{OnionBalancedService, PUBLISHER_MANAGER};
use serde_json::json;

const AT_ONCE: usize = 16;

/// Writes statuses that report every backend as ready and every service as published.
pub async fn report_all_running(client: &Client, namespace: &str, count: usize) -> Result<()> {
    each(count, |index| async move {
        let service = format!("service-{index}");
        backends_are_ready(client, namespace, &service).await?;
        renew(client, namespace, &service).await?;
        publish(client, namespace, &service).await
    })
    .await
}

/// Renews the Lease of every publisher.
pub async fn renew_leases(client: &Client, namespace: &str, count: usize) -> Result<()> {
    each(count, |index| async move { renew(client, namespace, &format!("service-{index}")).await }).await
}

async fn each<F: Future<Output = Result<()>>>(count: usize, one: impl Fn(usize) -> F) -> Result<()> {
    stream::iter(0..count).map(Ok).try_for_each_concurrent(AT_ONCE, &one).await
}

async fn backends_are_ready(client: &Client, namespace: &str, service: &str) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let name = format!("{service}-backend");
    let generation = api.get_metadata(&name).await?.metadata.generation;
    let status = json!({"status": {
        "observedGeneration": generation, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2,
    }});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

async fn renew(client: &Client, namespace: &str, service: &str) -> Result<()> {
    let name = format!("{service}-frontend");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "labels": labels(service, Some(Component::Frontend))},
        "spec": {"holderIdentity": "played", "leaseDurationSeconds": 15, "renewTime": now(6)},
    });
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    api.patch(&name, &PatchParams::apply(PUBLISHER_MANAGER).force(), &Patch::Apply(lease)).await?;
    Ok(())
}

async fn publish(client: &Client, namespace: &str, service: &str) -> Result<()> {
    let now = now(0);
    let backend = |number: u8| json!({"name": format!("{service}-backend-{number}"), "introductionPoints": 3, "state": "Ready", "since": now});
    let period = |number: u64| {
        json!({
            "timePeriod": number, "revisionCounter": 1_000_000, "introductionPoints": 6, "hsdirsAccepted": 8,
            "hsdirsTotal": 8, "lastPublished": now,
        })
    };
    let status = json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": service},
        "status": {"backends": [backend(1), backend(2)], "published": [period(20_000), period(20_001)]},
    });
    let api: Api<OnionBalancedService> = Api::namespaced(client.clone(), namespace);
    api.patch_status(service, &PatchParams::apply(PUBLISHER_MANAGER).force(), &Patch::Apply(status)).await?;
    Ok(())
}

/// Formats the current time for Kubernetes, with the given number of fractional digits.
fn now(digits: usize) -> String {
    format!("{:.digits$}", Timestamp::now())
}
