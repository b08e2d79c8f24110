//! Removes what the demo created on the user's cluster, and nothing else.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::plan::{CRD, MARK, NAMESPACE, RELEASE};
use crate::helm::Helm;
use crate::kubectl::Kubectl;
use crate::steps::{say, step};

/// The creator of an object of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The object does not exist.
    Absent,
    /// The demo created the object.
    Demo,
    /// Someone else created the object.
    Other,
}

/// Returns the origin of an object that `kubectl get --ignore-not-found --output=json` has printed.
/// The demo marks its objects with a label or an annotation.
pub fn origin(printed: &str) -> Result<Origin> {
    if printed.trim().is_empty() {
        return Ok(Origin::Absent);
    }
    let object: Value = serde_json::from_str(printed).context("kubectl printed invalid JSON")?;
    let is_marked = |kind: &str| object["metadata"][kind].get(MARK).is_some();
    Ok(if is_marked("labels") || is_marked("annotations") { Origin::Demo } else { Origin::Other })
}

/// Returns the origin of the demo's namespace.
pub async fn of_namespace(kubectl: &Kubectl) -> Result<Origin> {
    origin(&kubectl.run(&format!("get namespace {NAMESPACE} --ignore-not-found --output=json")).await?)
}

/// Returns the origin of the CRD.
pub async fn of_crd(kubectl: &Kubectl) -> Result<Origin> {
    origin(&kubectl.run(&format!("get crd {CRD} --ignore-not-found --output=json")).await?)
}

/// Removes the release, the namespace and the CRD, each only if the demo created it.
pub async fn remove(kubectl: &Kubectl, helm: &Helm) -> Result<()> {
    match of_namespace(kubectl).await? {
        Origin::Demo => step("removal of the demo's release and namespace", remove_namespace(kubectl, helm)).await?,
        Origin::Other => bail!("the demo did not create the namespace {NAMESPACE}, so the demo does not remove it"),
        Origin::Absent => say(&format!("there is no namespace {NAMESPACE}")),
    }
    remove_crd(kubectl).await
}

async fn remove_namespace(kubectl: &Kubectl, helm: &Helm) -> Result<()> {
    let releases = helm.run(&["list", "--all", "--short"]).await?;
    if releases.lines().any(|name| name == RELEASE) {
        helm.run(&["uninstall", RELEASE, "--wait", "--timeout", "2m"]).await?;
    }
    kubectl.run(&format!("delete namespace {NAMESPACE} --wait=false")).await?;
    // No backend of the demo needs to drain.
    kubectl.run(&format!("delete pods --namespace {NAMESPACE} --all --grace-period=1 --wait=false")).await?;
    // The same again, this time waiting.
    kubectl.run(&format!("delete namespace {NAMESPACE} --ignore-not-found --timeout=180s")).await?;
    Ok(())
}

/// Removes the CRD if the demo has installed the CRD and there is no object of this kind.
pub async fn remove_crd(kubectl: &Kubectl) -> Result<()> {
    if of_crd(kubectl).await? != Origin::Demo {
        return Ok(());
    }
    let left = kubectl.run(&format!("get {CRD} --all-namespaces --output=name")).await?;
    if left.trim().is_empty() {
        kubectl.run(&format!("delete crd {CRD}")).await?;
        say("removed the CRD, which the demo had installed");
    } else {
        say(&format!("kept the CRD {CRD}, because the cluster has other objects of this kind"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_objects_are_the_demos() {
        let of = |text: &str| origin(text).unwrap();
        assert_eq!(of("\n"), Origin::Absent);
        assert_eq!(of(r#"{"metadata": {"name": "onionbalance-demo"}}"#), Origin::Other);
        assert_eq!(of(r#"{"metadata": {"labels": {"onionbalance.dev/other": "true"}}}"#), Origin::Other);
        assert_eq!(of(r#"{"metadata": {"annotations": {"onionbalance.dev/demo": "true"}}}"#), Origin::Demo);
        assert_eq!(of(&super::super::plan::namespace().to_string()), Origin::Demo);
        assert!(origin("Error from server").is_err());
    }
}
