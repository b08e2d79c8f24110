//! A private Tor network with backends, and a tor for each publisher.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use onionbalance_e2e::command::output;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::onionkey::{self, OnionKey};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::tornet::{Place, Tor, TorNetwork, make_private_dir};
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_e2e::{agent, machine};
use onionbalance_operator::control::{Client, Event, HsDescAction};
use onionbalance_operator::link::{AgentConfig, AgentToken, ForwardedPort, TargetCheck};
use onionbalance_operator::onion::MasterKey;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::publisher::{PublisherDir, program};

const BACKENDS: usize = 3;
/// The maximum time to wait for a backend's descriptor or for a publisher's first upload.
const PATIENCE: Duration = Duration::from_secs(180);

/// A private network with backends. Dropping this value ends all of its processes.
#[derive(Debug)]
pub struct Plane {
    processes: Processes,
    dir: PathBuf,
    torrc: String,
    /// The backends' own onion addresses.
    pub addresses: Vec<String>,
    /// The backends' agents, in the format of the option `--static-backend`.
    pub agents: Vec<String>,
    /// The folder of our publisher, which queries the agents.
    pub ours: PublisherDir,
    /// The folder of our stand-alone daemon, which serves the same address as our publisher. The
    /// daemon needs its own tor, because the publisher's tor still reports uploads after the
    /// publisher has ended.
    pub daemon: PublisherDir,
    /// The folder of Python Onionbalance, which serves its own address.
    pub python: PublisherDir,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.processes.kill_all();
    }
}

impl Plane {
    /// Starts the network and the backends, and waits until both the HSDirs and the agents have
    /// every backend's descriptor.
    pub async fn start(processes: &Processes, dir: &Path) -> Result<Self> {
        machine::check_tor()?;
        let mut keys = Vec::new();
        for name in ["ours", "python"] {
            let dir = dir.join(format!("key-{name}"));
            make_private_dir(&dir)?;
            keys.push(onionkey::make(processes, &dir).await?);
        }
        let [our_key, python_key] = <[OnionKey; 2]>::try_from(keys).ok().context("expected two keys")?;
        let network = TorNetwork::open(&dir.join("network"), Place::Loopback, processes);
        network.up_completely().await?;
        let mut plane = Self {
            processes: processes.clone(),
            dir: dir.to_owned(),
            torrc: network.torrc_lines()?,
            addresses: Vec::new(),
            agents: Vec::new(),
            ours: PublisherDir::make(dir.join("ours"), our_key.dir.clone())?,
            daemon: PublisherDir::make(dir.join("daemon"), our_key.dir.clone())?,
            python: PublisherDir::make(dir.join("python"), python_key.dir)?,
        };
        let secret = fs::read(our_key.dir.join("hs_ed25519_secret_key"))?;
        let token = AgentToken::derive(&MasterKey::from_tor_secret_key_file(&secret)?);
        for number in 0..BACKENDS {
            plane.start_backend(number, &our_key.address, &token).await?;
        }
        plane.wait_for_backends(&token).await?;
        Ok(plane)
    }

    /// Starts a publisher's tor, waits until it has bootstrapped, and returns its upload events.
    pub async fn start_tor(&self, name: &str, place: &PublisherDir) -> Result<UploadEvents> {
        let tor = Tor::open(&self.processes, &format!("{name}-tor"), &self.dir.join(format!("{name}-tor")));
        let socket = place.control_socket();
        let torrc = format!("{}SocksPort 0\nControlSocket unix:{}\n", self.torrc, socket.display());
        tor.start(Command::new("tor"), &torrc)?;
        tor.wait_bootstrapped().await?;
        let (client, events) = Client::connect_unix(&socket, None).await?;
        client.set_events(&["HS_DESC"]).await?;
        Ok(UploadEvents { events, _client: client })
    }

    async fn start_backend(&mut self, number: usize, master: &str, token: &AgentToken) -> Result<()> {
        let dir = self.dir.join(format!("backend{number}"));
        make_private_dir(&dir)?;
        let config = AgentConfig {
            master_onion_address: master.parse()?,
            ports: vec![ForwardedPort {
                name: None,
                port: 80,
                target: "127.0.0.1:80".to_owned(),
                proxy_header: false,
                idle_timeout_seconds: None,
                check: TargetCheck::default(),
            }],
            introduction_points: 3,
            drain_timeout_seconds: 1,
            linger_seconds: 1,
            circuit_limits: None,
        };
        let (config_file, token_file) = (dir.join("agent.yaml"), dir.join("token"));
        fs::write(&config_file, config.to_yaml()?)?;
        fs::write(&token_file, &*token.to_hex())?;
        let run = dir.join("run");
        let mut init = program()?;
        init.args(["backend", "init", "--config"]).arg(&config_file);
        init.arg("--run-dir").arg(&run).arg("--tor-data-dir").arg(dir.join("data"));
        output(&mut init.into()).await?;

        let tor = Tor::open(&self.processes, &format!("backend{number}-tor"), &dir.join("tor"));
        // The backend publishes its own descriptor, because Python Onionbalance fetches it from the
        // HSDirs.
        let torrc = format!(
            "{}SocksPort 0\nControlSocket unix:{run}/control/socket\nHiddenServiceDir {run}/hs\n\
             HiddenServiceOnionBalanceInstance 1\nHiddenServicePort 80 unix:{run}/forward/80.sock\n",
            self.torrc,
            run = run.display()
        );
        tor.start(Command::new("tor"), &torrc)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        drop(listener);
        let uid = format!("backend{number}");
        let mut agent = program()?;
        agent.args([
            "backend",
            "--pod-uid",
            &uid,
            "--listen-address",
            "127.0.0.1",
            "--probe-port",
            "0",
            "--metrics-port",
            "0",
        ]);
        agent.args(["--api-port", &port.to_string()]).arg("--config").arg(&config_file).arg("--token").arg(&token_file);
        agent.arg("--run-dir").arg(&run).arg("--tor-data-dir").arg(dir.join("data"));
        self.processes.start(&format!("backend{number}-agent"), &mut agent)?;
        self.agents.push(format!("{uid}@127.0.0.1:{port}"));
        Ok(())
    }

    async fn wait_for_backends(&mut self, token: &AgentToken) -> Result<()> {
        let dir = self.dir.join("client");
        let client = TorClient::fresh(&self.processes, "client", &dir, &self.torrc, None).await?;
        for number in 0..BACKENDS {
            let hostname = self.dir.join(format!("backend{number}/run/hs/hostname"));
            let agent =
                self.agents.get(number).and_then(|agent| agent.split_once('@')).context("the backend has no agent")?;
            let address = until("a backend's descriptor is available", PATIENCE, async || {
                let Ok(address) = fs::read_to_string(&hostname) else { return Ok(Seen::not_yet("no key yet")) };
                let address = address.trim().to_owned();
                let published = match Descriptor::fetch(client.tor(), &address).await {
                    Ok(descriptor) => descriptor.points.len(),
                    Err(error) => return Ok(Seen::not_yet(format!("{error:#}"))),
                };
                let held = agent::points_at(agent.1, agent.0, token).await?.len();
                let done = published == 3 && held == 3;
                Ok(if done { Seen::Yes(address) } else { Seen::not_yet(format!("{published} and {held} points")) })
            })
            .await?;
            self.addresses.push(address);
        }
        client.remove().await
    }
}

/// The stream of upload events from a tor's control port.
#[derive(Debug)]
pub struct UploadEvents {
    events: mpsc::Receiver<Event>,
    /// The control client, kept because dropping it would close the control connection.
    _client: Client,
}

impl UploadEvents {
    /// Waits until an HSDir has accepted a descriptor.
    pub async fn first(&mut self) -> Result<()> {
        let first = async {
            while let Some(event) = self.events.recv().await {
                if let Event::HsDesc(event) = event
                    && event.action == HsDescAction::Uploaded
                {
                    return Ok(());
                }
            }
            anyhow::bail!("the control connection ended")
        };
        timeout(PATIENCE, first).await.context("no HSDir accepted an upload")?
    }
}
