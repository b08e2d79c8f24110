//! Connects the parts of a publisher to each other and to Kubernetes.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::RunError;
use super::admission;
use super::agents::{self, AgentOrders};
use super::args::{ClusterArgs, PublisherArgs};
use super::circuits::CircuitsApi;
use super::clock::{self, Clock};
use super::conduct::{CallError, CallId, Conduct, LeaseAnswer, LeaseRequest};
use super::directory::AgentDirectory;
use super::driver::Driver;
use super::external::ExternalBackends;
use super::guards::{GuardKeeper, GuardLinks, OwnTor};
use super::http::{self, Health};
use super::kits;
use super::lease::{self, LeaseKeeper};
use super::master_key;
use super::object::{self, Object};
use super::pods::{self, Pods};
use super::probe;
use super::publisher::{Inlets, Outlets, Publisher};
use super::status::{self, Facts};
use super::sync::SyncClient;
use super::tor::{Silence, Tor};
use super::vanguards::{VanguardKeeper, VanguardLinks, VanguardStore};
use crate::common::tor_gate::Gate;
use crate::control::Connector;
use crate::link::{AgentToken, ClientsCopy};
use crate::merge::MergeEngine;
use crate::onion::ServiceKey;

/// The maximum number of messages that can wait for the publisher's main loop.
const QUEUE: usize = 64;

/// The channels between the publisher and Kubernetes.
pub(super) struct Neighbours {
    pub(super) service: String,
    /// This publisher's identity in the Lease.
    pub(super) identity: String,
    pub(super) pods: watch::Receiver<Arc<Pods>>,
    pub(super) object: watch::Receiver<Option<Arc<Object>>>,
    pub(super) clients: watch::Receiver<Option<ClientsCopy>>,
    pub(super) calls: mpsc::UnboundedSender<(CallId, LeaseRequest)>,
    pub(super) answers: mpsc::Receiver<(CallId, Result<LeaseAnswer, CallError>)>,
    pub(super) status: watch::Sender<Facts>,
    pub(super) guards: GuardLinks,
    /// The place of the vanguards. None if the pods share no vanguards.
    pub(super) vanguards: Option<VanguardStore>,
}

/// Runs the publisher of a frontend pod until SIGTERM or SIGINT.
pub(super) async fn run(args: ClusterArgs) -> Result<(), RunError> {
    let ClusterArgs { service, namespace, pod_name, publisher } = args;
    let service = service.ok_or("--service is missing: name the OnionBalancedService")?;
    let (data_dir, vanguards) = (publisher.paths.sharing_data_dir(), publisher.paths.vanguards_mount());
    let guards_in_use = publisher.guards_in_use;
    let connect = async |pod_uid: &str, token: AgentToken, gate: Arc<Gate>, parts: &mut JoinSet<()>| {
        let namespace = namespace.ok_or("--namespace is missing: set it, or POD_NAMESPACE in the environment")?;
        let pod_name = pod_name.ok_or("--pod-name is missing: set it, or POD_NAME in the environment")?;
        let identity = lease::identity(&pod_name, pod_uid);
        let own = data_dir.map(|data_dir| OwnTor { data_dir, gate, identity: identity.clone(), guards_in_use });
        kubernetes(service, namespace, identity, token, Shares { own, vanguards }, parts).await
    };
    serve(&publisher, connect).await
}

/// Runs a publisher until SIGTERM or SIGINT. `connect` starts the tasks that connect it to its
/// environment, such as Kubernetes, and adds them to the set.
pub(super) async fn serve(
    args: &PublisherArgs,
    connect: impl AsyncFnOnce(&str, AgentToken, Arc<Gate>, &mut JoinSet<()>) -> Result<Neighbours, RunError>,
) -> Result<(), RunError> {
    // The handlers are installed before anything that takes long, so that no SIGTERM is missed.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("received SIGTERM"),
            _ = interrupt.recv() => tracing::info!("received SIGINT"),
        }
    };
    tokio::pin!(stop);
    // The hook that runs `init` creates the directories too, but a kubelet that restarts at the
    // wrong moment never runs it.
    args.paths.make()?;
    let gate = Arc::new(args.paths.gate()?);
    tokio::spawn(gate.clone().expire());
    let clock = Clock::start();
    let pod_uid = args.pod_uid.as_deref().ok_or("--pod-uid is missing: set it, or POD_UID in the environment")?;

    let (health, probes) = watch::channel(Health::default());
    let (silence, tor_silence) = watch::channel(Silence::None);
    let http = http::serve(args.listen_address, args.ports(), probes, tor_silence, clock);
    let mut http = tokio::spawn(http);
    // The key is read before the other parts start, because a publisher without a key must not hold
    // the Lease.
    let key = tokio::select! {
        key = master_key::wait_for(&args.paths.master_key_dir, args.onion_address, &health, clock) => key,
        () = &mut stop => return Ok(()),
        ended = &mut http => return Err(http_ended(ended)),
    };

    let mut parts = JoinSet::new();
    let neighbours = connect(pod_uid, AgentToken::of(&key), gate, &mut parts).await?;
    let publisher = assemble(args, pod_uid, key, neighbours, (health, silence), clock, &mut parts);
    tokio::select! {
        () = publisher.run(stop) => Ok(()),
        ended = http => Err(http_ended(ended)),
        Some(ended) = parts.join_next() => {
            ended?;
            Err("a task of the publisher exited unexpectedly".into())
        }
    }
}

/// Starts the parts that communicate with tor and with the agents, and creates the publisher.
fn assemble(
    args: &PublisherArgs,
    pod_uid: &str,
    key: ServiceKey,
    neighbours: Neighbours,
    (health, silence): (watch::Sender<Health>, watch::Sender<Silence>),
    clock: Clock,
    parts: &mut JoinSet<()>,
) -> Publisher {
    let address = key.address();
    let Neighbours { service, identity, pods, object, clients, calls, answers, status, guards, vanguards } = neighbours;
    let (agents, orders) = watch::channel(AgentOrders::default());
    let vanguards = keep_vanguards(vanguards, orders.clone(), parts);
    let (news, tor) = mpsc::channel(QUEUE);
    let (connection, registry) = Tor::new(Connector::unix(args.paths.run_dir.join("control/socket")), clock);
    registry.register(address, news);
    let connection = connection.reporting_silence(silence).reporting_guards(guards.drawn);
    parts.spawn(connection.using_vanguards(vanguards.wanted).run());

    let token = AgentToken::of(&key);
    let (client, directory) =
        (SyncClient::new(token.clone(), &process_name(pod_uid), clock), AgentDirectory::default());
    if let Some(port) = args.circuits_port {
        let api = CircuitsApi::new(&token, client.clone(), directory.clone());
        parts.spawn(serve_circuits(api, args.listen_address, port));
    }
    let (reports_in, reports) = mpsc::channel(QUEUE);
    let silence_of_backends = args.backend_silence();
    let shared = (guards.agents, vanguards.agents);
    parts.spawn(agents::run(client, directory, clock, silence_of_backends, orders, reports_in, shared));

    let (keys_in, keys) = watch::channel(key.clone());
    if key.kits().is_some() {
        parts.spawn(kits::watch(args.paths.master_key_dir.clone(), keys_in, clock));
    }
    let (probe, prober) = probe::new(&key, args.paths.run_dir.join("control/socks"), clock);
    parts.spawn(prober.run());
    let engine = MergeEngine::new(key, None, clock::random(), clock.now());
    let driver = Driver::new(engine, ExternalBackends::new(address, clock::random()));
    let conduct = Conduct::new(&service, identity, clock.now());
    let inlets = Inlets {
        pods,
        object,
        clients,
        keys,
        answers,
        tor,
        reports,
        guards: guards.view,
        vanguards: vanguards.figures,
    };
    let outlets = Outlets { agents, calls, status, health };
    tracing::info!(%address, "the publisher is running");
    Publisher::new(driver, conduct, clock, inlets, outlets, probe)
}

/// What the pods of the service share, as the mounted directories tell.
struct Shares {
    /// The publisher's own tor if the tors share their guards.
    own: Option<OwnTor>,
    /// The directory with the vanguards if the tors share them.
    vanguards: Option<PathBuf>,
}

/// Starts the task that keeps the vanguards, if the pods share them.
fn keep_vanguards(
    store: Option<VanguardStore>,
    orders: watch::Receiver<AgentOrders>,
    parts: &mut JoinSet<()>,
) -> VanguardLinks {
    let Some(store) = store else { return VanguardLinks::unused() };
    let (keeper, links) = VanguardKeeper::new(store, orders);
    parts.spawn(keeper.run());
    links
}

/// Serves the app's API until the publisher stops. If the port cannot be used, the publisher ends
/// with this task.
async fn serve_circuits(api: CircuitsApi, address: Option<IpAddr>, port: u16) {
    if let Err(error) = api.serve(address, port).await {
        tracing::error!(%error, "could not serve the requests to close circuits");
    }
}

fn http_ended(ended: Result<io::Result<()>, JoinError>) -> RunError {
    match ended {
        Ok(Ok(())) => "the HTTP server ended unexpectedly".into(),
        Ok(Err(error)) => error.into(),
        Err(error) => error.into(),
    }
}

/// Returns the name by which agents identify this process. It changes with every start of the
/// container, so that requests do not look like replays after the clock has been set back.
fn process_name(pod_uid: &str) -> String {
    format!("{pod_uid}/{:08x}", u32::from_be_bytes(clock::random()))
}

/// Starts the watches, the status writer and the executor of Lease calls.
async fn kubernetes(
    service: String,
    namespace: String,
    identity: String,
    token: AgentToken,
    shares: Shares,
    parts: &mut JoinSet<()>,
) -> Result<Neighbours, RunError> {
    let client = kubernetes_client().await?;
    let (pods_in, pods) = watch::channel(Arc::default());
    let (object_in, object) = watch::channel(None);
    let (clients_in, clients) = watch::channel(None);
    let (status, facts) = watch::channel(Facts::default());
    let (calls, calls_out) = mpsc::unbounded_channel();
    let (answers_in, answers) = mpsc::channel(QUEUE);

    let guards = match shares.own {
        Some(own) => {
            let secrets = Api::namespaced(client.clone(), &namespace);
            let watched = (pods.clone(), facts.clone());
            let (keeper, guards) = GuardKeeper::new(secrets, &service, token.clone(), own, watched);
            parts.spawn(keeper.run());
            guards
        }
        None => GuardLinks::unused(),
    };
    let vanguards = shares
        .vanguards
        .map(|mount| VanguardStore::new(Api::namespaced(client.clone(), &namespace), &service, token.clone(), mount));

    parts.spawn(LeaseKeeper::new(client.clone(), &namespace, &service).run(calls_out, answers_in));
    parts.spawn({
        let (client, namespace, service) = (client.clone(), namespace.clone(), service.clone());
        async move { pods::watch(client, &namespace, &service, pods_in).await }
    });
    parts.spawn({
        let (client, namespace, service) = (client.clone(), namespace.clone(), service.clone());
        async move { object::watch(client, &namespace, &service, object_in).await }
    });
    parts.spawn({
        let (client, namespace, service) = (client.clone(), namespace.clone(), service.clone());
        let object = object.clone();
        async move { admission::watch(client, &namespace, &service, token, object, clients_in).await }
    });
    parts.spawn({
        let (service, object) = (service.clone(), object.clone());
        async move { status::run(client, &namespace, &service, object, facts).await }
    });
    Ok(Neighbours { service, identity, pods, object, clients, calls, answers, status, guards, vanguards })
}

async fn kubernetes_client() -> Result<kube::Client, RunError> {
    let mut config = kube::Config::infer()
        .await
        .map_err(|error| format!("cannot find a Kubernetes API server; run in a pod or set KUBECONFIG: {error}"))?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // The timeout is longer than a watch call, so that only a hanging server exceeds it.
    config.read_timeout = Some(Duration::from_secs(90));
    Ok(kube::Client::try_from(config)?)
}
