//! The operator as Helm installs it, on a real cluster that the test has for itself: its life cycle, and the quick start as a reader
//! would do it. Part of `make test-e2e`.

mod lifecycle;
mod page;
mod quick_start;
#[allow(dead_code, reason = "the other tests on the cluster need more of it")]
#[path = "../cluster/scene.rs"]
mod scene;

use std::path::PathBuf;

use anyhow::Result;
use onionbalance_e2e::bringup::tor_network;
use onionbalance_e2e::state::source_tree;
use tokio::sync::Mutex;

use crate::scene::{Scene, empty_scene_after};

/// Runs a test on a cluster with our images and without an operator, one test at a time, in an
/// empty namespace; so it is left, too.
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

/// Whoever installed it: the objects of `deploy/` are those of the chart. With the CRD all objects go.
async fn remove_operator(scene: &Scene) -> Result<()> {
    let deploy = source_tree().join("deploy");
    scene.kubectl.run(&format!("delete --ignore-not-found --kustomize {}", deploy.display())).await?;
    Ok(())
}

/// The test's Tor network, as a file for the value `torExtraConfig`.
fn tor_network_file(scene: &Scene) -> Result<PathBuf> {
    let file = scene.state().dir().join("tor-network.torrc");
    std::fs::write(&file, tor_network(scene.state())?.torrc_lines()?)?;
    Ok(file)
}
