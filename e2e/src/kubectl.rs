//! Runs the kubectl that is installed on this machine.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::process::Command;

use crate::command::{command, output, output_with_input};
use crate::state::{State, source_tree};

/// Returns the manifests that kustomize builds from a folder. Uses the kubectl that
/// `setup/kubectl.sh` downloads, because Debian's does not know all fields in `deploy/`.
pub async fn kustomize(folder: &Path) -> Result<String> {
    let script = source_tree().join("e2e/setup/kubectl.sh").display().to_string();
    let program = output(&mut command(&script, [] as [&str; 0])).await?;
    output(command(program.trim(), ["kustomize"]).arg(folder)).await
}

/// The `kubectl` command with the administrator's kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    /// The folder in which kubectl remembers the APIs of the server. In the shared folder in the
    /// home folder, kubectl would find the APIs of an earlier cluster, whose API server had the
    /// same address and possibly another version.
    cache: PathBuf,
}

impl Kubectl {
    /// Returns the `kubectl` command for the cluster in a state folder.
    pub fn new(state: &State) -> Self {
        Self { kubeconfig: state.kubeconfig(), cache: state.kubernetes().join("kubectl-cache") }
    }

    /// Runs kubectl and returns its standard output. `arguments` are separated by single spaces.
    pub async fn run(&self, arguments: &str) -> Result<String> {
        output(&mut self.command(&arguments.split(' ').collect::<Vec<_>>())).await
    }

    /// Runs kubectl with the given standard input and returns its standard output.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        output_with_input(&mut self.command(arguments), input).await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).arg("--cache-dir").arg(&self.cache).args(arguments);
        command
    }
}
