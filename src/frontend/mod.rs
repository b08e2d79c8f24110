//! The publisher's IO shell: runs beside a stock tor in a frontend pod.
//!
//! ```text
//! pods ──┐                  ┌──► agents ◄──HTTP──► the backends' agents
//! object ┼──► publisher ◄───┤
//! lease ◄┘   (the engine)   └──► tor ◄──control socket──► HSPOST
//!                 └──► status, probes, metrics
//! ```
//!
//! The loop in `publisher` owns the merge engine and alone decides; every other part speaks with one neighbour: Kubernetes
//! (`pods`, `object`, `lease`, `status`), the agents (`agents`, `sync`) or tor (`tor`). `standalone` is the daemon for a plain
//! server: a loop for each service of its `config.yaml`, and nothing of Kubernetes.

mod admission;
mod agents;
mod backends;
mod check;
mod clock;
mod external;
mod http;
mod lease;
mod master_key;
mod metrics;
mod object;

mod pods;
mod publisher;
mod reach;
mod standalone;
mod status;
mod sync;
mod tor;
mod trouble;

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use self::admission::{Restriction, SeenSecret};
use self::clock::Clock;
use self::external::External;
use self::lease::{LeaseKeeper, LeaseOrders, LeaseState};
use self::object::Object;
use self::pods::{Pod, Pods};
use self::publisher::{Ears, Publisher, Voices};
use self::status::Facts;
use self::sync::SyncClient;
use self::tor::Tor;
use crate::common::tor_directories;
use crate::control::Connector;
use crate::crd::clients::ClientList;
use crate::link::{AgentToken, METRICS_PORT, PROBE_PORT, TOR_METRICS_PORT};
use crate::merge::{BackendId, MergeEngine};
use crate::onion::{ClientPublicKey, OnionAddress};

type Failure = Box<dyn Error + Send + Sync>;

/// Messages that wait for the loop; a part whose messages are not read waits.
const QUEUE: usize = 64;

/// Flags of `onionbalance-operator frontend`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    paths: Paths,
    #[command(flatten)]
    serve: Box<Serve>,
    #[command(flatten)]
    standalone: Box<standalone::Options>,
}

impl Args {
    /// The stand-alone daemon's log level, where this is it: no pod's publisher, and not `init`.
    pub fn standalone_log_level(&self) -> Option<&'static str> {
        self.stands_alone().then(|| self.standalone.log_level())
    }

    fn stands_alone(&self) -> bool {
        self.command.is_none() && self.serve.service.is_none() && self.serve.static_backend.is_empty()
    }
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the directories and the empty file that tor needs before it starts
    Init,
}

/// Where things are; the publisher and `init` agree on it.
#[derive(Debug, clap::Args)]
struct Paths {
    /// Control socket; a memory volume shared with tor
    #[arg(long, global = true, default_value = "/run/onionbalance")]
    run_dir: PathBuf,
    /// Tor's `DataDirectory`
    #[arg(long, global = true, default_value = "/var/lib/tor/data")]
    tor_data_dir: PathBuf,
}

/// Whom it publishes for and what it listens on. What comes from the environment has a name that Kubernetes does not give
/// to a variable of its own: for a Service that is named `metrics` it sets `METRICS_PORT`, and so on.
#[derive(Debug, clap::Args)]
struct Serve {
    /// Name of the `OnionBalancedService`
    #[arg(long)]
    service: Option<String>,
    /// Its namespace
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// This pod's name
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// This pod's UID
    #[arg(long, env = "POD_UID")]
    pod_uid: Option<String>,
    /// Directory with the master key in tor's form (`hs_ed25519_secret_key`)
    #[arg(long, default_value = "/etc/onionbalance/master-key")]
    master_key_dir: PathBuf,
    /// The address that the master key must have; another key is waited out
    #[arg(long, env = "ONION_ADDRESS")]
    onion_address: Option<OnionAddress>,
    /// Seconds after which a backend that does not answer is left out
    #[arg(long, default_value_t = 8)]
    backend_silence_seconds: u32,
    /// Address to listen on [default: all, IPv6 and IPv4]
    #[arg(long)]
    listen_address: Option<IpAddr>,
    /// Port of the probes
    #[arg(long, default_value_t = PROBE_PORT)]
    probe_port: u16,
    /// Port of the metrics
    #[arg(long, default_value_t = METRICS_PORT)]
    metrics_port: u16,
    /// Port of tor's own metrics on the loopback, which are passed on at `/tor/metrics`
    #[arg(long, default_value_t = TOR_METRICS_PORT)]
    tor_metrics_port: u16,
    /// For tests and trials on one host: a backend that is no pod (repeatable). Then Kubernetes is not spoken to: no Lease,
    /// no status, and this publisher always leads
    #[arg(long, value_name = "POD_UID@HOST:PORT", value_parser = static_backend, hide = true)]
    static_backend: Vec<(BackendId, Pod)>,
    /// Beside `--static-backend`: a client that may connect, and nobody else may (repeatable)
    #[arg(long, value_name = "descriptor:x25519:BASE32", requires = "static_backend", hide = true)]
    static_client: Vec<ClientPublicKey>,
    /// Likewise: an external backend's onion address (repeatable)
    #[arg(long, value_name = "ADDRESS", hide = true)]
    static_external: Vec<OnionAddress>,
}

fn static_backend(text: &str) -> Result<(BackendId, Pod), String> {
    let (uid, agent) = text.split_once('@').ok_or("POD_UID@HOST:PORT")?;
    let pod = Pod { name: uid.to_owned(), agent: Some(agent.to_owned()), ready: true, terminating: false };
    Ok((BackendId(uid.to_owned()), pod))
}

/// Runs until it is told to stop (SIGTERM, SIGINT); `init` until it is done.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        None if args.stands_alone() => standalone::run(*args.standalone).await,
        Some(Command::Init) => Ok(tor_directories::make(&args.paths.run_dir, &args.paths.tor_data_dir)?),
        None => {
            // Also here: a kubelet that was restarted in between never runs the hook that calls `init`.
            tor_directories::make(&args.paths.run_dir, &args.paths.tor_data_dir)?;
            serve(args.serve, &args.paths.run_dir).await
        }
    }
}

async fn serve(mut args: Box<Serve>, run_dir: &Path) -> Result<(), Failure> {
    // Before anything that takes long: a SIGTERM must find its handler.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let clock = Clock::start();
    let pod_uid = args.pod_uid.clone().ok_or("--pod-uid (or POD_UID in the environment) is needed")?;

    let (health, probes) = watch::channel(http::Health::default());
    let (silent, tor_silent) = watch::channel(false);
    let places =
        http::Ports { probes: args.probe_port, metrics: args.metrics_port, tor_metrics: args.tor_metrics_port };
    let http = http::serve(args.listen_address, places, probes, tor_silent, clock);
    let mut http = tokio::spawn(http);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
        }
    };
    tokio::pin!(stop);

    // Before the other parts: who has no key must not hold the Lease.
    let key = tokio::select! {
        key = master_key::wait_for(&args.master_key_dir, args.onion_address, &health, clock) => Arc::new(key),
        () = &mut stop => return Ok(()),
        ended = &mut http => return Err(http_ended(ended)),
    };
    let address = key.address();

    let mut parts = JoinSet::new();
    let fixed: Pods = std::mem::take(&mut args.static_backend).into_iter().collect();
    let external: BTreeSet<_> = args.static_external.iter().copied().collect();
    let cluster = if fixed.is_empty() && external.is_empty() {
        kubernetes(&args, &pod_uid, clock, &mut parts).await?
    } else {
        no_kubernetes(fixed, external, &args.static_client)
    };

    let (news, tor) = mpsc::channel(QUEUE);
    let (connection, registry) = Tor::new(Connector::unix(run_dir.join("control/socket")), clock);
    registry.register(address, news);
    parts.spawn(connection.telling_silence(silent).run());

    let client = SyncClient::new(AgentToken::derive(&key), &process_name(&pod_uid), clock);
    let (agents, orders) = watch::channel(agents::Orders::default());
    let (reports_in, reports) = mpsc::channel(QUEUE);
    let silence = Duration::from_secs(args.backend_silence_seconds.into());
    parts.spawn(agents::run(client, clock, silence, orders, reports_in));

    let Cluster { pods, object, secret, lease, lease_orders, status, keeper } = cluster;
    let engine = MergeEngine::new(key, None, clock::random(), clock.now());
    let ears =
        Ears { pods: pods.subscribe(), object: object.subscribe(), secret: secret.subscribe(), lease, tor, reports };
    let voices = Voices { agents, lease: lease_orders.clone(), status, health };
    tracing::info!(%address, "the publisher runs");
    tokio::select! {
        () = Publisher::new(engine, External::new(address, clock::random()), clock, ears, voices).run(stop) => {}
        ended = http => return Err(http_ended(ended)),
        Some(ended) = parts.join_next() => {
            ended?;
            return Err("a part of the publisher ended".into());
        }
    }
    // The publisher is gone, so nothing is posted any more: the next one may begin.
    lease_orders.send_modify(|orders| orders.release = true);
    Ok(keeper.await?)
}

fn http_ended(ended: Result<io::Result<()>, JoinError>) -> Failure {
    match ended {
        Ok(Ok(())) => "the HTTP server ended".into(),
        Ok(Err(error)) => error.into(),
        Err(error) => error.into(),
    }
}

/// What agents know this publisher by: another after a restart of the container, so that a clock that was set back does not
/// make its requests look like replays.
fn process_name(pod_uid: &str) -> String {
    format!("{pod_uid}/{:08x}", u32::from_be_bytes(clock::random()))
}

/// The neighbours in Kubernetes, or what stands in for them.
struct Cluster {
    pods: watch::Sender<Arc<Pods>>,
    object: watch::Sender<Option<Arc<Object>>>,
    secret: watch::Sender<Option<SeenSecret>>,
    lease: watch::Receiver<LeaseState>,
    lease_orders: watch::Sender<LeaseOrders>,
    status: watch::Sender<Facts>,
    /// Ends when it has given the Lease back.
    keeper: JoinHandle<()>,
}

async fn kubernetes(args: &Serve, pod_uid: &str, clock: Clock, parts: &mut JoinSet<()>) -> Result<Cluster, Failure> {
    let service = args.service.clone().ok_or("--service is needed")?;
    let namespace = args.namespace.clone().ok_or("--namespace (or POD_NAMESPACE in the environment) is needed")?;
    let pod_name = args.pod_name.as_ref().ok_or("--pod-name (or POD_NAME in the environment) is needed")?;
    let client = kubernetes_client().await?;

    let (pods, object) = (watch::Sender::new(Arc::default()), watch::Sender::new(None));
    let secret = watch::Sender::new(None);
    let (lease_state, lease) = watch::channel(LeaseState::default());
    let (lease_orders, orders) = watch::channel(LeaseOrders::default());
    let (status, facts) = watch::channel(Facts::default());

    let identity = lease::identity(pod_name, pod_uid);
    let seen = object.subscribe();
    let keeper = LeaseKeeper::new(client.clone(), &namespace, &service, identity, clock, seen, lease_state);
    let keeper = tokio::spawn(keeper.run(orders));
    parts.spawn({
        let (client, namespace, service, pods) = (client.clone(), namespace.clone(), service.clone(), pods.clone());
        async move { pods::watch(client, &namespace, &service, pods).await }
    });
    parts.spawn({
        let (client, namespace, service, object) = (client.clone(), namespace.clone(), service.clone(), object.clone());
        async move { object::watch(client, &namespace, &service, object).await }
    });
    parts.spawn({
        let (client, namespace, object, secret) =
            (client.clone(), namespace.clone(), object.subscribe(), secret.clone());
        async move { admission::watch(client, &namespace, object, secret).await }
    });
    let seen = object.subscribe();
    parts.spawn(async move { status::run(client, &namespace, &service, seen, facts).await });
    Ok(Cluster { pods, object, secret, lease, lease_orders, status, keeper })
}

async fn kubernetes_client() -> Result<kube::Client, Failure> {
    let mut config = kube::Config::infer().await.map_err(|error| format!("no Kubernetes API to speak to: {error}"))?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // Longer than a watch call lasts, so that only a server that hangs meets it.
    config.read_timeout = Some(Duration::from_secs(90));
    Ok(kube::Client::try_from(config)?)
}

/// Fixed backends, external ones and clients, a Lease that is always ours, and an object that asks for nothing else.
fn no_kubernetes(fixed: Pods, external_backends: BTreeSet<OnionAddress>, clients: &[ClientPublicKey]) -> Cluster {
    let list =
        ClientList { clients: clients.iter().map(|key| (key.to_string(), *key)).collect(), ..ClientList::default() };
    let restriction = (!clients.is_empty()).then_some(Restriction { clients: list, secret_name: None });
    let state = LeaseState { known: true, held: true, checked: u64::MAX, ..LeaseState::default() };
    Cluster {
        pods: watch::Sender::new(Arc::new(fixed)),
        object: watch::Sender::new(Some(Arc::new(Object { restriction, external_backends, ..Object::default() }))),
        secret: watch::Sender::new(None),
        lease: watch::Sender::new(state).subscribe(),
        lease_orders: watch::Sender::default(),
        status: watch::Sender::default(),
        keeper: tokio::spawn(std::future::ready(())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_pods_command_lines() {
        let args = Program::try_parse_from(["frontend", "--service", "web"]).unwrap().args;
        assert_eq!(args.serve.service.as_deref(), Some("web"));
        assert!(args.command.is_none());
        let args = Program::try_parse_from(["frontend", "init", "--run-dir", "/x"]).unwrap().args;
        assert!(args.command.is_some());
        assert_eq!(args.paths.run_dir, Path::new("/x"));
    }

    #[test]
    fn static_backends() {
        let line = ["frontend", "--static-backend", "a@127.0.0.1:9400", "--static-backend", "b@[::1]:1"];
        let backends = Program::try_parse_from(line).unwrap().args.serve.static_backend;
        assert_eq!(backends[1].0, BackendId("b".into()));
        assert_eq!(backends[0].1.agent.as_deref(), Some("127.0.0.1:9400"));
        assert!(Program::try_parse_from(["frontend", "--static-backend", "no-address"]).is_err());
    }
}
