//! An outage of the directory authorities.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::{LocalBoxFuture, try_join_all};
use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::limit::{Bound, Limit};
use crate::chaos::metrics;
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// An outage in which the directory authorities are killed and return only after every consensus
/// has expired.
#[derive(Debug)]
pub struct AuthoritiesDown;

/// The duration of the outage. It exceeds half a time period, so that the network misses one change
/// of the time period or the shared random value.
const AWAY: Duration = Duration::from_secs(5 * 60);
/// The maximum time from the end of the outage until a relay has a new consensus.
const VOTED: Duration = Duration::from_secs(180);
/// The time for which the backends are watched once a relay has a new consensus. It covers the time
/// until every client and service has fetched the consensus: after each failed request, tor waits
/// up to three times as long as before (C tor's `next_random_exponential_delay_range`). A pause
/// that begins before the end of the outage therefore ends at most ten minutes later.
const WATCHED: Duration = Duration::from_secs(11 * 60);
/// The longest gap that a change of the time period causes (the limit of `rotations`). tor replaces
/// all points, and the publisher uploads the new ones.
const LONG: Duration = Duration::from_secs(60);
/// The number of authorities. All of them are HSDirs, and the publisher may let them rest for
/// longer than the run.
const AUTHORITIES: u8 = 3;
/// The interval between requests. One request per second results in 1,000 requests in a run of 17
/// minutes.
const EVERY: Duration = Duration::from_secs(1);
/// The measures that agents take to revive a stalled tor, each with the metric that counts it.
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
        "all authorities are killed, and restarted long after every consensus has expired (about 18 minutes)"
    }

    fn needs(&self) -> Needs {
        Needs { every: EVERY, quiet: None, silent_hsdirs: AUTHORITIES, ..Needs::default() }
    }

    fn leaves_hsdirs_resting(&self) -> bool {
        // Authorities are HSDirs, and are away for as long as a round of attempts.
        true
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let authorities = stage.network.authority_processes();
            let helped_before = help(stage).await;
            let at = Instant::now();
            try_join_all(authorities.iter().map(|authority| stage.processes.kill(authority))).await?;
            Ok(ActiveFault::new(at, BTreeSet::new()).with_findings(async move {
                sleep_until(at + AWAY).await;
                let (last, ended) = (stage.network.consensus_valid_until().await, now());
                // Restart the authorities before any check can fail, so that later faults find the
                // network intact.
                stage.network.up().await?;
                let last = last?;
                ensure!(last < ended, "a consensus was still valid (until {last}) when the outage ended at {ended}");
                until("a relay has a new consensus", VOTED, async || {
                    let newest = stage.network.consensus_valid_until().await?;
                    Ok(if newest > now() {
                        Seen::Yes(())
                    } else {
                        Seen::not_yet(format!("the newest one is valid until {newest}"))
                    })
                })
                .await?;
                let back = Instant::now();
                let whole = last_gap(stage, back).await?;
                let mut figures = vec![Figure::seconds("whole_s", whole)];
                // Nothing limits these figures, so the others do not depend on them.
                if let (Ok(before), Ok(after)) = (helped_before, help(stage).await) {
                    for (((what, _), before), after) in HELP.iter().zip(before).zip(after) {
                        figures.push(Figure::new(*what, after - before, "times"));
                    }
                }
                Ok(Findings { figures, ..Findings::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.fewest_points()]
    }

    fn limits(&self) -> Vec<Limit> {
        // While clients and the publisher are in different time periods, clients find no points.
        // This depends on tor's pauses, as it does for the plain service, so it has no limit.
        vec![
            Limit::new("whole_s", Bound::AtMost(WATCHED.as_secs_f64())),
            Limit::new("failed", Bound::AbovePlainByChance(0.5)),
            Limit::new("cut", Bound::AbovePlain(0.5)),
            Limit::new("slow", Bound::AbovePlainByChance(5.0)),
        ]
    }
}

/// Returns how many seconds after `since` the last long gap ended: a time during which a backend
/// had no introduction point in the HSDirs' descriptors. Returns infinity if this gap had not ended
/// when the watch did.
async fn last_gap(stage: &Stage, since: Instant) -> Result<f64> {
    let backends = stage.service.backends().await?;
    let mut gaps = Gaps::default();
    while since.elapsed() < WATCHED {
        let held = stage.held_points()?;
        let mut is_whole = true;
        for backend in &backends {
            // A backend that does not answer in time is treated as having no points.
            is_whole &= stage.points_of(backend).await.is_ok_and(|points| !points.is_disjoint(&held));
        }
        gaps.note(since.elapsed(), is_whole);
        sleep(Duration::from_secs(1)).await;
    }
    Ok(gaps.last_long(since.elapsed()))
}

/// The times during which a backend has no points in the descriptors.
#[derive(Debug, Default)]
struct Gaps {
    /// The beginning of the current gap.
    began: Option<Duration>,
    /// The end of the last long gap.
    ended: Duration,
}

impl Gaps {
    fn note(&mut self, at: Duration, is_whole: bool) {
        if !is_whole {
            self.began.get_or_insert(at);
        } else if let Some(began) = self.began.take()
            && at.saturating_sub(began) > LONG
        {
            self.ended = at;
        }
    }

    /// Returns the end of the last long gap in seconds, or infinity if a long gap has not ended.
    fn last_long(&self, now: Duration) -> f64 {
        let is_open = self.began.is_some_and(|began| now.saturating_sub(began) > LONG);
        if is_open { f64::INFINITY } else { self.ended.as_secs_f64() }
    }
}

/// Returns the number of times that agents have taken each measure in [`HELP`] so far.
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

#[allow(clippy::disallowed_methods, reason = "the validity of a consensus follows the wall clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_gaps_count_and_an_open_one_never_ends() {
        let seconds = Duration::from_secs;
        let mut gaps = Gaps::default();
        assert!(gaps.last_long(seconds(5)).abs() < f64::EPSILON);
        for (at, is_whole) in [(10, false), (50, false), (75, true), (200, false), (230, true), (300, false)] {
            gaps.note(seconds(at), is_whole);
        }
        assert!((gaps.last_long(seconds(350)) - 75.0).abs() < f64::EPSILON, "the later gaps are short");
        assert!(gaps.last_long(seconds(361)).is_infinite());
    }
}
