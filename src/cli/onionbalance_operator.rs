//! The command line of `onionbalance-operator`, the program in the images. It has a subcommand for
//! each part of the product that runs as a service, and none that reads or writes keys for people:
//! whoever may run commands in a pod could use such a command on the pod's secrets.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::crd_command;
use super::exit::{Failure, finish, print};
use crate::common::{hidden, log, open_files};
use crate::{backend, frontend, operator};

/// Load-balanced Tor onion services on Kubernetes: one .onion address, many backends.
#[derive(Debug, Parser)]
#[command(
    name = "onionbalance-operator",
    version,
    propagate_version = true,
    after_help = "The commands for people (status, key, config) are in the program kubectl-onionbalance."
)]
struct Cli {
    /// The format of log lines
    #[arg(long, global = true, env = "LOG_FORMAT", value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
    /// The length of onion addresses in log lines
    #[arg(long, global = true, env = "LOG_ADDRESSES", value_enum, default_value_t = log::Addresses::Short)]
    log_addresses: log::Addresses,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile `OnionBalancedService` objects
    Operator(Box<operator::Args>),
    /// Publish merged descriptors: as the publisher of one service in a pod or, with --config, as
    /// the stand-alone daemon
    Frontend(frontend::Args),
    /// Serve a backend's descriptor and forward its streams, as the agent that runs next to tor
    Backend(Box<backend::Args>),
    /// Wait for the metrics of a Ready operator and print them, as `helm test` does
    Probe(operator::ProbeArgs),
    /// Print the `CustomResourceDefinition` as YAML, or the reference of its fields
    Crd(crd_command::Args),
}

/// Parses the command line, runs the subcommand, and returns the exit code of the process.
pub fn main() -> ExitCode {
    // The environment, standard input and files can contain secrets, so the process is hidden
    // before it reads any of them.
    if let Err(error) = hidden::hide() {
        return finish(Err(error.into()));
    }
    finish(Cli::parse().run())
}

impl Cli {
    fn run(self) -> Result<(), Failure> {
        let standalone = match &self.command {
            Command::Frontend(args) => args.standalone_log_level(),
            _ => None,
        };
        log::start(self.log_format, self.log_addresses, standalone.unwrap_or("info"));
        open_files::raise_limit();
        // The daemon never has much work, and threads cost memory.
        let mut runtime = match standalone {
            Some(_) => tokio::runtime::Builder::new_current_thread(),
            None => tokio::runtime::Builder::new_multi_thread(),
        };
        runtime.enable_all().build()?.block_on(self.command.run())
    }
}

impl Command {
    async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Operator(args) => operator::run(*args).await,
            Self::Frontend(args) => frontend::run(args).await,
            Self::Backend(args) => backend::run(*args).await,
            Self::Probe(args) => print(&operator::probe(&args).await?),
            Self::Crd(args) => crd_command::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Whoever may run commands in a pod must not find one there that shows or converts keys.
    #[test]
    fn the_program_in_the_images_has_no_command_for_people() {
        let command = Cli::command();
        let names: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(names, ["operator", "frontend", "backend", "probe", "crd"]);
    }
}
