//! Measurements of the programs while strangers open many connections and send half of a request
//! on each. Meanwhile, the programs must answer their probes, and the agent must forward streams.

mod flood;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::tornet::make_private_dir;
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::common::open_files;
use onionbalance_operator::onion::MasterKey;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use self::flood::{Streams, flood, probe};
use crate::agent::{self, Agent, free_ports};
use crate::forwarder::serve;
use crate::memory::resident;
use crate::publisher::{PublisherDir, program};
use crate::report::Report;

/// The onion port whose streams the agent forwards.
const FORWARDED: u16 = 80;
/// The pause before the resting memory use is measured.
const SETTLED: Duration = Duration::from_secs(5);
/// The maximum time to wait for the start of a program.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program under test.
struct Program {
    /// The name of the process, which the names of the program's own figures contain.
    name: &'static str,
    pid: u32,
    /// The ports of all listeners.
    listeners: Vec<u16>,
    /// The port of the probes.
    probes: u16,
}

/// Floods every listener of the agent, of the publisher and of the operator.
pub async fn measure(dir: &Path, report: &mut Report) -> Result<()> {
    // Each connection that a program has not closed yet takes an open file of this process.
    open_files::raise_limit();
    let processes = Processes::open(dir)?;
    let outcome = measure_with(&processes, dir, report).await;
    processes.kill_all();
    outcome
}

async fn measure_with(processes: &Processes, dir: &Path, report: &mut Report) -> Result<()> {
    let key = MasterKey::generate(&mut StdRng::from_seed([1; 32]));
    let target = serve().await?;
    let agent = Agent::start(processes, dir, &key.address().to_string(), &[(FORWARDED, &target)]).await?;
    let [_, probes, _] = agent.listeners;
    let mut streams = Streams::open(agent.socket(FORWARDED)).await?;
    let programs = [
        Program { name: agent::NAME, pid: agent.pid, listeners: agent.listeners.into(), probes },
        start_publisher(processes, dir, &key)?,
        start_operator(processes, dir)?,
    ];
    let mut slowest = Duration::ZERO;
    for program in &programs {
        let forwards = (program.pid == agent.pid).then_some(&mut streams);
        slowest = slowest.max(measure_program(processes, program, forwards, report).await?);
    }
    let peaks = programs.iter().map(|program| Ok(resident(program.pid)?.most)).collect::<Result<Vec<_>>>()?;
    report.figure("strangers_rss_mib", peaks.into_iter().fold(0.0, f64::max), "MiB");
    report.figure_ms("strangers_probe_ms", slowest);
    report.figure("strangers_streams_failed", f64::from(streams.failed), "");
    Ok(())
}

/// Floods the listeners of one program, and reports the figures of its memory use, its connections
/// and its log. Returns the time of the slowest probe.
async fn measure_program(
    processes: &Processes,
    program: &Program,
    mut streams: Option<&mut Streams>,
    report: &mut Report,
) -> Result<Duration> {
    let Program { name, pid, listeners, probes } = program;
    until(&format!("the {name} answers probes"), PATIENCE, async || {
        processes.check(name)?;
        Ok(probe(*probes).await.map_or_else(|error| Seen::not_yet(format!("{error:#}")), Seen::Yes))
    })
    .await?;
    sleep(SETTLED).await;
    let (rest, lines) = (resident(*pid)?.now, log_lines(processes, name)?);
    let (mut slowest, mut open) = (Duration::ZERO, 0);
    for port in listeners {
        let flooded = flood(*port, *probes, streams.as_deref_mut()).await?;
        (slowest, open) = (slowest.max(flooded.slowest), open.max(flooded.open));
        processes.check(name)?;
    }
    let (most, lines) = (resident(*pid)?.most, log_lines(processes, name)?.saturating_sub(lines));
    report.figure(&format!("strangers_{name}_rest_rss_mib"), rest, "MiB");
    report.figure(&format!("strangers_{name}_rss_mib"), most, "MiB");
    report.figure(&format!("strangers_{name}_rss_to_rest"), most / rest, "");
    report.figure(&format!("strangers_{name}_open"), f64::from(u32::try_from(open)?), "");
    report.figure(&format!("strangers_{name}_log_lines"), f64::from(u32::try_from(lines)?), "");
    Ok(slowest)
}

fn log_lines(processes: &Processes, name: &str) -> Result<usize> {
    Ok(String::from_utf8_lossy(&fs::read(processes.log(name))?).lines().count())
}

/// Starts a publisher without backends and without tor, which also serves the app's API.
fn start_publisher(processes: &Processes, dir: &Path, key: &MasterKey) -> Result<Program> {
    let key_dir = dir.join("master-key");
    make_private_dir(&key_dir)?;
    fs::write(key_dir.join("hs_ed25519_secret_key"), key.to_tor_secret_key_file())?;
    let listeners = free_ports()?;
    let [probes, metrics, circuits] = listeners;
    let publisher = PublisherDir::make(dir.join("publisher"), key_dir)?;
    let pid = publisher.start_publisher(processes, &[], [probes, metrics], Some(circuits))?;
    Ok(Program { name: "publisher", pid, listeners: listeners.into(), probes })
}

/// Starts an operator whose API server does not answer.
fn start_operator(processes: &Processes, dir: &Path) -> Result<Program> {
    const NAME: &str = "operator";
    let kubeconfig = dir.join("kubeconfig");
    let nowhere = "apiVersion: v1\nkind: Config\ncurrent-context: none\nusers: [{name: none, user: {}}]\n\
                   contexts: [{name: none, context: {cluster: none, user: none}}]\n\
                   clusters: [{name: none, cluster: {server: \"http://127.0.0.1:1\"}}]\n";
    fs::write(&kubeconfig, nowhere)?;
    let listeners: [u16; 2] = free_ports()?;
    let [probes, metrics] = listeners;
    let mut command = program()?;
    command.args(["operator", "--tor-image", "tor", "--operator-image", "operator", "--lease-name", ""]);
    command.args(["--probe-port", &probes.to_string(), "--metrics-port", &metrics.to_string()]);
    processes.start(NAME, command.env("KUBECONFIG", &kubeconfig))?;
    let pid = u32::try_from(processes.pid(NAME).context("the operator ended immediately")?)?;
    Ok(Program { name: NAME, pid, listeners: listeners.into(), probes })
}
