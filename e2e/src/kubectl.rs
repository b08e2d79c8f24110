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

/// The credentials with which a program reaches a cluster.
#[derive(Debug, Clone)]
pub enum Access {
    /// The current context of this kubeconfig.
    File(PathBuf),
    /// The context with this name in the user's own kubeconfig: the files that `KUBECONFIG` lists,
    /// or else `~/.kube/config`.
    Context(String),
}

/// The `kubectl` command for one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    access: Access,
    /// The folder in which kubectl remembers the APIs of the server. In the shared folder in the
    /// home folder, kubectl would find the APIs of an earlier cluster, whose API server had the
    /// same address and possibly another version.
    cache: PathBuf,
}

impl Kubectl {
    /// Returns the `kubectl` command for the cluster in a state folder, with the administrator's
    /// kubeconfig.
    pub fn new(state: &State) -> Self {
        Self { access: Access::File(state.kubeconfig()), cache: state.kubernetes().join("kubectl-cache") }
    }

    /// Returns the `kubectl` command for a context of the user's own kubeconfig.
    pub fn of_context(context: &str, cache: PathBuf) -> Self {
        Self { access: Access::Context(context.to_owned()), cache }
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
        match &self.access {
            Access::File(kubeconfig) => command.env("KUBECONFIG", kubeconfig),
            Access::Context(context) => command.args(["--context", context]),
        };
        command.arg("--cache-dir").arg(&self.cache).args(arguments);
        command
    }
}
