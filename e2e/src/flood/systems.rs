//! The services that are flooded in turn: ours, Python Onionbalance with the same number of
//! backends, and a single stock tor.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use onionbalance_operator::link::{AGENT_API_PORT, AgentConfig, AgentToken, ForwardedPort, TargetCheck};
use onionbalance_operator::onion::MasterKey;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::render;
use crate::command::{command, output};
use crate::onionkey;
use crate::process::Processes;
use crate::state::source_tree;
use crate::tornet::{Tor, make_private_dir};

/// The number of introduction points of each backend.
const POINTS: u8 = 3;

/// A kind of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Our publisher, with an agent next to each backend's tor.
    Ours,
    /// Python Onionbalance, with stock tors as backends.
    Python,
    /// A stock tor with an onion service of its own.
    Stock,
}

impl Kind {
    /// Returns the prefix of the figures' names.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Ours => "",
            Self::Python => "python_",
            Self::Stock => "stock_",
        }
    }
}

/// A limit of the introductions that each introduction point passes on (`introDosDefense`).
#[derive(Debug, Clone, Copy)]
pub struct Defense {
    /// The lasting rate, in introductions per second.
    pub rate: u32,
    /// The number of introductions that may follow each other at once.
    pub burst: u32,
}

/// The folder, the network and the web server that all services share.
#[derive(Debug)]
pub struct Place {
    /// The processes of the network and of the services.
    pub processes: Processes,
    /// The folder of all files.
    pub dir: PathBuf,
    /// The torrc lines with which a tor joins the network.
    pub torrc: String,
    /// The address of the web server behind all services.
    pub target: String,
}

/// A running service.
#[derive(Debug)]
pub struct System {
    /// The onion address that is flooded.
    pub onion: String,
    /// The names of the processes, in the order in which they end.
    processes: Vec<String>,
    /// The backends' tors.
    tors: Vec<BackendTor>,
}

/// The tor of a backend.
#[derive(Debug)]
struct BackendTor {
    process: String,
    /// The address of `MetricsPort`.
    metrics: String,
}

impl System {
    /// Starts a service. A single stock tor has no other backends.
    pub async fn start(
        place: &Place,
        name: &str,
        kind: Kind,
        backends: usize,
        defense: Option<Defense>,
    ) -> Result<Self> {
        let builder = Builder { place, name, dir: place.dir.join(name), defense };
        make_private_dir(&builder.dir)?;
        match kind {
            Kind::Ours => builder.ours(backends).await,
            Kind::Python => builder.python(backends).await,
            Kind::Stock => builder.stock().await,
        }
    }

    /// Stops all processes of the service.
    pub async fn stop(&self, place: &Place) -> Result<()> {
        try_join_all(self.processes.iter().map(|process| place.processes.stop(process))).await?;
        Ok(())
    }

    /// Returns an error if a process of the service has ended.
    pub fn check(&self, place: &Place) -> Result<()> {
        self.processes.iter().try_for_each(|process| place.processes.check(process))
    }

    /// Returns the names of the backends' tor processes.
    pub fn tors(&self) -> Vec<String> {
        self.tors.iter().map(|tor| tor.process.clone()).collect()
    }

    /// Returns the value of a metric of each backend's tor.
    pub async fn metric(&self, name: &str) -> Result<Vec<u64>> {
        try_join_all(self.tors.iter().map(|tor| metric(&tor.metrics, name))).await
    }

    /// Returns the number of introductions that all backends' tors have handled since they started.
    pub async fn handled(&self) -> Result<u64> {
        Ok(self.metric("tor_hs_intro_num_total").await?.iter().sum())
    }
}

/// Returns the sum of a metric's samples at tor's `MetricsPort`.
async fn metric(address: &str, name: &str) -> Result<u64> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? > 0, "tor's answer with its metrics has no body");
        match line.trim_end().split_once(": ") {
            Some(("Content-Length", value)) => length = Some(value.parse()?),
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    // tor leaves the connection open.
    let mut text = vec![0; length.context("tor's answer with its metrics has no length")?];
    stream.read_exact(&mut text).await?;
    sum(&String::from_utf8_lossy(&text), name)
}

/// Returns the sum of a metric's samples in the text format of Prometheus.
fn sum(text: &str, name: &str) -> Result<u64> {
    let samples = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let values = samples.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<u64>());
    values.sum::<Result<_, _>>().with_context(|| format!("tor's metric {name} is not a number"))
}

/// Starts one service.
struct Builder<'a> {
    place: &'a Place,
    name: &'a str,
    dir: PathBuf,
    defense: Option<Defense>,
}

impl Builder<'_> {
    async fn ours(&self, backends: usize) -> Result<System> {
        let key = onionkey::make(&self.place.processes, &self.dir).await?;
        let secret = fs::read(key.dir.join("hs_ed25519_secret_key"))?;
        let master = MasterKey::from_tor_secret_key_file(&secret)?;
        let mut system = System { onion: key.address, processes: Vec::new(), tors: Vec::new() };
        let mut agents = Vec::new();
        for number in 0..backends {
            agents.push(self.backend(&mut system, number, &master).await?);
        }
        let dir = self.dir.join("frontend");
        make_private_dir(&dir)?;
        output(&mut in_folders(&built("onionbalance-operator")?, &["frontend", "init"], &dir).into()).await?;
        fs::write(dir.join("torrc"), self.torrc("frontend", &dir, &master, &[forwarded("127.0.0.1:1")])?)?;
        let tor = self.run_tor("frontend-tor", &dir)?;
        let mut publisher = in_folders(&built("fixed-publisher")?, &[], &dir);
        publisher.arg("--master-key-dir").arg(&key.dir).args(["--pod-uid", "frontend"]);
        let [probes, metrics] = free_ports()?.map(|port| port.to_string());
        publisher.args(["--listen-address", "127.0.0.1", "--probe-port", &probes, "--metrics-port", &metrics]);
        for agent in agents {
            publisher.arg("--static-backend").arg(agent);
        }
        let name = self.process("publisher");
        self.place.processes.start(&name, &mut publisher)?;
        system.processes.splice(0..0, [name, tor]);
        Ok(system)
    }

    /// Starts a backend with an agent, as in a backend pod. Returns the agent for the publisher's
    /// option `--static-backend`.
    async fn backend(&self, system: &mut System, number: usize, master: &MasterKey) -> Result<String> {
        let dir = self.dir.join(format!("backend{number}"));
        make_private_dir(&dir)?;
        let ports = vec![forwarded(&self.place.target)];
        let [metrics] = free_ports()?;
        let torrc = self.torrc("backend", &dir, master, &ports)?;
        fs::write(dir.join("torrc"), torrc + &metrics_lines(metrics))?;
        let config = AgentConfig {
            master_onion_address: master.address(),
            ports,
            introduction_points: POINTS,
            drain_timeout_seconds: 1,
            linger_seconds: 1,
            circuit_limits: None,
        };
        let (config_file, token_file) = (dir.join("agent.yaml"), dir.join("token"));
        fs::write(&config_file, config.to_yaml()?)?;
        fs::write(&token_file, &*AgentToken::derive(master).to_hex())?;
        let mut init = in_folders(&built("onionbalance-operator")?, &["backend", "init"], &dir);
        init.arg("--config").arg(&config_file);
        output(&mut init.into()).await?;
        let tor = self.run_tor(&format!("backend{number}-tor"), &dir)?;
        let (uid, address) = (format!("backend{number}"), format!("127.0.77.{}", number + 1));
        let mut agent = in_folders(&built("onionbalance-operator")?, &["backend"], &dir);
        agent.arg("--config").arg(&config_file).arg("--token").arg(&token_file);
        agent.args(["--pod-uid", &uid, "--listen-address", &address]);
        let name = self.process(&format!("backend{number}-agent"));
        self.place.processes.start(&name, &mut agent)?;
        system.processes.extend([name, tor.clone()]);
        system.tors.push(BackendTor { process: tor, metrics: format!("127.0.0.1:{metrics}") });
        Ok(format!("{uid}@{address}:{AGENT_API_PORT}"))
    }

    /// Returns the operator's torrc for a component, with the lines for this network. `MetricsPort`
    /// is left out, because all tors share this machine's loopback address.
    fn torrc(&self, component: &str, dir: &Path, key: &MasterKey, ports: &[ForwardedPort]) -> Result<String> {
        let defense = self.defense.map(
            |Defense { rate, burst }| json!({"introDosDefense": {"ratePerSecond": rate, "burstPerSecond": burst}}),
        );
        let backends = &defense.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let global = &format!("{}SafeLogging 0\n", self.place.torrc);
        let torrc = render::Service { key, ports, backends, anonymity: &json!({}), global }.torrc(component, dir)?;
        Ok(torrc.lines().filter(|line| !line.starts_with("MetricsPort")).flat_map(|line| [line, "\n"]).collect())
    }

    fn run_tor(&self, name: &str, dir: &Path) -> Result<String> {
        let mut tor = Command::new("tor");
        tor.arg("-f").arg(dir.join("torrc")).arg("--defaults-torrc").arg(dir.join("run/empty"));
        let name = self.process(name);
        self.place.processes.start(&name, &mut tor)?;
        Ok(name)
    }

    async fn python(&self, backends: usize) -> Result<System> {
        let key = onionkey::make(&self.place.processes, &self.dir).await?;
        let mut system = System { onion: key.address.clone(), processes: Vec::new(), tors: Vec::new() };
        let mut config =
            format!("services:\n- key: {}\n  instances:\n", key.dir.join("hs_ed25519_secret_key").display());
        for number in 0..backends {
            let address = self.stock_tor(&mut system, &format!("backend{number}"), Some(&key.address)).await?;
            writeln!(config, "  - address: {address}")?;
        }
        let file = self.dir.join("config.yaml");
        fs::write(&file, config)?;
        let name = self.process("frontend-tor");
        let tor = Tor::open(&self.place.processes, &name, &self.dir.join("frontend"));
        tor.start(Command::new("tor"), &format!("{}SocksPort 0\n", self.place.torrc))?;
        tor.wait_bootstrapped().await?;
        let script = source_tree().join("e2e/setup/python-onionbalance.sh");
        let python: PathBuf = output(&mut command(&script.display().to_string(), [""; 0])).await?.trim().into();
        let mut publisher = bound(&python.with_file_name("onionbalance"));
        publisher.arg("--config").arg(file).args(["--is-testnet", "-v", "info", "-s"]).arg(tor.control_socket());
        let publisher_name = self.process("onionbalance");
        self.place.processes.start(&publisher_name, &mut publisher)?;
        system.processes.splice(0..0, [publisher_name, name]);
        Ok(system)
    }

    async fn stock(&self) -> Result<System> {
        let mut system = System { onion: String::new(), processes: Vec::new(), tors: Vec::new() };
        system.onion = self.stock_tor(&mut system, "tor", None).await?;
        Ok(system)
    }

    /// Starts a stock tor with an onion service, which is an instance of the master address, if
    /// given. Returns the onion service's own address.
    async fn stock_tor(&self, system: &mut System, name: &str, master: Option<&str>) -> Result<String> {
        let (process, dir) = (self.process(name), self.dir.join(name));
        let service = dir.join("service");
        make_private_dir(&service)?;
        let [metrics] = free_ports()?;
        let mut torrc = format!(
            "{}SocksPort 0\n{}HiddenServiceDir {}\nHiddenServicePort 80 {}\n\
             HiddenServiceNumIntroductionPoints {POINTS}\n",
            self.place.torrc,
            metrics_lines(metrics),
            service.display(),
            self.place.target,
        );
        if let Some(master) = master {
            fs::write(service.join("ob_config"), format!("MasterOnionAddress {master}\n"))?;
            torrc += "HiddenServiceOnionBalanceInstance 1\n";
        }
        if let Some(Defense { rate, burst }) = self.defense {
            write!(
                torrc,
                "HiddenServiceEnableIntroDoSDefense 1\nHiddenServiceEnableIntroDoSRatePerSec {rate}\n\
                 HiddenServiceEnableIntroDoSBurstPerSec {burst}\n"
            )?;
        }
        let tor = Tor::open(&self.place.processes, &process, &dir);
        tor.start(Command::new("tor"), &torrc)?;
        tor.wait_bootstrapped().await?;
        system.processes.push(process.clone());
        system.tors.push(BackendTor { process, metrics: format!("127.0.0.1:{metrics}") });
        Ok(fs::read_to_string(service.join("hostname"))?.trim().to_owned())
    }

    fn process(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }
}

fn forwarded(target: &str) -> ForwardedPort {
    ForwardedPort {
        name: None,
        port: 80,
        target: target.to_owned(),
        proxy_header: false,
        idle_timeout_seconds: None,
        check: TargetCheck::default(),
    }
}

fn metrics_lines(port: u16) -> String {
    format!("MetricsPort 127.0.0.1:{port}\nMetricsPortPolicy accept 127.0.0.1\n")
}

/// Returns distinct ports on which nothing listens.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// Returns the path of one of our programs, which must be in the same folder as this program.
fn built(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    program.canonicalize().with_context(|| format!("{}: run cargo build --workspace --bins", program.display()))
}

/// Returns a command that runs a program and kills it when this process ends, even if this process
/// is itself killed.
fn bound(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Returns the command that runs our program with its folders under `dir`.
fn in_folders(program: &Path, subcommand: &[&str], dir: &Path) -> Command {
    let mut command = bound(program);
    command.args(subcommand).arg("--run-dir").arg(dir.join("run")).arg("--tor-data-dir").arg(dir.join("data"));
    command.arg("--vanguards-dir").arg(dir.join("vanguards"));
    command.env("RUST_LOG", "info,onionbalance_operator=debug,hyper=info");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_of_a_metric_are_added() {
        let text = "# TYPE tor_a counter\ntor_a{onion=\"x\"} 3\ntor_a{onion=\"y\"} 4\ntor_a_b{onion=\"x\"} 9\n";
        assert_eq!(sum(text, "tor_a").unwrap(), 7);
        assert_eq!(sum(text, "tor_c").unwrap(), 0);
        assert!(sum("tor_a{} many\n", "tor_a").is_err());
    }
}
