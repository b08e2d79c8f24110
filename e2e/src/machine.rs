//! Checks that this machine can run the cluster or a private Tor network, and reports how to fix
//! any problem.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::command::{command, output};

/// The programs that a private Tor network needs.
pub const TOR_PROGRAMS: [&str; 2] = ["tor", "tor-gencert"];

/// The programs that the node needs, in addition to the network plugins in [`CNI_PLUGINS`].
pub const CLUSTER_PROGRAMS: [&str; 13] = [
    "etcd",
    "containerd",
    "runc",
    "ctr",
    "iptables",
    "conntrack",
    "ip",
    "nsenter",
    "unshare",
    "tini",
    "openssl",
    "kubectl",
    "find",
];

/// The folder into which Debian's package installs the container network plugins.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";

/// Checks that this machine can run the node. The error lists every problem together with its
/// remedy.
pub async fn check_cluster() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("containers, namespaces and routes need root privileges; run this as root or with sudo");
    }
    let mut missing = missing_programs(&[&TOR_PROGRAMS[..], &CLUSTER_PROGRAMS[..]].concat());
    if !Path::new(CNI_PLUGINS).join("bridge").exists() {
        missing.push("the container network plugins".to_owned());
    }
    if !missing.is_empty() {
        bail!("not installed: {}; run e2e/setup/packages.sh cluster to install them", missing.join(", "));
    }
    let mut faults = Vec::new();
    let namespaces = ["--mount", "--net", "--pid", "--uts", "--fork", "--mount-proc", "true"];
    if let Err(error) = output(&mut command("unshare", namespaces)).await {
        faults.push(format!(
            "could not create namespaces ({}); if this is a container, start it with --privileged",
            error.to_string().lines().last().unwrap_or_default()
        ));
    }
    if faults.is_empty() {
        if let Err(error) = output(&mut command("unshare", ["--net", "iptables", "-t", "nat", "-S"])).await {
            faults.push(format!(
                "iptables does not work ({}); load the kernel's ip_tables or nf_tables modules",
                last_line(&error)
            ));
        }
        let bridge = ["--net", "ip", "link", "add", "pods", "type", "bridge"];
        if let Err(error) = output(&mut command("unshare", bridge)).await {
            faults.push(format!(
                "could not create a network bridge ({}); load the kernel's bridge module",
                last_line(&error)
            ));
        }
        let cable = ["--net", "ip", "link", "add", "here", "type", "veth", "peer", "name", "there"];
        if let Err(error) = output(&mut command("unshare", cable)).await {
            faults.push(format!("could not create a veth pair ({}); load the kernel's veth module", last_line(&error)));
        }
    }
    faults.extend(cgroup_fault());
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("this machine cannot run the cluster:\n  - {}", faults.join("\n  - "))
    }
}

/// Checks that this machine can run a private Tor network.
pub fn check_tor() -> Result<()> {
    let missing = missing_programs(&TOR_PROGRAMS);
    if missing.is_empty() {
        Ok(())
    } else {
        bail!("not installed: {}; run e2e/setup/packages.sh tor to install them", missing.join(", "))
    }
}

fn missing_programs(programs: &[&str]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &&&str| !std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    programs.iter().filter(found).map(|name| (*name).to_owned()).collect()
}

fn cgroup_fault() -> Option<String> {
    let root = Path::new("/sys/fs/cgroup");
    let unified = fs::read_to_string(root.join("cgroup.controllers")).ok();
    let available = |name: &&str| match &unified {
        Some(controllers) => controllers.split_whitespace().any(|controller| controller == *name),
        None => root.join(name).exists(),
    };
    let missing: Vec<_> = ["cpu", "memory", "pids"].into_iter().filter(|name| !available(name)).collect();
    if !missing.is_empty() {
        return Some(format!(
            "the cgroup controllers {} are missing under /sys/fs/cgroup; mount them, or start the container with --privileged",
            missing.join(", ")
        ));
    }
    let probe = root.join(if unified.is_some() { "" } else { "memory" });
    let read_only = rustix::fs::access(&probe, rustix::fs::Access::WRITE_OK).err()?;
    Some(format!("{} is not writable ({read_only}); start the container with --privileged", probe.display()))
}

fn last_line(error: &anyhow::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().to_owned()
}
