//! Injects faults under load, and measures the effect on requests and the time for which
//! descriptors contain dead introduction points.
//!
//! Real tor clients send requests at a fixed rate to our service and, for comparison, to a plain
//! onion service. Meanwhile a judge, which uses none of the product's code, asks every HSDir for
//! our service's descriptor about once a second. The faults are injected one after another.
//! `docs/reliability.md` has the results.

pub mod abuser;
pub mod alarms;
pub mod circuits;
pub mod clients;
pub mod closing;
pub mod effort;
pub mod fault;
pub mod faults;
pub mod figure;
pub mod first_fetch;
pub mod held_streams;
pub mod hops;
pub mod judge;
pub mod limit;
pub mod metrics;
pub mod needs;
pub mod observed;
pub mod plain;
pub mod pods;
pub mod record;
pub mod request;
mod restore;
pub mod run;
pub mod stage;
pub mod table;
pub mod tally;
pub mod target;
pub mod traffic;
pub mod verdict;
pub mod witness;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use self::effort::Effort;
use self::fault::Fault;
use self::faults::all;
use self::figure::Results;
use self::needs::Needs;
use self::record::Record;
use self::stage::Stage;
use self::verdict::{Judged, verdict};
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

/// Injects the given faults into a cluster that runs the operator, and prints the figures. Writes
/// the figures to `file` after each fault. Returns an error if a figure violates its limit. The
/// service's namespace is deleted and created again.
pub async fn run(state: &State, faults: &[Box<dyn Fault>], namespace: &str, file: Option<&Path>) -> Result<()> {
    let cluster = Cluster::open(state)?;
    let names: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
    let mut record = Record::begin(&cluster, &names).await?;
    let write = |record: &Record| {
        let Some(file) = file else { return Ok(()) };
        std::fs::write(file, record.to_string()).with_context(|| format!("could not write {}", file.display()))
    };
    // A file that cannot be written should not show only after the first fault.
    write(&record)?;
    let kubectl = cluster.kubectl();
    make_namespace(&kubectl, namespace).await?;
    let needs = faults.first().map_or_else(Needs::default, |fault| fault.needs());
    let scene = Stage::set_up(state, namespace, needs, Effort::FULL).await?;
    let (judged, broken) = inject(&scene, faults, |results| {
        record.results.push(results.clone());
        write(&record)
    })
    .await?;
    println!("\n{}\n", rows(&judged));
    scene.tear_down().await?;
    remove_namespace(&kubectl, namespace).await?;
    verdict(&judged, &broken)
}

/// Injects faults one after another and prints the figures of each. Calls `measured` after each
/// fault. Returns the figures, and the names of the faults that produced none.
pub async fn inject(
    stage: &Stage,
    faults: &[Box<dyn Fault>],
    mut measured: impl FnMut(&Results) -> Result<()>,
) -> Result<(Vec<Judged>, Vec<&'static str>)> {
    let (mut judged, mut broken) = (Vec::new(), Vec::new());
    for (number, fault) in faults.iter().enumerate() {
        let title = format!("{}/{} {}: {}", number + 1, faults.len(), fault.name(), fault.about());
        match step(&title, run::run(stage, fault.as_ref())).await {
            Ok(run) => {
                print!("{}", run.results);
                measured(&run.results)?;
                judged.push(run);
                if fault.leaves_hsdirs_resting() {
                    step("new frontends", stage.replace_frontends()).await?;
                }
            }
            // The remaining faults can still be measured.
            Err(error) => {
                say(&format!("{}: {error:#}", fault.name()));
                broken.push(fault.name());
                if let Err(error) = step("restore the stage", Box::pin(stage.restore())).await {
                    say(&format!("could not restore the stage: {error:#}"));
                }
            }
        }
    }
    Ok((judged, broken))
}

/// Formats the figures of all faults, with one line per figure.
pub fn rows(judged: &[Judged]) -> String {
    judged.iter().map(Judged::rows).collect::<Vec<_>>().join("\n")
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fault_limits_failed_cut_and_slow_requests_and_no_figure_has_two_limits() {
        for fault in all() {
            let limits: Vec<_> = fault.limits().iter().map(|limit| limit.what).collect();
            for what in ["failed", "cut", "slow"] {
                assert!(limits.contains(&what), "{} does not limit {what}", fault.name());
            }
            assert_eq!(limits.iter().collect::<BTreeSet<_>>().len(), limits.len(), "{}", fault.name());
        }
    }
}
