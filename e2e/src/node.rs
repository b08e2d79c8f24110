//! The node: a network namespace with its own mounts, process IDs and host name. A veth pair
//! connects it to this machine. This machine routes traffic to the node's pods and Services through
//! that link.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{command, output};
use crate::process::Processes;
use crate::state::State;
use crate::wait::{Seen, until};

/// This machine's address on the veth link to the node.
pub const HOST_ADDRESS: &str = "10.245.0.1";
/// The node's address on the veth link to this machine.
pub const NODE_ADDRESS: &str = "10.245.0.2";
/// The node's address on the pod bridge. It is the pods' gateway and DNS server, and the Tor
/// network listens on it.
pub const BRIDGE_ADDRESS: &str = "10.244.0.1";
/// The address range of the pods.
pub const POD_NETWORK: &str = "10.244.0.0/24";
/// The address range of the Services.
pub const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The name of the pod bridge.
pub const BRIDGE: &str = "pods";
/// The node's name in Kubernetes.
pub const NAME: &str = "node1";
/// The name of this machine's end of the veth link.
pub const CABLE: &str = "onionbalance0";
/// The name of the parent cgroup of all pods.
pub const CGROUP: &str = "onionbalance-e2e";

/// The name of the process that holds the node's namespaces. When that process ends, the kernel
/// also ends every process in them.
const HOLDER: &str = "node";

/// Machine-wide settings that the kubelet changes. The node restores them when it goes down.
const SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The script that the node's first process runs. It mounts private folders over the fixed paths
/// that Kubernetes uses.
const ENTER: &str = r#"
set -e
mount --make-rshared /
hostname "$1"
mkdir -p /var/lib/cni "$2/log" "$2/cni"
mount --bind "$2/log" /var/log
mount --bind "$2/cni" /var/lib/cni
mount -t tmpfs tmpfs /run
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
touch "$2/entered"
exec sleep infinity
"#;

/// The node, on which an environment's cluster and Tor network run.
#[derive(Debug, Clone)]
pub struct Node {
    dir: PathBuf,
    processes: Processes,
}

impl Node {
    /// Returns the node that belongs to a state folder, whether or not it is up.
    pub fn open(state: &State) -> Result<Self> {
        Ok(Self { dir: state.node(), processes: Processes::open(state.dir())? })
    }

    /// Returns true if the node's namespaces exist and are connected.
    pub fn is_up(&self) -> bool {
        self.processes.is_alive(HOLDER) && self.dir.join("connected").exists()
    }

    /// Returns an error if another node is up or this machine already routes the node's addresses.
    pub async fn check_addresses(&self) -> Result<()> {
        if let Some(owner) = cable_owner() {
            let (dir, program) = (owner.parent().unwrap_or(&owner).display(), std::env::current_exe()?);
            bail!(
                "the node of {dir} is up on this machine; stop it first with: {} --dir {dir} down",
                program.display()
            );
        }
        for address in [HOST_ADDRESS, BRIDGE_ADDRESS, "10.96.0.1"] {
            let route = output(&mut command("ip", ["-o", "route", "show", "match", address])).await?;
            if let Some(taken) = route.lines().find(|line| !line.starts_with("default")) {
                bail!(
                    "this machine already routes {address} ({}), which the node needs; remove that route",
                    taken.trim()
                );
            }
        }
        Ok(())
    }

    /// Creates the namespaces and the veth link.
    pub async fn up(&self) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        self.remember_sysctls()?;
        make_cgroup()?;
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "--"]);
        // tini reaps the orphans that containerd's shims leave behind.
        holder.args(["tini", "--", "sh", "-c", ENTER, "node", NAME]).arg(&self.dir);
        self.processes.start(HOLDER, &mut holder)?;
        until("the node's namespaces exist", Duration::from_secs(10), async || {
            self.processes.check(HOLDER)?;
            Ok(if self.dir.join("entered").exists() {
                Seen::Yes(())
            } else {
                Seen::not_yet("the first process has not entered them")
            })
        })
        .await?;
        self.connect().await?;
        fs::write(self.dir.join("connected"), "")?;
        Ok(())
    }

    /// Stops the node and everything in it. Also stops every other process of the environment,
    /// because these processes use the node's network.
    pub async fn down(&self) -> Result<()> {
        // unshare ignores SIGTERM. Killing it also kills its only child, which is the node's
        // process 1, and thus all processes of the node.
        self.processes.kill(HOLDER).await?;
        self.processes.stop_all().await?;
        // The kernel keeps the namespace and the link until the last half-closed connection has
        // timed out.
        let is_ours = || cable_owner().is_some_and(|owner| owner == self.dir);
        if is_ours() {
            let cut = output(&mut command("ip", ["link", "delete", CABLE])).await;
            ensure!(!is_ours(), "could not delete the link {CABLE}: {cut:?}");
        }
        self.restore_sysctls()?;
        if cable_owner().is_none() {
            remove_cgroup().await?;
        }
        remove_dir(&self.dir).await
    }

    /// Returns a command that runs in all of the node's namespaces.
    pub fn inside(&self, program: impl AsRef<Path>) -> Result<Command> {
        self.enter(&["--mount", "--net", "--pid", "--uts"], program.as_ref())
    }

    /// Returns a command that runs in the node's network namespace but otherwise on this machine.
    pub fn on_network(&self, program: impl AsRef<Path>) -> Result<Command> {
        self.enter(&["--net"], program.as_ref())
    }

    fn enter(&self, namespaces: &[&str], program: &Path) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init()?)).args(namespaces).arg("--").arg(program);
        Ok(command)
    }

    /// Returns the ID that the node's process 1 has on this machine. This process is the holder's
    /// only child.
    fn init(&self) -> Result<i32> {
        let holder = self.processes.pid(HOLDER).context("the node is not up; run `e2e up`")?;
        let children = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children"))?;
        children.trim().parse().with_context(|| format!("process {holder} should have one child but has {children:?}"))
    }

    async fn connect(&self) -> Result<()> {
        let init = self.init()?.to_string();
        let here = [
            format!("link add {CABLE} type veth peer name eth0 netns {init}"),
            format!("link set {CABLE} alias {}", self.dir.display()),
            format!("address add {HOST_ADDRESS}/24 dev {CABLE}"),
            format!("link set {CABLE} up"),
            format!("route add {POD_NETWORK} via {NODE_ADDRESS}"),
            format!("route add {SERVICE_NETWORK} via {NODE_ADDRESS}"),
        ];
        let there = [
            format!("address add {NODE_ADDRESS}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {HOST_ADDRESS}"),
            // Without this, the bridge would exist only from the first pod on, too late for the Tor
            // network.
            format!("link add {BRIDGE} type bridge"),
            format!("address add {BRIDGE_ADDRESS}/24 dev {BRIDGE}"),
            format!("link set {BRIDGE} up"),
        ];
        output(&mut command("ip", here[0].split(' '))).await?;
        for line in there {
            let mut ip = self.on_network("ip")?;
            ip.args(line.split(' '));
            output(&mut ip.into()).await?;
        }
        for line in &here[1..] {
            output(&mut command("ip", line.split(' '))).await?;
        }
        Ok(())
    }

    fn remember_sysctls(&self) -> Result<()> {
        let file = self.dir.join("sysctls.json");
        if !file.exists() {
            let values: Vec<_> = SYSCTLS.iter().map(|name| fs::read_to_string(sysctl(name)).ok()).collect();
            fs::write(file, serde_json::to_vec(&values)?)?;
        }
        Ok(())
    }

    fn restore_sysctls(&self) -> Result<()> {
        let Ok(text) = fs::read(self.dir.join("sysctls.json")) else { return Ok(()) };
        let values: Vec<Option<String>> = serde_json::from_slice(&text)?;
        for (name, value) in SYSCTLS.iter().zip(values) {
            let file = sysctl(name);
            if let Some(value) = value.filter(|value| fs::read_to_string(&file).is_ok_and(|now| now != *value)) {
                fs::write(&file, value).with_context(|| format!("could not restore {}", file.display()))?;
            }
        }
        Ok(())
    }
}

/// Removes a folder if it exists. Retries for a while, because its files may stay busy for a moment
/// after the processes that use them have ended.
pub async fn remove_dir(dir: &Path) -> Result<()> {
    until(&format!("{} is removed", dir.display()), Duration::from_secs(10), async || {
        Ok(match fs::remove_dir_all(dir) {
            Ok(()) => Seen::Yes(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Seen::Yes(()),
            Err(error) => Seen::not_yet(error.to_string()),
        })
    })
    .await
}

/// Returns the folder of the node that is up, if any. The veth link's alias contains its path.
fn cable_owner() -> Option<PathBuf> {
    let alias = fs::read_to_string(Path::new("/sys/class/net").join(CABLE).join("ifalias")).ok()?;
    Some(PathBuf::from(alias.trim_end()))
}

fn sysctl(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Returns the folders of the pods' parent cgroup: one per hierarchy in cgroup v1, and a single one
/// in cgroup v2.
fn cgroups() -> Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.join(CGROUP)]);
    }
    let mut found = Vec::new();
    for hierarchy in fs::read_dir(root)? {
        let hierarchy = hierarchy?.path();
        // Symbolic links like `cpu` for `cpu,cpuacct` would list a hierarchy twice.
        if hierarchy.join("cgroup.procs").exists() && !hierarchy.is_symlink() {
            found.push(hierarchy.join(CGROUP));
        }
    }
    Ok(found)
}

fn make_cgroup() -> Result<()> {
    for cgroup in cgroups()? {
        fs::create_dir_all(&cgroup).with_context(|| format!("could not create the cgroup {}", cgroup.display()))?;
        let control = Path::new("/sys/fs/cgroup/cgroup.subtree_control");
        if control.exists() {
            for controller in ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"] {
                // The kernel may lack a controller. If the kubelet needs it, the kubelet reports
                // the problem.
                let _ = fs::write(control, format!("+{controller}"));
                let _ = fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        } else if cgroup.with_file_name("cpuset.cpus").exists() {
            // A new cpuset is empty, so no process could enter it.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(cgroup.join(file), fs::read(cgroup.with_file_name(file))?)?;
            }
        }
    }
    Ok(())
}

async fn remove_cgroup() -> Result<()> {
    for cgroup in cgroups()? {
        if cgroup.exists() {
            let find = [cgroup.as_os_str(), "-depth".as_ref(), "-type".as_ref(), "d".as_ref(), "-delete".as_ref()];
            until("the pods' cgroups are removed", Duration::from_secs(10), async || {
                Ok(match output(&mut command("find", find)).await {
                    Ok(_) => Seen::Yes(()),
                    Err(error) => Seen::not_yet(error.to_string()),
                })
            })
            .await?;
        }
    }
    Ok(())
}
