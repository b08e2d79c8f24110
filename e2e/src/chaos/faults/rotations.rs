//! Two changes of the time period. Each of them replaces every introduction point although nothing
//! breaks.
//!
//! A tor that publishes by itself has one descriptor for each of two time periods, with separate
//! introduction points. When the second period has become the older one, tor closes the first
//! period's points, which clients used until half a period ago. A backend's tor reports only the
//! points of the first period, so our descriptors use them until tor closes them. Tors learn of a
//! new consensus at different times within about one consensus interval, which is an hour on the
//! public network and about 20 seconds in the test network.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use onionbalance_operator::link::Revision;
use tokio::time::{Instant, sleep_until};

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::judge::{HsDirAnswer, held, of_responsible, settled};
use crate::chaos::limit::{Bound, Limit, like_plain};
use crate::chaos::needs::Needs;
use crate::chaos::observed::{Moment, Observed};
use crate::chaos::request::ServiceKind;
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// A run in which the time period changes twice.
#[derive(Debug)]
pub struct Rotations;

/// The interval between requests. One request per second results in about a thousand requests in a
/// run of 20 minutes.
const EVERY: Duration = Duration::from_secs(1);
/// The duration of the run: two time periods of the test network, plus one minute.
const LASTS: Duration = Duration::from_secs(17 * 60);
const LONGEST: Duration = Duration::from_secs(22 * 60);
/// The number of time period changes that the test must observe.
const CHANGES: u8 = 2;
/// Requests that begin at most this long before a change of the time period are attributed to the
/// change. The change begins when the first backend replaces its points.
const BEFORE: Duration = Duration::from_secs(30);
/// Requests that begin at most this long after a change of the time period are attributed to the
/// change. The change begins when the first backend replaces its points.
const AFTER: Duration = Duration::from_secs(60);

impl Fault for Rotations {
    fn name(&self) -> &'static str {
        "rotations"
    }

    fn about(&self) -> &'static str {
        "the time period changes twice, and each backend's tor replaces all its introduction points (about 18 minutes)"
    }

    fn needs(&self) -> Needs {
        Needs { every: EVERY, quiet: None, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let at = Instant::now();
            Ok(ActiveFault::new(at, BTreeSet::new()).with_findings(async move {
                let moments = changes(stage, at).await?;
                sleep_until(moments.last().map_or(at, |last| last.at) + AFTER).await;
                Ok(Findings { moments, ..Findings::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let mut figures = vec![Figure::count("seen", seen.moments.len(), "changes")];
        for (service, word) in [(ServiceKind::Ours, "ours"), (ServiceKind::Plain, "plain")] {
            let name = |what: &str| format!("{word}_{what}");
            let mut at_change = Vec::new();
            for moment in &seen.moments {
                at_change.push(seen.requests.began(service, moment.at - BEFORE, moment.at + AFTER));
            }
            let sum = |count: fn(&crate::chaos::tally::RequestCounts) -> usize| at_change.iter().map(count).sum();
            figures.push(Figure::count(name("at_change_requests"), sum(|tally| tally.requests), "requests"));
            figures.push(Figure::count(name("at_change_failed"), sum(|tally| tally.failed + tally.cut), "requests"));
            figures.push(Figure::count(name("at_change_slow"), sum(|tally| tally.slow), "requests"));
            let longest = seen
                .moments
                .iter()
                .map(|moment| seen.requests.longest(service, moment.at - BEFORE, moment.at + AFTER).as_secs_f64());
            figures.push(Figure::seconds(name("at_change_longest_s"), longest.fold(0.0, f64::max)));
        }
        let renewed =
            seen.moments.iter().map(|moment| renewed(seen, moment).map_or(f64::INFINITY, |it| it.as_secs_f64()));
        figures.push(Figure::seconds("old_points_gone_s", renewed.fold(0.0, f64::max)));
        figures
    }

    fn limits(&self) -> Vec<Limit> {
        let own = [
            Limit::new("seen", Bound::AtLeast(CHANGES.into())),
            Limit::new("old_points_gone_s", Bound::AtMost(AFTER.as_secs_f64())),
        ];
        [&own[..], &like_plain(3.0)].concat()
    }
}

/// Returns how long any HSDir from which clients fetch still held old points. The time is measured
/// from the moment when the first backend replaced its points.
fn renewed(seen: &Observed, moment: &Moment) -> Option<Duration> {
    let (earlier, later): (Vec<_>, Vec<_>) = seen.answers.iter().cloned().partition(|answer| answer.at < moment.at);
    let is_soon = |answer: &HsDirAnswer| answer.of_clients && answer.at < moment.at + AFTER;
    let soon: Vec<_> = later.into_iter().filter(is_soon).collect();
    let before = held(&earlier);
    let soon = of_responsible(&soon, &before);
    settled(&before, &soon, moment.at, |answer| {
        answer.descriptor.as_ref().is_none_or(|held| held.points.is_disjoint(&moment.points))
    })
}

/// Watches the backends until all have replaced all their points twice and the observation time is
/// over. Returns one [`Moment`] per change: the time at which the first backend replaced its
/// points, and the old points of all backends.
async fn changes(stage: &Stage, since: Instant) -> Result<Vec<Moment>> {
    let backends = stage.service.backends().await?;
    let mut known: BTreeMap<String, (Revision, BTreeSet<String>)> = BTreeMap::new();
    let mut moments: Vec<Moment> = Vec::new();
    let mut replaced = 0;
    until("the time period has changed twice", LONGEST, async || {
        for backend in &backends {
            // A backend that does not answer in time is asked again in the next round.
            let Ok(revision) = stage.revision_of(backend).await else { continue };
            if known.get(&backend.uid).is_some_and(|(old, _)| *old == revision) {
                continue;
            }
            let at = Instant::now();
            let Some(points) = stage.points_of(backend).await.ok().filter(|points| !points.is_empty()) else {
                continue;
            };
            let old = known.insert(backend.uid.clone(), (revision, points.clone()));
            let Some((_, old)) = old.filter(|(_, old)| old.is_disjoint(&points)) else { continue };
            replaced += 1;
            match moments.last_mut().filter(|last| at - last.at < AFTER) {
                Some(last) => last.points.extend(old),
                None => moments.push(Moment { at, points: old }),
            }
        }
        let all = replaced >= backends.len() * usize::from(CHANGES) && since.elapsed() >= LASTS;
        Ok(if all { Seen::Yes(()) } else { Seen::NotYet(format!("backends replaced their points {replaced} times")) })
    })
    .await?;
    Ok(moments)
}
