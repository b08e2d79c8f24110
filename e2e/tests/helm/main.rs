//! Tests the operator as Helm installs it, on a real cluster on which no other tests run. Covers
//! the operator's life cycle, and the quick start as a reader would follow it. These tests are part
//! of `make test-e2e`.

mod lifecycle;
mod page;
mod quick_start;
#[allow(dead_code, reason = "only the cluster tests use all of it")]
#[path = "../cluster/scene.rs"]
mod scene;

use std::path::PathBuf;

use anyhow::Result;
use onionbalance_e2e::bringup::tor_network;
use onionbalance_e2e::kubectl::kustomize;
use onionbalance_e2e::state::source_tree;
use tokio::sync::Mutex;

use crate::scene::{Scene, empty_scene_after};

/// Runs a test in an empty namespace on a cluster that has our images but no operator. Only one
/// test runs at a time, and the operator is removed afterwards.
async fn alone(name: &str, test: impl AsyncFnOnce(&Scene) -> Result<()>) -> Result<()> {
    static CLUSTER: Mutex<()> = Mutex::const_new(());
    let _guard = CLUSTER.lock().await;
    empty_scene_after("images", name, async |scene| {
        remove_operator(scene).await?;
        test(scene).await?;
        remove_operator(scene).await
    })
    .await
}

/// Removes the operator, whichever way it was installed: `deploy/` and the chart have the same
/// objects. Deleting the CRD also deletes all services.
async fn remove_operator(scene: &Scene) -> Result<()> {
    let deploy = source_tree().join("deploy");
    let manifests = kustomize(&deploy).await?;
    scene.kubectl.run_with_input(&["delete", "--ignore-not-found", "-f", "-"], &manifests).await?;
    Ok(())
}

/// Writes the torrc lines of the test's Tor network to a file, from which Helm can set the value
/// `torExtraConfig`.
fn tor_network_file(scene: &Scene) -> Result<PathBuf> {
    let file = scene.state().dir().join("tor-network.torrc");
    std::fs::write(&file, tor_network(scene.state())?.torrc_lines()?)?;
    Ok(file)
}
