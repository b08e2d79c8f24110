//! Nothing breaks: a backend comes, or a whole service does. How long until clients get there?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use crate::chaos::fault::{Fault, Moment, Needs, Observed, Struck, Told};
use crate::chaos::figure::{Figure, Limit};
use crate::chaos::judge::settled;
use crate::chaos::newcomer::Newcomer;
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// Two more backends.
#[derive(Debug)]
pub struct NewBackend;

/// `kubectl apply` of a service with three backends, some times over.
#[derive(Debug)]
pub struct ApplyToFetch;

const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(240);

impl Fault for NewBackend {
    fn name(&self) -> &'static str {
        "new_backend"
    }

    fn about(&self) -> &'static str {
        "3 backends become 5: from when a new one is Ready until its points are in every HSDir's descriptor"
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>> {
        Box::pin(async move {
            let old: BTreeSet<String> = stage.service.backends().await?.into_iter().map(|pod| pod.uid).collect();
            let wanted = old.len() + 2;
            let at = Instant::now();
            stage.run(&format!("scale obs/web --replicas={wanted}")).await?;
            Ok(Struck::at(at, BTreeSet::new()).telling(async move {
                let ready = ready(stage, &old, 2).await?;
                stage.service.wait_published(wanted, LIMIT).await?;
                let mut moments = Vec::new();
                for backend in stage.service.backends().await? {
                    if let Some(at) = ready.get(&backend.uid) {
                        moments.push(Moment { at: *at, points: stage.points_of(&backend).await? });
                    }
                }
                Ok(Told { moments, ..Told::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let added = seen.moments.iter().map(|moment| {
            let has = |held: &crate::chaos::judge::Seen| !held.points.is_disjoint(&moment.points);
            let in_all = settled(&seen.sightings, seen.at, |held| held.is_none_or(has));
            in_all.map_or(f64::INFINITY, |since| (seen.at + since).saturating_duration_since(moment.at).as_secs_f64())
        });
        vec![
            Figure::told(seen.name("added_s"), added.fold(0.0, f64::max), "s").with(Limit::AtMost(3.0)),
            Figure::count(seen.name("new"), seen.moments.len(), "backends").with(Limit::AtLeast(2.0)),
            seen.failed().with(Limit::AtMost(0.0)),
        ]
    }
}

/// When each of so many backends that are not among the old ones was first seen to be Ready, by UID.
async fn ready(stage: &Stage, old: &BTreeSet<String>, wanted: usize) -> Result<BTreeMap<String, Instant>> {
    let mut seen = BTreeMap::new();
    until("the new backends are Ready", LIMIT, async || {
        for uid in stage.service.ready_backends().await? {
            if !old.contains(&uid) {
                seen.entry(uid).or_insert_with(Instant::now);
            }
        }
        Ok(if seen.len() >= wanted { Seen::Yes(()) } else { Seen::NotYet(format!("{} are", seen.len())) })
    })
    .await?;
    Ok(seen)
}

impl Fault for ApplyToFetch {
    fn name(&self) -> &'static str {
        "apply_to_fetch"
    }

    fn about(&self) -> &'static str {
        "kubectl apply of a service with three backends, to the first page that a client gets; three times, and the medians"
    }

    fn needs(&self) -> Needs {
        // The other service is only there to see that it does not suffer.
        Needs { every: Duration::from_millis(500), quiet: Some(Duration::from_secs(80)), ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>> {
        Box::pin(async move {
            Ok(Struck::at(Instant::now(), BTreeSet::new()).telling(async move {
                let mut rounds: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
                for round in 0..ROUNDS {
                    for (part, took) in Newcomer::comes(stage, &format!("new{round}")).await?.parts() {
                        rounds.entry(part).or_default().push(took);
                    }
                }
                let figure = |(part, mut took): (&str, Vec<Duration>)| {
                    took.sort();
                    let median = took[took.len() / 2].as_secs_f64();
                    let figure = Figure::told(format!("{}_{part}_s", self.name()), median, "s");
                    if part == "own" { figure.with(Limit::AtMost(5.0)) } else { figure }
                };
                Ok(Told { figures: rounds.into_iter().map(figure).collect(), ..Told::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.failed().with(Limit::AtMost(0.0))]
    }
}
