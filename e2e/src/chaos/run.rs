//! Injects one fault under load and computes the figures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep, sleep_until};

use super::alarms::{Alarms, false_alarms};
use super::fault::{Fault, Findings, all_limits};
use super::figure::{Figure, Results};
use super::held_streams::HeldStreams;
use super::judge::{HeldDescriptor, Place, held, of_responsible};
use super::observed::Observed;
use super::request::ServiceKind;
use super::stage::Stage;
use super::tally::Requests;
use super::traffic::Traffic;
use super::verdict::Judged;
use crate::steps::say;
use crate::tornet::period::{until_quiet, wall_clock};
use crate::wait::{Seen, until};

/// The number of requests to each service before the fault occurs.
const WARM_UP: usize = 20;
/// The time reserved for the requests before the fault and for the descriptor fetches that precede
/// these requests.
const WARM_UP_TIME: Duration = Duration::from_secs(25);
/// The time after which the output names an HSDir that still holds a dead point.
const LATE: Duration = Duration::from_secs(10);

/// Injects a fault under load and returns the figures of the run, with their limits. Each service
/// gets at least as many requests as the stage's effort demands.
pub async fn run(stage: &Stage, fault: &dyn Fault) -> Result<Judged> {
    let effort = stage.effort;
    stage.prepare(fault.needs()).await?;
    if let Some(longer) = fault.needs().quiet {
        let run = WARM_UP_TIME + effort.after.max(effort.after_end) + longer;
        sleep(until_quiet(wall_clock()?, run)).await;
    }
    stage.refresh_clients().await?;
    let since = Instant::now();
    let alarms = Alarms::watch(stage.service.clone());
    let traffic = Traffic::start(stage.clients.clone(), stage.onions.clone(), fault.needs(), effort.longest_stream);
    let outcome = run_fault(stage, fault, &traffic, since).await;
    // Wait for the requests even after an error, so that none outlives the run.
    let requests = traffic.finish().await?;
    let alarms = alarms.end()?;
    let Timeline { at, dead, silent, ended, findings, mut before } = outcome?;
    let mut answers = stage.judge().answers()?;
    answers.retain(|answer| answer.at >= at);
    let answers = of_responsible(&answers, &before);
    before.retain(|place, _| answers.iter().any(|answer| answer.place == *place));
    let requests = Requests::new(requests, at);
    print_problems(&requests);
    let false_alarms = false_alarms(&alarms, &requests, fault.breaks_app());
    for alarm in &false_alarms {
        let after = (alarm.at.saturating_duration_since(at), at.saturating_duration_since(alarm.at));
        eprintln!("    false alarm {:+.1} s after the fault: {alarm}", after.0.as_secs_f64() - after.1.as_secs_f64());
    }
    let moments = findings.moments;
    let seen = Observed { at, ended, dead, silent, before, answers, moments, requests, load: load()? };
    print_late_hsdirs(&seen);
    let mut figures = seen.counts();
    figures.push(Figure::count("false_alarms", false_alarms.len(), "alarms"));
    figures.extend(fault.figures(&seen));
    figures.extend(findings.figures);
    let results = Results { fault: fault.name().to_owned(), figures };
    Ok(Judged { results, limits: all_limits(fault, effort.requests) })
}

/// Returns the machine's load average over one minute.
fn load() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    text.split(' ').next().context("/proc/loadavg is empty")?.parse().context("/proc/loadavg is invalid")
}

/// The timeline of a fault that has occurred and ended.
struct Timeline {
    at: Instant,
    dead: BTreeSet<String>,
    silent: BTreeSet<String>,
    ended: Instant,
    findings: Findings,
    /// The descriptors that the HSDirs held before the fault, for both time periods.
    before: BTreeMap<Place, HeldDescriptor>,
}

async fn run_fault(stage: &Stage, fault: &dyn Fault, traffic: &Traffic, since: Instant) -> Result<Timeline> {
    let effort = stage.effort;
    wait_begun(traffic, WARM_UP).await?;
    let before = held(&stage.judge().answers()?);
    let streams = if fault.needs().streams { Some(HeldStreams::open(stage, fault.name()).await) } else { None };
    let active = fault.strike(stage).await.context("could not inject the fault")?;
    say(&format!("{}: injected the fault {:.0} s into the run", fault.name(), (active.at - since).as_secs_f64()));
    sleep_until(active.at + active.lasts).await;
    let mut findings = active.end.await.context("could not end the fault")?;
    let ended = Instant::now();
    sleep_until((active.at + effort.after).max(ended + effort.after_end)).await;
    wait_begun(traffic, effort.requests).await?;
    if let Some(streams) = streams {
        findings.figures.extend(streams.end().await);
    }
    Ok(Timeline { at: active.at, dead: active.dead, silent: active.silent, ended, findings, before })
}

async fn wait_begun(traffic: &Traffic, wanted: usize) -> Result<()> {
    until(&format!("{wanted} requests have begun"), Duration::from_secs(300), async || {
        let begun = traffic.begun();
        Ok(if begun >= wanted { Seen::Yes(()) } else { Seen::NotYet(format!("{begun} have begun")) })
    })
    .await
}

fn print_problems(requests: &Requests) {
    for (reason, count) in requests.reasons() {
        eprintln!("    {count} × {reason}");
    }
    for service in [ServiceKind::Ours, ServiceKind::Plain] {
        for (after, waited, client) in requests.problems(service) {
            eprintln!("    {service:?}, {client:?} client: began {after:+.1} s after the fault, waited {waited:.1} s");
        }
    }
}

/// Prints how long HSDirs still held dead points, if that was more than [`LATE`].
fn print_late_hsdirs(seen: &Observed) {
    let late = seen.last_dead().into_iter().filter(|(_, (after, _))| *after > LATE);
    for (place, (after, of_clients)) in late {
        let period = if of_clients { "clients use" } else { "clients do not use" };
        let after = after.as_secs_f64();
        eprintln!("    HSDir {}, period that {period}: held a dead point {after:.1} s after the fault", place.hsdir);
    }
}
