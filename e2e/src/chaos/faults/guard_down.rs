//! The loss of the guard that all pods of the service use.
//!
//! The plain service loses its guard at the same time. If that is another relay, our pods may have
//! it as their second guard, and lose two guards. They may then use both of these again, and one
//! more guard in the meantime.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::{LocalBoxFuture, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::time::{Instant, sleep};

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::hops::{Hops, of_pods};
use crate::chaos::limit::{Bound, Limit, like_plain};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// The outage of the guard in use. The plain onion service loses its guard at the same time.
#[derive(Debug)]
pub struct GuardDown;

/// The duration of the outage. Tor notices the loss at once, but tries the guard again only ten
/// minutes later (C tor's `get_retry_schedule`).
const AWAY: Duration = Duration::from_secs(90);
/// The maximum time after the outage until all tors use the guard again.
const RETURNED: Duration = Duration::from_secs(13 * 60);
/// The interval at which all tors are asked.
const SAMPLED: Duration = Duration::from_secs(1);
/// The maximum time until all pods and the plain service each use one guard.
const SETTLED: Duration = Duration::from_secs(120);
/// The interval between requests. One request per second results in about 800 requests.
const EVERY: Duration = Duration::from_secs(1);

impl Fault for GuardDown {
    fn name(&self) -> &'static str {
        "guard_down"
    }

    fn about(&self) -> &'static str {
        "the guard in use is killed, as is the plain service's, and restarted after 90 s (about 14 minutes)"
    }

    fn needs(&self) -> Needs {
        // Both guards can be HSDirs.
        Needs { frontends: 2, every: EVERY, quiet: None, silent_hsdirs: 2, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let network = stage.network.grown();
            let names = network.fingerprints()?;
            let [ours, plain] = guards_in_use(stage).await?;
            let process = |guard: &String| names.get(guard).context("a guard is no relay of this network");
            let lost = BTreeSet::from([process(&ours)?, process(&plain)?]);
            let at = Instant::now();
            try_join_all(lost.into_iter().map(|relay| stage.processes.kill(relay))).await?;
            let same = usize::from(ours == plain);
            Ok(ActiveFault::new(at, BTreeSet::new()).with_findings(async move {
                let mut watch = Watch::new(stage, at, [ours, plain]);
                watch.sample_until(at + AWAY, |_| false).await?;
                let back = Instant::now();
                network.up().await?;
                let is_back = |watch: &Watch<'_>| watch.returned.iter().all(Option::is_some);
                watch.sample_until(back + RETURNED, is_back).await?;
                let mut figures = watch.figures(back);
                figures.push(Figure::count("plain_has_same_guard", same, ""));
                Ok(Findings { figures, ..Findings::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.fewest_points()]
    }

    fn limits(&self) -> Vec<Limit> {
        let own = [
            Limit::new("moved_s", Bound::AtMost(60.0)),
            Limit::new("next_guards", Bound::AtMost(1.0)),
            Limit::new("returned_s", Bound::AtMost(RETURNED.as_secs_f64())),
        ];
        [&own[..], &like_plain(3.0)].concat()
    }
}

/// Waits until all pods of the service use the same guard, and returns this guard and the one that
/// the plain service uses.
async fn guards_in_use(stage: &Stage) -> Result<[String; 2]> {
    until("each service uses one guard", SETTLED, async || {
        let ours: Vec<_> = pods(stage).await?.into_iter().map(|tor| tor.in_use).collect();
        let plain = stage.plain().hops().await?.in_use;
        let all: BTreeSet<_> = ours.iter().flatten().collect();
        let one = (all.len() == 1 && ours.iter().all(|pod| !pod.is_empty())).then(|| all.first().copied()).flatten();
        Ok(match (one, plain.first()) {
            (Some(ours), Some(first)) if plain.len() == 1 => Seen::Yes([ours.clone(), first.clone()]),
            _ => Seen::NotYet(format!("our pods use {ours:?}, the plain service uses {plain:?}")),
        })
    })
    .await
}

/// Returns the first hops of each pod of the service. A tor that does not answer has none.
async fn pods(stage: &Stage) -> Result<Vec<Hops>> {
    let uids: BTreeSet<_> = stage.service.pods().await?.iter().filter_map(Pod::uid).collect();
    let mut hops = of_pods(&uids).await?;
    Ok(uids.iter().map(|uid| hops.remove(uid).unwrap_or_default()).collect())
}

/// Returns the guard to which all tors are connected, if no tor has a circuit through another one.
/// A frontend's tor may have no circuit at all until it publishes again.
fn next(tors: &[Hops]) -> Option<&String> {
    let guards: BTreeSet<_> = tors.iter().flat_map(|tor| &tor.in_use).collect();
    let next = guards.first().copied().filter(|_| guards.len() == 1)?;
    tors.iter().all(|tor| tor.connected.contains(next)).then_some(next)
}

/// The reactions of both services' tors since the fault.
struct Watch<'a> {
    stage: &'a Stage,
    at: Instant,
    /// The guards that our service and the plain one have lost.
    lost: [String; 2],
    /// The guards that our pods have used since the fault.
    used: BTreeSet<String>,
    /// The greatest number of guards that our pods used at the same time.
    most: usize,
    /// The times at which all tors of each service were connected to the same other guard.
    moved: [Option<Instant>; 2],
    /// The times at which all tors of each service used the lost guard again.
    returned: [Option<Instant>; 2],
}

impl<'a> Watch<'a> {
    fn new(stage: &'a Stage, at: Instant, lost: [String; 2]) -> Self {
        Self { stage, at, lost, used: BTreeSet::new(), most: 0, moved: [None; 2], returned: [None; 2] }
    }

    /// Asks all tors again and again until the time has come or the condition holds.
    async fn sample_until(&mut self, end: Instant, is_done: impl Fn(&Self) -> bool) -> Result<()> {
        while Instant::now() < end && !is_done(self) {
            self.sample().await?;
            sleep(SAMPLED).await;
        }
        Ok(())
    }

    async fn sample(&mut self) -> Result<()> {
        let ours = pods(self.stage).await?;
        let plain = self.stage.plain().hops().await.unwrap_or_default();
        let now: BTreeSet<_> = ours.iter().flat_map(|tor| &tor.in_use).cloned().collect();
        self.most = self.most.max(now.len());
        self.used.extend(now);
        let at = Instant::now();
        for (service, tors) in [ours, vec![plain]].iter().enumerate() {
            let lost = &self.lost[service];
            if self.moved[service].is_none() {
                self.moved[service] = next(tors).filter(|next| *next != lost).map(|_| at);
            } else if self.returned[service].is_none() && tors.iter().all(|tor| tor.in_use.contains(lost)) {
                self.returned[service] = Some(at);
            }
        }
        Ok(())
    }

    /// Returns the figures. `back` is the time at which the lost guards returned.
    fn figures(&self, back: Instant) -> Vec<Figure> {
        let after = |time: Option<Instant>, start: Instant| {
            time.map_or(f64::INFINITY, |time| time.saturating_duration_since(start).as_secs_f64())
        };
        let next = self.used.iter().filter(|guard| !self.lost.contains(guard)).count();
        let mut used = self.used.clone();
        used.insert(self.lost[0].clone());
        vec![
            Figure::seconds("moved_s", after(self.moved[0], self.at)),
            Figure::seconds("plain_moved_s", after(self.moved[1], self.at)),
            Figure::seconds("returned_s", after(self.returned[0], back)),
            Figure::seconds("plain_returned_s", after(self.returned[1], back)),
            Figure::count("next_guards", next, "guards"),
            Figure::count("guards_in_use", used.len(), "guards"),
            Figure::count("guards_at_once", self.most, "guards"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tor(connected: &[&str], in_use: &[&str]) -> Hops {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Hops { connected: set(connected), in_use: set(in_use) }
    }

    #[test]
    fn the_pods_have_moved_when_all_are_connected_to_one_guard_and_none_uses_another() {
        let moved = |tors: &[Hops]| next(tors).cloned();
        let backend = tor(&["b", "c"], &["b"]);
        assert_eq!(moved(&[backend.clone(), tor(&["b"], &[])]).as_deref(), Some("b"));
        assert_eq!(moved(&[backend.clone(), tor(&["c"], &[])]), None, "a tor is not connected");
        assert_eq!(moved(&[backend, tor(&["b", "c"], &["c"])]), None, "a tor uses another guard");
        assert_eq!(moved(&[tor(&["b"], &[])]), None, "no tor has a circuit");
    }
}
