//! A service that consists of ordinary processes on a private network. `observe` and `disturb`
//! contain what tests do with a running service.

mod disturb;
mod observe;
#[path = "../../../tests/torrc_real_tor/render.rs"]
mod render;
mod start;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use anyhow::{Context as _, Result};
use onionbalance_e2e::machine;
use onionbalance_e2e::onionkey::{self, OnionKey};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::tornet::{Place, RELAYS, TorNetwork};
use onionbalance_operator::link::{AgentToken, CIRCUITS_PORT, CLOSE_PATH, ForwardedPort};
use onionbalance_operator::onion::MasterKey;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub use self::start::{Published, backend_address};

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

    /// Returns the number of relays, including the authorities.
    pub fn number_of_relays(&self) -> usize {
        self.relays.len()
    }

    /// Returns a backend's own onion address, which its tor wrote.
    pub fn backends_onion(&self, number: usize) -> Result<String> {
        let hostname = self.path(&format!("backend{number}/run/hs/hostname"));
        Ok(fs::read_to_string(hostname)?.trim().to_owned())
    }

    /// Opens a connection to the control socket of the frontend's tor.
    pub async fn frontend_control(&self) -> Result<Control> {
        let control = self.path("frontend/run/control");
        Control::open(&control.join("socket"), &control.join("cookie")).await
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

    /// Opens a connection to the control socket of a backend's tor.
    pub async fn backend_control(&self, number: usize) -> Result<Control> {
        let control = self.path(&format!("backend{number}/run/control"));
        Control::open(&control.join("socket"), &control.join("cookie")).await
    }

    /// Returns the external backends' own onion addresses.
    pub fn external(&self) -> &[String] {
        &self.external
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
