//! Everything up, everything down.

use std::fs;

use anyhow::{Result, bail};

use crate::cluster::Cluster;
use crate::machine;
use crate::node::{Node, remove_dir};
use crate::process::Processes;
use crate::state::State;
use crate::steps::{say, step};
use crate::tornet::{Place, TorNetwork};

/// The Tor network of a bring-up, in reach of the node's pods.
pub fn tor_network(state: &State) -> Result<TorNetwork> {
    let node = Node::open(state)?;
    Ok(TorNetwork::open(&state.tornet(), Place::Node(node), &Processes::open(state.dir())?))
}

/// Brings up what is not up. What runs already is kept; a node that died is made anew, and its cluster with it.
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
    tokio::try_join!(step("Tor network", tor.up()), cluster.up())?;
    say(&format!("up: export KUBECONFIG={}", state.kubeconfig().display()));
    Ok(())
}

/// Ends every process of the bring-up and removes what it made on this machine.
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

/// Prints what is up; fails when something is not.
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
    if dead.is_empty() { Ok(()) } else { bail!("dead: {}; run `e2e up`", dead.join(", ")) }
}

/// A dead node's cluster and Tor processes ended with their network: begin anew, but keep the Tor network's keys and documents.
async fn remove_node(state: &State) -> Result<()> {
    Node::open(state)?.down().await?;
    remove_dir(&state.kubernetes()).await
}

/// Two bring-ups at once would start everything twice.
fn lock(state: &State) -> Result<fs::File> {
    fs::create_dir_all(state.dir())?;
    let file = fs::File::create(state.dir().join("lock"))?;
    if file.try_lock().is_err() {
        bail!("another `e2e` works on {} at this moment", state.dir().display());
    }
    Ok(file)
}
