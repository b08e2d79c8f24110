//! kubectl, the machine's own.

use std::path::PathBuf;

use anyhow::Result;
use tokio::process::Command;

use crate::command::{output, output_with_input};
use crate::state::State;

/// kubectl with the administrator's kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// For the cluster of this folder.
    pub fn new(state: &State) -> Self {
        Self { kubeconfig: state.kubeconfig() }
    }

    /// Runs it; the arguments are separated by single blanks. Gives its standard output.
    pub async fn run(&self, arguments: &str) -> Result<String> {
        output(&mut self.command(&arguments.split(' ').collect::<Vec<_>>())).await
    }

    /// Runs it with this standard input.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        output_with_input(&mut self.command(arguments), input).await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        command
    }
}
