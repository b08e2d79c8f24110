//! The processes and files of the stand-alone test.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::command::{command, output};
use onionbalance_e2e::machine;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::state::source_tree;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::tornet::torrc::PERIOD_MINUTES;
use onionbalance_e2e::tornet::{Place, Tor, TorNetwork, make_private_dir};
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use crate::{OF_PYTHONS, SHARED, target};

pub const DAEMON: &str = "daemon";
/// The daemon of the owner of the master key, while [`DAEMON`] runs with stolen kits.
const OWNER: &str = "owner";
const PYTHON: &str = "python";
const PASSWORD: &str = "a password with \"quotes\"";

/// An onion service: its master address and the file of its key.
pub struct OnionService {
    pub master: String,
    key: PathBuf,
}

/// The way in which the daemon connects to its tor and authenticates.
#[derive(Clone, Copy)]
pub enum ControlAuth {
    /// The control port of the first tor process, with a password.
    Password,
    /// The control port of the second tor process, with the cookie.
    Cookie,
    /// The control socket of the second tor process, which takes precedence over a port.
    Socket,
}

pub struct Setup {
    /// The service from Python's generator, with a PEM key.
    pub pythons: OnionService,
    /// The service from our generator, with a key in Tor's format.
    pub ours: OnionService,
    instances: Vec<String>,
    processes: Processes,
    network_torrc: String,
    clients: AtomicU32,
    /// The two control ports: the first requires the password, the second the cookie.
    ports: [String; 2],
    python: PathBuf,
    dir: Option<TempDir>,
    root: PathBuf,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.processes.kill_all();
    }
}

/// Puts the key of an authority into the folder of a network that does not exist yet, as a start of
/// the network does that is interrupted.
fn leave_key_behind(network: &Path) -> Result<()> {
    let keys = network.join("authority0/data/keys");
    make_private_dir(&keys)?;
    Ok(fs::write(keys.join("authority_identity_key"), "")?)
}

impl Setup {
    /// Starts the network, the instances and the frontend's two tor processes, and generates the
    /// keys.
    pub async fn start() -> Result<Self> {
        machine::check_tor()?;
        let python = python().await?;
        let dir = tempfile::tempdir()?;
        let root = dir.path().to_owned();
        let processes = Processes::open(&root)?;
        let folder = root.join("network");
        leave_key_behind(&folder)?;
        let network = TorNetwork::open(&folder, Place::Loopback, &processes);
        network.up_completely().await?;
        let none = || OnionService { master: String::new(), key: PathBuf::new() };
        let mut setup = Self {
            pythons: none(),
            ours: none(),
            instances: Vec::new(),
            network_torrc: network.torrc_lines()?,
            processes,
            clients: AtomicU32::new(0),
            ports: free_ports()?,
            python,
            dir: Some(dir),
            root,
        };
        setup.pythons = setup.python_service().await?;
        setup.ours = setup.our_service().await?;
        for number in 0..=SHARED {
            let (pythons, ours) = (setup.pythons.master.clone(), setup.ours.master.clone());
            let masters = match number {
                SHARED => vec![pythons, ours],
                _ if OF_PYTHONS.contains(&number) => vec![pythons],
                _ => vec![ours],
            };
            let address = setup.start_instance(number, &masters).await?;
            setup.instances.push(address);
        }
        setup.fill_in_pythons_config()?;
        setup.start_frontend_tors().await?;
        Ok(setup)
    }

    /// Runs `onionbalance-config` as its users do.
    async fn python_service(&self) -> Result<OnionService> {
        let mut generate = Command::new(self.python.with_file_name("onionbalance-config"));
        generate.args(["-n", "2", "--output"]).arg(self.root.join("python"));
        output(&mut generate.into()).await?;
        service_in(&self.root.join("python"))
    }

    /// Runs `config generate` with a key in Tor's format.
    async fn our_service(&self) -> Result<OnionService> {
        let hidden_service = self.root.join("hidden_service");
        let mut key = Command::new(plugin()?);
        key.args(["key", "generate", "--output"]).arg(&hidden_service);
        output(&mut key.into()).await?;
        let mut generate = Command::new(plugin()?);
        generate.args(["config", "generate", "-n", "2", "--key"]).arg(hidden_service.join("hs_ed25519_secret_key"));
        generate.arg("--output").arg(self.root.join("ours"));
        output(&mut generate.into()).await?;
        let service = service_in(&self.root.join("ours"))?;
        ensure!(fs::read(&service.key)?.starts_with(b"== ed25519v1-secret"), "the key must stay in Tor's format");
        Ok(service)
    }

    /// Starts a stock tor that is set up according to the instructions of both generators. It is an
    /// instance of all the given master addresses.
    async fn start_instance(&self, number: usize, masters: &[String]) -> Result<String> {
        let dir = self.root.join(format!("instance{number}"));
        let service = dir.join("hs");
        make_private_dir(&service)?;
        let lines: Vec<_> = masters.iter().map(|master| format!("MasterOnionAddress {master}\n")).collect();
        fs::write(service.join("ob_config"), lines.concat())?;
        let torrc = format!(
            "SocksPort 0\nHiddenServiceDir {}\nHiddenServicePort 80 {}\nHiddenServiceOnionBalanceInstance 1\n",
            service.display(),
            target::serve(number).await?
        );
        let tor = Tor::open(&self.processes, &format!("instance{number}"), &dir);
        tor.start(Command::new("tor"), &(self.network_torrc.clone() + &torrc))?;
        tor.wait_bootstrapped().await?;
        Ok(fs::read_to_string(service.join("hostname"))?.trim().to_owned())
    }

    /// Fills in the instance addresses that Python's generator leaves to the user. Everything else
    /// stays unchanged.
    fn fill_in_pythons_config(&self) -> Result<()> {
        let mut text = fs::read_to_string(self.python_config())?;
        for number in OF_PYTHONS {
            text = text.replacen("<Enter the instance onion address here>", &self.instances[number], 1);
        }
        writeln!(text, "status-socket-location: {}", self.status_socket().display())?;
        Ok(fs::write(self.python_config(), text)?)
    }

    /// Starts the frontend's two tor processes. The first starts dormant, like a tor that has not
    /// been used for a day, so the daemon must wake it.
    async fn start_frontend_tors(&self) -> Result<()> {
        let hash = output(&mut command("tor", ["--quiet", "--hash-password", PASSWORD])).await?;
        let hash = hash.lines().last().context("tor printed no password hash")?;
        let [password, cookie] = &self.ports;
        self.start_frontend_tor(
            0,
            &format!(
                "ControlPort 127.0.0.1:{password}\nCookieAuthentication 0\nHashedControlPassword {hash}\n\
                 DormantOnFirstStartup 1\n"
            ),
        )?;
        self.start_frontend_tor(1, &format!("ControlPort 127.0.0.1:{cookie}\n"))?.wait_bootstrapped().await
    }

    fn start_frontend_tor(&self, number: usize, torrc: &str) -> Result<Tor> {
        let name = format!("frontend{number}");
        let tor = Tor::open(&self.processes, &name, &self.root.join(&name));
        tor.start(Command::new("tor"), &format!("{}SocksPort 0\n{torrc}", self.network_torrc))?;
        Ok(tor)
    }

    /// Kills the second tor process while the daemon is running, and starts it again.
    pub async fn replace_tor(&self) -> Result<()> {
        self.processes.kill("frontend1").await?;
        self.start_frontend_tor(1, "")?;
        Ok(())
    }

    pub fn python_config(&self) -> PathBuf {
        self.root.join("python/config.yaml")
    }

    /// Writes a configuration with the given services and instances to a file next to Python's
    /// configuration.
    pub fn write_config(&self, services: &[(&OnionService, &[usize])]) -> Result<PathBuf> {
        self.write_config_to("config.yaml", services)
    }

    fn write_config_to(&self, name: &str, services: &[(&OnionService, &[usize])]) -> Result<PathBuf> {
        let services: Vec<Value> = services
            .iter()
            .map(|(service, instances)| {
                let instance =
                    |number: &usize| json!({"address": self.instances[*number], "name": format!("node{number}")});
                json!({"key": service.key, "instances": instances.iter().map(instance).collect::<Vec<_>>()})
            })
            .collect();
        let file = self.root.join(name);
        fs::write(&file, json!({"services": services, "status-socket-location": self.status_socket()}).to_string())?;
        Ok(file)
    }

    /// Returns the service with signing kits instead of its master key, for this number of time
    /// periods.
    pub async fn delegate(&self, service: &OnionService, periods: u32) -> Result<OnionService> {
        let kits = self.root.join("kits");
        make_private_dir(&kits)?;
        let mut delegate = Command::new(plugin()?);
        delegate.args(["key", "delegate"]).arg(&service.key).arg("--output").arg(kits.join("web.kit"));
        delegate.args(["--testing", &PERIOD_MINUTES.to_string(), &periods.to_string()]);
        output(&mut delegate.into()).await?;
        Ok(OnionService { master: service.master.clone(), key: kits })
    }

    pub fn status_socket(&self) -> PathBuf {
        self.root.join("status")
    }

    pub fn start_daemon(&self, config: &Path, auth: ControlAuth) -> Result<()> {
        self.processes.start(DAEMON, &mut self.daemon(config, auth)?)
    }

    /// Starts a second daemon with a tor of its own, which outruns the first one.
    pub fn start_owner(&self, service: &OnionService, instances: &[usize]) -> Result<()> {
        let config = self.write_config_to("owner.yaml", &[(service, instances)])?;
        let mut daemon = self.daemon(&config, ControlAuth::Password)?;
        self.processes.start(OWNER, daemon.arg("--outrun"))
    }

    fn daemon(&self, config: &Path, auth: ControlAuth) -> Result<Command> {
        let mut daemon = bound_command(&built("onionbalance")?);
        daemon.arg("--config").arg(config).args(["--is-testnet", "-i", "127.0.0.1"]);
        let [with_password, with_cookie] = &self.ports;
        let (socket, port) = match auth {
            ControlAuth::Password => ("no-such-socket", with_password),
            ControlAuth::Cookie => ("no-such-socket", with_cookie),
            // The tor at this port would reject the daemon, so the socket must take precedence.
            ControlAuth::Socket => ("frontend1/control", with_password),
        };
        daemon.arg("-s").arg(self.root.join(socket)).args(["-p", port]);
        daemon.env("RUST_LOG", "debug");
        if matches!(auth, ControlAuth::Password) {
            daemon.env("ONIONBALANCE_TOR_CONTROL_PASSWORD", PASSWORD);
        }
        Ok(daemon)
    }

    /// Sends SIGTERM and waits until the daemon has ended by itself.
    pub async fn stop_daemon(&self) -> Result<()> {
        self.signal_daemon(Signal::TERM)?;
        until("the daemon has ended", Duration::from_secs(4), async || {
            Ok(if self.processes.is_alive(DAEMON) { Seen::not_yet("it is still running") } else { Seen::Yes(()) })
        })
        .await
    }

    pub fn signal_daemon(&self, signal: Signal) -> Result<()> {
        self.processes.check(DAEMON)?;
        self.processes.signal(DAEMON, signal)
    }

    pub async fn wait_daemon_logs(&self, words: &str) -> Result<()> {
        until(&format!("the daemon logs {words:?}"), Duration::from_secs(10), async || {
            self.processes.check(DAEMON)?;
            let log = fs::read_to_string(self.processes.log(DAEMON))?;
            Ok(if log.contains(words) { Seen::Yes(()) } else { Seen::not_yet("it has not logged them yet") })
        })
        .await
    }

    /// Returns the number of lines with the given words in the log of all daemons so far.
    pub fn times_logged(&self, words: &str) -> Result<usize> {
        Ok(self.processes.logged(DAEMON, words)?.len())
    }

    /// Returns the onion address of an instance.
    pub fn instance(&self, number: usize) -> &str {
        &self.instances[number]
    }

    /// Starts Python Onionbalance, which does not support passwords.
    pub fn start_python(&self) -> Result<()> {
        let mut python = bound_command(&self.python.with_file_name("onionbalance"));
        python.arg("--config").arg(self.python_config()).args(["--is-testnet", "-v", "debug"]);
        python.arg("-s").arg(self.root.join("frontend1/control"));
        self.processes.start(PYTHON, &mut python)
    }

    pub async fn stop_python(&self) -> Result<()> {
        self.processes.stop(PYTHON).await
    }

    pub async fn status(&self) -> Result<Value> {
        let mut text = String::new();
        UnixStream::connect(self.status_socket()).await?.read_to_string(&mut text).await?;
        Ok(serde_json::from_str(&text)?)
    }

    pub async fn client(&self) -> Result<TorClient> {
        let name = format!("client{}", self.clients.fetch_add(1, Ordering::Relaxed));
        TorClient::fresh(&self.processes, &name, &self.root.join(&name), &self.network_torrc, None).await
    }

    pub fn check(&self, name: &str) -> Result<()> {
        self.processes.check(name)
    }

    /// Ends the scenario with the given outcome. If it failed, its files are kept for inspection.
    pub fn end(mut self, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() {
            let dir = self.dir.take().map(TempDir::keep).unwrap_or_default();
            eprintln!("the files of the failed test are in {}", dir.display());
        }
        outcome
    }
}

/// Finds the only key in the folder of a generated configuration, and returns the service that the
/// key belongs to.
fn service_in(dir: &Path) -> Result<OnionService> {
    let files = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    let mut keys = files.iter().map(fs::DirEntry::path).filter(|path| path.extension().is_some_and(|end| end == "key"));
    let key = keys.next().context("the folder has no <address>.key")?;
    let name = key.file_stem().context("the key file has no name")?.to_string_lossy().into_owned();
    Ok(OnionService { master: format!("{name}.onion"), key })
}

/// Returns the interpreter of an environment with Python Onionbalance.
pub async fn python() -> Result<PathBuf> {
    let script = source_tree().join("e2e/setup/python-onionbalance.sh");
    Ok(output(&mut command(&script.display().to_string(), [""; 0])).await?.trim().into())
}

/// Returns the path of the program with the commands `key` and `config`.
pub fn plugin() -> Result<PathBuf> {
    built("kubectl-onionbalance")
}

/// Returns the path of one of our programs.
pub fn built(name: &str) -> Result<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_e2e")).with_file_name(name);
    program.canonicalize().with_context(|| format!("could not find {}; run cargo build first", program.display()))
}

/// Returns a command that runs a program and kills it when this process ends, even if this process
/// is itself killed.
pub fn bound_command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    // The daemon refuses to run in a pod, but the tests may.
    command.env_remove("KUBERNETES_SERVICE_HOST");
    command
}

fn free_ports() -> Result<[String; 2]> {
    let [a, b] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0"));
    Ok([a?.local_addr()?.port().to_string(), b?.local_addr()?.port().to_string()])
}
