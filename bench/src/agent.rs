//! An agent that runs as in a backend pod, but without its own tor.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use onionbalance_e2e::command::output;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::tornet::make_private_dir;
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::link::{AgentConfig, ForwardedPort, TargetCheck};
use tokio::net::UnixStream;

use crate::publisher::program;

/// The name of the agent's process.
pub const NAME: &str = "agent";

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    run: PathBuf,
    /// The process ID.
    pub pid: u32,
    /// The ports of the API, of the probes and of the metrics, on 127.0.0.1.
    pub listeners: [u16; 3],
}

impl Agent {
    /// Starts an agent that forwards each onion port to a target (`host:port`), and waits until the
    /// agent accepts streams.
    pub async fn start(processes: &Processes, dir: &Path, master: &str, targets: &[(u16, &str)]) -> Result<Self> {
        let dir = dir.join("agent");
        make_private_dir(&dir)?;
        let port = |(port, target): &(u16, &str)| ForwardedPort {
            name: None,
            port: *port,
            target: (*target).to_owned(),
            proxy_header: false,
            idle_timeout_seconds: None,
            check: TargetCheck::default(),
        };
        let config = AgentConfig {
            master_onion_address: master.parse()?,
            ports: targets.iter().map(port).collect(),
            introduction_points: 3,
            drain_timeout_seconds: 1,
            linger_seconds: 1,
            circuit_limits: None,
        };
        let (config_file, token_file, run) = (dir.join("agent.yaml"), dir.join("token"), dir.join("run"));
        fs::write(&config_file, config.to_yaml()?)?;
        fs::write(&token_file, "00".repeat(32))?;
        let folders = |command: &mut Command| {
            command.arg("--config").arg(&config_file).arg("--run-dir").arg(&run);
            command.arg("--tor-data-dir").arg(dir.join("data"));
        };
        let mut init = program()?;
        folders(init.args(["backend", "init"]));
        output(&mut init.into()).await?;
        let listeners = free_ports()?;
        let mut agent = program()?;
        folders(agent.args(["backend", "--pod-uid", "bench", "--listen-address", "127.0.0.1"]));
        for (flag, port) in ["--api-port", "--probe-port", "--metrics-port"].into_iter().zip(listeners) {
            agent.args([flag, &port.to_string()]);
        }
        processes.start(NAME, agent.arg("--token").arg(&token_file))?;
        let pid = u32::try_from(processes.pid(NAME).context("the agent ended immediately")?)?;
        let agent = Self { run, pid, listeners };
        let (first, _) = targets.first().context("the agent needs a port")?;
        until("the agent listens", Duration::from_secs(30), async || {
            processes.check(NAME)?;
            let taken = UnixStream::connect(agent.socket(*first)).await;
            Ok(taken.map_or_else(|error| Seen::not_yet(error.to_string()), |_| Seen::Yes(())))
        })
        .await?;
        Ok(agent)
    }

    /// Returns the unix socket on which the agent accepts the streams of an onion port.
    pub fn socket(&self, port: u16) -> PathBuf {
        self.run.join(format!("forward/{port}.sock"))
    }
}

/// Returns distinct ports on which nothing listens.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("0.0.0.0:0").context("no port is free")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
