//! Faults under load: what happens to requests, and how long the descriptors hold dead points.
//!
//! Real tor clients ask by the clock, our service and a plain onion service alike; a judge that has no code of the product's
//! looks at every HSDir about once a second; one fault after another is made. `docs/reliability.md` has the results.

pub mod clients;
pub mod fault;
pub mod faults;
pub mod figure;
pub mod judge;
pub mod metrics;
pub mod newcomer;
pub mod plain;
pub mod pods;
pub mod request;
pub mod run;
pub mod stage;
pub mod tally;
pub mod target;
pub mod traffic;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use self::fault::{Fault, Needs};
use self::faults::all;
use self::figure::Figure;
use self::run::Effort;
use self::stage::Stage;
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::state::State;
use crate::steps::{say, step};
use crate::wait::{Seen, until};

/// Where the service is, unless another namespace is named.
pub const NAMESPACE: &str = "chaos";

/// Prints the faults' names and what they are.
pub fn list() {
    for fault in all() {
        println!("{:<22} {}", fault.name(), fault.about());
    }
}

/// The faults of these names; all, when none is named.
pub fn select(names: &[String]) -> Result<Vec<Box<dyn Fault>>> {
    let mut faults = all();
    if let Some(unknown) = names.iter().find(|name| !faults.iter().any(|fault| fault.name() == **name)) {
        let known: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
        bail!("--only: no fault is called {unknown:?}; there are {}", known.join(", "));
    }
    faults.retain(|fault| names.is_empty() || names.iter().any(|name| name == fault.name()));
    Ok(faults)
}

/// Makes these faults on a cluster that has the operator, and tells the figures; fails when one misses its limit. The
/// service is in a namespace of this name, which is made anew.
pub async fn run(state: &State, faults: &[Box<dyn Fault>], namespace: &str) -> Result<()> {
    let kubectl = Cluster::open(state)?.kubectl();
    make_namespace(&kubectl, namespace).await?;
    let needs = faults.first().map_or_else(Needs::default, |fault| fault.needs());
    let scene = Stage::set(state, namespace, needs, Effort::FULL.fresh_clients).await?;
    let (mut figures, mut broken) = (Vec::new(), Vec::new());
    for (number, fault) in faults.iter().enumerate() {
        let title = format!("{}/{} {}: {}", number + 1, faults.len(), fault.name(), fault.about());
        match step(&title, run::run(&scene, fault.as_ref(), Effort::FULL)).await {
            Ok(told) => {
                for figure in &told {
                    println!("{figure}");
                }
                figures.extend(told);
            }
            // The others still have something to tell.
            Err(error) => {
                say(&format!("{}: {error:#}", fault.name()));
                broken.push(fault.name());
            }
        }
    }
    println!("\n{}\n", table(&figures));
    scene.clear().await?;
    remove_namespace(&kubectl, namespace).await?;
    verdict(&figures, &broken)
}

/// The figures, one a line.
pub fn table(figures: &[Figure]) -> String {
    figures.iter().map(Figure::row).collect::<Vec<_>>().join("\n")
}

/// Fails when a figure misses its limit, or a fault could not be made.
pub fn verdict(figures: &[Figure], broken: &[&str]) -> Result<()> {
    let missed: Vec<_> = figures.iter().filter(|figure| !figure.holds()).map(|figure| figure.name.as_str()).collect();
    match (missed.as_slice(), broken) {
        ([], []) => Ok(()),
        (_, []) => bail!("figures that miss their limits: {}", missed.join(", ")),
        _ => bail!("faults without figures: {}; missed limits: {}", broken.join(", "), missed.join(", ")),
    }
}

async fn make_namespace(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    remove_namespace(kubectl, namespace).await?;
    // Its controller looks again when half of the pods' grace period has passed.
    until("the namespace of an earlier run is gone", Duration::from_secs(300), async || {
        let left = kubectl.run(&format!("get namespace {namespace} --ignore-not-found -o name")).await?;
        Ok(if left.is_empty() { Seen::Yes(()) } else { Seen::NotYet(left) })
    })
    .await?;
    kubectl.run(&format!("create namespace {namespace}")).await.context("make the namespace")?;
    Ok(())
}

/// No pod of it needs to drain.
async fn remove_namespace(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    kubectl.run(&format!("delete namespace {namespace} --ignore-not-found --wait=false")).await?;
    kubectl.run(&format!("--namespace {namespace} delete pods --all --grace-period=1 --wait=false")).await?;
    Ok(())
}
