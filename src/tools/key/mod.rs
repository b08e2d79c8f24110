//! The `key` command, which generates, converts, delegates, shows and checks keys, and signs
//! certificate requests.

mod check;
mod check_descriptor;
mod client;
mod content;
mod csr;
mod delegate;
mod input;
mod manifest;
mod output;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use data_encoding::BASE64;

use self::input::Input;
pub(in crate::tools) use self::output::write_tor_directory;
use self::output::{Destination, Material};
use super::{Failure, generator};
use crate::onion::{KeyFile, KeyFormat, MasterKey, OnionAddress, Seed};

/// The arguments of `kubectl-onionbalance key`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Generate a master key, or a key pair for an authorized client
    ///
    /// Only the owner can read the key file. Existing files are not overwritten without --force.
    #[command(after_help = GENERATE_EXAMPLES)]
    Generate(Generate),
    /// Convert a key to tor's directory, a PEM file, or a Kubernetes Secret
    ///
    /// The input is a HiddenServiceDir, a key file, a manifest with one key, or a key as text. A
    /// manifest is a Secret from any source, a list of Secrets, a file with several documents, or
    /// the output of mkp224o -y. A key as text is a key file in base64, base32 or hexadecimal, or
    /// the key in tor's `ADD_ONION` command. A PEM file can be converted to tor's directory or to a
    /// Secret. A key in tor's format cannot be converted to PEM, because PEM contains the seed, and
    /// tor's file contains only the key that is expanded from it. The daemon and Python
    /// Onionbalance can also read tor's format.
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert(Convert),
    /// Create a signing kit, with which a publisher works without the master key for some time
    ///
    /// Run this command on a machine without a network, and copy only the kit to the cluster or to
    /// the server of the daemon. Whoever has the kit can publish for the address until the kit
    /// ends, but cannot compute the master key. Kits of one key may overlap, and the same arguments
    /// always give the same kit.
    #[command(after_help = DELEGATE_EXAMPLES)]
    Delegate(delegate::Delegate),
    /// Create a certificate request that proves to a CA that you hold the key of the address
    ///
    /// The request is for the ACME challenge `onion-csr-01` (RFC 9799), and for CAs that use method
    /// 2.b in appendix B of the CA/Browser Forum's Baseline Requirements. The master key signs it,
    /// together with the nonce from the CA and a new nonce. It only proves the control of the
    /// address; the certificate itself needs another key and another request.
    #[command(after_help = CSR_EXAMPLES)]
    Csr(csr::Csr),
    /// Print the address and the public key of a key, never the secret key
    #[command(after_help = SHOW_EXAMPLES)]
    Show(Show),
    /// Check a HiddenServiceDir, a key file, the manifest of a Secret or a signing kit for damage,
    /// mismatches and loose permissions
    ///
    /// Exit codes: 0 if there are no problems, 1 with one line for each problem otherwise.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
}

const EXAMPLES: &str = "Examples:
  kubectl onionbalance key generate --output hidden_service
  kubectl onionbalance key show hidden_service";
const GENERATE_EXAMPLES: &str = "Examples:
  kubectl onionbalance key generate --output hidden_service
  kubectl onionbalance key generate --to pem --output frontend.key
  kubectl onionbalance key generate --secret web-key | kubectl create -f -
  kubectl onionbalance key generate --client alice --output clients --address \\
    pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
const CONVERT_EXAMPLES: &str = "Examples:
  kubectl onionbalance key convert frontend.key --output hidden_service
  kubectl onionbalance key convert /var/lib/tor/hidden_service \\
    --secret web-master-key | kubectl create -f -
  kubectl get secret example-tor-secret -o yaml | \\
    kubectl onionbalance key convert - --secret web-master-key | \\
    kubectl create -f -";
const DELEGATE_EXAMPLES: &str = "Examples:
  kubectl onionbalance key delegate hidden_service --days 90 --output web.kit
  kubectl onionbalance key delegate hidden_service --from 2027-01-01 \\
    --secret web-signing-kits --output kits.yaml
  kubectl apply --server-side -f kits.yaml";
const CSR_EXAMPLES: &str = "Examples:
  kubectl onionbalance key csr hidden_service --ca-nonce bI6/MRqV4gw=
  kubectl get secret web-master-key -o yaml | \\
    kubectl onionbalance key csr - --ca-nonce bI6/MRqV4gw= --to base64url
  kubectl onionbalance key csr frontend.key --ca-nonce-file nonce.txt \\
    --nonce-encoding hex --output web.csr";
const SHOW_EXAMPLES: &str = "Examples:
  kubectl onionbalance key show hidden_service frontend.key
  kubectl get secret web-master-key -o yaml | kubectl onionbalance key show -";
const CHECK_EXAMPLES: &str = "Examples:
  kubectl onionbalance key check hidden_service web-master-key.yaml
  kubectl get secret web-master-key -o yaml | kubectl onionbalance key check -
  kubectl onionbalance key check --descriptor descriptor.txt";

#[derive(Debug, clap::Args)]
struct Generate {
    #[command(flatten)]
    target: Target,
    /// Generate a key pair for a client instead: `<CLIENT>.auth` for the service and
    /// `<CLIENT>.auth_private` for the client
    #[arg(long, requires = "address", conflicts_with_all = ["to", "secret"])]
    client: Option<String>,
    /// The address of the service that the client may connect to
    #[arg(long, requires = "client")]
    address: Option<OnionAddress>,
}

#[derive(Debug, clap::Args)]
struct Convert {
    /// A HiddenServiceDir, a key file or the manifest of a Secret; `-` reads standard input
    input: PathBuf,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// HiddenServiceDirs, key files or manifests of Secrets; `-` reads standard input
    #[arg(required = true)]
    input: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// HiddenServiceDirs, key files, manifests of Secrets or signing kits; `-` reads standard input
    #[arg(required_unless_present = "descriptor")]
    input: Vec<PathBuf>,
    /// A published descriptor, which is checked for signatures that betray the master key;
    /// repeatable
    ///
    /// Tor prints a descriptor with the control command `GETINFO hs/client/desc/id/<ADDRESS>`.
    #[arg(long, value_name = "FILE")]
    descriptor: Vec<PathBuf>,
}

/// The destination and the format of a key to write.
#[derive(Debug, clap::Args)]
struct Target {
    /// The format: tor's directory with `hs_ed25519_secret_key`, `hs_ed25519_public_key` and
    /// `hostname`, or a PEM file
    #[arg(long, value_enum, default_value_t = Form::Tor)]
    to: Form,
    /// The directory (tor) or file (PEM, Secret) to write [default: ADDRESS, ADDRESS.key, or
    /// standard output for a Secret]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Write the manifest of a Secret with this name instead, for use with kubectl create and
    /// spec.masterKey.secretName
    #[arg(long, value_name = "NAME", conflicts_with = "to", value_parser = output::secret_name)]
    secret: Option<String>,
    /// The namespace of the Secret
    #[arg(long, requires = "secret", value_parser = output::secret_name)]
    namespace: Option<String>,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Tor,
    Pem,
}

/// Runs the command and writes its result to `out`, normally standard output.
pub fn run(args: Args, out: &mut impl Write) -> Result<(), Failure> {
    match args.command {
        Command::Generate(Generate { target, client: Some(name), address: Some(address) }) => {
            client::generate(&name, &address, target.output.as_deref(), target.force, out)
        }
        Command::Generate(Generate { target, .. }) => generate(target, out),
        Command::Convert(Convert { input, target }) => convert(Input::read(&input)?, target, out),
        Command::Delegate(args) => delegate::run(args, out),
        Command::Csr(args) => csr::run(args, out),
        Command::Show(show) => show.input.iter().try_for_each(|path| show_file(path, out)),
        Command::Check(Check { input, descriptor }) => {
            check::run(&input, out)?;
            check_descriptor::run(&descriptor, out)
        }
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
                "{source}: cannot convert a key in tor's format to PEM, because PEM requires the seed, \
                 but this file contains only the expanded key; \
                 use the file as it is, since `key:` in config.yaml also accepts tor's format"
            )
            .into());
        }
    };
    output::write(&material, &destination, out)
}

fn show_file(path: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let Some(kit) = delegate::read_kit(path) else { return describe(&Input::read(path)?, out) };
    let kit = kit.map_err(|error| format!("{}: {error}", path.display()))?;
    writeln!(out, "file        {}", path.display())?;
    writeln!(out, "address     {}", kit.address())?;
    write!(out, "format      ")?;
    Ok(delegate::describe(&kit, out)?)
}

fn describe(input: &Input, out: &mut impl Write) -> Result<(), Failure> {
    let address = input.file.address();
    let form = match input.file.format() {
        KeyFormat::Pem => "PEM (seed)",
        KeyFormat::Tor => "tor (expanded key)",
    };
    writeln!(out, "file        {input}")?;
    writeln!(out, "address     {address}")?;
    writeln!(out, "public key  {}", BASE64.encode(address.public_key()))?;
    writeln!(out, "format      {form}")?;
    for fault in &input.faults {
        writeln!(out, "note        {fault}, so convert it with key convert")?;
    }
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
