//! The operator on the cluster, told of the private Tor network.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::bringup::tor_network;
use crate::cluster::Cluster;
use crate::command::output;
use crate::images::make_image;
use crate::state::{State, source_tree};
use crate::steps::step;

/// Where `deploy/` puts the operator.
pub const NAMESPACE: &str = "onionbalance-system";
/// The operator's Deployment.
pub const DEPLOYMENT: &str = "onionbalance-operator";

/// Loads the images, with `operator` (the program) in the operator's, and installs `deploy/` on a cluster that is up.
pub async fn install(state: &State, operator: &Path) -> Result<()> {
    let cluster = Cluster::open(state)?;
    step("images", load_images(&cluster, operator)).await?;
    step("operator", apply(state, &cluster)).await
}

async fn load_images(cluster: &Cluster, operator: &Path) -> Result<()> {
    let operator = operator.to_str().context("the operator's path is not UTF-8")?;
    for arguments in [&["tor"][..], &["sample"], &["operator", operator]] {
        let archive = make_image(arguments).await?;
        cluster.load_image(&archive).await?;
    }
    Ok(())
}

async fn apply(state: &State, cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.run(&format!("apply -k {}", source_tree().join("deploy").display())).await?;
    let torrc = tor_network(state)?.torrc_lines()?;
    let mut set = Command::new("kubectl");
    set.env("KUBECONFIG", state.kubeconfig()).args(["set", "env", "--namespace", NAMESPACE]);
    set.arg(format!("deployment/{DEPLOYMENT}")).arg(format!("TOR_EXTRA_CONFIG={torrc}"));
    output(&mut set.into()).await?;
    // A new image under the same tag changes nothing in the Deployment.
    kubectl.run(&format!("rollout restart --namespace {NAMESPACE} deployment/{DEPLOYMENT}")).await?;
    kubectl.run(&format!("rollout status --namespace {NAMESPACE} deployment/{DEPLOYMENT} --timeout=120s")).await?;
    Ok(())
}
