//! Adds backends or a whole service, and measures how soon clients can reach them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::first_fetch::FirstFetch;
use crate::chaos::judge::{HsDirAnswer, settled};
use crate::chaos::limit::{Bound, Limit, harmless};
use crate::chaos::needs::Needs;
use crate::chaos::observed::{Moment, Observed};
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// A scale-up from three backends to five.
#[derive(Debug)]
pub struct NewBackend;

/// The creation of a service with three backends, using `kubectl apply`. It is repeated several
/// times.
#[derive(Debug)]
pub struct ApplyToFetch;

const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(240);

impl Fault for NewBackend {
    fn name(&self) -> &'static str {
        "new_backend"
    }

    fn about(&self) -> &'static str {
        "two backends are added to three; measures the time from Ready until every HSDir's descriptor has their points"
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let old: BTreeSet<String> = stage.service.backends().await?.into_iter().map(|pod| pod.uid).collect();
            let wanted = old.len() + 2;
            let at = Instant::now();
            stage.run(&format!("scale obs/web --replicas={wanted}")).await?;
            Ok(ActiveFault::new(at, BTreeSet::new()).with_findings(async move {
                let ready = ready(stage, &old, 2).await?;
                stage.service.wait_published(wanted, LIMIT).await?;
                let mut moments = Vec::new();
                for backend in stage.service.backends().await? {
                    if let Some(at) = ready.get(&backend.uid) {
                        moments.push(Moment { at: *at, points: stage.points_of(&backend).await? });
                    }
                }
                Ok(Findings { moments, ..Findings::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let added = seen.moments.iter().map(|moment| {
            let has = |answer: &HsDirAnswer| {
                answer.descriptor.as_ref().is_none_or(|held| !held.points.is_disjoint(&moment.points))
            };
            let in_all = settled(&seen.before, &seen.answers, seen.at, has);
            in_all.map_or(f64::INFINITY, |since| (seen.at + since).saturating_duration_since(moment.at).as_secs_f64())
        });
        vec![
            Figure::seconds("added_s", added.fold(0.0, f64::max)),
            Figure::count("new", seen.moments.len(), "backends"),
        ]
    }

    fn limits(&self) -> Vec<Limit> {
        let own = [Limit::new("added_s", Bound::AtMost(3.0)), Limit::new("new", Bound::AtLeast(2.0))];
        [&own[..], &harmless()].concat()
    }
}

/// Waits until `wanted` new backends are Ready, and returns the time at which each was first seen
/// Ready, by UID. Backends whose UIDs are in `old` do not count as new.
async fn ready(stage: &Stage, old: &BTreeSet<String>, wanted: usize) -> Result<BTreeMap<String, Instant>> {
    let mut seen = BTreeMap::new();
    until("the new backends are Ready", LIMIT, async || {
        for uid in stage.service.ready_backends().await? {
            if !old.contains(&uid) {
                seen.entry(uid).or_insert_with(Instant::now);
            }
        }
        Ok(if seen.len() >= wanted {
            Seen::Yes(())
        } else {
            Seen::NotYet(format!("{} new backends are Ready", seen.len()))
        })
    })
    .await?;
    Ok(seen)
}

impl Fault for ApplyToFetch {
    fn name(&self) -> &'static str {
        "apply_to_fetch"
    }

    fn about(&self) -> &'static str {
        "a service with three backends is applied; measures the time until a client gets a page (medians of three runs)"
    }

    fn needs(&self) -> Needs {
        // The load on the existing service only shows that adding a service does not affect it.
        Needs { every: Duration::from_millis(500), quiet: Some(Duration::from_secs(80)), ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            Ok(ActiveFault::new(Instant::now(), BTreeSet::new()).with_findings(async move {
                let mut rounds: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
                for round in 0..ROUNDS {
                    for (part, took) in FirstFetch::measure(stage, &format!("new{round}")).await?.parts() {
                        rounds.entry(part).or_default().push(took);
                    }
                }
                let figure = |(part, mut took): (&str, Vec<Duration>)| {
                    took.sort();
                    Figure::seconds(format!("{part}_s"), took[took.len() / 2].as_secs_f64())
                };
                Ok(Findings { figures: rounds.into_iter().map(figure).collect(), ..Findings::default() })
            }))
        })
    }

    fn figures(&self, _: &Observed) -> Vec<Figure> {
        Vec::new()
    }

    fn limits(&self) -> Vec<Limit> {
        let own = [Limit::new("own_s", Bound::AtMost(5.0)), Limit::new("total_s", Bound::AtMost(15.0))];
        [&own[..], &harmless()].concat()
    }
}
