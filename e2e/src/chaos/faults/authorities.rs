//! The directory authorities are away.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::{LocalBoxFuture, try_join_all};
use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chaos::fault::{Fault, Needs, Observed, Struck, Told};
use crate::chaos::figure::{Figure, Limit};
use crate::chaos::metrics;
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// They are killed, and back when every consensus has expired.
#[derive(Debug)]
pub struct AuthoritiesDown;

/// Longer than half a time period, so that one change is missed.
const AWAY: Duration = Duration::from_secs(5 * 60);
/// Until a relay has a new consensus.
const VOTED: Duration = Duration::from_secs(180);
/// After that, a change more and the time in which tors take up the consensus: the pauses between their requests grow with an outage.
const WATCHED: Duration = Duration::from_secs(6 * 60);
/// So that a run of 12 minutes has 700 requests.
const EVERY: Duration = Duration::from_secs(1);
/// What agents did for tors that stood still.
const HELP: [(&str, &str); 3] = [
    ("circuits", "onionbalance_agent_circuits_total"),
    ("tor_restarts", "onionbalance_agent_tor_restarts_total"),
    ("tor_kills", "onionbalance_agent_tor_kills_total"),
];

impl Fault for AuthoritiesDown {
    fn name(&self) -> &'static str {
        "authorities_down"
    }

    fn about(&self) -> &'static str {
        "all authorities are killed, and back when every consensus has long expired (about 13 minutes)"
    }

    fn needs(&self) -> Needs {
        Needs { every: EVERY, quiet: None, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>> {
        Box::pin(async move {
            let authorities = stage.network.authority_processes();
            let helped_before = help(stage).await?;
            let at = Instant::now();
            try_join_all(authorities.iter().map(|authority| stage.processes.kill(authority))).await?;
            Ok(Struck::at(at, BTreeSet::new()).telling(async move {
                sleep_until(at + AWAY).await;
                let (last, ended) = (stage.network.consensus_valid_until().await, now());
                // First of all, for the faults after this one.
                stage.network.up().await?;
                let last = last?;
                ensure!(last < ended, "a consensus is valid until {last}, and it was {ended}");
                until("there is a new consensus", VOTED, async || {
                    let newest = stage.network.consensus_valid_until().await?;
                    Ok(if newest > now() { Seen::Yes(()) } else { Seen::not_yet(format!("valid until {newest}")) })
                })
                .await?;
                let back = Instant::now();
                let whole = last_gap(stage, back).await?;
                let mut figures = vec![Figure::told(format!("{}_whole_s", self.name()), whole.as_secs_f64(), "s")];
                for (((what, _), before), after) in HELP.iter().zip(helped_before).zip(help(stage).await?) {
                    figures.push(Figure::told(format!("{}_{what}", self.name()), after - before, ""));
                }
                Ok(Told { figures, ..Told::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let none = Limit::AtMost(0.0);
        vec![seen.failed().with(none), seen.cut().with(none), seen.fewest_points().with(Limit::AtLeast(1.0))]
    }
}

/// For how long after `since` there still was a moment at which HSDirs held no point of a backend's.
async fn last_gap(stage: &Stage, since: Instant) -> Result<Duration> {
    let backends = stage.service.backends().await?;
    let (mut gap, mut is_whole) = (Duration::ZERO, false);
    while since.elapsed() < WATCHED {
        let held = stage.held_points()?;
        is_whole = true;
        for backend in &backends {
            // One that does not answer in time has none.
            is_whole &= stage.points_of(backend).await.is_ok_and(|points| !points.is_disjoint(&held));
        }
        if !is_whole {
            gap = since.elapsed();
        }
        sleep(Duration::from_secs(1)).await;
    }
    ensure!(is_whole, "a backend has no point in the descriptors");
    Ok(gap)
}

/// How often agents helped until now.
async fn help(stage: &Stage) -> Result<[f64; 3]> {
    let mut sums = [0.0; 3];
    for backend in stage.service.backends().await? {
        let page = metrics::page(&backend.address).await?;
        for (sum, (_, sample)) in sums.iter_mut().zip(HELP) {
            *sum += metrics::value(&page, sample);
        }
    }
    Ok(sums)
}

#[allow(clippy::disallowed_methods, reason = "a consensus is valid by the wall clock")]
fn now() -> Timestamp {
    Timestamp::now()
}
