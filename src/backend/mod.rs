//! The agent, which runs next to a stock tor in every backend pod.
//!
//! ```text
//! tor ◄─control socket─ observer ──watch──► api      the publisher's sync call
//! tor ──forward/<port>.sock──► forwarder    probes   readiness, /drain
//! targets ◄──checks── health                metrics
//! ```
//!
//! The observer tracks tor's state, kills a frozen tor and repairs a stalled onion service. The
//! forwarder carries the streams and limits those of each circuit, and `health` checks their
//! targets. The observer closes the circuits that breach their limits repeatedly, and those that
//! the app no longer wants. The drain rule and `health` evaluate the publishers' requests, which
//! arrive through the API, as the app's requests do. Apart from these, the three HTTP servers only
//! read state.

mod api;
mod circuits;
mod connect;
mod drain;
mod forward;
mod guards;
mod health;
mod init;
mod metrics;
mod observer;
mod paths;
mod points;
mod probes;
mod proxy_header;
mod pulse;
mod stall;
mod system;
mod vanguards;
mod watchdog;

use std::error::Error;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::common::open_files::Shares;
use crate::common::tor_gate::{self, Gate};
use crate::common::{http, http_server, tor_directories, tor_metrics};
use crate::link::{self, AGENT_API_PORT, AgentConfig, METRICS_PORT, PROBE_PORT, RefusedTargets, TOR_METRICS_PORT};
use api::{Api, Parts, TorGuards};
use connect::Connector;
use drain::{Drain, DrainTimes};
use forward::Forwarder;
use guards::{GuardReporter, Turn};
use health::Health;
use observer::Observer;
use paths::RunDir;
use vanguards::SharedVanguards;

/// How long the agent waits after SIGTERM for open HTTP requests to finish. A terminating pod has
/// already drained.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// The flags of `onionbalance-operator backend`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create the directories, the onion key and the files that tor needs; an existing key is kept
    #[command(after_help = "Examples:\n  onionbalance-operator backend init --config agent.json --run-dir run")]
    Init,
}

/// The paths shared by the agent and `backend init`.
#[derive(Debug, clap::Args)]
struct Files {
    /// The agent's configuration file
    #[arg(long, global = true, default_value = link::paths::AGENT_CONFIG)]
    config: PathBuf,
    /// Directory of the control socket, the onion key and the forwarding sockets: a memory volume
    /// shared with tor
    #[arg(long, global = true, default_value = link::paths::RUN_DIR)]
    run_dir: PathBuf,
    /// Tor's `DataDirectory`
    #[arg(long, global = true, default_value = link::paths::TOR_DATA_DIR)]
    tor_data_dir: PathBuf,
    /// Directory with the entry guards that all tors of the service share, a mounted Secret
    #[arg(long, global = true, default_value = link::paths::GUARDS_DIR)]
    guards_dir: PathBuf,
    /// Directory with the vanguards that all tors of the service share, a mounted Secret
    #[arg(long, global = true, default_value = link::paths::VANGUARDS_DIR)]
    vanguards_dir: PathBuf,
}

/// The agent's ports and credentials, and the rule about its targets. The ports cannot come from
/// the environment, because Kubernetes sets variables such as `API_PORT` for a Service named `api`.
#[derive(Debug, clap::Args)]
struct Serve {
    /// File with the token that the agent shares with the publisher
    #[arg(long, default_value = link::paths::TOKEN)]
    token: PathBuf,
    /// UID of this pod; requests for another pod are refused
    #[arg(long, env = "POD_UID")]
    pod_uid: Option<String>,
    /// Addresses that no target may have, as in the operator's flag of this name; the operator sets
    /// the variable
    #[arg(long, env = link::REFUSED_TARGETS, value_name = "LIST", default_value = "none")]
    refused_targets: RefusedTargets,
    /// Number of the shared entry guards over which the pods of the service spread; the operator
    /// sets the variable
    #[arg(long, env = link::GUARDS_IN_USE, default_value_t = 1)]
    guards_in_use: usize,
    /// Address of the API server, from the variable that the kubelet sets in every pod
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", value_name = "HOST", default_value = "", hide = true)]
    kubernetes_service_host: String,
    /// Address to listen on [default: all, IPv6 and IPv4]
    #[arg(long)]
    listen_address: Option<IpAddr>,
    /// Port of the publisher's authenticated API
    #[arg(long, default_value_t = AGENT_API_PORT)]
    api_port: u16,
    /// Port of the probes and of `/drain`
    #[arg(long, default_value_t = PROBE_PORT)]
    probe_port: u16,
    /// Port of the metrics
    #[arg(long, default_value_t = METRICS_PORT)]
    metrics_port: u16,
    /// Loopback port of tor's own metrics, which the agent serves at `/tor/metrics`
    #[arg(long, default_value_t = TOR_METRICS_PORT)]
    tor_metrics_port: u16,
}

impl Serve {
    /// Returns the guard that this pod tries first.
    fn turn(&self) -> Turn {
        Turn { guards_in_use: self.guards_in_use, pod_uid: self.pod_uid.clone().unwrap_or_default() }
    }
}

/// The error that ends the agent or `backend init`.
type AgentError = Box<dyn Error + Send + Sync>;

/// Runs the agent until SIGTERM or SIGINT, or runs `backend init` to completion.
pub async fn run(args: Args) -> Result<(), AgentError> {
    let config = read_config(&args.files.config)?;
    let run_dir = RunDir::new(args.files.run_dir.clone());
    match args.command {
        Some(Command::Init) => prepare(&args.serve, &args.files, &run_dir, &config),
        None => serve(args.serve, &run_dir, &args.files, config).await,
    }
}

/// Creates the files that tor needs, and gives the shared guards to a tor that has never run. If
/// there are none yet, that tor waits.
fn prepare(serve: &Serve, files: &Files, run_dir: &RunDir, config: &AgentConfig) -> Result<(), AgentError> {
    tor_directories::make_private(&files.tor_data_dir)?;
    guards::adopt(&files.guards_dir, &serve.token, &files.tor_data_dir, &serve.turn());
    tor_gate::close(run_dir.path(), &files.guards_dir, &files.tor_data_dir)?;
    init::init(run_dir, &files.tor_data_dir, config, &mut system::rng())
}

fn read_config(path: &Path) -> Result<AgentConfig, AgentError> {
    let with_path = |error: &dyn Display| format!("cannot read the agent's configuration {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| with_path(&error))?;
    AgentConfig::from_yaml(&text).map_err(|error| with_path(&error).into())
}

async fn serve(args: Serve, run_dir: &RunDir, files: &Files, config: AgentConfig) -> Result<(), AgentError> {
    // The signal handlers come first, so that an early SIGTERM is not missed.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let pod_uid = args.pod_uid.clone().ok_or("--pod-uid (or POD_UID in the environment) is required")?;
    // Usually, the `postStart` hook has already run `backend init`. However, a kubelet that
    // restarts between the container's start and the hook skips the hook.
    prepare(&args, files, run_dir, &config)?;
    let address = run_dir.read_hostname()?;

    let turn = args.turn();
    let connector = Connector::new(args.refused_targets, args.kubernetes_service_host.parse().ok());
    let connector = Arc::new(connector);
    let streams = Shares::of_this_process().streams;
    let forwarder = Forwarder::bind(run_dir, &config, &address, streams)?.connecting_with(connector.clone());
    let traffic = forwarder.traffic();
    let circuits = forwarder.circuits();
    let health = Arc::new(Health::new(&config.ports, &traffic, connector));
    let vanguards = Arc::new(SharedVanguards::read(&files.vanguards_dir, &args.token));
    let observer = Observer::new(run_dir, address, system::random(), circuits.clone()).heeding(health.clone());
    let observer = observer.using(vanguards.clone());
    let (tor, pulse) = (observer.watch(), observer.pulse());
    let reporter = GuardReporter::new(&files.tor_data_dir);
    let gate = Arc::new(Gate::new(run_dir.path(), &files.tor_data_dir)?);
    tokio::spawn(gate.clone().expire());
    let times = DrainTimes {
        linger: Duration::from_secs(config.linger_seconds.into()),
        timeout: Duration::from_secs(config.drain_timeout_seconds.into()),
    };
    let drain = Arc::new(Drain::new(times, traffic.watch_open()));

    let guards = TorGuards { newest: reporter.watch(), gate, turn };
    let parts = Parts { drain: drain.clone(), traffic: traffic.clone(), circuits: circuits.clone(), vanguards };
    let api = Api::new(pod_uid, args.token, address, tor.clone(), guards, parts)?.with_health(health.clone());
    let probes = probes::router(tor.clone(), pulse, drain, health.clone());
    let metrics = metrics::router(tor, traffic, circuits, health.clone());
    let metrics = metrics.merge(tor_metrics::router(args.tor_metrics_port));
    let stop = CancellationToken::new();
    let mut servers = JoinSet::new();
    for (router, port) in [(api.router(), args.api_port), (probes, args.probe_port), (metrics, args.metrics_port)] {
        let listener = http::bind(args.listen_address, port)?;
        servers.spawn(http_server::serve(listener, router, stop.clone()));
    }
    let mut workers = JoinSet::new();
    workers.spawn(observer.run());
    workers.spawn(forwarder.run());
    workers.spawn(reporter.run());
    workers.spawn(health.run());
    tracing::info!(%address, master = %config.master_onion_address, "agent started");

    tokio::select! {
        _ = terminate.recv() => tracing::info!("received SIGTERM"),
        _ = interrupt.recv() => tracing::info!("received SIGINT"),
        Some(ended) = servers.join_next() => {
            ended?;
            return Err("an HTTP server stopped unexpectedly".into());
        }
        Some(Err(panic)) = workers.join_next() => return Err(panic.into()),
    }
    stop.cancel();
    // A waiting `/drain` call must not keep the process alive.
    let _ = tokio::time::timeout(SHUTDOWN, servers.join_all()).await;
    Ok(())
}
