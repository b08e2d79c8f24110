//! Runs Helm, which `setup/helm.sh` installs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::{command, output};
use crate::install::NAMESPACE;
use crate::kubectl::Access;
use crate::state::{State, source_tree};

/// The `helm` command for one namespace of one cluster.
#[derive(Debug, Clone)]
pub struct Helm {
    program: PathBuf,
    access: Access,
    namespace: String,
    /// The folder for Helm's own files, which is removed along with the cluster.
    home: PathBuf,
}

impl Helm {
    /// Returns the `helm` command for the operator's namespace on the cluster in a state folder,
    /// with the administrator's kubeconfig. Installs Helm if necessary.
    pub async fn open(state: &State) -> Result<Self> {
        Self::of(Access::File(state.kubeconfig()), NAMESPACE, state.dir().join("helm")).await
    }

    /// Returns the `helm` command for a namespace of the cluster to which the credentials lead.
    /// Installs Helm if necessary.
    pub async fn of(access: Access, namespace: &str, home: PathBuf) -> Result<Self> {
        let script = source_tree().join("e2e/setup/helm.sh").display().to_string();
        let program = output(&mut command(&script, [] as [&str; 0])).await?;
        Ok(Self { program: program.trim().into(), access, namespace: namespace.to_owned(), home })
    }

    /// Returns the folder that contains the Helm program.
    pub fn folder(&self) -> Result<&Path> {
        self.program.parent().context("the path of the Helm program has no folder")
    }

    /// Returns the path of the chart in the source tree.
    pub fn chart() -> String {
        source_tree().join("charts/onionbalance-operator").display().to_string()
    }

    /// Runs Helm in the namespace and returns its standard output.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut helm = command(&self.program.display().to_string(), arguments);
        helm.args(["--namespace", &self.namespace]);
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(folder, &self.home);
        }
        match &self.access {
            Access::File(kubeconfig) => helm.env("KUBECONFIG", kubeconfig).env("HOME", &self.home),
            // The user's kubeconfig may name programs that log in, and these need the real home.
            Access::Context(context) => helm.args(["--kube-context", context]),
        };
        output(&mut helm).await
    }
}
