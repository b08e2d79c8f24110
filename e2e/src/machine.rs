//! Checks that this machine can run the cluster or a private Tor network, and reports how to fix
//! any problem. Describes the machine for reports of measurements.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::command::{command, output};

/// A program and its Debian package.
type Program = (&'static str, &'static str);

/// The programs that a private Tor network needs.
const TOR_PROGRAMS: [Program; 2] = [("tor", "tor"), ("tor-gencert", "tor")];

/// The programs that the node needs, in addition to the network plugins in [`CNI_PLUGINS`].
const CLUSTER_PROGRAMS: [Program; 13] = [
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("ctr", "containerd"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("tini", "tini"),
    ("openssl", "openssl"),
    ("kubectl", "kubernetes-client"),
    ("find", "findutils"),
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

fn missing_programs(programs: &[Program]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |(name, _): &&Program| !std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    programs.iter().filter(found).map(|(name, _)| (*name).to_owned()).collect()
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

/// Describes the system, the processors, the memory and the build, as in `Debian GNU/Linux 12
/// (bookworm), 2 × AMD EPYC, 24 GiB, release build`.
pub fn describe() -> Result<String> {
    let system = fs::read_to_string("/etc/os-release")?;
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let build = if cfg!(debug_assertions) { "debug build" } else { "release build" };
    Ok(format!("{}, {build}", description(&system, &processors, &memory)?))
}

/// Returns the description of a machine with the given `/etc/os-release`, `/proc/cpuinfo` and
/// `/proc/meminfo`.
fn description(system: &str, processors: &str, memory: &str) -> Result<String> {
    let system = value(system, "PRETTY_NAME=").context("/etc/os-release contains no PRETTY_NAME")?;
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let model = value(processors, "model name").unwrap_or("processor");
    let memory = value(memory, "MemTotal").and_then(|memory| memory.strip_suffix(" kB"));
    let kib: f64 = memory.context("/proc/meminfo contains no MemTotal")?.parse()?;
    Ok(format!("{system}, {count} × {model}, {:.0} GiB", kib / f64::from(1 << 20)))
}

/// Returns the version of the installed tor, as in `tor 0.4.8.16`.
pub async fn tor_version() -> Result<String> {
    let tor = output(&mut command("tor", ["--version"])).await?;
    Ok(tor.lines().next().unwrap_or_default().trim_end_matches('.').replace("Tor version ", "tor "))
}

/// Returns the value on the first line that begins with `key`, without `:`, spaces and quotes.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(value.trim_matches([' ', '\t', ':', '"']))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;
    use crate::state::source_tree;

    /// Debian packages that every Debian machine has (Debian Policy, section 3.8).
    const ESSENTIAL: [&str; 2] = ["findutils", "util-linux"];

    /// Runs `packages.sh` where only the programs are installed that the script itself runs, and
    /// returns the packages that it reports as missing.
    fn missing_packages(use_of_them: &str) -> BTreeSet<String> {
        let dir = tempfile::tempdir().unwrap();
        for program in ["bash", "dirname", "mkdir"] {
            symlink(Path::new("/usr/bin").join(program), dir.path().join(program)).unwrap();
        }
        let script = source_tree().join("e2e/setup/packages.sh");
        let run = Command::new("/bin/bash")
            .arg(script)
            .arg(use_of_them)
            .env_clear()
            .envs([("PATH", dir.path()), ("HOME", dir.path())])
            .output()
            .unwrap();
        let error = String::from_utf8(run.stderr).unwrap();
        let (_, packages) = error.split_once("missing packages: ").unwrap_or_else(|| panic!("{error}"));
        packages.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_machine_without_any_package_gets_all_programs_of_the_node() {
        for use_of_them in ["demo", "cluster"] {
            let missing = missing_packages(use_of_them);
            for (program, package) in [&TOR_PROGRAMS[..], &CLUSTER_PROGRAMS].concat() {
                let is_there = missing.contains(package) || ESSENTIAL.contains(&package);
                assert!(is_there, "packages.sh {use_of_them} does not install {package}, which has {program}");
            }
        }
    }

    #[test]
    fn values_are_found_by_their_key() {
        assert_eq!(value("A=1\nPRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME="), Some("Debian 12"));
        assert_eq!(value("processor\t: 0\nmodel name\t: AMD EPYC\n", "model name"), Some("AMD EPYC"));
        assert_eq!(value("a", "b"), None);
    }

    #[test]
    fn a_machine_is_described_by_its_system_processors_and_memory() {
        let system = "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n";
        let processors =
            "processor\t: 0\nmodel\t\t: 49\nmodel name\t: AMD EPYC 7B12\nprocessor\t: 1\nmodel name\t: other\n";
        let memory = "MemTotal:       24731708 kB\nMemFree:          1 kB\n";
        let expected = "Debian GNU/Linux 12 (bookworm), 2 × AMD EPYC 7B12, 24 GiB";
        assert_eq!(description(system, processors, memory).unwrap(), expected);
        assert!(description("", processors, memory).is_err());
        assert!(description(system, processors, "").is_err());
    }
}
