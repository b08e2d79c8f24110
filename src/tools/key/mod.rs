//! `onionbalance-operator key`: generates, converts, shows and checks keys.

mod check;
mod client;
mod input;
mod output;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;

use clap::ValueEnum;
use data_encoding::BASE64;

use self::input::Input;
pub(in crate::tools) use self::output::write_tor_directory;
use self::output::{Destination, Material};
use super::{Failure, generator};
use crate::onion::{KeyFile, KeyFormat, MasterKey, OnionAddress, Seed};

/// Arguments of `onionbalance-operator key`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a new master key, or a key pair for an authorized client
    ///
    /// The key's file is readable by its owner alone, and nothing is overwritten without --force.
    #[command(after_help = GENERATE_EXAMPLES)]
    Generate(Generate),
    /// Write a key in another form: Tor's directory, PEM, or a Kubernetes Secret
    ///
    /// The key is read from a HiddenServiceDir, a key file, or a Secret's manifest: this operator's, tor-controller's or
    /// tor-operator's. What else the Secret has is left out. PEM becomes either form. Tor's form cannot become PEM: PEM holds the seed, and Tor's file only what the seed expands
    /// to. Nothing is lost by that, since the daemon and Python Onionbalance read Tor's form, too.
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert(Convert),
    /// Print a key's address and public key, never the secret
    Show(Show),
    /// Check a HiddenServiceDir, a key file or a Secret's manifest: is it whole, does it fit together, can others read it
    ///
    /// Exit code 0 when all is well; 1 with a line for each fault when not.
    Check(Check),
}

const GENERATE_EXAMPLES: &str = "Examples:
  key generate                                   the directory <address>, as tor has it
  key generate --to pem --output frontend.key    as Python Onionbalance has it
  key generate --secret web-master-key | kubectl create -f -
  key generate --client alice --address <ADDRESS> --output clients";
const CONVERT_EXAMPLES: &str = "Examples:
  key convert frontend.key --output hidden_service
  key convert /var/lib/tor/hidden_service --secret web-master-key | kubectl create -f -
  kubectl get secret example-tor-secret -o yaml | key convert - --secret web-master-key | kubectl create -f -";

#[derive(Debug, clap::Args)]
struct Generate {
    #[command(flatten)]
    target: Target,
    /// Make a client's key pair instead: `<CLIENT>.auth` for the service, `<CLIENT>.auth_private` for the client
    #[arg(long, requires = "address", conflicts_with_all = ["to", "secret"])]
    client: Option<String>,
    /// The service that the client may connect to
    #[arg(long, requires = "client")]
    address: Option<OnionAddress>,
}

#[derive(Debug, clap::Args)]
struct Convert {
    /// A HiddenServiceDir, a key file or a Secret's manifest; `-` is standard input
    input: PathBuf,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// HiddenServiceDirs, key files or Secrets' manifests; `-` is standard input
    #[arg(required = true)]
    input: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// HiddenServiceDirs, key files or Secrets' manifests; `-` is standard input
    #[arg(required = true)]
    input: Vec<PathBuf>,
}

/// Where a key goes, and how.
#[derive(Debug, clap::Args)]
struct Target {
    /// The form: Tor's directory of `hs_ed25519_secret_key`, `hs_ed25519_public_key` and hostname, or a PEM file
    #[arg(long, value_enum, default_value_t = Form::Tor)]
    to: Form,
    /// The directory (Tor) or file (PEM, Secret) to write [default: ADDRESS, ADDRESS.key; a Secret: standard output]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Write a Kubernetes Secret of this name instead, for kubectl create; spec.masterKey.secretName names it
    #[arg(long, value_name = "NAME", conflicts_with = "to", value_parser = output::secret_name)]
    secret: Option<String>,
    /// The Secret's namespace
    #[arg(long, requires = "secret", value_parser = output::secret_name)]
    namespace: Option<String>,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Tor,
    Pem,
}

/// Runs the command. What was asked for goes to `out`, which is standard output.
pub fn run(args: Args, out: &mut impl Write) -> Result<(), Failure> {
    match args.command {
        Command::Generate(Generate { target, client: Some(name), address: Some(address) }) => {
            client::generate(&name, &address, target.output.as_deref(), target.force, out)
        }
        Command::Generate(Generate { target, .. }) => generate(target, out),
        Command::Convert(Convert { input, target }) => convert(Input::read(&input)?, target, out),
        Command::Show(show) => show.input.iter().try_for_each(|path| describe(&Input::read(path)?, out)),
        Command::Check(check) => check::run(&check.input, out),
    }
}

fn generate(target: Target, out: &mut impl Write) -> Result<(), Failure> {
    let (form, destination) = target.destination();
    let material = match form {
        Form::Pem => Material::Pem(Seed::generate(&mut generator())),
        Form::Tor => Material::Expanded(MasterKey::generate(&mut generator())),
    };
    output::write(&material, &destination, out)
}

fn convert(input: Input, target: Target, out: &mut impl Write) -> Result<(), Failure> {
    let (form, destination) = target.destination();
    let source = input.to_string();
    let material = match (form, input.file) {
        (Form::Pem, KeyFile::Pem(seed)) => Material::Pem(seed),
        (Form::Tor, file) => Material::Expanded(file.into_key()?),
        (Form::Pem, KeyFile::Tor(_)) => {
            return Err(format!(
                "{source}: a key in Tor's form cannot become PEM: PEM holds the seed, and this file only what the seed expanded to. \
                 Use it as it is: `key:` in config.yaml takes Tor's form, too"
            )
            .into());
        }
    };
    output::write(&material, &destination, out)
}

fn describe(input: &Input, out: &mut impl Write) -> Result<(), Failure> {
    let address = input.file.address();
    let form = match input.file.format() {
        KeyFormat::Pem => "PEM (the seed)",
        KeyFormat::Tor => "Tor's (the expanded key)",
    };
    writeln!(out, "file        {input}")?;
    writeln!(out, "address     {address}")?;
    writeln!(out, "public key  {}", BASE64.encode(address.public_key()))?;
    writeln!(out, "form        {form}")?;
    Ok(())
}

impl Target {
    fn destination(self) -> (Form, Destination) {
        let Self { to, output, secret, namespace, force } = self;
        let destination = match secret {
            Some(name) => Destination::Secret { name, namespace, file: output, force },
            None => Destination::Files { path: output, force },
        };
        (to, destination)
    }
}
