//! Brings the node, the cluster and the Tor network up and down together.

use std::fs;

use anyhow::{Result, bail};

use crate::cluster::Cluster;
use crate::machine;
use crate::node::{Node, remove_dir};
use crate::process::Processes;
use crate::state::State;
use crate::steps::{say, step};
use crate::tornet::{Place, TorNetwork};

/// Opens the environment's Tor network, which the node's pods can reach.
pub fn tor_network(state: &State) -> Result<TorNetwork> {
    let node = Node::open(state)?;
    Ok(TorNetwork::open(&state.tornet(), Place::Node(node), &Processes::open(state.dir())?))
}

/// Starts every part of the environment that is not running yet, and leaves the rest alone. A node
/// that has died is created again together with its cluster.
pub async fn up(state: &State) -> Result<()> {
    machine::check_cluster().await?;
    let _lock = lock(state)?;
    let node = Node::open(state)?;
    if !node.is_up() {
        remove_node(state).await?;
        node.check_addresses().await?;
        step("node: namespaces, network, bridge", node.up()).await?;
    }
    let tor = tor_network(state)?;
    let cluster = Cluster::open(state)?;
    tokio::try_join!(step("Tor network", tor.up_completely()), cluster.up())?;
    say(&format!("up: export KUBECONFIG={}", state.kubeconfig().display()));
    Ok(())
}

/// Stops every process of the environment and removes everything that the environment created on
/// this machine.
pub async fn down(state: &State) -> Result<()> {
    if !state.dir().exists() {
        say("nothing is up");
        return Ok(());
    }
    let _lock = lock(state)?;
    step("down", async {
        Node::open(state)?.down().await?;
        remove_dir(state.dir()).await
    })
    .await
}

/// Prints which of the environment's processes are running. Returns an error if any of them is
/// dead.
pub fn status(state: &State) -> Result<()> {
    if !state.dir().exists() {
        bail!("nothing is up");
    }
    let processes = Processes::open(state.dir())?;
    let mut dead = Vec::new();
    for name in processes.names()? {
        if let Some(pid) = processes.pid(&name) {
            println!("{name:<24} process {pid}");
        } else {
            println!("{name:<24} dead (log: {})", processes.log(&name).display());
            dead.push(name);
        }
    }
    let (bootstrapped, other) = tor_network(state)?.status();
    println!("Tor network: {bootstrapped} of {} relays and authorities bootstrapped", bootstrapped + other);
    println!("KUBECONFIG={}", state.kubeconfig().display());
    if dead.is_empty() {
        Ok(())
    } else {
        bail!("these processes are dead: {}; run `e2e up` to restart them", dead.join(", "))
    }
}

/// Removes the remains of a dead node and its cluster. Keeps the keys and documents of the Tor
/// network, whose processes ended with the node.
async fn remove_node(state: &State) -> Result<()> {
    Node::open(state)?.down().await?;
    remove_dir(&state.kubernetes()).await
}

/// Locks the state folder, because two concurrent runs of `e2e up` would start everything twice.
fn lock(state: &State) -> Result<fs::File> {
    fs::create_dir_all(state.dir())?;
    let file = fs::File::create(state.dir().join("lock"))?;
    if file.try_lock().is_err() {
        bail!("another `e2e` process is using {}; wait until it has finished", state.dir().display());
    }
    Ok(file)
}
