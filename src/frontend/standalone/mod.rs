//! The stand-alone daemon: a drop-in replacement for Python Onionbalance on servers without
//! Kubernetes.
//!
//! ```text
//! config.yaml ──► service ┐                     (one loop with a driver per service)
//!                 service ┼──► tor ──► HSFETCH, HSPOST      (one connection for all)
//! status socket ◄─ views ─┘
//! ```
//!
//! The daemon stores nothing on disk. Revision counters are derived from the clock (OPE), so they
//! rise with every restart. If the daemon restarts within a second, or if the clock was set back,
//! the HSDirs reject the counter, and the daemon raises it.

mod load;
mod options;
mod service;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::load::{Instances, Loaded, LoadedService};
pub use self::options::Options;
use self::service::Service;
use self::status::{StatusSocket, View};
use super::RunError;
use super::clock::{self, Clock};
use super::driver::Driver;
use super::external::ExternalBackends;
use super::tor::{Registry, Tor};
use crate::merge::{Counters, MergeEngine};
use crate::onion::{Discovery, OnionAddress, ServiceKey};

/// The maximum number of messages in the queue of a service's loop.
const QUEUE: usize = 64;
/// The environment variable that Kubernetes sets in every container. A process that `kubectl exec`
/// starts has it too, and cannot be given another environment without a shell.
pub(super) const POD_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";

/// Returns an error if the daemon would run in a pod. The daemon obeys its configuration and its
/// flags. Anyone who may run commands in a publisher's container could make the daemon sign any
/// descriptor with the master key, or send a file as a password to a control port of their own.
fn refuse_in_a_pod(pod: Option<&OsStr>) -> Result<(), RunError> {
    if pod.is_none_or(OsStr::is_empty) {
        return Ok(());
    }
    Err(format!(
        "the stand-alone daemon does not run in a pod ({POD_VARIABLE} is set), where it could be used to misuse the pod's \
         secrets; create an OnionBalancedService, or set {POD_VARIABLE} to an empty value in the pod's manifest"
    )
    .into())
}

/// Runs the daemon until SIGTERM or SIGINT. SIGHUP makes it read its configuration again. `pod` is
/// the value of the environment variable `POD_VARIABLE`.
pub(super) async fn run(options: Options, pod: Option<&OsStr>) -> Result<(), RunError> {
    refuse_in_a_pod(pod)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    if options.is_testnet() {
        tracing::debug!("--is-testnet has no effect: tor reports whether its network is a testing network");
    }
    let config_file = options.config_file()?;
    let counters = options.counters();
    let loaded = load::load(&config_file, counters)?;
    let clock = Clock::start();
    let (tor, registry) = Tor::new(options.connector()?, clock);
    let mut tor = tokio::spawn(tor.run());

    let mut daemon = Daemon::new(clock, registry, options.status_location(), counters);
    daemon.apply(loaded).await;
    loop {
        tokio::select! {
            _ = terminate.recv() => { tracing::info!("received SIGTERM"); return Ok(()) }
            _ = interrupt.recv() => { tracing::info!("received SIGINT"); return Ok(()) }
            _ = hangup.recv() => match load::load(&config_file, counters) {
                Ok(loaded) => {
                    tracing::info!("SIGHUP: applying the new configuration");
                    daemon.apply(loaded).await;
                }
                Err(error) => {
                    tracing::error!("SIGHUP: the new configuration is invalid; keeping the old one: {error}");
                    daemon.place_status_socket().await;
                }
            },
            ended = &mut tor => { ended?; return Err("the connection to tor ended unexpectedly".into()) }
            ended = daemon.a_service_ended() => { ended?; return Err("the main loop of a service exited unexpectedly".into()) }
        }
    }
}

/// The running services and the status socket.
struct Daemon {
    clock: Clock,
    registry: Registry,
    /// The range of the revision counters of all services.
    counters: Counters,
    running: BTreeMap<OnionAddress, Running>,
    /// The views of the services, in the order of the configuration.
    views: watch::Sender<Vec<watch::Receiver<View>>>,
    /// The path of the status socket from the command line, which overrides the configuration.
    status_location: Option<PathBuf>,
    /// The path of the status socket from the configuration.
    configured_status_location: Option<PathBuf>,
    status_socket: Option<StatusSocket>,
}

struct Running {
    instances: watch::Sender<Instances>,
    keys: watch::Sender<ServiceKey>,
    view: watch::Receiver<View>,
    task: JoinHandle<()>,
}

/// Stops the loop of a removed service, so that it uploads nothing more.
impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Daemon {
    fn new(clock: Clock, registry: Registry, status_location: Option<PathBuf>, counters: Counters) -> Self {
        let (running, views) = (BTreeMap::new(), watch::Sender::default());
        Self {
            clock,
            registry,
            counters,
            running,
            views,
            status_location,
            configured_status_location: None,
            status_socket: None,
        }
    }

    /// Starts and stops services so that they match the configuration. Services that remain keep
    /// their state.
    async fn apply(&mut self, loaded: Loaded) {
        let wanted: Vec<_> = loaded.services.iter().map(|service| service.key.address()).collect();
        self.running.retain(|address, _| {
            let stays = wanted.contains(address);
            if !stays {
                tracing::info!(%address, "stopped a service that is no longer in the configuration");
            }
            stays
        });
        for LoadedService { key, instances } in loaded.services {
            let address = key.address();
            if let Some(running) = self.running.get(&address) {
                running.keys.send_modify(|known| *known = known.extended_by(key, self.clock.now().wall));
                running.instances.send_if_modified(|known| {
                    let changed = *known != instances;
                    *known = instances;
                    changed
                });
                continue;
            }
            tracing::info!(%address, instances = instances.addresses.len(), "started a service");
            let (news_in, news) = mpsc::channel(QUEUE);
            let now = self.clock.now();
            let (keys_in, keys) = watch::channel(key.clone());
            let engine = MergeEngine::new(key, Some(Discovery::Open), clock::random(), now);
            let engine = engine.with_counters(self.counters);
            let (view_in, view) = watch::channel(View::of(address));
            let (instances_in, instances) = watch::channel(instances);
            let driver = Driver::new(engine, ExternalBackends::new(address, clock::random()));
            let service = Service::new(driver, self.clock, news, (instances, keys), view_in);
            self.registry.register(address, news_in);
            let task = tokio::spawn(service.run());
            self.running.insert(address, Running { instances: instances_in, keys: keys_in, view, task });
        }
        let views = wanted.iter().filter_map(|address| self.running.get(address)).map(|running| running.view.clone());
        self.views.send_replace(views.collect());
        self.configured_status_location = loaded.status_socket;
        self.place_status_socket().await;
    }

    /// Opens the wanted status socket, unless the daemon listens on it already. A socket whose file
    /// is lost is opened again.
    async fn place_status_socket(&mut self) {
        let wanted = self.status_location.clone().or_else(|| self.configured_status_location.clone());
        if let Some(socket) = self.status_socket.as_ref().filter(|socket| Some(socket.path()) == wanted.as_deref()) {
            if socket.is_in_place() {
                return;
            }
            tracing::warn!("the status socket {} was removed or replaced; opening it again", socket.path().display());
        }
        // The file of the old socket must be removed before a new one can replace it.
        self.status_socket = None;
        let Some(path) = wanted else { return };
        match StatusSocket::open(path, self.views.subscribe()).await {
            Ok(socket) => self.status_socket = Some(socket),
            // Like Python Onionbalance, the daemon continues without a status socket.
            Err(error) => tracing::error!("could not open the status socket; SIGHUP tries again: {error}"),
        }
    }

    async fn a_service_ended(&mut self) -> Result<(), tokio::task::JoinError> {
        let tasks = self.running.values_mut().map(|running| &mut running.task);
        futures::future::select_all(tasks).await.0
    }
}
