//! A service that consists of ordinary processes on a private network, and functions that observe
//! and disturb it.

#[path = "../../../tests/torrc_real_tor/render.rs"]
mod render;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::articlient::ArtiClient;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::onionkey::{self, OnionKey};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::torclient::{TorClient, get, key_line};
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::tornet::{Place, RELAYS, TorNetwork};
use onionbalance_e2e::{agent, machine};
use onionbalance_operator::link::{AgentToken, CIRCUITS_PORT, CLOSE_PATH, ForwardedPort, METRICS_PORT};
use onionbalance_operator::onion::{ClientSecretKey, MasterKey};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub use self::start::{Published, backend_address};
use crate::needles::{find, forms, of_a_token};

/// The words with which a publisher logs a successful upload.
pub const UPLOADED: &str = "uploaded hsdir=";

/// The number of the first backend of a service beside another one.
const FIRST_BESIDE: usize = 100;

/// A private network and a service on it. Dropping this value ends all its processes.
pub struct DataPlane {
    processes: Processes,
    /// The folder of the network, which may belong to another service.
    network: PathBuf,
    network_torrc: String,
    /// The loopback address of the publisher.
    host: &'static str,
    /// The number of the first backend.
    first_backend: usize,
    key: OnionKey,
    /// The folder with the signing kits if the publisher has no master key.
    kits: Option<PathBuf>,
    token: AgentToken,
    features: Features,
    backends: Vec<Backend>,
    /// The onion addresses of the external backends.
    external: Vec<String>,
    /// The process names of the network's relays, by fingerprint.
    relays: BTreeMap<String, String>,
    /// The address of the publisher's metrics.
    metrics: String,
    /// True if the publisher probes the address.
    probes: bool,
    /// True if all pods mount the Secret with the vanguards.
    shares_vanguards: bool,
    /// The torrc lines with which the service's tors use a bridge. Empty if they use none.
    bridge: String,
    clients: AtomicU32,
    frontends: AtomicU32,
    dir: Option<TempDir>,
}

/// The features of a service that not every test needs.
pub struct Features {
    /// The ports in addition to port 80. All backends forward them to the same targets.
    pub ports: Vec<ForwardedPort>,
    /// The service's `spec.backends`.
    pub backends: Value,
    /// The service's `spec.anonymity`, as far as torrc lines express it.
    pub anonymity: Value,
}

struct Backend {
    /// The UID that the backend's pod would have.
    uid: String,
    /// The socket address of the backend's agent.
    api: String,
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.processes.kill_all();
    }
}

impl DataPlane {
    /// Starts the default network, the given number of backends, and a frontend.
    pub async fn start(backends: usize) -> Result<Self> {
        Self::start_on(RELAYS, backends).await
    }

    /// Starts a network with the given number of relays in addition to its authorities, the given
    /// number of backends, and a frontend.
    pub async fn start_on(relays: u16, backends: usize) -> Result<Self> {
        Self::bring_up(relays, backends, 0).await
    }

    /// Starts the default network, a bridge with the transport obfs4 that is not in the consensus,
    /// the given number of backends, and a frontend. All tors of the service use the bridge.
    pub async fn start_behind_a_bridge(backends: usize) -> Result<Self> {
        let mut plane = Self::network(RELAYS).await?;
        plane.bridge = plane.start_bridge().await?;
        plane.serve(backends, 0).await?;
        Ok(plane)
    }

    /// Starts the default network and one backend for each of the given pod UIDs, but no frontend.
    /// If `shares_vanguards` is true, all pods mount a Secret with vanguards, which is empty.
    pub async fn start_for(uids: Vec<String>, shares_vanguards: bool) -> Result<Self> {
        let mut plane = Self::network(RELAYS).await?;
        plane.shares_vanguards = shares_vanguards;
        for (number, uid) in uids.into_iter().enumerate() {
            let backend = plane.start_backend(number, uid).await?;
            plane.backends.push(backend);
        }
        Ok(plane)
    }

    /// Starts the default network, backends with agents, external backends (stock tor processes
    /// that publish by themselves), and a frontend.
    pub async fn start_with_external(backends: usize, external: usize) -> Result<Self> {
        Self::bring_up(RELAYS, backends, external).await
    }

    /// Starts the default network, the given number of backends with the given features, and a
    /// frontend. Each relay logs what it does for onion services, and notices, to
    /// [`Self::relays_log`].
    pub async fn start_with(features: Features, backends: usize) -> Result<Self> {
        let mut plane = Self::network(RELAYS).await?;
        plane.features = features;
        let log = plane.path("relays.log").display().to_string();
        plane.command_relays(&format!("SETCONF Log=\"[rend]info notice file {log}\"")).await?;
        plane.serve(backends, 0).await?;
        Ok(plane)
    }

    async fn bring_up(relays: u16, backends: usize, external: usize) -> Result<Self> {
        let mut plane = Self::network(relays).await?;
        plane.serve(backends, external).await?;
        Ok(plane)
    }

    /// Starts backends with agents, external backends and a frontend on a running network.
    async fn serve(&mut self, backends: usize, external: usize) -> Result<()> {
        let first_external = self.first_backend + backends;
        for number in self.first_backend..first_external {
            let backend = self.start_backend(number, format!("uid-of-backend{number}")).await?;
            self.backends.push(backend);
        }
        for number in first_external..first_external + external {
            let address = self.start_external(number).await?;
            self.external.push(address);
        }
        self.metrics = self.start_frontend().await?;
        Ok(())
    }

    /// Starts another service on the same network. It has a master key, a frontend and the given
    /// number of backends of its own. Its files are in another folder.
    pub async fn beside(&self, backends: usize) -> Result<Self> {
        let mut plane = Self::without_network().await?;
        plane.network.clone_from(&self.network);
        plane.network_torrc.clone_from(&self.network_torrc);
        plane.relays.clone_from(&self.relays);
        plane.host = "127.0.0.2";
        plane.first_backend = FIRST_BESIDE;
        plane.serve(backends, 0).await?;
        Ok(plane)
    }

    async fn network(relays: u16) -> Result<Self> {
        machine::check_tor()?;
        let mut plane = Self::without_network().await?;
        plane.network = plane.path("network");
        let network = TorNetwork::of(relays, &plane.network, Place::Loopback, &plane.processes);
        network.up_completely().await?;
        plane.relays = network.fingerprints()?;
        plane.network_torrc = network.torrc_lines()?;
        Ok(plane)
    }

    /// Returns a service with a new master key, but without any process.
    async fn without_network() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let processes = Processes::open(dir.path())?;
        let key = onionkey::make(&processes, dir.path()).await?;
        let secret = fs::read(key.dir.join("hs_ed25519_secret_key"))?;
        let token = AgentToken::derive(&MasterKey::from_tor_secret_key_file(&secret)?);
        Ok(Self {
            processes,
            network: PathBuf::new(),
            network_torrc: String::new(),
            host: "127.0.0.1",
            first_backend: 0,
            key,
            kits: None,
            token,
            features: Features { ports: Vec::new(), backends: json!({}), anonymity: json!({}) },
            backends: Vec::new(),
            external: Vec::new(),
            relays: BTreeMap::new(),
            metrics: String::new(),
            probes: false,
            shares_vanguards: false,
            bridge: String::new(),
            clients: AtomicU32::new(0),
            frontends: AtomicU32::new(0),
            dir: Some(dir),
        })
    }

    /// Returns the service's public onion address.
    pub fn onion(&self) -> &str {
        &self.key.address
    }

    /// Returns an error if a process of the service has ended.
    pub fn check(&self) -> Result<()> {
        self.processes
            .names()?
            .iter()
            .filter(|name| name.contains("end"))
            .try_for_each(|name| self.processes.check(name))
    }

    /// Returns an error if a log of our programs or of tor contains part of the master key, of the
    /// signing kit or of the agents' token.
    pub fn no_secret_is_in_a_log(&self) -> Result<()> {
        let key = fs::read(self.key.dir.join("hs_ed25519_secret_key"))?;
        let mut needles = BTreeMap::from([
            ("the master key's scalar", forms(&key[32..64])),
            ("the master key's other half", forms(&key[64..96])),
            ("the agents' token", of_a_token(self.token.to_hex().as_bytes())),
            ("the app's token", of_a_token(self.token.circuit_token().as_bytes())),
        ]);
        if let Some(folder) = &self.kits {
            let kit = fs::read(folder.join("signing.kit"))?;
            // The format is described in src/onion/kit/format.rs.
            needles.extend([
                ("the kit's secret for marks", forms(&kit[96..128])),
                ("a descriptor signing key", forms(&kit[188..220])),
                ("a key of revision counters", forms(&kit[220..252])),
            ]);
        }
        let mut lines = 0;
        for name in self.processes.names()? {
            let log = String::from_utf8_lossy(&fs::read(self.processes.log(&name))?).into_owned();
            let found = find(&log, &needles);
            ensure!(found.is_empty(), "{found:?} in the log of {name}");
            lines += log.lines().filter(|line| line.contains("DEBUG") || line.contains("TRACE")).count();
        }
        ensure!(lines > 10, "the programs must log at debug level, but there are only {lines} lines");
        Ok(())
    }

    /// Starts a Tor client with empty state.
    pub async fn client(&self) -> Result<TorClient> {
        self.client_with("").await
    }

    /// Starts a Tor client that has a client key for the public address.
    pub async fn client_with_key(&self, key: &ClientSecretKey) -> Result<TorClient> {
        let dir = self.path(&format!("keys-of-client{}", self.clients.load(Ordering::Relaxed)));
        self.client_with(&key_line(&dir, key, self.onion())?).await
    }

    async fn client_with(&self, torrc: &str) -> Result<TorClient> {
        let name = format!("client{}", self.clients.fetch_add(1, Ordering::Relaxed));
        let torrc = self.network_torrc.clone() + torrc;
        TorClient::fresh(&self.processes, &name, &self.path(&name), &torrc, None).await
    }

    /// Starts an arti client with empty state.
    pub async fn arti_client(&self) -> Result<ArtiClient> {
        let network = TorNetwork::open(&self.network, Place::Loopback, &self.processes);
        ArtiClient::fresh(&self.processes, "arti", &self.path("arti"), &network).await
    }

    /// Returns the public descriptor as decoded by stem.
    pub async fn descriptor(&self) -> Result<Descriptor> {
        let client = self.client().await?;
        let descriptor = Descriptor::fetch(client.tor(), self.onion()).await?;
        client.remove().await?;
        Ok(descriptor)
    }

    /// Returns the newest descriptors as decoded by stem. The result is keyed by the fingerprint of
    /// the relay that holds the descriptor, and omits relays that hold no descriptor or an older
    /// one.
    pub async fn newest_descriptors(&self, client: &TorClient) -> Result<BTreeMap<String, Descriptor>> {
        self.newest_descriptors_of(client, self.relays.keys()).await
    }

    /// Works like [`Self::newest_descriptors`], but queries only the given relays.
    pub async fn newest_descriptors_of(
        &self,
        client: &TorClient,
        relays: impl IntoIterator<Item = &String>,
    ) -> Result<BTreeMap<String, Descriptor>> {
        let mut held = Descriptor::fetch_each(client.tor(), self.onion(), relays).await?;
        let newest = held.values().map(|held| held.revision_counter).max();
        held.retain(|_, held| Some(held.revision_counter) == newest);
        Ok(held)
    }

    /// Asks every relay for the descriptor of an onion address. Returns, by fingerprint, `HELD` or
    /// tor's reason for the failure, such as `NOT_FOUND`.
    pub async fn answers(&self, client: &TorClient, onion: &str) -> Result<BTreeMap<String, String>> {
        Descriptor::answers(client.tor(), onion, self.relays.keys()).await
    }

    /// Returns the number of relays, including the authorities.
    pub fn number_of_relays(&self) -> usize {
        self.relays.len()
    }

    /// Returns a backend's own onion address, which its tor wrote.
    pub fn backends_onion(&self, number: usize) -> Result<String> {
        let hostname = self.path(&format!("backend{number}/run/hs/hostname"));
        Ok(fs::read_to_string(hostname)?.trim().to_owned())
    }

    /// Sends a signal to a relay.
    pub fn signal_relay(&self, fingerprint: &str, signal: Signal) -> Result<()> {
        self.processes
            .signal(self.relays.get(fingerprint).context("the network has no relay with this fingerprint")?, signal)
    }

    /// Opens a connection to the control socket of the frontend's tor.
    pub async fn frontend_control(&self) -> Result<Control> {
        let control = self.path("frontend/run/control");
        Control::open(&control.join("socket"), &control.join("cookie")).await
    }

    /// Returns the values of one of the publisher's metrics, by label.
    pub async fn metric(&self, name: &str) -> Result<BTreeMap<String, u64>> {
        figure(&self.metrics, &format!("onionbalance_publisher_{name}")).await
    }

    /// Returns the values of a metric of one backend's agent, by label.
    pub async fn agents_metric(&self, backend: usize, name: &str) -> Result<BTreeMap<String, u64>> {
        let address = format!("{}:{METRICS_PORT}", backend_address(backend));
        figure(&address, &format!("onionbalance_agent_{name}")).await
    }

    /// Returns the fingerprint of the bridge that the service's tors use, if they use one.
    pub fn bridge_fingerprint(&self) -> Option<&str> {
        let line = self.bridge.lines().find_map(|line| line.strip_prefix("Bridge obfs4 "))?;
        line.split(' ').nth(1)
    }

    /// Returns the agents' token.
    pub fn token(&self) -> &AgentToken {
        &self.token
    }

    /// Returns the app's token.
    pub fn circuit_token(&self) -> String {
        (*self.token.circuit_token()).clone()
    }

    /// Asks the publisher to close a circuit. Returns the status of the response.
    pub async fn close_circuit(&self, token: &str, address: &str) -> Result<u16> {
        let request = format!(
            "POST {CLOSE_PATH} HTTP/1.1\r\nHost: publisher\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {}\r\n\r\n{address}",
            address.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", CIRCUITS_PORT)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).with_context(|| format!("not an HTTP response: {answer:?}"))?;
        Ok(status.parse()?)
    }

    /// Makes the frontend's tor log what it does as a client of onion services. Returns the path of
    /// the log.
    pub async fn log_introductions(&self) -> Result<PathBuf> {
        let log = self.path("introductions.log");
        let command = format!("SETCONF Log=\"[rend]info notice file {}\"", log.display());
        ensure!(self.frontend_control().await?.command(&command).await?, "tor rejected {command}");
        Ok(log)
    }

    /// Opens a connection to the control socket of a backend's tor.
    pub async fn backend_control(&self, number: usize) -> Result<Control> {
        let control = self.path(&format!("backend{number}/run/control"));
        Control::open(&control.join("socket"), &control.join("cookie")).await
    }

    /// Sends a signal to a backend's agent.
    pub fn signal_agent(&self, number: usize, signal: Signal) -> Result<()> {
        self.processes.signal(&format!("backend{number}-agent"), signal)
    }

    /// Gives every relay of the network a new microdescriptor. A tor whose consensus lists the new
    /// microdescriptors cannot build circuits until it has fetched most of them.
    pub async fn replace_microdescriptors(&self) -> Result<()> {
        let family = self.relays.keys().next().context("the network has no relay")?;
        self.command_relays(&format!("SETCONF MyFamily=${family}")).await
    }

    /// Sends a command to the control socket of every relay.
    pub async fn command_relays(&self, command: &str) -> Result<()> {
        TorNetwork::open(&self.network, Place::Loopback, &self.processes).command_all(command).await
    }

    /// Returns what the relays have logged about onion services, and their notices. Only a network
    /// of [`Self::start_with`] has this log.
    pub fn relays_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("relays.log"))?)
    }

    /// Returns the authentication keys of the introduction points that a backend's tor has.
    pub async fn points(&self, backend: usize) -> Result<BTreeSet<String>> {
        let Backend { uid, api } = &self.backends[backend];
        agent::points_at(api, uid, &self.token).await
    }

    /// Returns the descriptor that a backend's agent reports, or `None` if it has none yet.
    pub async fn backends_descriptor(&self, backend: usize) -> Result<Option<Descriptor>> {
        let Backend { uid, api } = &self.backends[backend];
        agent::descriptor_at(api, uid, &self.token).await
    }

    /// Kills a backend's agent and tor.
    pub fn kill_backend(&self, number: usize) -> Result<()> {
        self.processes.signal(&format!("backend{number}-agent"), Signal::KILL)?;
        self.processes.signal(&format!("backend{number}-tor"), Signal::KILL)
    }

    /// Kills a backend's tor. The backend's agent keeps running and notices that tor has ended.
    pub async fn kill_backends_tor(&self, number: usize) -> Result<()> {
        self.processes.kill(&format!("backend{number}-tor")).await
    }

    /// Stops a backend's tor but keeps its files.
    pub async fn stop_backends_tor(&self, number: usize) -> Result<()> {
        self.processes.stop(&format!("backend{number}-tor")).await
    }

    /// Starts a backend's tor again with its existing files.
    pub fn restart_backends_tor(&self, number: usize) -> Result<()> {
        self.run_tor(&format!("backend{number}-tor"), &self.path(&format!("backend{number}")))
    }

    /// Returns the external backends' own onion addresses.
    pub fn external(&self) -> &[String] {
        &self.external
    }

    /// Returns the descriptor that an external backend published itself, as decoded by stem.
    pub async fn descriptor_of(&self, address: &str) -> Result<Descriptor> {
        let client = self.client().await?;
        let descriptor = Descriptor::fetch(client.tor(), address).await?;
        client.remove().await?;
        Ok(descriptor)
    }

    /// Kills an external backend's tor. External backends are numbered after the backends with
    /// agents.
    pub fn kill_external(&self, number: usize) -> Result<()> {
        self.processes.signal(&format!("external{number}"), Signal::KILL)
    }

    /// Starts an external backend's tor again with its existing key.
    pub fn restart_external(&self, number: usize) -> Result<()> {
        let dir = self.path(&format!("external{number}"));
        self.run_tor(&format!("external{number}"), &dir)
    }

    /// Ends the scenario with the given outcome. If it failed, its files are kept for inspection.
    pub fn end(mut self, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() {
            let dir = self.dir.take().map(TempDir::keep).unwrap_or_default();
            eprintln!("the files of the failed test are in {}", dir.display());
        }
        outcome
    }

    /// Returns the backends with agents in the form that `fixed-publisher` accepts.
    pub fn static_backends(&self) -> Vec<String> {
        self.backends.iter().map(|Backend { uid, api }| format!("{uid}@{api}")).collect()
    }

    /// Returns the processes of the network and the service.
    pub fn processes(&self) -> Processes {
        self.processes.clone()
    }

    /// Returns the path of a file or folder of the service.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().map(|dir| dir.path().join(name)).unwrap_or_default()
    }
}

/// Returns the values of a metric that is served at an address, by label.
async fn figure(address: &str, name: &str) -> Result<BTreeMap<String, u64>> {
    let mut stream = TcpStream::connect(address).await?;
    let text = get(&mut stream, "metrics", "/metrics").await?;
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    let sample = |(label, value): (&str, &str)| Ok((label.to_owned(), value.parse()?));
    samples.filter(|(label, _)| label.is_empty() || label.starts_with('{')).map(sample).collect()
}
