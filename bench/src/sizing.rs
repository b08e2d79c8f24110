//! Measures the memory and the processor time of a whole service at rest, next to a consensus of
//! 9,000 relays. Each process runs as in its container, with the torrc that the operator writes.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use onionbalance_e2e::command::output;
use onionbalance_e2e::onionkey::{self, OnionKey};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::tornet::{Place, TorNetwork, make_private_dir};
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_e2e::{agent, machine};
use onionbalance_operator::link::{AgentConfig, AgentToken, ForwardedPort, TargetCheck};
use onionbalance_operator::onion::MasterKey;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::crowd::Crowd;
use crate::forwarder::serve;
use crate::memory::{processor_time, resident};
use crate::network::RELAYS;
use crate::publisher::{PublisherDir, program};
use crate::render::Service;
use crate::report::Report;

/// The numbers of backends whose services are measured.
const BACKENDS: [usize; 3] = [1, 3, 10];
/// The number of introduction points of a backend.
const POINTS: usize = 3;
/// The pause after the first upload, in which the tors finish what they do after a start.
const SETTLED: Duration = Duration::from_secs(60);
/// The time over which the processor time is measured.
const WINDOW: Duration = Duration::from_secs(120);
/// The maximum time to wait for a backend or for the first upload.
const PATIENCE: Duration = Duration::from_secs(180);
/// The kinds of containers, as the figures name them.
const CONTAINERS: [&str; 4] = ["backend_tor", "agent", "frontend_tor", "publisher"];

/// Measures a service with 1, 3 and 10 backends and one frontend.
pub async fn measure(dir: &Path, report: &mut Report) -> Result<()> {
    machine::check_tor()?;
    let processes = Processes::open(dir)?;
    let outcome = measure_with(&processes, dir, report).await;
    processes.kill_all();
    outcome
}

async fn measure_with(processes: &Processes, dir: &Path, report: &mut Report) -> Result<()> {
    let mut scene = Scene::start(processes, dir).await?;
    for backends in BACKENDS {
        scene.grow(backends).await?;
        sleep(SETTLED).await;
        let used = scene.usage().await?;
        let total = used.iter().fold(Usage::default(), |sum, (_, usage)| sum.plus(*usage));
        total.report(&format!("sizing_{backends}"), report);
        // The largest service shows best what one container needs.
        if Some(&backends) == BACKENDS.last() {
            for kind in CONTAINERS {
                let of_kind = used.iter().filter(|(container, _)| *container == kind).map(|(_, usage)| *usage);
                of_kind.reduce(Usage::larger).context("no such container")?.report(&format!("sizing_{kind}"), report);
            }
        }
    }
    Ok(())
}

/// The memory and the processor time that one or more processes use.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    mib: f64,
    millicores: f64,
}

impl Usage {
    fn plus(self, other: Self) -> Self {
        Self { mib: self.mib + other.mib, millicores: self.millicores + other.millicores }
    }

    fn larger(self, other: Self) -> Self {
        Self { mib: self.mib.max(other.mib), millicores: self.millicores.max(other.millicores) }
    }

    fn report(self, name: &str, report: &mut Report) {
        report.figure(&format!("{name}_mib"), self.mib, "MiB");
        report.figure(&format!("{name}_millicores"), self.millicores, "mCPU");
    }
}

/// A service on a private network with many imaginary relays.
struct Scene<'a> {
    processes: &'a Processes,
    dir: &'a Path,
    network: String,
    crowd: Crowd,
    master: MasterKey,
    token: AgentToken,
    frontend: PublisherDir,
    target: String,
    /// The backends' agents, in the format of the option `--static-backend`.
    agents: Vec<String>,
}

impl<'a> Scene<'a> {
    /// Starts the network and the frontend's tor, without any backend.
    async fn start(processes: &'a Processes, dir: &'a Path) -> Result<Self> {
        let network = TorNetwork::open(&dir.join("network"), Place::Loopback, processes);
        network.up_completely().await?;
        let crowd = Crowd::of(RELAYS, &network, processes, dir).await?;
        let OnionKey { dir: key, .. } = onionkey::make(processes, dir).await?;
        let master = MasterKey::from_tor_secret_key_file(&fs::read(key.join("hs_ed25519_secret_key"))?)?;
        let frontend = PublisherDir::make(dir.join("frontend"), key)?;
        let scene = Self {
            processes,
            dir,
            network: network.torrc_lines()?,
            crowd,
            token: AgentToken::derive(&master),
            master,
            frontend,
            target: serve().await?,
            agents: Vec::new(),
        };
        scene.start_tor("frontend", &scene.frontend.dir, &["frontend", "init"]).await?;
        Ok(scene)
    }

    /// Starts backends until there are `wanted` of them, and a publisher that knows all of them.
    /// Waits for the publisher's first upload.
    async fn grow(&mut self, wanted: usize) -> Result<()> {
        while self.agents.len() < wanted {
            self.start_backend().await?;
        }
        let uploads = || Ok::<_, anyhow::Error>(self.processes.logged("publisher", "uploaded hsdir=")?.len());
        let mut earlier = 0;
        if self.processes.is_alive("publisher") {
            self.processes.stop("publisher").await?;
            earlier = uploads()?;
        }
        self.frontend.start_publisher(self.processes, &self.agents, [0, 0], None)?;
        until("the publisher has uploaded a descriptor", PATIENCE, async || {
            self.processes.check("publisher")?;
            let uploaded = uploads()? > earlier;
            Ok(if uploaded { Seen::Yes(()) } else { Seen::not_yet("no HSDir has accepted one") })
        })
        .await
    }

    async fn start_backend(&mut self) -> Result<()> {
        let name = format!("backend{}", self.agents.len());
        let dir = self.dir.join(&name);
        make_private_dir(&dir)?;
        let config = AgentConfig {
            master_onion_address: self.master.address(),
            ports: self.ports(),
            introduction_points: u8::try_from(POINTS)?,
            drain_timeout_seconds: 1,
            linger_seconds: 1,
            circuit_limits: None,
        };
        let (config_file, token_file) = (dir.join("agent.yaml"), dir.join("token"));
        fs::write(&config_file, config.to_yaml()?)?;
        fs::write(&token_file, &*self.token.to_hex())?;
        let config_file = config_file.display().to_string();
        self.start_tor(&name, &dir, &["backend", "init", "--config", &config_file]).await?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        drop(listener);
        let mut agent = in_folders(&["backend", "--config", &config_file, "--pod-uid", &name], &dir)?;
        agent.args(["--listen-address", "127.0.0.1", "--probe-port", "0", "--metrics-port", "0"]);
        agent.args(["--api-port", &port.to_string()]).arg("--token").arg(token_file);
        self.processes.start(&format!("{name}-agent"), &mut agent)?;
        let api = format!("127.0.0.1:{port}");
        until("a backend has its introduction points", PATIENCE, async || {
            self.processes.check(&format!("{name}-tor"))?;
            Ok(match agent::points_at(&api, &name, &self.token).await {
                Ok(points) if points.len() == POINTS => Seen::Yes(()),
                Ok(points) => Seen::not_yet(format!("{} points", points.len())),
                Err(error) => Seen::not_yet(format!("{error:#}")),
            })
        })
        .await?;
        self.agents.push(format!("{name}@{api}"));
        Ok(())
    }

    /// Prepares the folders of a pod with the given command, and starts the pod's tor.
    async fn start_tor(&self, pod: &str, dir: &Path, init: &[&str]) -> Result<()> {
        output(&mut in_folders(init, dir)?.into()).await?;
        self.crowd.seed(&dir.join("data"))?;
        let component = init.first().context("the command has no name")?;
        let service = Service {
            key: &self.master,
            ports: &self.ports(),
            backends: &json!({}),
            anonymity: &json!({}),
            global: &self.network,
        };
        let torrc = service.torrc(component, dir)?;
        // All tors would have the same port for metrics. In pods, each has an address of its own.
        let lines = torrc.lines().filter(|line| !line.starts_with("MetricsPort"));
        let torrc: String = lines.flat_map(|line| [line, "\n"]).collect();
        fs::write(dir.join("torrc"), torrc)?;
        let mut tor = Command::new("tor");
        tor.arg("-f").arg(dir.join("torrc")).arg("--defaults-torrc").arg(dir.join("run/empty"));
        self.processes.start(&format!("{pod}-tor"), &mut tor)
    }

    fn ports(&self) -> Vec<ForwardedPort> {
        vec![ForwardedPort {
            name: None,
            port: 80,
            target: self.target.clone(),
            proxy_header: false,
            idle_timeout_seconds: None,
            check: TargetCheck::default(),
        }]
    }

    /// Returns the usage of each of the service's containers, with its kind.
    async fn usage(&self) -> Result<Vec<(&'static str, Usage)>> {
        let mut containers = vec![("frontend_tor", "frontend-tor".to_owned()), ("publisher", "publisher".to_owned())];
        for number in 0..self.agents.len() {
            containers.push(("backend_tor", format!("backend{number}-tor")));
            containers.push(("agent", format!("backend{number}-agent")));
        }
        let pids = containers.iter().map(|(_, name)| {
            let pid = self.processes.pid(name).with_context(|| format!("{name} has ended"))?;
            Ok(u32::try_from(pid)?)
        });
        let pids = pids.collect::<Result<Vec<_>>>()?;
        let times = || pids.iter().map(|pid| processor_time(*pid)).collect::<Result<Vec<_>>>();
        let (begin, before) = (Instant::now(), times()?);
        sleep(WINDOW).await;
        let (window, after) = (begin.elapsed().as_secs_f64(), times()?);
        let usage = |((kind, pid), (before, after)): ((&'static str, &u32), (&Duration, &Duration))| {
            let millicores = after.saturating_sub(*before).as_secs_f64() / window * 1000.0;
            Ok((kind, Usage { mib: resident(*pid)?.now, millicores }))
        };
        let kinds = containers.iter().map(|(kind, _)| *kind);
        kinds.zip(&pids).zip(before.iter().zip(&after)).map(usage).collect()
    }
}

/// Returns the command that runs our program with its folders under `dir`, as in a pod.
fn in_folders(arguments: &[&str], dir: &Path) -> Result<Command> {
    let mut command = program()?;
    let folder = |name: &str| -> PathBuf { dir.join(name) };
    command.args(arguments).arg("--run-dir").arg(folder("run")).arg("--tor-data-dir").arg(folder("data"));
    Ok(command)
}
