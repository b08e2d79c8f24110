//! Starts the processes that would run in a pod's containers, each with its own folders and ports.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::command::output;
use onionbalance_e2e::onionkey;
use onionbalance_e2e::tornet::make_private_dir;
use onionbalance_e2e::tornet::torrc::PERIOD_MINUTES;
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::crd;
use onionbalance_operator::link::{
    AGENT_API_PORT, AgentConfig, CIRCUITS_PORT, CircuitLimits, ForwardedPort, TargetCheck,
};
use onionbalance_operator::onion::{ClientPublicKey, Kit, MasterKey, PeriodCalendar};
use rustix::process::Signal;

use super::render::Service;
use super::{Backend, DataPlane, Features};
use crate::target;

/// The program of the transport obfs4, where Debian and tor's image with this transport have it.
const OBFS4: &str = "/usr/bin/obfs4proxy";
/// The port of the bridge's own protocol, which its clients do not use, and that of the transport.
const BRIDGE_PORT: u16 = 15_210;
const OBFS4_PORT: u16 = 15_211;

/// One of the two time periods that a service publishes at a time.
#[derive(Debug, Clone, Copy)]
pub enum Published {
    /// The time period that began earlier.
    Older,
    /// The time period that began later, or is about to begin.
    Newer,
}

#[expect(clippy::disallowed_methods, reason = "the private network uses the machine's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

impl DataPlane {
    pub(super) async fn start_backend(&self, number: usize, uid: String) -> Result<Backend> {
        let dir = self.path(&format!("backend{number}"));
        self.make_pod_dir(&dir)?;
        let target = target::serve(number).await?;
        let mut ports = vec![ForwardedPort {
            name: None,
            port: 80,
            target,
            proxy_header: false,
            idle_timeout_seconds: None,
            check: TargetCheck::default(),
        }];
        ports.extend(self.features.ports.iter().cloned());
        let torrc = self.torrc("backend", &dir, &ports)?;
        let limits = self.features.backends.get("circuitLimits").cloned();
        let limits: Option<crd::CircuitLimits> = limits.map(serde_json::from_value).transpose()?;
        let config = AgentConfig {
            master_onion_address: self.onion().parse()?,
            ports,
            introduction_points: 3,
            drain_timeout_seconds: 1,
            linger_seconds: 1,
            circuit_limits: limits.map(|limits| CircuitLimits {
                open_streams: limits.open_streams,
                new_streams: None,
                bytes_per_second: limits.bytes_per_second,
            }),
        };
        let (config_file, token_file) = (dir.join("agent.yaml"), dir.join("token"));
        fs::write(&config_file, config.to_yaml()?)?;
        fs::write(&token_file, &*self.token.to_hex())?;
        let mut init = program(&["backend", "init"], &dir)?;
        init.arg("--config").arg(&config_file);
        output(&mut init.into()).await?;

        self.start_tor(&format!("backend{number}-tor"), &dir, &torrc)?;
        let mut agent = program(&["backend"], &dir)?;
        agent.arg("--config").arg(&config_file).arg("--token").arg(&token_file);
        agent.args(["--pod-uid", &uid, "--listen-address", &backend_address(number)]);
        self.processes.start(&format!("backend{number}-agent"), &mut agent)?;
        Ok(Backend { uid, api: format!("{}:{AGENT_API_PORT}", backend_address(number)) })
    }

    /// Creates the folder of a pod. The mounted Secret of the vanguards is empty: the processes get
    /// them over the network, as on the very first start.
    fn make_pod_dir(&self, dir: &Path) -> Result<()> {
        make_private_dir(dir)?;
        if self.shares_vanguards { make_private_dir(&dir.join("vanguards")) } else { Ok(()) }
    }

    /// Starts a stock tor with its own onion service, as a user would run it on a server.
    pub(super) async fn start_external(&self, number: usize) -> Result<String> {
        let dir = self.path(&format!("external{number}"));
        make_private_dir(&dir.join("run/control"))?;
        fs::write(dir.join("run/empty"), "")?;
        let key = onionkey::make(&self.processes, &dir).await?;
        fs::write(key.dir.join("ob_config"), format!("MasterOnionAddress {}\n", self.onion()))?;
        let target = target::serve(number).await?;
        let service = key.dir.display();
        let (run, data) = (dir.join("run"), dir.join("data"));
        let (run, data) = (run.display(), data.display());
        let torrc = format!(
            "DataDirectory {data}
ControlSocket unix:{run}/control/socket
CookieAuthentication 1
CookieAuthFile {run}/control/cookie
SocksPort 0
GeoIPFile {run}/empty
GeoIPv6File {run}/empty
Log notice stdout
SafeLogging 0
{}HiddenServiceDir {service}
HiddenServiceOnionBalanceInstance 1
HiddenServicePort 80 {target}
",
            self.network_torrc
        );
        self.start_tor(&format!("external{number}"), &dir, &torrc)?;
        Ok(key.address)
    }

    /// Starts a bridge that clients reach only through the transport obfs4. Returns the torrc lines
    /// with which a tor uses the bridge.
    pub(super) async fn start_bridge(&self) -> Result<String> {
        ensure!(Path::new(OBFS4).is_file(), "{OBFS4} is missing; install the Debian package obfs4proxy");
        let dir = self.path("bridge");
        let data = dir.join("data");
        make_private_dir(&dir.join("run"))?;
        make_private_dir(&data)?;
        fs::write(dir.join("run/empty"), "")?;
        let torrc = format!(
            "DataDirectory {data}
Nickname bridge
SocksPort 0
Address 127.0.0.1
ORPort 127.0.0.1:{BRIDGE_PORT}
AssumeReachable 1
ExitRelay 0
BridgeRelay 1
PublishServerDescriptor 0
ServerTransportPlugin obfs4 exec {OBFS4}
ServerTransportListenAddr obfs4 127.0.0.1:{OBFS4_PORT}
ExtORPort auto
GeoIPFile {empty}
GeoIPv6File {empty}
Log notice stdout
{network}",
            data = data.display(),
            empty = dir.join("run/empty").display(),
            network = self.network_torrc,
        );
        self.start_tor("bridge", &dir, &torrc)?;
        until("the bridge has written its line", Duration::from_secs(60), async || {
            self.processes.check("bridge")?;
            let [line, fingerprint] =
                ["pt_state/obfs4_bridgeline.txt", "fingerprint"].map(|file| fs::read_to_string(data.join(file)));
            let (Ok(line), Ok(fingerprint)) = (line, fingerprint) else {
                return Ok(Seen::not_yet("a file is missing"));
            };
            let fingerprint = fingerprint.split_whitespace().nth(1).unwrap_or_default();
            let Some(line) = line.lines().find(|line| line.starts_with("Bridge obfs4 ")) else {
                return Ok(Seen::not_yet("the file has no line yet"));
            };
            let line = line.replace("<IP ADDRESS>:<PORT>", &format!("127.0.0.1:{OBFS4_PORT}"));
            let line = line.replace("<FINGERPRINT>", fingerprint);
            Ok(Seen::Yes(format!("UseBridges 1\nClientTransportPlugin obfs4 exec {OBFS4}\n{line}\n")))
        })
        .await
    }

    /// Makes a backend's tor keep as many introduction points as it can find, up to 20.
    pub fn make_greedy(&self, number: usize) -> Result<()> {
        let file = self.path(&format!("backend{number}/torrc"));
        let torrc = fs::read_to_string(&file)?;
        let [honest, greedy] = ["3", "20"].map(|points| format!("HiddenServiceNumIntroductionPoints {points}\n"));
        ensure!(torrc.contains(&honest), "unexpected torrc: {torrc}");
        fs::write(&file, torrc.replace(&honest, &greedy))?;
        self.processes.signal(&format!("backend{number}-tor"), Signal::HUP)
    }

    pub(super) async fn start_frontend(&self) -> Result<String> {
        let dir = self.path("frontend");
        make_private_dir(&dir)?;
        output(&mut program(&["frontend", "init"], &dir)?.into()).await?;
        self.start_tor("frontend-tor", &dir, &self.torrc("frontend", &dir, &[unused_port()])?)?;
        self.start_publisher(&[])
    }

    /// Starts another frontend with its own tor. The publisher uses a Lease and gets the given
    /// arguments and environment variables. Returns the publisher's address.
    pub async fn start_leased_frontend(
        &self,
        name: &str,
        uid: &str,
        arguments: &[&str],
        environment: &[(&str, String)],
    ) -> Result<String> {
        let mut publisher = program(&["frontend"], &self.path(&format!("frontend-{name}")))?;
        publisher.envs(environment.iter().map(|(name, value)| (name, value)));
        self.start_another_frontend(name, uid, publisher, arguments).await
    }

    /// Starts another frontend with its own tor. The publisher always leads. Returns the
    /// publisher's address.
    pub async fn start_frontend_without_lease(&self, name: &str) -> Result<String> {
        let backends = self.static_backends();
        let arguments: Vec<&str> = backends.iter().flat_map(|backend| ["--static-backend", backend]).collect();
        let publisher = fixed_publisher(&self.path(&format!("frontend-{name}")));
        self.start_another_frontend(name, name, publisher, &arguments).await
    }

    async fn start_another_frontend(
        &self,
        name: &str,
        uid: &str,
        mut publisher: Command,
        arguments: &[&str],
    ) -> Result<String> {
        let name = format!("frontend-{name}");
        let dir = self.path(&name);
        self.make_pod_dir(&dir)?;
        output(&mut program(&["frontend", "init"], &dir)?.into()).await?;
        self.start_tor(&format!("{name}-tor"), &dir, &self.torrc("frontend", &dir, &[unused_port()])?)?;
        let address = format!("127.0.78.{}", self.frontends.fetch_add(1, Ordering::Relaxed) + 1);
        publisher.arg("--master-key-dir").arg(&self.key.dir);
        publisher.args(["--pod-uid", uid, "--listen-address", &address]).args(arguments);
        self.processes.start(&format!("{name}-publisher"), &mut publisher)?;
        Ok(address)
    }

    /// Restarts the publisher so that only the given clients can discover the service. If none are
    /// given, every client can.
    pub async fn restrict(&mut self, clients: &[ClientPublicKey]) -> Result<()> {
        self.processes.stop("frontend-publisher").await?;
        self.metrics = self.start_publisher(clients)?;
        Ok(())
    }

    /// Restarts the publisher with a signing kit instead of the master key. The kit is the one that
    /// [`Self::write_kit`] writes.
    pub async fn delegate(&mut self, first: Published, periods: u32) -> Result<()> {
        let folder = self.path("kits");
        make_private_dir(&folder)?;
        self.kits = Some(folder);
        self.write_kit(first, periods)?;
        self.restrict(&[]).await
    }

    /// Replaces the publisher's signing kit by one for this number of time periods, which begin
    /// with one of the two that are published now.
    pub fn write_kit(&self, first: Published, periods: u32) -> Result<()> {
        let key = MasterKey::from_tor_secret_key_file(&fs::read(self.key.dir.join("hs_ed25519_secret_key"))?)?;
        let calendar = PeriodCalendar::testing(PERIOD_MINUTES.into());
        let [older, newer] = calendar.published_at(now());
        let first = match first {
            Published::Older => older,
            Published::Newer => newer,
        };
        let first = first.context("the clock is before the first time period")?;
        let kit = Kit::issue(&key, calendar, first.number, periods)?;
        let folder = self.kits.as_ref().context("the publisher has the master key")?;
        Ok(fs::write(folder.join("signing.kit"), kit.to_bytes().as_slice())?)
    }

    /// Restarts the publisher like [`Self::restrict`]. From now on, the publisher probes port 80 of
    /// the address every ten seconds with an HTTP request.
    pub async fn probe(&mut self, clients: &[ClientPublicKey]) -> Result<()> {
        self.probes = true;
        self.restrict(clients).await
    }

    pub(super) fn start_publisher(&self, clients: &[ClientPublicKey]) -> Result<String> {
        let dir = self.path("frontend");
        let [probes, metrics] = free_ports(self.host)?;
        let mut publisher = fixed_publisher(&dir);
        publisher.arg("--master-key-dir").arg(self.kits.as_ref().unwrap_or(&self.key.dir));
        publisher.args(["--pod-uid", "uid-of-frontend", "--listen-address", self.host]);
        publisher.args(["--probe-port", &probes, "--metrics-port", &metrics]);
        publisher.args(["--circuits-port", &CIRCUITS_PORT.to_string()]);
        for backend in self.static_backends() {
            publisher.arg("--static-backend").arg(backend);
        }
        if self.probes {
            publisher.args(["--static-probe", "10"]);
        }
        for client in clients {
            publisher.arg("--static-client").arg(client.to_string());
        }
        for address in &self.external {
            publisher.arg("--static-external").arg(address);
        }
        self.processes.start("frontend-publisher", &mut publisher)?;
        Ok(format!("{}:{metrics}", self.host))
    }

    /// Returns the operator's torrc for a component. The lines for this network are set in the way
    /// in which users set lines for every tor of a cluster. `MetricsPort` is left out, because all
    /// tors share this machine's loopback address.
    fn torrc(&self, component: &str, dir: &Path, ports: &[ForwardedPort]) -> Result<String> {
        let key = &MasterKey::from_tor_secret_key_file(&fs::read(self.key.dir.join("hs_ed25519_secret_key"))?)?;
        let global = &format!("{}SafeLogging 0\n{}", self.network_torrc, self.bridge);
        let Features { backends, anonymity, .. } = &self.features;
        let service = Service { key, ports, backends, anonymity, global };
        let torrc = service.torrc(component, dir)?;
        let lines = torrc.lines().filter(|line| !line.starts_with("MetricsPort"));
        Ok(lines.flat_map(|line| [line, "\n"]).collect())
    }

    fn start_tor(&self, name: &str, dir: &Path, torrc: &str) -> Result<()> {
        fs::write(dir.join("torrc"), torrc)?;
        self.run_tor(name, dir)
    }

    pub(super) fn run_tor(&self, name: &str, dir: &Path) -> Result<()> {
        let mut tor = Command::new("tor");
        tor.arg("-f").arg(dir.join("torrc")).arg("--defaults-torrc").arg(dir.join("run/empty"));
        self.processes.start(name, &mut tor)
    }
}

/// Returns a port for rendering the torrc of a frontend, which has no ports.
fn unused_port() -> ForwardedPort {
    let target = "127.0.0.1:1".to_owned();
    ForwardedPort {
        name: None,
        port: 80,
        target,
        proxy_header: false,
        idle_timeout_seconds: None,
        check: TargetCheck::default(),
    }
}

/// Returns the listen address of a backend's agent. Each agent has its own loopback address, just
/// as each pod has its own address.
pub fn backend_address(number: usize) -> String {
    format!("127.0.77.{}", number + 1)
}

/// Returns the command that runs our program with its folders under `dir`.
fn program(subcommand: &[&str], dir: &Path) -> Result<Command> {
    let program = Path::new(env!("CARGO_BIN_EXE_e2e")).with_file_name("onionbalance-operator");
    let program =
        program.canonicalize().with_context(|| format!("{}: run cargo build --workspace --bins", program.display()))?;
    Ok(in_folders(&program, subcommand, dir))
}

/// Returns the command that runs the publisher without Kubernetes, with its folders under `dir`.
fn fixed_publisher(dir: &Path) -> Command {
    in_folders(Path::new(env!("CARGO_BIN_EXE_fixed-publisher")), &[], dir)
}

fn in_folders(program: &Path, subcommand: &[&str], dir: &Path) -> Command {
    // Kill the program when this process ends, even if this process is itself killed.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args(subcommand)
        .arg("--run-dir")
        .arg(dir.join("run"))
        .arg("--tor-data-dir")
        .arg(dir.join("data"))
        .arg("--vanguards-dir")
        .arg(dir.join("vanguards"));
    // Log at the most verbose level of our own code, because no secret may appear at any level.
    command.env("RUST_LOG", "debug,onionbalance_operator=trace,hyper=info");
    command
}

fn free_ports(host: &str) -> Result<[String; 2]> {
    let listeners = [(); 2].map(|()| TcpListener::bind((host, 0)));
    let mut ports = [const { String::new() }; 2];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port().to_string();
    }
    Ok(ports)
}
