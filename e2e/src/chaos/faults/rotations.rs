//! Nothing breaks, and yet every introduction point is replaced at once: the time period changes, twice.
//!
//! A tor that publishes by itself has a descriptor, with points of its own, for each of two time periods. When the second of them has
//! become the older, it closes the points of the first, which clients asked for until half a period ago. A backend's tor tells of the
//! points of the first only, so ours are in use until it closes them. On the public network each tor learns of a new consensus at a time
//! of its own within about an hour; here within about 20 seconds, which is an interval between consensuses, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use onionbalance_operator::link::Revision;
use tokio::time::{Instant, sleep_until};

use crate::chaos::fault::{Fault, Moment, Needs, Observed, Struck, Told};
use crate::chaos::figure::{Figure, Limit};
use crate::chaos::judge::{held, of_responsible, settled};
use crate::chaos::request::Whose;
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// Two changes of the time period.
#[derive(Debug)]
pub struct Rotations;

/// A second, so that a run of 20 minutes has a thousand requests.
const EVERY: Duration = Duration::from_secs(1);
/// Two periods of the test network, and a minute.
const LASTS: Duration = Duration::from_secs(17 * 60);
const LONGEST: Duration = Duration::from_secs(22 * 60);
/// How many changes must be seen.
const CHANGES: u8 = 2;
/// Requests that began so long before the first backend's points were replaced
const BEFORE: Duration = Duration::from_secs(30);
/// and so long after are told apart.
const AFTER: Duration = Duration::from_secs(60);

impl Fault for Rotations {
    fn name(&self) -> &'static str {
        "rotations"
    }

    fn about(&self) -> &'static str {
        "the time period changes twice, and every backend's tor replaces all its introduction points (about 18 minutes)"
    }

    fn needs(&self) -> Needs {
        Needs { every: EVERY, quiet: None, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>> {
        Box::pin(async move {
            let at = Instant::now();
            Ok(Struck::at(at, BTreeSet::new()).telling(async move {
                let moments = changes(stage, at).await?;
                sleep_until(moments.last().map_or(at, |last| last.at) + AFTER).await;
                Ok(Told { moments, ..Told::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let mut figures = vec![
            Figure::count(seen.name("seen"), seen.moments.len(), "changes").with(Limit::AtLeast(CHANGES.into())),
            seen.failed().with(Limit::AtMost(0.0)),
            seen.cut().with(Limit::AtMost(0.0)),
        ];
        for (whose, word) in [(Whose::Ours, "ours"), (Whose::Plain, "plain")] {
            let name = |what: &str| seen.name(&format!("{word}_{what}"));
            figures.push(Figure::count(name("slow"), seen.requests.of(whose).slow, "requests"));
            let mut at_change = Vec::new();
            for moment in &seen.moments {
                at_change.push(seen.requests.began(whose, moment.at - BEFORE, moment.at + AFTER));
            }
            let sum = |count: fn(&crate::chaos::tally::Tally) -> usize| at_change.iter().map(count).sum();
            figures.push(Figure::count(name("at_change_requests"), sum(|tally| tally.requests), "requests"));
            figures.push(Figure::count(name("at_change_failed"), sum(|tally| tally.failed + tally.cut), "requests"));
            figures.push(Figure::count(name("at_change_slow"), sum(|tally| tally.slow), "requests"));
            let longest = seen
                .moments
                .iter()
                .map(|moment| seen.requests.longest(whose, moment.at - BEFORE, moment.at + AFTER).as_secs_f64());
            figures.push(Figure::told(name("at_change_longest_s"), longest.fold(0.0, f64::max), "s"));
        }
        let renewed =
            seen.moments.iter().map(|moment| renewed(seen, moment).map_or(f64::INFINITY, |it| it.as_secs_f64()));
        figures.push(Figure::told(seen.name("old_points_gone_s"), renewed.fold(0.0, f64::max), "s"));
        figures
    }
}

/// From the first backend's change until no HSDir that clients ask held one of the old points.
fn renewed(seen: &Observed, moment: &Moment) -> Option<Duration> {
    let (earlier, later): (Vec<_>, Vec<_>) =
        seen.sightings.iter().cloned().partition(|sighting| sighting.at < moment.at);
    let soon: Vec<_> = later.into_iter().filter(|sighting| sighting.at < moment.at + AFTER).collect();
    let soon = of_responsible(&soon, &held(&earlier));
    settled(&soon, moment.at, |held| held.is_none_or(|held| held.points.is_disjoint(&moment.points)))
}

/// Watches the backends until all have replaced all their points, twice, and the time is over. A change's moment is its first backend's;
/// its points are the old ones of all.
async fn changes(stage: &Stage, since: Instant) -> Result<Vec<Moment>> {
    let backends = stage.service.backends().await?;
    let mut known: BTreeMap<String, (Revision, BTreeSet<String>)> = BTreeMap::new();
    let mut moments: Vec<Moment> = Vec::new();
    let mut replaced = 0;
    until("two changes of the time period", LONGEST, async || {
        for backend in &backends {
            // One that does not answer in time is asked again.
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
        Ok(if all { Seen::Yes(()) } else { Seen::NotYet(format!("{replaced} times a backend's points were replaced")) })
    })
    .await?;
    Ok(moments)
}
