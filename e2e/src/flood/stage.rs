//! The stage that all turns share: the network, the clients and the web server.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::attack::Attack;
use super::systems::{Place, System};
use crate::chaos::clients::Clients;
use crate::chaos::judge::held_for_clients;
use crate::chaos::target::Target;
use crate::process::Processes;
use crate::steps::step;
use crate::torclient::TorClient;
use crate::tornet::{self, TorNetwork};
use crate::wait::{Seen, until};

/// The number of relays. The authorities call about half of them Stable, and only these become
/// introduction points. A descriptor of ours names each relay once.
const RELAYS: u16 = 24;
/// The number of clients that drop their descriptors before each request.
const FRESH_CLIENTS: usize = 16;
/// The parameters of the consensus: tor replaces a point after this number of introductions, which
/// it draws. By default, it draws from 16,384 to 32,768.
const PARAMETERS: &str = "hs_intro_max_introduce2=133 hs_intro_min_introduce2=67";
/// The introduction points that a backend's tor establishes: three for each of its two descriptors.
const ESTABLISHED: u64 = 6;
/// The time for which the descriptors must not change before a flood.
const UNCHANGED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(240);

/// The network, the clients and the web server.
#[derive(Debug)]
pub struct Stage {
    /// The folder, the network and the web server that all services share.
    pub place: Place,
    /// The honest clients.
    pub clients: Arc<Clients>,
    /// The client that provides the consensus to the flood.
    pub watcher: TorClient,
    /// The fingerprints of all relays, which are HSDirs.
    pub relays: Vec<String>,
    network: TorNetwork,
    _target: Target,
}

impl Stage {
    /// Starts everything. All processes end together with this one.
    pub async fn start(dir: &Path) -> Result<Self> {
        let processes = Processes::open(dir)?;
        let started = Self::start_in(dir, &processes).await;
        if started.is_err() {
            processes.kill_all();
        }
        started
    }

    async fn start_in(dir: &Path, processes: &Processes) -> Result<Self> {
        let network = TorNetwork::of(RELAYS, &dir.join("network"), tornet::Place::Loopback, processes);
        step("a private Tor network", network.up_completely()).await?;
        let torrc = network.torrc_lines()?;
        let folder = dir.join("clients");
        let clients = Clients::start(processes, "honest", &folder, &torrc, FRESH_CLIENTS);
        let clients = Arc::new(step("honest clients", clients).await?);
        let watcher = TorClient::fresh(processes, "watcher", &dir.join("watcher"), &torrc, None).await?;
        let target = Target::listen_at("127.0.0.1").await?;
        let place =
            Place { processes: processes.clone(), dir: dir.to_owned(), torrc, target: target.address().to_owned() };
        let relays = network.fingerprints()?.into_keys().collect();
        Ok(Self { place, clients, watcher, relays, network, _target: target })
    }

    /// Ends all processes.
    pub fn end(&self) {
        self.place.processes.kill_all();
    }

    /// Makes the authorities vote for parameters with which tor replaces an introduction point
    /// after few introductions. Returns when all relays have a consensus with them.
    pub async fn retire_points_early(&self) -> Result<()> {
        self.network.command_all(&format!("SETCONF ConsensusParams=\"{PARAMETERS}\"")).await?;
        until("every relay knows the parameters", PATIENCE, async || self.network.has_parameters(PARAMETERS).await)
            .await
    }

    /// Starts to watch a service that will be flooded.
    pub async fn attack(&self, name: &str, system: &System) -> Result<Attack> {
        let log = self.place.dir.join(format!("logs/{name}-attack.log"));
        Attack::start(&self.watcher, &system.onion, &self.relays, &log).await
    }

    /// Waits until all introduction points of the service are established, the HSDirs' descriptors
    /// have not changed for a while, and all clients that keep descriptors have used the service.
    pub async fn wait_published(&self, system: &System, attack: &Attack) -> Result<()> {
        let (mut last, mut since) = (None, Instant::now());
        until("the HSDirs' descriptors are complete", PATIENCE, async || {
            system.check(&self.place)?;
            let established = match system.metric("tor_hs_intro_established_count").await {
                Ok(established) => established,
                // tor is starting.
                Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
            };
            let held = held_for_clients(&attack.seen()?.answers);
            if last.as_ref() != Some(&held) {
                (last, since) = (Some(held), Instant::now());
            }
            let is_published = last.as_ref().is_some_and(|held| !held.is_empty());
            let is_complete = established.iter().all(|count| *count >= ESTABLISHED);
            if is_published && is_complete && since.elapsed() >= UNCHANGED {
                return Ok(Seen::Yes(()));
            }
            let hsdirs = last.as_ref().map_or(0, BTreeMap::len);
            Ok(Seen::NotYet(format!("{hsdirs} HSDirs hold a descriptor; established points: {established:?}")))
        })
        .await?;
        self.clients.refresh([&system.onion, &system.onion]).await
    }
}
