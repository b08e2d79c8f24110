//! The processes of a service: what the pods would run, with folders and ports of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::articlient::ArtiClient;
use onionbalance_e2e::command::output;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::onionkey::{self, OnionKey};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::torclient::{TorClient, get, key_line};
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::tornet::{Place, RELAYS, TorNetwork, make_private_dir};
use onionbalance_e2e::{agent, machine};
use onionbalance_operator::link::{AGENT_API_PORT, AgentConfig, AgentToken, ForwardedPort};
use onionbalance_operator::onion::{ClientPublicKey, ClientSecretKey, MasterKey};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::needles::{find, forms, of_a_token};
use crate::target;

/// A private network and a service on it. Everything ends when it is dropped.
pub struct DataPlane {
    processes: Processes,
    network_torrc: String,
    key: OnionKey,
    token: AgentToken,
    backends: Vec<Backend>,
    /// Addresses of the tors that publish by themselves.
    external: Vec<String>,
    /// The processes of the network's relays, by fingerprint.
    relays: BTreeMap<String, String>,
    /// Where the publisher shows its metrics.
    metrics: String,
    clients: AtomicU32,
    frontends: AtomicU32,
    dir: Option<TempDir>,
}

struct Backend {
    /// What would be its pod's UID.
    uid: String,
    /// Where its agent listens.
    api: String,
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.processes.kill_all();
    }
}

impl DataPlane {
    /// Brings up the usual network, this many backends, and the publisher.
    pub async fn start(backends: usize) -> Result<Self> {
        Self::start_on(RELAYS, backends).await
    }

    /// The same on a network of this many relays beside its authorities.
    pub async fn start_on(relays: u16, backends: usize) -> Result<Self> {
        Self::bring_up(relays, backends, 0).await
    }

    /// The usual network, and backends whose pods have these UIDs; no frontend.
    pub async fn start_for(uids: Vec<String>) -> Result<Self> {
        let mut plane = Self::network(RELAYS).await?;
        for (number, uid) in uids.into_iter().enumerate() {
            let backend = plane.start_backend(number, uid).await?;
            plane.backends.push(backend);
        }
        Ok(plane)
    }

    /// The usual network, some backends with agents, and then some plain tors that publish by themselves.
    pub async fn start_with_external(backends: usize, external: usize) -> Result<Self> {
        Self::bring_up(RELAYS, backends, external).await
    }

    async fn bring_up(relays: u16, backends: usize, external: usize) -> Result<Self> {
        let mut plane = Self::network(relays).await?;
        for number in 0..backends {
            let backend = plane.start_backend(number, format!("uid-of-backend{number}")).await?;
            plane.backends.push(backend);
        }
        for number in backends..backends + external {
            let address = plane.start_external(number).await?;
            plane.external.push(address);
        }
        plane.metrics = plane.start_frontend().await?;
        Ok(plane)
    }

    async fn network(relays: u16) -> Result<Self> {
        machine::check_tor()?;
        let dir = tempfile::tempdir()?;
        let processes = Processes::open(dir.path())?;
        let key = onionkey::make(&processes, dir.path()).await?;
        let secret = fs::read(key.dir.join("hs_ed25519_secret_key"))?;
        let token = AgentToken::derive(&MasterKey::from_tor_secret_key_file(&secret)?);
        let mut plane = Self {
            processes: processes.clone(),
            network_torrc: String::new(),
            key,
            token,
            backends: Vec::new(),
            external: Vec::new(),
            relays: BTreeMap::new(),
            metrics: String::new(),
            clients: AtomicU32::new(0),
            frontends: AtomicU32::new(0),
            dir: Some(dir),
        };
        let network = TorNetwork::of(relays, &plane.path("network"), Place::Loopback, &processes);
        network.up().await?;
        plane.relays = network.fingerprints()?;
        plane.network_torrc = network.torrc_lines()?;
        Ok(plane)
    }

    /// The public address.
    pub fn onion(&self) -> &str {
        &self.key.address
    }

    /// Fails when a process of the service has ended.
    pub fn check(&self) -> Result<()> {
        self.processes
            .names()?
            .iter()
            .filter(|name| name.contains("end"))
            .try_for_each(|name| self.processes.check(name))
    }

    /// Fails where a log of our programs, or of a tor, has a part of the master key or the agents' token.
    pub fn no_secret_is_in_a_log(&self) -> Result<()> {
        let key = fs::read(self.key.dir.join("hs_ed25519_secret_key"))?;
        let needles = BTreeMap::from([
            ("the master key's scalar", forms(&key[32..64])),
            ("the master key's other half", forms(&key[64..96])),
            ("the agents' token", of_a_token(self.token.to_hex().as_bytes())),
        ]);
        let mut lines = 0;
        for name in self.processes.names()? {
            let log = String::from_utf8_lossy(&fs::read(self.processes.log(&name))?).into_owned();
            let found = find(&log, &needles);
            ensure!(found.is_empty(), "{found:?} in the log of {name}");
            lines += log.lines().filter(|line| line.contains("DEBUG") || line.contains("TRACE")).count();
        }
        ensure!(lines > 10, "the programs log what they do: {lines} lines");
        Ok(())
    }

    /// A Tor client without any state.
    pub async fn client(&self) -> Result<TorClient> {
        self.client_with("").await
    }

    /// One that has a key for the public address.
    pub async fn client_with_key(&self, key: &ClientSecretKey) -> Result<TorClient> {
        let dir = self.path(&format!("keys-of-client{}", self.clients.load(Ordering::Relaxed)));
        self.client_with(&key_line(&dir, key, self.onion())?).await
    }

    async fn client_with(&self, torrc: &str) -> Result<TorClient> {
        let name = format!("client{}", self.clients.fetch_add(1, Ordering::Relaxed));
        let torrc = self.network_torrc.clone() + torrc;
        TorClient::fresh(&self.processes, &name, &self.path(&name), &torrc, None).await
    }

    /// An arti client without any state.
    pub async fn arti_client(&self) -> Result<ArtiClient> {
        let network = TorNetwork::open(&self.path("network"), Place::Loopback, &self.processes);
        ArtiClient::fresh(&self.processes, "arti", &self.path("arti"), &network).await
    }

    /// The public descriptor, as stem reads it.
    pub async fn descriptor(&self) -> Result<Descriptor> {
        let client = self.client().await?;
        let descriptor = Descriptor::fetch(client.tor(), self.onion()).await?;
        client.remove().await?;
        Ok(descriptor)
    }

    /// What every relay of the network holds of the service now, by fingerprint, as stem reads it. Those that hold nothing are not in
    /// it, nor those that hold something older than others.
    pub async fn newest_descriptors(&self, client: &TorClient) -> Result<BTreeMap<String, Descriptor>> {
        self.newest_descriptors_but(client, &[]).await
    }

    /// The same, without asking some.
    pub async fn newest_descriptors_but(
        &self,
        client: &TorClient,
        without: &[String],
    ) -> Result<BTreeMap<String, Descriptor>> {
        let asked = self.relays.keys().filter(|relay| !without.contains(relay));
        let mut held = Descriptor::fetch_each(client.tor(), self.onion(), asked).await?;
        let newest = held.values().map(|held| held.revision_counter).max();
        held.retain(|_, held| Some(held.revision_counter) == newest);
        Ok(held)
    }

    /// Sends a signal to a relay.
    pub fn signal_relay(&self, fingerprint: &str, signal: Signal) -> Result<()> {
        self.processes.signal(self.relays.get(fingerprint).context("a relay of the network")?, signal)
    }

    /// A connection to the control socket of the frontend's tor.
    pub async fn frontend_control(&self) -> Result<Control> {
        let control = self.path("frontend/run/control");
        Control::open(&control.join("socket"), &control.join("cookie")).await
    }

    /// A figure of the publisher's metrics, by label.
    pub async fn metric(&self, name: &str) -> Result<BTreeMap<String, u64>> {
        let mut stream = TcpStream::connect(&self.metrics).await?;
        let text = get(&mut stream, "metrics", "/metrics").await?;
        let name = format!("onionbalance_publisher_{name}");
        let samples = text.lines().filter_map(|line| line.strip_prefix(&name)?.rsplit_once(' '));
        let sample = |(label, value): (&str, &str)| Ok((label.to_owned(), value.parse()?));
        samples.filter(|(label, _)| label.is_empty() || label.starts_with('{')).map(sample).collect()
    }

    /// The names of the points that a backend's tor holds.
    pub async fn points(&self, backend: usize) -> Result<BTreeSet<String>> {
        let Backend { uid, api } = &self.backends[backend];
        agent::points_at(api, uid, &self.token).await
    }

    /// Ends a backend without any warning.
    pub fn kill_backend(&self, number: usize) -> Result<()> {
        self.processes.signal(&format!("backend{number}-agent"), Signal::KILL)?;
        self.processes.signal(&format!("backend{number}-tor"), Signal::KILL)
    }

    /// Ends a backend's tor; its agent sees it.
    pub fn kill_backends_tor(&self, number: usize) -> Result<()> {
        self.processes.signal(&format!("backend{number}-tor"), Signal::KILL)
    }

    /// The own addresses of the external backends.
    pub fn external(&self) -> &[String] {
        &self.external
    }

    /// What an external backend itself has published, as stem reads it.
    pub async fn descriptor_of(&self, address: &str) -> Result<Descriptor> {
        let client = self.client().await?;
        let descriptor = Descriptor::fetch(client.tor(), address).await?;
        client.remove().await?;
        Ok(descriptor)
    }

    /// Ends an external backend's tor without any warning. Its number follows those with agents.
    pub fn kill_external(&self, number: usize) -> Result<()> {
        self.processes.signal(&format!("external{number}"), Signal::KILL)
    }

    /// Starts an external backend's tor again, with the key that it had.
    pub fn restart_external(&self, number: usize) -> Result<()> {
        let dir = self.path(&format!("external{number}"));
        self.run_tor(&format!("external{number}"), &dir)
    }

    /// Ends a story: after a failure the files stay for a look at them.
    pub fn end(mut self, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() {
            let dir = self.dir.take().map(TempDir::keep).unwrap_or_default();
            eprintln!("what could be seen: {}", dir.display());
        }
        outcome
    }

    async fn start_backend(&self, number: usize, uid: String) -> Result<Backend> {
        let dir = self.path(&format!("backend{number}"));
        make_private_dir(&dir)?;
        let config = AgentConfig {
            master_onion_address: self.onion().parse()?,
            ports: vec![ForwardedPort {
                name: None,
                port: 80,
                target: target::serve(number).await?,
                proxy_header: false,
            }],
            introduction_points: 3,
            drain_timeout_seconds: 1,
            linger_seconds: 1,
        };
        let (config_file, token_file) = (dir.join("agent.yaml"), dir.join("token"));
        fs::write(&config_file, config.to_yaml()?)?;
        fs::write(&token_file, &*self.token.to_hex())?;
        let mut init = program(&["backend", "init"], &dir)?;
        init.arg("--config").arg(&config_file);
        output(&mut init.into()).await?;

        let run = dir.join("run").display().to_string();
        let torrc = format!(
            "PublishHidServDescriptors 0
HiddenServiceDir {run}/hs
HiddenServiceOnionBalanceInstance 1
HiddenServiceNumIntroductionPoints 3
HiddenServicePort 80 unix:{run}/forward/80.sock
"
        );
        self.start_tor(&format!("backend{number}-tor"), &dir, &torrc)?;
        let mut agent = program(&["backend"], &dir)?;
        agent.arg("--config").arg(&config_file).arg("--token").arg(&token_file);
        agent.args(["--pod-uid", &uid, "--listen-address", &backend_address(number)]);
        self.processes.start(&format!("backend{number}-agent"), &mut agent)?;
        Ok(Backend { uid, api: format!("{}:{AGENT_API_PORT}", backend_address(number)) })
    }

    /// A plain tor with a service of its own, as somebody's server has it.
    async fn start_external(&self, number: usize) -> Result<String> {
        let dir = self.path(&format!("external{number}"));
        make_private_dir(&dir.join("run/control"))?;
        fs::write(dir.join("run/empty"), "")?;
        let key = onionkey::make(&self.processes, &dir).await?;
        fs::write(key.dir.join("ob_config"), format!("MasterOnionAddress {}\n", self.onion()))?;
        let target = target::serve(number).await?;
        let service = key.dir.display();
        let torrc = format!(
            "HiddenServiceDir {service}
HiddenServiceOnionBalanceInstance 1
HiddenServicePort 80 {target}
"
        );
        self.start_tor(&format!("external{number}"), &dir, &torrc)?;
        Ok(key.address)
    }

    async fn start_frontend(&self) -> Result<String> {
        let dir = self.path("frontend");
        make_private_dir(&dir)?;
        output(&mut program(&["frontend", "init"], &dir)?.into()).await?;
        self.start_tor("frontend-tor", &dir, "DormantTimeoutEnabled 0\n")?;
        self.start_publisher(&[])
    }

    /// One more frontend, with a tor of its own, whose publisher gets these arguments besides. Gives its address.
    pub async fn start_leased_frontend(
        &self,
        name: &str,
        uid: &str,
        arguments: &[&str],
        environment: &[(&str, String)],
    ) -> Result<String> {
        let name = format!("frontend-{name}");
        let dir = self.path(&name);
        make_private_dir(&dir)?;
        output(&mut program(&["frontend", "init"], &dir)?.into()).await?;
        self.start_tor(&format!("{name}-tor"), &dir, "DormantTimeoutEnabled 0\n")?;
        let address = format!("127.0.78.{}", self.frontends.fetch_add(1, Ordering::Relaxed) + 1);
        let mut publisher = program(&["frontend"], &dir)?;
        publisher.arg("--master-key-dir").arg(&self.key.dir);
        publisher.args(["--pod-uid", uid, "--listen-address", &address]).args(arguments);
        publisher.envs(environment.iter().map(|(name, value)| (name, value)));
        self.processes.start(&format!("{name}-publisher"), &mut publisher)?;
        Ok(address)
    }

    /// The backends with agents, as a publisher without Kubernetes is told of them.
    pub fn static_backends(&self) -> Vec<String> {
        self.backends.iter().map(|Backend { uid, api }| format!("{uid}@{api}")).collect()
    }

    /// The processes of the network and of the service.
    pub fn processes(&self) -> Processes {
        self.processes.clone()
    }

    /// Starts the publisher anew, for these clients alone.
    pub async fn restrict(&mut self, clients: &[ClientPublicKey]) -> Result<()> {
        self.processes.stop("frontend-publisher").await?;
        self.metrics = self.start_publisher(clients)?;
        Ok(())
    }

    fn start_publisher(&self, clients: &[ClientPublicKey]) -> Result<String> {
        let dir = self.path("frontend");
        let [probes, metrics, _] = free_ports()?;
        let mut publisher = program(&["frontend"], &dir)?;
        publisher.arg("--master-key-dir").arg(&self.key.dir);
        publisher.args(["--pod-uid", "uid-of-frontend", "--listen-address", "127.0.0.1"]);
        publisher.args(["--probe-port", &probes, "--metrics-port", &metrics]);
        for backend in self.static_backends() {
            publisher.arg("--static-backend").arg(backend);
        }
        for client in clients {
            publisher.arg("--static-client").arg(client.to_string());
        }
        for address in &self.external {
            publisher.arg("--static-external").arg(address);
        }
        self.processes.start("frontend-publisher", &mut publisher)?;
        Ok(format!("127.0.0.1:{metrics}"))
    }

    fn start_tor(&self, name: &str, dir: &Path, torrc: &str) -> Result<()> {
        let (run, data) = (dir.join("run"), dir.join("data"));
        let (run, data) = (run.display(), data.display());
        let common = format!(
            "DataDirectory {data}
ControlSocket unix:{run}/control/socket
CookieAuthentication 1
CookieAuthFile {run}/control/cookie
SocksPort 0
GeoIPFile {run}/empty
GeoIPv6File {run}/empty
Log notice stdout
SafeLogging 0
"
        );
        fs::write(dir.join("torrc"), common + &self.network_torrc + torrc)?;
        self.run_tor(name, dir)
    }

    fn run_tor(&self, name: &str, dir: &Path) -> Result<()> {
        let mut tor = Command::new("tor");
        tor.arg("-f").arg(dir.join("torrc")).arg("--defaults-torrc").arg(dir.join("run/empty"));
        self.processes.start(name, &mut tor)
    }

    /// A file or folder of the service's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().map(|dir| dir.path().join(name)).unwrap_or_default()
    }
}

/// Where a backend's agent listens: each has a loopback address of its own, as pods have.
pub fn backend_address(number: usize) -> String {
    format!("127.0.77.{}", number + 1)
}

/// Our program with its folders under `dir`.
fn program(subcommand: &[&str], dir: &Path) -> Result<Command> {
    let program = Path::new(env!("CARGO_BIN_EXE_e2e")).with_file_name("onionbalance-operator");
    let program = program.canonicalize().with_context(|| format!("{}: cargo build makes it", program.display()))?;
    // However this process ends, what it started ends too.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args(subcommand)
        .arg("--run-dir")
        .arg(dir.join("run"))
        .arg("--tor-data-dir")
        .arg(dir.join("data"));
    // All that our own code ever says: no secret may be in it.
    command.env("RUST_LOG", "debug,onionbalance_operator=trace,hyper=info");
    Ok(command)
}

fn free_ports() -> Result<[String; 3]> {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [const { String::new() }; 3];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port().to_string();
    }
    Ok(ports)
}
