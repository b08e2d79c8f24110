//! The `config` command, which generates a configuration for the stand-alone daemon, like Python
//! Onionbalance's `onionbalance-config`. The module `python` gives the generator the command line
//! and the files of `onionbalance-config` itself.

mod generate;
pub mod python;
mod questions;
#[cfg(test)]
mod tests;

use std::io::{BufRead, Write};
use std::path::PathBuf;

use self::generate::{Plan, PlannedService, TorrcPort};
use self::questions::Questions;
use super::Failure;
use crate::onion::OnionAddress;

/// The arguments of `kubectl-onionbalance config`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write config.yaml, the master keys, and the files that each instance's tor needs
    ///
    /// Without options, the command asks questions. It writes config.yaml. For each service, it
    /// also writes ADDRESS.key and a directory ADDRESS, which contains `ob_config` and the torrc
    /// lines for each instance. It never overwrites a config.yaml or a key.
    #[command(after_help = EXAMPLES)]
    Generate(Generate),
}

const EXAMPLES: &str = "Examples:
  kubectl-onionbalance config generate
  kubectl-onionbalance config generate --output config -n 3 --tag web
  kubectl-onionbalance config generate --output config --no-interactive \\
    --key hidden_service/hs_ed25519_secret_key";

/// The flags of `onionbalance-config` that apply to v3 services.
#[derive(Debug, clap::Args)]
struct Generate {
    /// The output directory, created if it does not exist
    #[arg(long, default_value = "config/")]
    output: PathBuf,
    /// The number of instances per service
    #[arg(short = 'n', default_value_t = 2, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    instances: u32,
    /// The number of services
    #[arg(short = 's', default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100))]
    services: u32,
    /// The prefix of the instances' names
    #[arg(short, long, default_value = "node")]
    tag: String,
    /// A file with an existing master key, in PEM or as tor's `hs_ed25519_secret_key`; repeat the
    /// flag for each further service [default: new keys]
    #[arg(long)]
    key: Vec<PathBuf>,
    /// The address of an existing instance (repeatable); replaces -n and requires a single service
    #[arg(long, value_name = "ADDRESS")]
    instance: Vec<OnionAddress>,
    /// Also generate a HiddenServiceDir with a key for each instance, ready to be moved to the
    /// instance's machine
    #[arg(long, conflicts_with = "instance")]
    instance_keys: bool,
    /// The port of the onion address to which clients connect
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u16).range(1..))]
    service_virtual_port: u16,
    /// The host and port where each instance's tor reaches the service [default: 127.0.0.1 and the
    /// virtual port]
    #[arg(long)]
    service_target: Option<String>,
    /// Ask no questions, even without other options
    #[arg(long)]
    no_interactive: bool,
    /// The onion service version; only v3 exists
    #[arg(long, default_value = "v3", value_parser = ["v3"], hide = true)]
    hs_version: String,
}

/// Runs the command. If `asks` is true, the user gave no options, so the command asks questions and
/// reads the answers from `input`.
pub fn run(args: Args, asks: bool, input: &mut impl BufRead, out: &mut impl Write) -> Result<(), Failure> {
    let Command::Generate(generate) = args.command;
    let plan =
        if asks && !generate.no_interactive { Questions { input, out }.ask(&generate)? } else { plan(generate)? };
    plan.carry_out(out)
}

fn plan(args: Generate) -> Result<Plan, Failure> {
    if !args.instance.is_empty() && args.services > 1 {
        return Err("--instance is ambiguous with more than one service; use it with a single service (-s 1)".into());
    }
    let services = usize::try_from(args.services)?.max(args.key.len());
    let target = args.service_target.unwrap_or_else(|| format!("127.0.0.1:{}", args.service_virtual_port));
    let mut keys = args.key.into_iter();
    let service = |_| PlannedService {
        key: keys.next(),
        instances: args.instances,
        addresses: args.instance.clone(),
        tag: args.tag.clone(),
        torrc: Some(TorrcPort { port: args.service_virtual_port, target: target.clone() }),
    };
    let services = (0..services).map(service).collect();
    Ok(Plan { output: args.output, services, instance_keys: args.instance_keys })
}
