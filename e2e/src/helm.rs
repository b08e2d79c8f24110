//! Helm, as `setup/helm.sh` installs it, at work on the cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::{command, output};
use crate::install::NAMESPACE;
use crate::state::{State, source_tree};

/// Helm with the administrator's kubeconfig.
#[derive(Debug, Clone)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// Its own home: what it caches goes with the cluster.
    home: PathBuf,
}

impl Helm {
    /// For the cluster of this folder; installs Helm if need be.
    pub async fn open(state: &State) -> Result<Self> {
        let script = source_tree().join("e2e/setup/helm.sh").display().to_string();
        let program = output(&mut command(&script, [] as [&str; 0])).await?;
        let home = state.dir().join("helm");
        Ok(Self { program: program.trim().into(), kubeconfig: state.kubeconfig(), home })
    }

    /// Where its program is.
    pub fn folder(&self) -> Result<&Path> {
        self.program.parent().context("a program is in a folder")
    }

    /// The chart of the source tree.
    pub fn chart() -> String {
        source_tree().join("charts/onionbalance-operator").display().to_string()
    }

    /// Runs it in the operator's namespace. Gives its standard output.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut helm = command(&self.program.display().to_string(), arguments);
        helm.args(["--namespace", NAMESPACE]).env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        output(&mut helm).await
    }
}
