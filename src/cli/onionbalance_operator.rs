//! The command line of `onionbalance-operator`, the program in the images. It has a subcommand for
//! each part of the product that runs as a service, and none that reads or writes keys for people:
//! whoever may run commands in a pod could use such a command on the pod's secrets.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::exit::{Failure, finish, print};
use super::version::version;
use super::{crd_command, examples};
use crate::common::{hidden, log, open_files};
use crate::{backend, frontend, operator};

/// Load-balanced Tor onion services on Kubernetes: one .onion address, many backends.
#[derive(Debug, Parser)]
#[command(
    name = "onionbalance-operator",
    version = version(),
    propagate_version = true,
    after_help = examples::PROGRAM
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A command that writes a log, with the options for the log.
#[derive(Debug, clap::Args)]
struct Logged<A: clap::Args> {
    #[command(flatten)]
    log: LogOptions,
    #[command(flatten)]
    args: A,
}

#[derive(Debug, Clone, Copy, clap::Args)]
struct LogOptions {
    /// The format of log lines
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
    /// The length of onion addresses in log lines
    #[arg(long, env = "LOG_ADDRESSES", value_enum, default_value_t = log::Addresses::Short)]
    log_addresses: log::Addresses,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile `OnionBalancedService` objects
    #[command(after_help = examples::OPERATOR)]
    Operator(Logged<Box<operator::Args>>),
    /// Publish merged descriptors: as the publisher of one service in a pod or, with --config, as
    /// the stand-alone daemon
    #[command(after_help = examples::FRONTEND)]
    Frontend(Logged<frontend::Args>),
    /// Serve a backend's descriptor and forward its streams, as the agent that runs next to tor
    #[command(after_help = examples::BACKEND)]
    Backend(Logged<Box<backend::Args>>),
    /// Wait for the metrics of a Ready operator and print them, as `helm test` does
    #[command(after_help = examples::PROBE)]
    Probe(operator::ProbeArgs),
    /// Print the `CustomResourceDefinition` as YAML, or the reference of its fields
    #[command(after_help = examples::PROGRAM_CRD)]
    Crd(crd_command::Args),
}

/// Returns the definition of the command line.
#[cfg(test)]
pub(super) fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
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
            Command::Frontend(Logged { args, .. }) => args.standalone_log_level(),
            _ => None,
        };
        let LogOptions { log_format, log_addresses } = self.command.log_options();
        log::start(log_format, log_addresses, standalone.unwrap_or("info"));
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
    /// Returns the options for the log. The commands without such options write no log.
    fn log_options(&self) -> LogOptions {
        match self {
            Self::Operator(Logged { log, .. })
            | Self::Backend(Logged { log, .. })
            | Self::Frontend(Logged { log, .. }) => *log,
            Self::Probe(_) | Self::Crd(_) => {
                LogOptions { log_format: log::Format::Text, log_addresses: log::Addresses::Short }
            }
        }
    }

    async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Operator(Logged { args, log }) => operator::run(*args, log.log_format).await,
            Self::Frontend(Logged { args, .. }) => frontend::run(args).await,
            Self::Backend(Logged { args, .. }) => backend::run(*args).await,
            Self::Probe(args) => print(&operator::probe(&args).await?),
            Self::Crd(args) => crd_command::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    /// Whoever may run commands in a pod must not find one there that shows or converts keys.
    #[test]
    fn the_program_in_the_images_has_no_command_for_people() {
        let command = command();
        let names: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(names, ["operator", "frontend", "backend", "probe", "crd"]);
    }
}
