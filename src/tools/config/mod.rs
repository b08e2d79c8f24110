//! `onionbalance-operator config`: makes a configuration of the stand-alone daemon, as `onionbalance-config` does.

mod generate;
mod questions;
#[cfg(test)]
mod tests;

use std::io::{BufRead, Write};
use std::path::PathBuf;

use self::generate::{Plan, PlannedService};
use self::questions::Questions;
use super::Failure;
use crate::onion::OnionAddress;

/// Arguments of `onionbalance-operator config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write config.yaml, the master key, and what the instances' tors need
    ///
    /// Without options it asks. It writes config.yaml and, for each service, ADDRESS.key and a directory ADDRESS with
    /// `ob_config` and lines for the instances' torrc. It never overwrites a config.yaml or a key.
    Generate(Generate),
}

/// The flags of `onionbalance-config`, where v3 services have a use for them.
#[derive(Debug, clap::Args)]
struct Generate {
    /// Directory to write into; it is made if need be
    #[arg(long, default_value = "config/")]
    output: PathBuf,
    /// Instances per service
    #[arg(short = 'n', default_value_t = 2, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    instances: u32,
    /// Services
    #[arg(short = 's', default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100))]
    services: u32,
    /// What the instances' names begin with
    #[arg(short, long, default_value = "node")]
    tag: String,
    /// File of a master key to use, PEM or Tor's `hs_ed25519_secret_key`; repeat it for the next service [default: new keys]
    #[arg(long)]
    key: Vec<PathBuf>,
    /// Address of an instance that is there (repeatable; counts instead of -n; with one service only)
    #[arg(long, value_name = "ADDRESS")]
    instance: Vec<OnionAddress>,
    /// Make the instances' keys, too: a HiddenServiceDir for each, ready to be moved to its machine
    #[arg(long, conflicts_with = "instance")]
    instance_keys: bool,
    /// Port of the service that clients connect to
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u16).range(1..))]
    service_virtual_port: u16,
    /// Where the instances' tors find the service [default: 127.0.0.1 and the virtual port]
    #[arg(long)]
    service_target: Option<String>,
    /// Ask nothing, also without other options
    #[arg(long)]
    no_interactive: bool,
    /// Onion service version; there is no other
    #[arg(long, default_value = "v3", value_parser = ["v3"], hide = true)]
    hs_version: String,
}

/// Runs the command. `asks`: it was given no options, so the answers are read from `input`.
pub fn run(args: Args, asks: bool, input: &mut impl BufRead, out: &mut impl Write) -> Result<(), Failure> {
    let Command::Generate(generate) = args.command;
    let plan =
        if asks && !generate.no_interactive { Questions { input, out }.ask(&generate)? } else { plan(generate)? };
    plan.carry_out(out)
}

fn plan(args: Generate) -> Result<Plan, Failure> {
    if !args.instance.is_empty() && args.services > 1 {
        return Err("--instance: whose instance is it? Use it with one service (-s 1)".into());
    }
    let services = usize::try_from(args.services)?.max(args.key.len());
    let target = args.service_target.unwrap_or_else(|| format!("127.0.0.1:{}", args.service_virtual_port));
    let mut keys = args.key.into_iter();
    let service = |_| PlannedService {
        key: keys.next(),
        instances: args.instances,
        addresses: args.instance.clone(),
        tag: args.tag.clone(),
        port: args.service_virtual_port,
        target: target.clone(),
    };
    let services = (0..services).map(service).collect();
    Ok(Plan { output: args.output, services, instance_keys: args.instance_keys })
}
