//! The processes of a service: what the pods would run, with folders and ports of their own.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use onionbalance_e2e::command::output;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::onionkey::{self, OnionKey};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::tornet::{Place, TorNetwork, make_private_dir};
use onionbalance_e2e::{agent, machine};
use onionbalance_operator::link::{AgentConfig, AgentToken, ForwardedPort};
use onionbalance_operator::onion::MasterKey;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::target;

/// A private network and a service on it. Everything ends when it is dropped.
pub struct DataPlane {
    processes: Processes,
    network_torrc: String,
    key: OnionKey,
    token: AgentToken,
    backends: Vec<Backend>,
    clients: AtomicU32,
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
    /// Brings up the network, this many backends, and the publisher.
    pub async fn start(backends: usize) -> Result<Self> {
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
            clients: AtomicU32::new(0),
            dir: Some(dir),
        };
        let network = TorNetwork::open(&plane.path("network"), Place::Loopback, &processes);
        network.up().await?;
        plane.network_torrc = network.torrc_lines()?;
        for number in 0..backends {
            let backend = plane.start_backend(number).await?;
            plane.backends.push(backend);
        }
        plane.start_frontend().await?;
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

    /// A Tor client without any state.
    pub async fn client(&self) -> Result<TorClient> {
        let name = format!("client{}", self.clients.fetch_add(1, Ordering::Relaxed));
        TorClient::fresh(&self.processes, &name, &self.path(&name), &self.network_torrc, None).await
    }

    /// The public descriptor, as stem reads it.
    pub async fn descriptor(&self) -> Result<Descriptor> {
        let client = self.client().await?;
        let descriptor = Descriptor::fetch(client.tor(), self.onion()).await?;
        client.remove().await?;
        Ok(descriptor)
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

    /// Leaves the files for a look at them.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.take().map(TempDir::keep).unwrap_or_default()
    }

    async fn start_backend(&self, number: usize) -> Result<Backend> {
        let dir = self.path(&format!("backend{number}"));
        make_private_dir(&dir)?;
        let config = AgentConfig {
            master_onion_address: self.onion().parse()?,
            ports: vec![ForwardedPort { name: None, port: 80, target: target::serve(number).await? }],
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
        let [api, probes, metrics] = free_ports()?;
        let uid = format!("uid-of-backend{number}");
        let mut agent = program(&["backend"], &dir)?;
        agent.arg("--config").arg(&config_file).arg("--token").arg(&token_file);
        agent.args(["--pod-uid", &uid, "--listen-address", "127.0.0.1"]);
        agent.args(["--api-port", &api, "--probe-port", &probes, "--metrics-port", &metrics]);
        self.processes.start(&format!("backend{number}-agent"), &mut agent)?;
        Ok(Backend { uid, api: format!("127.0.0.1:{api}") })
    }

    async fn start_frontend(&self) -> Result<()> {
        let dir = self.path("frontend");
        make_private_dir(&dir)?;
        output(&mut program(&["frontend", "init"], &dir)?.into()).await?;
        self.start_tor("frontend-tor", &dir, "DormantTimeoutEnabled 0\n")?;
        let [probes, metrics, _] = free_ports()?;
        let mut publisher = program(&["frontend"], &dir)?;
        publisher.arg("--master-key-dir").arg(&self.key.dir);
        publisher.args(["--pod-uid", "uid-of-frontend", "--listen-address", "127.0.0.1"]);
        publisher.args(["--probe-port", &probes, "--metrics-port", &metrics]);
        for Backend { uid, api } in &self.backends {
            publisher.arg("--static-backend").arg(format!("{uid}@{api}"));
        }
        self.processes.start("frontend-publisher", &mut publisher)
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
        let file = dir.join("torrc");
        fs::write(&file, common + &self.network_torrc + torrc)?;
        let mut tor = Command::new("tor");
        tor.arg("-f").arg(file).arg("--defaults-torrc").arg(dir.join("run/empty"));
        self.processes.start(name, &mut tor)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().map(|dir| dir.path().join(name)).unwrap_or_default()
    }
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
    command.env("RUST_LOG", "debug,hyper=info");
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
