//! One run: a fault under load.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep_until};

use super::fault::{Fault, Observed};
use super::figure::Figure;
use super::judge::of_responsible;
use super::request::Whose;
use super::stage::Stage;
use super::tally::Requests;
use super::traffic::Traffic;
use crate::steps::say;
use crate::wait::{Seen, until};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Requests to our service, at least.
    pub requests: usize,
    /// The load goes on for so long after the fault, at least.
    pub after: Duration,
    /// And for so long after its end.
    pub after_end: Duration,
    /// Clients that forget.
    pub fresh_clients: usize,
}

impl Effort {
    /// What `make chaos` does.
    pub const FULL: Self =
        Self { requests: 300, after: Duration::from_secs(65), after_end: Duration::from_secs(15), fresh_clients: 24 };
    /// Just enough to see that dead points go.
    pub const SHORT: Self =
        Self { requests: 60, after: Duration::from_secs(20), after_end: Duration::ZERO, fresh_clients: 8 };
}

/// Requests at each service before the fault comes.
const WARM_UP: usize = 20;

/// Has a fault happen, and tells what was seen of it.
pub async fn run(stage: &Stage, fault: &dyn Fault, effort: Effort) -> Result<Vec<Figure>> {
    stage.prepare(fault.needs()).await?;
    let since = Instant::now();
    let traffic = Traffic::start(stage.clients.clone(), stage.onions.clone(), fault.needs().streams);
    let outcome = story(stage, fault, effort, &traffic, since).await;
    // Also after an error: no request outlives the run.
    let requests = traffic.finish().await?;
    let (struck, ended, mut before) = outcome?;
    let mut sightings = stage.judge().sightings()?;
    sightings.retain(|sighting| sighting.at >= struck.0);
    let sightings = of_responsible(&sightings, &before);
    before.retain(|hsdir, _| sightings.iter().any(|sighting| sighting.hsdir == *hsdir));
    let requests = Requests::new(requests, struck.0);
    tell_troubles(&requests);
    let seen = Observed { name: fault.name(), at: struck.0, ended, dead: struck.1, before, sightings, requests };
    let mut figures = fault.figures(&seen);
    figures.extend(seen.counts(effort.requests));
    Ok(figures)
}

type Story =
    ((Instant, std::collections::BTreeSet<String>), Instant, std::collections::BTreeMap<String, super::judge::Seen>);

async fn story(stage: &Stage, fault: &dyn Fault, effort: Effort, traffic: &Traffic, since: Instant) -> Result<Story> {
    begun(traffic, WARM_UP).await?;
    let before = stage.held()?;
    let struck = fault.strike(stage).await.context("the fault could not be made")?;
    say(&format!("{}: it happened {:.0} s into the run", fault.name(), (struck.at - since).as_secs_f64()));
    sleep_until(struck.at + struck.lasts).await;
    struck.end.await.context("the fault could not be ended")?;
    let ended = Instant::now();
    let last = (struck.at + effort.after).max(ended + effort.after_end);
    sleep_until(last).await;
    begun(traffic, effort.requests).await?;
    Ok(((struck.at, struck.dead), ended, before))
}

async fn begun(traffic: &Traffic, wanted: usize) -> Result<()> {
    until(&format!("{wanted} requests"), Duration::from_secs(300), async || {
        let begun = traffic.begun();
        Ok(if begun >= wanted { Seen::Yes(()) } else { Seen::NotYet(format!("{begun} began")) })
    })
    .await
}

fn tell_troubles(requests: &Requests) {
    for (reason, count) in requests.reasons() {
        eprintln!("    {count} × {reason}");
    }
    for whose in [Whose::Ours, Whose::Plain] {
        for (after, waited, client) in requests.troubles(whose) {
            eprintln!("    {whose:?}, {client:?} client: began {after:+.1} s after the fault, waited {waited:.1} s");
        }
    }
}
