//! One run: a fault under load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep, sleep_until};

use super::fault::{Fault, Observed, Told};
use super::figure::Figure;
use super::judge::{self, of_responsible};
use super::request::Whose;
use super::stage::Stage;
use super::tally::Requests;
use super::traffic::Traffic;
use crate::steps::say;
use crate::tornet::torrc::PERIOD_MINUTES;
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
/// The time that they take, and before them that clients fetch descriptors.
const WARM_UP_TIME: Duration = Duration::from_secs(25);

/// Since the Unix epoch, as tors know it.
#[allow(clippy::disallowed_methods, reason = "periods of the Tor network follow the wall clock")]
fn wall_clock() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// How long to wait until, for the time of a run, neither clients nor services change over to another time period; `now` is since the
/// Unix epoch. What such a change costs is measured apart. As many halves of a period as fit have begun since then (rend-spec-v3, section
/// 2.2.1: periods begin half a period after the shared random values that they use), and tors learn of it with a later consensus.
fn until_quiet(now: Duration, run: Duration) -> Duration {
    const HALF: Duration = Duration::from_secs(30 * PERIOD_MINUTES as u64);
    // Within an interval's fetch times, 2 to 36 seconds, and the fetch itself.
    const LEARNT: Duration = Duration::from_secs(45);
    let phase = Duration::from_secs(now.as_secs() % HALF.as_secs());
    // A run that is longer than the quiet begins with it.
    let latest = HALF.saturating_sub(run).max(LEARNT);
    if (LEARNT..=latest).contains(&phase) {
        return Duration::ZERO;
    }
    let next = if phase < LEARNT { LEARNT } else { HALF + LEARNT };
    next.saturating_sub(phase)
}

/// Has a fault happen, and tells what was seen of it.
pub async fn run(stage: &Stage, fault: &dyn Fault, effort: Effort) -> Result<Vec<Figure>> {
    stage.prepare(fault.needs()).await?;
    if let Some(longer) = fault.needs().quiet {
        let run = WARM_UP_TIME + effort.after.max(effort.after_end) + longer;
        sleep(until_quiet(wall_clock()?, run)).await;
    }
    stage.refresh_clients().await?;
    let since = Instant::now();
    let traffic = Traffic::start(stage.clients.clone(), stage.onions.clone(), fault.needs());
    let outcome = story(stage, fault, effort, &traffic, since).await;
    // Also after an error: no request outlives the run.
    let requests = traffic.finish().await?;
    let Story { at, dead, ended, told, mut before } = outcome?;
    let mut sightings = stage.judge().sightings()?;
    sightings.retain(|sighting| sighting.at >= at);
    let sightings = of_responsible(&sightings, &before);
    before.retain(|hsdir, _| sightings.iter().any(|sighting| sighting.hsdir == *hsdir));
    let requests = Requests::new(requests, at);
    tell_troubles(&requests);
    let moments = told.moments;
    let seen = Observed { name: fault.name(), at, ended, dead, before, sightings, moments, requests };
    let mut figures = fault.figures(&seen);
    figures.extend(told.figures);
    figures.extend(seen.counts(effort.requests, fault.needs().silent_hsdirs));
    Ok(figures)
}

/// A fault that came and went.
struct Story {
    at: Instant,
    dead: BTreeSet<String>,
    ended: Instant,
    told: Told,
    /// What the HSDirs held before.
    before: BTreeMap<String, judge::Seen>,
}

async fn story(stage: &Stage, fault: &dyn Fault, effort: Effort, traffic: &Traffic, since: Instant) -> Result<Story> {
    begun(traffic, WARM_UP).await?;
    let before = stage.held()?;
    let struck = fault.strike(stage).await.context("the fault could not be made")?;
    say(&format!("{}: it happened {:.0} s into the run", fault.name(), (struck.at - since).as_secs_f64()));
    sleep_until(struck.at + struck.lasts).await;
    let told = struck.end.await.context("the fault could not be ended")?;
    let ended = Instant::now();
    let last = (struck.at + effort.after).max(ended + effort.after_end);
    sleep_until(last).await;
    begun(traffic, effort.requests).await?;
    Ok(Story { at: struck.at, dead: struck.dead, ended, told, before })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begins_when_no_change_of_the_period_is_due() {
        let wait = |phase: u64, run: u64| {
            until_quiet(Duration::from_secs(240 * 1000 + phase), Duration::from_secs(run)).as_secs()
        };
        assert_eq!([0, 44, 45, 165].map(|phase| wait(phase, 75)), [45, 1, 0, 0]);
        assert_eq!(wait(166, 75), 240 - 166 + 45);
        assert_eq!(wait(45, 900), 0, "longer than any quiet");
        assert_eq!(wait(46, 900), 239);
    }
}
