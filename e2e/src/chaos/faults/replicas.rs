//! Planned changes that remove backends without breaking anything: scaling down, and replacing pods
//! one by one.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use crate::chaos::fault::{ActiveFault, Fault};
use crate::chaos::figure::Figure;
use crate::chaos::limit::{Bound, Limit, harmless, spares_streams};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::stage::Stage;

/// A scale-down from five backends to two while streams of up to a minute are open.
#[derive(Debug)]
pub struct ScaleDown;

/// The deletion of a backend's pod with its usual grace period.
#[derive(Debug)]
pub struct PodRestart;

/// A rollout that replaces all backends, as for a new image.
#[derive(Debug)]
pub struct RollingRestart;

impl Fault for ScaleDown {
    fn name(&self) -> &'static str {
        "scale_down"
    }

    fn about(&self) -> &'static str {
        "five backends are scaled down to two while streams of up to a minute are open"
    }

    fn needs(&self) -> Needs {
        Needs { backends: 5, streams: true, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let before = stage.service.backends().await?;
            let mut points = Vec::new();
            for backend in &before {
                points.push((backend.uid.clone(), stage.points_of(backend).await?));
            }
            let at = Instant::now();
            stage.run("scale obs/web --replicas=2").await?;
            stage.service.wait_published(2, Duration::from_secs(60)).await?;
            let left: BTreeSet<String> = stage.service.backends().await?.into_iter().map(|pod| pod.uid).collect();
            let gone = points.into_iter().filter(|(uid, _)| !left.contains(uid)).flat_map(|(_, points)| points);
            Ok(ActiveFault::new(at, gone.collect()))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.gone()]
    }

    fn limits(&self) -> Vec<Limit> {
        [&[Limit::new("gone_s", Bound::AtMost(15.0))][..], &harmless(), &spares_streams()].concat()
    }
}

impl Fault for PodRestart {
    fn name(&self) -> &'static str {
        "backend_pod_restart"
    }

    fn about(&self) -> &'static str {
        "a backend's pod is deleted with its grace period while streams of up to a minute are open"
    }

    fn needs(&self) -> Needs {
        Needs { streams: true, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let (victim, dead) = stage.victim().await?;
            let at = Instant::now();
            stage.run(&format!("delete pod {} --wait=false", victim.name)).await?;
            Ok(ActiveFault::new(at, dead))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.gone()]
    }

    fn limits(&self) -> Vec<Limit> {
        [&[Limit::new("gone_s", Bound::AtMost(10.0))][..], &harmless(), &spares_streams()].concat()
    }
}

impl Fault for RollingRestart {
    fn name(&self) -> &'static str {
        "rolling_restart"
    }

    fn about(&self) -> &'static str {
        "all backends are replaced, as for a new image, while streams of up to a minute are open"
    }

    fn needs(&self) -> Needs {
        Needs { streams: true, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let before: BTreeSet<String> =
                stage.service.backends().await?.into_iter().map(|backend| backend.uid).collect();
            let patch = format!(
                r#"{{"spec":{{"backends":{{"template":{{"annotations":{{"example.com/restarted":"{}"}}}}}}}}}}"#,
                before.first().map_or("", String::as_str)
            );
            let at = Instant::now();
            stage.run(&format!("patch obs/web --type=merge --patch={patch}")).await?;
            let service = stage.service.clone();
            Ok(ActiveFault::new(at, BTreeSet::new()).ending(Duration::ZERO, async move {
                const LIMIT: Duration = Duration::from_secs(240);
                let replaced = async || {
                    let now = service.backends().await?;
                    let new = now.iter().filter(|backend| !before.contains(&backend.uid)).count();
                    Ok(if new == before.len() && now.len() == new {
                        crate::wait::Seen::Yes(())
                    } else {
                        crate::wait::Seen::NotYet(format!("{new} of {} backends are new", now.len()))
                    })
                };
                crate::wait::until("all backends are new", LIMIT, replaced).await?;
                service.wait_published(before.len(), LIMIT).await?;
                Ok(())
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![Figure::seconds("took_s", (seen.ended - seen.at).as_secs_f64())]
    }

    fn limits(&self) -> Vec<Limit> {
        [&[Limit::new("took_s", Bound::AtMost(90.0))][..], &harmless(), &spares_streams()].concat()
    }
}
