//! Signals the processes of pods and cuts their network links, directly from this machine.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{command, output};
use crate::node::Node;

/// A program that runs in our pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodProgram {
    /// The tor of a backend or frontend.
    Tor,
    /// The agent of a backend or the publisher of a frontend.
    Ours,
}

impl PodProgram {
    /// Returns the name in `/proc/PID/comm`, which the kernel truncates to 15 characters.
    fn comm(self) -> &'static str {
        match self {
            Self::Tor => "tor",
            Self::Ours => "onionbalance-op",
        }
    }
}

/// Sends a signal to the processes of the given programs in a pod. Returns an error if one of the
/// programs is not running.
pub fn signal(pod_uid: &str, programs: &[PodProgram], signal: Signal) -> Result<()> {
    for program in programs {
        let processes = processes(pod_uid, *program)?;
        ensure!(!processes.is_empty(), "no {} is running in pod {pod_uid}", program.comm());
        for process in processes {
            kill_process(process, signal).with_context(|| format!("could not send a signal to {}", program.comm()))?;
        }
    }
    Ok(())
}

/// Resumes the stopped processes of the given programs in a pod. Skips processes that a liveness
/// probe has killed in the meantime.
pub fn resume(pod_uid: &str, programs: &[PodProgram]) -> Result<()> {
    for program in programs {
        for process in processes(pod_uid, *program)? {
            match kill_process(process, Signal::CONT) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("could not resume {}", program.comm())),
            }
        }
    }
    Ok(())
}

/// Returns the processes of one program in a pod. The kubelet names a pod's cgroup after its UID.
pub fn processes(pod_uid: &str, program: PodProgram) -> Result<Vec<Pid>> {
    let all = all_processes(program)?.into_iter();
    Ok(all.filter(|(_, cgroup)| cgroup.contains(pod_uid)).map(|(process, _)| process).collect())
}

/// Returns the processes of one program in all pods and outside of them, each with its cgroup.
pub fn all_processes(program: PodProgram) -> Result<Vec<(Pid, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // The process may end while its files are being read.
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if read("comm").trim_end() == program.comm() {
            found.push((pid, read("cgroup")));
        }
    }
    Ok(found)
}

/// A pod's link to the node's bridge, identified by the name of its interface on the node.
#[derive(Debug, Clone)]
pub struct Link {
    node: Node,
    name: String,
}

impl Link {
    /// Finds the network link of the pod with the given UID.
    pub async fn of(node: &Node, pod_uid: &str) -> Result<Self> {
        let process =
            *processes(pod_uid, PodProgram::Ours)?.first().context("none of our programs is running in the pod")?;
        let target = format!("--target={}", process.as_raw_nonzero());
        let inside = output(&mut command("nsenter", [&target, "--net", "ip", "-o", "link", "show", "eth0"])).await?;
        // In `2: eth0@if7: <…`, the other end of the link has the number 7.
        let number = inside.split("@if").nth(1).and_then(|rest| rest.split(':').next());
        let number = number.with_context(|| format!("the link has no other end: {inside:?}"))?;
        let mut ip = node.on_network("ip")?;
        ip.args(["-o", "link", "show"]);
        let all = output(&mut ip.into()).await?;
        let line = all.lines().find(|line| line.starts_with(&format!("{number}: ")));
        let name = line
            .and_then(|line| line.split([' ', '@']).nth(1))
            .with_context(|| format!("no link has the number {number}: {all}"))?;
        Ok(Self { node: node.clone(), name: name.to_owned() })
    }

    /// Takes the link down, so that packets are lost in both directions.
    pub async fn cut(&self) -> Result<()> {
        self.set("down").await
    }

    /// Brings the link up again.
    pub async fn mend(&self) -> Result<()> {
        self.set("up").await
    }

    async fn set(&self, state: &str) -> Result<()> {
        let mut ip = self.node.on_network("ip")?;
        ip.args(["link", "set", &self.name, state]);
        output(&mut ip.into()).await?;
        Ok(())
    }
}

/// The way of packets from one pod to the web server behind both services.
#[derive(Debug, Clone)]
pub struct WayToApp {
    node: Node,
    pod: String,
    /// The address and the port of the web server.
    app: (String, String),
}

impl WayToApp {
    /// Finds the way from a pod's address to the web server at `target` (`address:port`).
    pub fn new(node: &Node, pod: &str, target: &str) -> Result<Self> {
        let (address, port) = target.rsplit_once(':').context("the web server has no port")?;
        Ok(Self { node: node.clone(), pod: pod.to_owned(), app: (address.to_owned(), port.to_owned()) })
    }

    /// Makes the node drop the packets on this way, without telling the pod.
    pub async fn cut(&self) -> Result<()> {
        self.rule("add").await
    }

    /// Makes the node forward the packets again.
    pub async fn mend(&self) -> Result<()> {
        self.rule("del").await
    }

    async fn rule(&self, what: &str) -> Result<()> {
        let mut ip = self.node.on_network("ip")?;
        let (address, port) = &self.app;
        ip.args(["rule", what, "from", &self.pod, "to", address, "ipproto", "tcp", "dport", port, "blackhole"]);
        output(&mut ip.into()).await?;
        Ok(())
    }
}
