//! Runs Helm, which `setup/helm.sh` installs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::{command, output};
use crate::install::NAMESPACE;
use crate::state::{State, source_tree};

/// The `helm` command with the administrator's kubeconfig.
#[derive(Debug, Clone)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// A home folder for Helm, so that its cache is removed along with the cluster.
    home: PathBuf,
}

impl Helm {
    /// Returns the `helm` command for the cluster in a state folder. Installs Helm if necessary.
    pub async fn open(state: &State) -> Result<Self> {
        let script = source_tree().join("e2e/setup/helm.sh").display().to_string();
        let program = output(&mut command(&script, [] as [&str; 0])).await?;
        let home = state.dir().join("helm");
        Ok(Self { program: program.trim().into(), kubeconfig: state.kubeconfig(), home })
    }

    /// Returns the folder that contains the Helm program.
    pub fn folder(&self) -> Result<&Path> {
        self.program.parent().context("the path of the Helm program has no folder")
    }

    /// Returns the path of the chart in the source tree.
    pub fn chart() -> String {
        source_tree().join("charts/onionbalance-operator").display().to_string()
    }

    /// Runs Helm in the operator's namespace and returns its standard output.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut helm = command(&self.program.display().to_string(), arguments);
        helm.args(["--namespace", NAMESPACE]).env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        output(&mut helm).await
    }
}
