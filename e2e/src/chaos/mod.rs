//! Injects faults under load, and measures the effect on requests and the time for which
//! descriptors contain dead introduction points.
//!
//! Real tor clients send requests at a fixed rate to our service and, for comparison, to a plain
//! onion service. Meanwhile a judge, which uses none of the product's code, asks every HSDir for
//! our service's descriptor about once a second. The faults are injected one after another.
//! `docs/reliability.md` has the results.

pub mod clients;
pub mod fault;
pub mod faults;
pub mod figure;
pub mod first_fetch;
pub mod judge;
pub mod metrics;
pub mod needs;
pub mod observed;
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

use self::fault::Fault;
use self::faults::all;
use self::figure::Figure;
use self::needs::Needs;
use self::run::Effort;
use self::stage::Stage;
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::state::State;
use crate::steps::{say, step};
use crate::wait::{Seen, until};

/// The default namespace of the service under test.
pub const DEFAULT_NAMESPACE: &str = "chaos";

/// Prints the name and description of every fault.
pub fn list() {
    for fault in all() {
        println!("{:<22} {}", fault.name(), fault.about());
    }
}

/// Returns the faults with the given names, or all faults if `names` is empty.
pub fn select(names: &[String]) -> Result<Vec<Box<dyn Fault>>> {
    let mut faults = all();
    if let Some(unknown) = names.iter().find(|name| !faults.iter().any(|fault| fault.name() == **name)) {
        let known: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
        bail!("--only: there is no fault {unknown:?}; the faults are {}", known.join(", "));
    }
    faults.retain(|fault| names.is_empty() || names.iter().any(|name| name == fault.name()));
    Ok(faults)
}

/// Injects the given faults into a cluster that runs the operator, and prints the figures. Returns
/// an error if a figure violates its limit. The service's namespace is deleted and created again.
pub async fn run(state: &State, faults: &[Box<dyn Fault>], namespace: &str) -> Result<()> {
    let kubectl = Cluster::open(state)?.kubectl();
    make_namespace(&kubectl, namespace).await?;
    let needs = faults.first().map_or_else(Needs::default, |fault| fault.needs());
    let scene = Stage::set_up(state, namespace, needs, Effort::FULL.fresh_clients).await?;
    let (mut figures, mut broken) = (Vec::new(), Vec::new());
    for (number, fault) in faults.iter().enumerate() {
        let title = format!("{}/{} {}: {}", number + 1, faults.len(), fault.name(), fault.about());
        match step(&title, run::run(&scene, fault.as_ref(), Effort::FULL)).await {
            Ok(measured) => {
                for figure in &measured {
                    println!("{figure}");
                }
                figures.extend(measured);
            }
            // The remaining faults can still be measured.
            Err(error) => {
                say(&format!("{}: {error:#}", fault.name()));
                broken.push(fault.name());
            }
        }
    }
    println!("\n{}\n", table(&figures));
    scene.tear_down().await?;
    remove_namespace(&kubectl, namespace).await?;
    verdict(&figures, &broken)
}

/// Formats the figures as a table with one line per figure.
pub fn table(figures: &[Figure]) -> String {
    figures.iter().map(Figure::row).collect::<Vec<_>>().join("\n")
}

/// Returns an error if a figure misses its limit or a fault produced no figures.
pub fn verdict(figures: &[Figure], broken: &[&str]) -> Result<()> {
    let missed: Vec<_> = figures.iter().filter(|figure| !figure.holds()).map(|figure| figure.name.as_str()).collect();
    match (missed.as_slice(), broken) {
        ([], []) => Ok(()),
        (_, []) => bail!("these figures miss their limits: {}", missed.join(", ")),
        _ => bail!(
            "these faults failed to produce figures: {}; these figures miss their limits: {}",
            broken.join(", "),
            missed.join(", ")
        ),
    }
}

async fn make_namespace(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    remove_namespace(kubectl, namespace).await?;
    // The namespace controller retries after half of the pods' grace period.
    until("the namespace of an earlier run is gone", Duration::from_secs(300), async || {
        let left = kubectl.run(&format!("get namespace {namespace} --ignore-not-found -o name")).await?;
        Ok(if left.is_empty() { Seen::Yes(()) } else { Seen::NotYet(left) })
    })
    .await?;
    kubectl.run(&format!("create namespace {namespace}")).await.context("could not create the namespace")?;
    Ok(())
}

/// Deletes the namespace and its pods with a grace period of one second, because none of them needs
/// to drain.
async fn remove_namespace(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    kubectl.run(&format!("delete namespace {namespace} --ignore-not-found --wait=false")).await?;
    kubectl.run(&format!("--namespace {namespace} delete pods --all --grace-period=1 --wait=false")).await?;
    Ok(())
}
