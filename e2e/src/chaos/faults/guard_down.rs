//! The loss of the guard that all pods of the service use.
//!
//! The plain service loses its guard at the same time. Each service loses only one guard, because
//! the plain service starts with other guards (`Stage::set_up`).
//!
//! A guard is in use if it is the first relay of a complete circuit. A connection alone does not
//! count: tor fetches directory documents through its first three guards, and keeps a connection
//! for some minutes after the last circuit. A frontend that does not lead builds no circuits, so it
//! need not move before it leads.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::{LocalBoxFuture, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::time::{Instant, sleep};

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::hops::{Hops, of_pods, primary_guards_of_pods};
use crate::chaos::limit::{Bound, Limit, like_plain};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::plain::are_apart;
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
/// The maximum time until all busy pods and the plain service each use one guard. After an earlier
/// fault that restarted relays, tor tries the first guard again only ten minutes later.
const SETTLED: Duration = Duration::from_secs(12 * 60);
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
            let busy = busy_pods(stage).await?;
            let [ours, plain] = guards_in_use(stage, &busy).await?;
            let process = |guard: &String| names.get(guard).context("a guard is no relay of this network");
            let lost = [process(&ours)?, process(&plain)?];
            let at = Instant::now();
            try_join_all(lost.into_iter().map(|relay| stage.processes.kill(relay))).await?;
            Ok(ActiveFault::new(at, BTreeSet::new()).with_findings(async move {
                let authorities = stage.network.authority_processes();
                let mut watch = Watch::new(stage, at, busy, [ours, plain]);
                watch.sample_until(at + AWAY, |_| false).await?;
                let back = Instant::now();
                network.up().await?;
                let is_back = |watch: &Watch<'_>| watch.returned.iter().all(Option::is_some);
                watch.sample_until(back + RETURNED, is_back).await?;
                watch.connected.retain(|relay| names.get(relay).is_none_or(|process| !authorities.contains(process)));
                Ok(Findings { figures: watch.figures(back), ..Findings::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.fewest_points()]
    }

    fn limits(&self) -> Vec<Limit> {
        let own = [
            Limit::new("moved_s", Bound::AtMost(60.0)),
            Limit::new("guards_in_use", Bound::AtMost(2.0)),
            Limit::new("returned_s", Bound::AtMost(RETURNED.as_secs_f64())),
        ];
        [&own[..], &like_plain(3.0)].concat()
    }
}

/// Returns the UIDs of the pods that always have circuits: the backends and the leading frontend.
async fn busy_pods(stage: &Stage) -> Result<BTreeSet<String>> {
    let mut busy: BTreeSet<_> = stage.service.backends().await?.into_iter().map(|backend| backend.uid).collect();
    busy.insert(stage.leader().await?.1);
    Ok(busy)
}

/// Waits until all busy pods of the service use the same guard and no pod uses another one, and
/// returns this guard and the one that the plain service uses. Returns an error if one service
/// could lose two guards.
async fn guards_in_use(stage: &Stage, busy: &BTreeSet<String>) -> Result<[String; 2]> {
    let guards = until("each service uses one guard", SETTLED, async || {
        let ours = first_hops(stage, busy).await?;
        let plain = vec![stage.plain().hops().await?];
        Ok(match (only_guard(&ours), only_guard(&Tors { busy: plain.clone(), idle: Vec::new() })) {
            (Some(ours), Some(plain)) => Seen::Yes([ours.clone(), plain.clone()]),
            _ => Seen::NotYet(format!("our pods use {ours:?}, the plain service uses {plain:?}")),
        })
    })
    .await?;
    let plain = stage.plain().primary_guards().await?;
    let ours = primary_guards_of_pods(&stage.service.pods().await?.iter().filter_map(Pod::uid).collect()).await?;
    let are_apart = ours.values().all(|ours| are_apart(ours, &plain));
    anyhow::ensure!(are_apart, "the services share guards: {ours:?} and {plain:?}");
    Ok(guards)
}

/// The first hops of the tors of a service.
#[derive(Debug)]
struct Tors {
    /// The tors that always have circuits.
    busy: Vec<Hops>,
    /// The other ones.
    idle: Vec<Hops>,
}

impl Tors {
    fn all(&self) -> impl Iterator<Item = &Hops> {
        self.busy.iter().chain(&self.idle)
    }
}

/// Returns the first hops of each pod of the service. A tor that does not answer has none.
async fn first_hops(stage: &Stage, busy: &BTreeSet<String>) -> Result<Tors> {
    let uids: BTreeSet<_> = stage.service.pods().await?.iter().filter_map(Pod::uid).collect();
    let mut hops = of_pods(&uids).await?;
    Ok(Tors {
        busy: busy.iter().map(|uid| hops.remove(uid).unwrap_or_default()).collect(),
        idle: hops.into_values().collect(),
    })
}

/// Returns the guard that each busy tor uses, if no tor uses another one.
fn only_guard(tors: &Tors) -> Option<&String> {
    let guards: BTreeSet<_> = tors.all().flat_map(|tor| &tor.in_use).collect();
    let only = guards.first().copied().filter(|_| guards.len() == 1)?;
    tors.busy.iter().all(|tor| !tor.in_use.is_empty()).then_some(only)
}

/// The reactions of both services' tors since the fault.
struct Watch<'a> {
    stage: &'a Stage,
    at: Instant,
    /// The UIDs of our pods that always have circuits.
    busy: BTreeSet<String>,
    /// The guards that our service and the plain one have lost.
    lost: [String; 2],
    /// The guards that the pods of each service have used since the fault.
    used: [BTreeSet<String>; 2],
    /// The relays to which our pods have had connections since the fault.
    connected: BTreeSet<String>,
    /// The times at which all busy tors of each service used the same other guard, and no tor used
    /// another one.
    moved: [Option<Instant>; 2],
    /// The times at which all busy tors of each service used the lost guard again.
    returned: [Option<Instant>; 2],
}

impl<'a> Watch<'a> {
    fn new(stage: &'a Stage, at: Instant, busy: BTreeSet<String>, lost: [String; 2]) -> Self {
        let used = lost.clone().map(|guard| BTreeSet::from([guard]));
        Self { stage, at, busy, lost, used, connected: BTreeSet::new(), moved: [None; 2], returned: [None; 2] }
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
        let ours = first_hops(self.stage, &self.busy).await?;
        let plain = self.stage.plain().hops().await.unwrap_or_default();
        self.connected.extend(ours.all().flat_map(|tor| &tor.connected).cloned());
        let at = Instant::now();
        for (service, tors) in [ours, Tors { busy: vec![plain], idle: Vec::new() }].iter().enumerate() {
            let lost = &self.lost[service];
            self.used[service].extend(tors.all().flat_map(|tor| &tor.in_use).cloned());
            if self.moved[service].is_none() {
                self.moved[service] = only_guard(tors).filter(|guard| *guard != lost).map(|_| at);
            } else if self.returned[service].is_none() && tors.busy.iter().all(|tor| tor.in_use.contains(lost)) {
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
        vec![
            Figure::seconds("moved_s", after(self.moved[0], self.at)),
            Figure::seconds("plain_moved_s", after(self.moved[1], self.at)),
            Figure::seconds("returned_s", after(self.returned[0], back)),
            Figure::seconds("plain_returned_s", after(self.returned[1], back)),
            Figure::count("guards_in_use", self.used[0].len(), "guards"),
            Figure::count("plain_guards_in_use", self.used[1].len(), "guards"),
            Figure::count("guards_connected", self.connected.len(), "guards"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tor(in_use: &[&str]) -> Hops {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        // Idle connections to other guards are no use of these.
        Hops { connected: set(&["a", "b", "c"]), in_use: set(in_use) }
    }

    #[test]
    fn the_pods_have_moved_when_each_busy_one_uses_the_next_guard_and_none_uses_another() {
        let only = |busy: &[&[&str]], idle: &[&[&str]]| {
            let [busy, idle] = [busy, idle].map(|tors| tors.iter().map(|in_use| tor(in_use)).collect());
            only_guard(&Tors { busy, idle }).cloned()
        };
        assert_eq!(only(&[&["b"], &["b"]], &[&[]]).as_deref(), Some("b"));
        assert_eq!(only(&[&["b"], &[]], &[&["b"]]), None, "a busy tor has no circuit");
        assert_eq!(only(&[&["b"], &["b", "c"]], &[]), None, "a busy tor uses two guards");
        assert_eq!(only(&[&["b"]], &[&["c"]]), None, "an idle tor uses another guard");
        assert_eq!(only(&[], &[&["b", "c"]]), None);
    }
}
