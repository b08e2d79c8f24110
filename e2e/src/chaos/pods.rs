//! Processes and links of pods, as this machine sees them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{command, output};
use crate::node::Node;

/// A program in our pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The tor.
    Tor,
    /// The agent or the publisher.
    Ours,
}

impl Program {
    /// As `/proc/PID/comm` has it: at most 15 characters.
    fn comm(self) -> &'static str {
        match self {
            Self::Tor => "tor",
            Self::Ours => "onionbalance-op",
        }
    }
}

/// Sends a signal to a pod's processes of these programs. Fails when one of the programs does not run.
pub fn signal(pod_uid: &str, programs: &[Program], signal: Signal) -> Result<()> {
    for program in programs {
        let processes = processes(pod_uid, *program)?;
        ensure!(!processes.is_empty(), "no {} runs in pod {pod_uid}", program.comm());
        for process in processes {
            kill_process(process, signal).with_context(|| format!("send a signal to {}", program.comm()))?;
        }
    }
    Ok(())
}

/// Has a pod's stopped processes of these programs go on. One that a liveness probe has killed in the meantime is not there.
pub fn thaw(pod_uid: &str, programs: &[Program]) -> Result<()> {
    for program in programs {
        for process in processes(pod_uid, *program)? {
            match kill_process(process, Signal::CONT) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("thaw {}", program.comm())),
            }
        }
    }
    Ok(())
}

/// The kubelet names a pod's cgroup by its UID.
fn processes(pod_uid: &str, program: Program) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // It may end while it is looked at.
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if read("comm").trim_end() == program.comm() && read("cgroup").contains(pod_uid) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A pod's link to the node's bridge, by the name of the node's end.
#[derive(Debug, Clone)]
pub struct Link {
    node: Node,
    name: String,
}

impl Link {
    /// Finds it.
    pub async fn of(node: &Node, pod_uid: &str) -> Result<Self> {
        let process = *processes(pod_uid, Program::Ours)?.first().context("the pod runs none of our programs")?;
        let target = format!("--target={}", process.as_raw_nonzero());
        let inside = output(&mut command("nsenter", [&target, "--net", "ip", "-o", "link", "show", "eth0"])).await?;
        // `2: eth0@if7: <…`: the other end has number 7.
        let number = inside.split("@if").nth(1).and_then(|rest| rest.split(':').next());
        let number = number.with_context(|| format!("no other end in {inside:?}"))?;
        let mut ip = node.on_network("ip")?;
        ip.args(["-o", "link", "show"]);
        let all = output(&mut ip.into()).await?;
        let line = all.lines().find(|line| line.starts_with(&format!("{number}: ")));
        let name =
            line.and_then(|line| line.split([' ', '@']).nth(1)).with_context(|| format!("no {number} in {all}"))?;
        Ok(Self { node: node.clone(), name: name.to_owned() })
    }

    /// Cuts it: packets vanish both ways.
    pub async fn cut(&self) -> Result<()> {
        self.set("down").await
    }

    /// Mends it.
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
