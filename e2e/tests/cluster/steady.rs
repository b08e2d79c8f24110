//! Checks that three idle services, whose addresses are probed, write nothing except the renewals
//! of their Leases.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::scene::{PUBLISHED, Scene, scene};

const WINDOW: Duration = Duration::from_secs(60);
/// The maximum number of attempts to find a window in which nothing is published. In the test
/// network, a new time period or shared random value makes publishers publish every four minutes,
/// and tors confirm their guards during the first window.
const TRIES: usize = 5;

#[tokio::test]
async fn idle_services_write_only_leases() -> Result<()> {
    scene("steady", async |scene| {
        for name in ["a", "b", "c"] {
            scene
                .apply(
                    name,
                    "  ports: [{port: 80, target: {service: {name: web, port: 80}}}]\n  backends: {replicas: 1}\n  \
                     frontend: {probe: {periodSeconds: 20, timeoutSeconds: 60}}\n",
                )
                .await?;
        }
        for name in ["a", "b", "c"] {
            scene.service(name).wait_published(1, PUBLISHED).await?;
            scene.service(name).wait_condition("Ready", "True", PUBLISHED).await?;
            // Further probes have the same result, so they are not written.
            scene.service(name).wait_condition("Reachable", "True", PUBLISHED).await?;
        }
        // The condition Ready does not depend on the frontends' pods.
        scene.run("wait --for=condition=Ready pods --all --timeout=60s").await?;
        let kinds = kinds(scene).await?;
        let mut changes: Vec<String> = Vec::new();
        for _ in 0..TRIES {
            wait_settled(scene, &kinds).await?;
            let (published, before) = (published(scene).await?, versions(scene, &kinds).await?);
            // Wait for a fixed time, to see whether anything is written.
            tokio::time::sleep(WINDOW).await;
            let after = versions(scene, &kinds).await?;
            let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            changes = all.into_iter().filter(|id| before.get(*id) != after.get(*id)).cloned().collect();
            let renewed = changes.iter().filter(|id| id.starts_with("Lease ")).count();
            ensure!(renewed == 3, "exactly three Leases must be renewed: {changes:?}");
            changes.retain(|id| !id.starts_with("Lease "));
            if changes.is_empty() {
                return Ok(());
            }
            // In its first minutes, a tor confirms its guards one after another.
            let has_new_guards = changes.iter().all(|id| id.starts_with("Secret ") && id.ends_with("-guards"));
            ensure!(
                has_new_guards || published != self::published(scene).await?,
                "these objects were written although nothing new was published: {changes:?}"
            );
        }
        anyhow::bail!("no {} s passed without a write: {changes:?}", WINDOW.as_secs())
    })
    .await
}

/// Waits until nothing has been written for a few seconds. Kubernetes' own controllers continue to
/// write after the last pod becomes ready, above all `EndpointSlice`s.
async fn wait_settled(scene: &Scene, kinds: &str) -> Result<()> {
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

/// Returns every kind that can be listed in a namespace, except events, which only report writes,
/// and metrics, which are not objects.
async fn kinds(scene: &Scene) -> Result<String> {
    let all = scene.kubectl.run("api-resources --namespaced --verbs=list --output=name").await?;
    let kept: Vec<_> = all.lines().filter(|kind| !kind.starts_with("events")).collect();
    Ok(kept.join(","))
}

/// Returns each object's resource version by kind and name.
async fn versions(scene: &Scene, kinds: &str) -> Result<BTreeMap<String, String>> {
    let list: Value = serde_json::from_str(&scene.run(&format!("get {kinds} -o json")).await?)?;
    let mut versions = BTreeMap::new();
    for object in list["items"].as_array().context("kubectl printed no list")? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
        versions.insert(id, text(&object["metadata"]["resourceVersion"]));
    }
    Ok(versions)
}

/// Returns the published descriptors that the status of each object reports.
async fn published(scene: &Scene) -> Result<String> {
    scene.run("get obs -o jsonpath={.items[*].status.published}").await
}
