//! Left alone, three services write nothing but the renewals of their Leases.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::scene::{PUBLISHED, Scene, scene};

const WINDOW: Duration = Duration::from_secs(60);
/// A new time period or shared random value is published for; in the test network that comes every four minutes.
const TRIES: usize = 3;

#[tokio::test]
async fn a_steady_state_writes_only_leases() -> Result<()> {
    scene("steady", async |scene| {
        for name in ["a", "b", "c"] {
            scene
                .apply(
                    name,
                    "  ports: [{port: 80, target: {service: {name: web, port: 80}}}]\n  backends: {replicas: 1}\n",
                )
                .await?;
        }
        for name in ["a", "b", "c"] {
            scene.service(name).wait_published(1, PUBLISHED).await?;
            scene.service(name).wait_condition("Ready", "True", PUBLISHED).await?;
        }
        // Ready does not wait for the frontends' pods.
        scene.run("wait --for=condition=Ready pods --all --timeout=60s").await?;
        let kinds = kinds(scene).await?;
        let mut changes: Vec<String> = Vec::new();
        for _ in 0..TRIES {
            calm(scene, &kinds).await?;
            let (published, before) = (published(scene).await?, versions(scene, &kinds).await?);
            // The one wait for time to pass: nothing may happen in it.
            tokio::time::sleep(WINDOW).await;
            let after = versions(scene, &kinds).await?;
            let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            changes = all.into_iter().filter(|id| before.get(*id) != after.get(*id)).cloned().collect();
            let renewed = changes.iter().filter(|id| id.starts_with("Lease ")).count();
            ensure!(renewed == 3, "three Leases are renewed: {changes:?}");
            changes.retain(|id| !id.starts_with("Lease "));
            if changes.is_empty() {
                return Ok(());
            }
            ensure!(published != self::published(scene).await?, "written without anything new to publish: {changes:?}");
        }
        anyhow::bail!("never {} s without a write: {changes:?}", WINDOW.as_secs())
    })
    .await
}

/// Kubernetes' own controllers write on for a moment after the last pod became ready: `EndpointSlice`s, above all.
async fn calm(scene: &Scene, kinds: &str) -> Result<()> {
    const QUIET: Duration = Duration::from_secs(5);
    let seen = async || versions(scene, kinds).await.map(without_leases);
    scene
        .wait("nothing is written for a moment", PUBLISHED, async || {
            let before = seen().await?;
            tokio::time::sleep(QUIET).await;
            let after = seen().await?;
            Ok(if before == after { Ok(()) } else { Err(format!("{before:?}, then {after:?}")) })
        })
        .await
}

fn without_leases(mut versions: BTreeMap<String, String>) -> BTreeMap<String, String> {
    versions.retain(|id, _| !id.starts_with("Lease "));
    versions
}

/// Every kind that can be listed in a namespace. Events tell of writes and are none; metrics are no objects.
async fn kinds(scene: &Scene) -> Result<String> {
    let all = scene.kubectl.run("api-resources --namespaced --verbs=list --output=name").await?;
    let kept: Vec<_> = all.lines().filter(|kind| !kind.starts_with("events")).collect();
    Ok(kept.join(","))
}

/// Each object's resource version, by kind and name.
async fn versions(scene: &Scene, kinds: &str) -> Result<BTreeMap<String, String>> {
    let list: Value = serde_json::from_str(&scene.run(&format!("get {kinds} -o json")).await?)?;
    let mut versions = BTreeMap::new();
    for object in list["items"].as_array().context("a list")? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
        versions.insert(id, text(&object["metadata"]["resourceVersion"]));
    }
    Ok(versions)
}

/// What the publishers say they have published.
async fn published(scene: &Scene) -> Result<String> {
    scene.run("get obs -o jsonpath={.items[*].status.published}").await
}
