//! Starts publishers as processes, each of which connects to its own control socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::tornet::make_private_dir;

/// The folders that a publisher uses.
#[derive(Debug, Clone)]
pub struct PublisherDir {
    /// The folder for sockets, data and configuration.
    pub dir: PathBuf,
    /// The folder that holds the master key in tor's format.
    pub key: PathBuf,
}

impl PublisherDir {
    /// Creates the folder of a publisher.
    pub fn make(dir: PathBuf, key: PathBuf) -> Result<Self> {
        make_private_dir(&dir.join("run/control"))?;
        Ok(Self { dir, key })
    }

    /// Returns the path of the control socket of the publisher's tor.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("run/control/socket")
    }

    /// Starts Python Onionbalance with the given instances. Returns its process ID.
    pub fn start_python(
        &self,
        processes: &Processes,
        python: &Path,
        instances: &[String],
        testing: bool,
    ) -> Result<u32> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(python.with_file_name("onionbalance"));
        command.arg("--config").arg(self.config(instances)?).arg("--socket").arg(self.control_socket());
        if testing {
            command.arg("--is-testnet");
        }
        processes.start("python", &mut command)?;
        pid(processes, "python")
    }

    /// Starts our stand-alone daemon with the given instances. Returns its process ID.
    pub fn start_daemon(&self, processes: &Processes, instances: &[String]) -> Result<u32> {
        let mut command = program()?;
        command.args(["frontend", "--config"]).arg(self.config(instances)?);
        command.arg("--socket").arg(self.control_socket());
        processes.start("daemon", &mut command)?;
        pid(processes, "daemon")
    }

    /// Starts our publisher without Kubernetes, with the given agents (`uid@host:port`), and with
    /// its probes, its metrics and the app's API on the given ports of 127.0.0.1. Without a port
    /// for the app's API, it does not serve this API. Returns its process ID.
    pub fn start_publisher(
        &self,
        processes: &Processes,
        agents: &[String],
        [probes, metrics]: [u16; 2],
        circuits: Option<u16>,
    ) -> Result<u32> {
        let mut command = built("fixed-publisher")?;
        // At this level, the log names each upload that an HSDir has accepted.
        command.env("RUST_LOG", "info,onionbalance_operator::frontend::driver=debug");
        command.args(["--pod-uid", "bench", "--listen-address", "127.0.0.1"]);
        command.args(["--probe-port", &probes.to_string(), "--metrics-port", &metrics.to_string()]);
        command.args(circuits.map(|port| format!("--circuits-port={port}")));
        command.arg("--run-dir").arg(self.dir.join("run")).arg("--tor-data-dir").arg(self.dir.join("data"));
        command.arg("--master-key-dir").arg(&self.key);
        for agent in agents {
            command.args(["--static-backend", agent]);
        }
        processes.start("publisher", &mut command)?;
        pid(processes, "publisher")
    }

    /// Writes the configuration file, which has the same format for both daemons.
    fn config(&self, instances: &[String]) -> Result<PathBuf> {
        let addresses: Vec<String> = instances.iter().map(|address| format!("  - address: {address}\n")).collect();
        let key = self.key.join("hs_ed25519_secret_key");
        let config = self.dir.join("config.yaml");
        fs::write(&config, format!("services:\n- key: {}\n  instances:\n{}", key.display(), addresses.concat()))?;
        Ok(config)
    }
}

/// Returns a command that runs our program, which must be in the same folder as the current
/// program.
pub fn program() -> Result<Command> {
    built("onionbalance-operator")
}

fn built(name: &str) -> Result<Command> {
    let program = std::env::current_exe()?.with_file_name(name);
    let program = program
        .canonicalize()
        .with_context(|| format!("{}: run cargo build --release --workspace --bins", program.display()))?;
    // The kernel kills the program when this process ends for any reason.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    // The daemon refuses to run in a pod, but the benchmarks may.
    command.env_remove("KUBERNETES_SERVICE_HOST");
    Ok(command)
}

fn pid(processes: &Processes, name: &str) -> Result<u32> {
    let pid = processes.pid(name).with_context(|| format!("{name} ended immediately"))?;
    Ok(u32::try_from(pid)?)
}
