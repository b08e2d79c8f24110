//! Parses the command line of the publisher.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::guards;
use super::http::Ports;
use super::standalone::Options;
use crate::common::tor_directories;
use crate::common::tor_gate::{self, Gate};
use crate::link::{self, METRICS_PORT, PROBE_PORT, TOR_METRICS_PORT};
use crate::onion::OnionAddress;

/// The flags of `onionbalance-operator frontend`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    cluster: Box<ClusterArgs>,
    #[command(flatten, next_help_heading = "Stand-alone, without Kubernetes (instead of --service)")]
    standalone: Box<Options>,
}

/// The program that the command line selects.
pub(super) enum Mode {
    /// A subcommand.
    Command(Command, Paths),
    /// The stand-alone daemon.
    Standalone(Options),
    /// The publisher in a frontend pod.
    Cluster(ClusterArgs),
}

impl Args {
    /// Returns the log level of the stand-alone daemon. None for a publisher in a pod and for
    /// `init`.
    pub fn standalone_log_level(&self) -> Option<&'static str> {
        self.is_standalone().then(|| self.standalone.log_level())
    }

    pub(super) fn mode(self) -> Mode {
        let is_standalone = self.is_standalone();
        match self.command {
            Some(command) => Mode::Command(command, self.cluster.publisher.paths),
            None if is_standalone => Mode::Standalone(*self.standalone),
            None => Mode::Cluster(*self.cluster),
        }
    }

    fn is_standalone(&self) -> bool {
        self.command.is_none() && self.cluster.service.is_none()
    }
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Create the directories and the empty file that tor needs before it starts
    #[command(after_help = "Examples:\n  onionbalance-operator frontend init --run-dir run --tor-data-dir data")]
    Init,
}

/// The directories that the publisher and `init` share with tor.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_field_names, reason = "the fields have the names of the flags")]
pub(super) struct Paths {
    /// Directory of tor's control socket, a memory volume shared with tor
    #[arg(long, global = true, default_value = link::paths::RUN_DIR)]
    pub(super) run_dir: PathBuf,
    /// Tor's `DataDirectory`
    #[arg(long, global = true, default_value = link::paths::TOR_DATA_DIR)]
    tor_data_dir: PathBuf,
    /// Directory with the master key in tor's format (`hs_ed25519_secret_key`)
    #[arg(long, global = true, default_value = link::paths::MASTER_KEY_DIR)]
    pub(super) master_key_dir: PathBuf,
    /// Directory with the entry guards that all tors of the service share, a mounted Secret
    #[arg(long, global = true, default_value = link::paths::GUARDS_DIR)]
    guards_dir: PathBuf,
    /// Directory with the vanguards that all tors of the service share, a mounted Secret
    #[arg(long, global = true, default_value = link::paths::VANGUARDS_DIR)]
    vanguards_dir: PathBuf,
}

impl Paths {
    /// Returns tor's `DataDirectory` if the tors of the service share their guards.
    pub(super) fn sharing_data_dir(&self) -> Option<PathBuf> {
        self.guards_dir.is_dir().then(|| self.tor_data_dir.clone())
    }

    /// Returns the directory with the vanguards if the tors of the service share them.
    pub(super) fn vanguards_mount(&self) -> Option<PathBuf> {
        self.vanguards_dir.is_dir().then(|| self.vanguards_dir.clone())
    }

    /// Creates the missing directories, and gives the shared guards to a tor that has never run. If
    /// there are none yet, that tor waits.
    pub(super) fn make(&self) -> io::Result<()> {
        tor_directories::make_private(&self.tor_data_dir)?;
        guards::adopt(&self.guards_dir, &self.master_key_dir, &self.tor_data_dir);
        tor_gate::close(&self.run_dir, &self.guards_dir, &self.tor_data_dir)?;
        tor_directories::make(&self.run_dir, &self.tor_data_dir)
    }

    /// Returns the gate at which a tor without guards waits.
    pub(super) fn gate(&self) -> io::Result<Gate> {
        Gate::new(&self.run_dir, &self.tor_data_dir)
    }
}

/// The flags of a publisher in a frontend pod.
///
/// For a Service named `metrics`, Kubernetes sets environment variables like `METRICS_PORT` in
/// every pod. The names of the publisher's variables do not collide with those.
#[derive(Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// Name of the `OnionBalancedService`
    #[arg(long, conflicts_with = "config")]
    pub(super) service: Option<String>,
    /// Namespace of the `OnionBalancedService`
    #[arg(long, env = "POD_NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// This pod's name
    #[arg(long, env = "POD_NAME")]
    pub(super) pod_name: Option<String>,
    #[command(flatten)]
    pub(super) publisher: PublisherArgs,
}

/// The flags of every publisher that polls agents, with or without Kubernetes.
#[derive(Debug, clap::Args)]
pub struct PublisherArgs {
    #[command(flatten)]
    pub(super) paths: Paths,
    /// This pod's UID
    #[arg(long, env = "POD_UID")]
    pub(super) pod_uid: Option<String>,
    /// Number of the shared entry guards over which the pods of the service spread; the operator
    /// sets the variable
    #[arg(long, env = link::GUARDS_IN_USE, default_value_t = 1)]
    pub(super) guards_in_use: usize,
    /// Onion address to which the master key must belong; the publisher waits until it does
    #[arg(long, env = "ONION_ADDRESS")]
    pub(super) onion_address: Option<OnionAddress>,
    /// Number of seconds after which a backend is left out if its agent does not answer
    #[arg(long, default_value_t = 8)]
    backend_silence_seconds: u32,
    /// Address to listen on [default: all, IPv6 and IPv4]
    #[arg(long)]
    pub(super) listen_address: Option<IpAddr>,
    /// Port of the probes
    #[arg(long, default_value_t = PROBE_PORT)]
    probe_port: u16,
    /// Port of the metrics
    #[arg(long, default_value_t = METRICS_PORT)]
    metrics_port: u16,
    /// Port of tor's own metrics on the loopback interface; they are served at `/tor/metrics`
    #[arg(long, default_value_t = TOR_METRICS_PORT)]
    tor_metrics_port: u16,
    /// Port of the app's requests to close circuits; without this flag, none are accepted
    #[arg(long)]
    pub(super) circuits_port: Option<u16>,
}

impl PublisherArgs {
    /// Returns the time after which a backend is left out of new descriptors if its agent does not
    /// answer.
    pub(super) fn backend_silence(&self) -> Duration {
        Duration::from_secs(self.backend_silence_seconds.into())
    }

    /// Returns the ports of the probes and of the metrics.
    pub(super) fn ports(&self) -> Ports {
        Ports { probes: self.probe_port, metrics: self.metrics_port, tor_metrics: self.tor_metrics_port }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::*;
    use crate::frontend::agents::polling;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Mode {
        Program::try_parse_from([&["frontend"], line].concat()).unwrap().args.mode()
    }

    #[test]
    fn parses_the_command_lines_of_a_pod() {
        let Mode::Cluster(args) = parse(&["--service", "web"]) else {
            panic!("parsed as something other than the publisher of a pod")
        };
        assert_eq!(args.service.as_deref(), Some("web"));
        let Mode::Command(Command::Init, paths) = parse(&["init", "--run-dir", "/x"]) else {
            panic!("parsed as something other than init")
        };
        assert_eq!(paths.run_dir, Path::new("/x"));
    }

    #[test]
    fn no_service_selects_the_stand_alone_daemon() {
        assert!(matches!(parse(&["--config", "x.yaml"]), Mode::Standalone(_)));
        assert!(matches!(parse(&[]), Mode::Standalone(_)));
        assert!(Program::try_parse_from(["frontend", "--service", "web", "--config", "x"]).is_err());
    }

    /// The default is long enough to survive a hiccup, and short enough that clients find a working
    /// backend at their second attempt.
    #[test]
    fn by_default_a_backend_is_left_out_after_five_to_ten_seconds_without_an_answer() {
        let Mode::Cluster(args) = parse(&["--service", "web"]) else {
            panic!("parsed as something other than the publisher of a pod")
        };
        let silent_after = polling::tests::silent_after(args.publisher.backend_silence());
        let expected = Duration::from_secs(5)..=Duration::from_secs(10);
        assert!(expected.contains(&silent_after), "{silent_after:?}");
    }
}
