//! Installs the operator on the cluster, configured for the private Tor network.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::bringup::tor_network;
use crate::cluster::Cluster;
use crate::images::make_image;
use crate::kubectl::kustomize;
use crate::state::{State, source_tree};
use crate::steps::step;

/// The namespace in which `deploy/` installs the operator.
pub const NAMESPACE: &str = "onionbalance-system";
/// The name of the operator's Deployment.
pub const DEPLOYMENT: &str = "onionbalance-operator";

/// Loads the images and installs `deploy/` on a cluster that is up. `operator` is the path of the
/// program that goes into the operator's image.
pub async fn install(state: &State, operator: &Path) -> Result<()> {
    let cluster = Cluster::open(state)?;
    let images = step("images", load_images(state, operator)).await?;
    step("operator", apply(state, &cluster, &images)).await
}

/// Loads the images without installing the operator. Returns the loaded images' names, which change
/// with their content.
pub async fn load_images(state: &State, operator: &Path) -> Result<String> {
    let cluster = Cluster::open(state)?;
    let operator = operator.to_str().context("the operator's path is not UTF-8")?;
    let mut loaded = String::new();
    for arguments in [&["tor"][..], &["sample"], &["operator", operator]] {
        let archive = make_image(arguments).await?;
        loaded += &cluster.load_image(&archive).await?;
    }
    Ok(loaded)
}

async fn apply(state: &State, cluster: &Cluster, images: &str) -> Result<()> {
    let kubectl = cluster.kubectl();
    let overlay = write_overlay(state, images)?;
    // kubectl rejects the CRD's validation rules because this old API server does not know them.
    // The server itself drops them.
    let manifests = kustomize(&overlay).await?;
    kubectl.run_with_input(&["apply", "--validate=false", "-f", "-"], &manifests).await?;
    kubectl.run(&format!("rollout status --namespace {NAMESPACE} deployment/{DEPLOYMENT} --timeout=120s")).await?;
    Ok(())
}

/// Writes a kustomize overlay on `deploy/`, as a user would. It adds the Tor network's torrc lines,
/// and allows the labels and annotations that the tests set. It also adds an annotation that
/// changes with the images, so that the pod is replaced even if an image keeps its tag.
fn write_overlay(state: &State, images: &str) -> Result<PathBuf> {
    let dir = state.dir().join("overlay");
    fs::create_dir_all(&dir)?;
    let patch = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT, "namespace": NAMESPACE},
        "spec": {"template": {
            "metadata": {"annotations": {"onionbalance-e2e/images": images}},
            "spec": {"containers": [{
                "name": "operator",
                "env": [
                    {"name": "TOR_EXTRA_CONFIG", "value": tor_network(state)?.torrc_lines()?},
                    {"name": "ALLOWED_LABEL_PREFIXES", "value": "tier"},
                    {"name": "ALLOWED_ANNOTATION_PREFIXES", "value": "example.com/"},
                ],
            }]},
        }},
    });
    fs::write(dir.join("operator.yaml"), serde_json::to_vec_pretty(&patch)?)?;
    // kustomize accepts only relative paths.
    let deploy = relative(&dir.canonicalize()?, &source_tree().join("deploy").canonicalize()?);
    let overlay = json!({"resources": [deploy], "patches": [{"path": "operator.yaml"}]});
    fs::write(dir.join("kustomization.yaml"), serde_json::to_vec_pretty(&overlay)?)?;
    Ok(dir)
}

/// Returns the relative path from one folder to another. Both must be absolute and free of symbolic
/// links.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let up: PathBuf = from.components().skip(1).map(|_| "..").collect();
    to.components().skip(1).fold(up, |path, component| path.join(component))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_goes_through_the_root() {
        assert_eq!(relative(Path::new("/a/b"), Path::new("/c/d")), Path::new("../../c/d"));
    }
}
