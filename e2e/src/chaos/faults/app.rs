//! Faults of the app behind the service: one backend loses its way to the app, or all of them do.

use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::limit::{Bound, Limit, shares};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::pods::WayToApp;
use crate::chaos::stage::Stage;
use crate::service::BackendPod;
use crate::wait::{Seen, until};

/// The time limit for a backend to return after its way to the app has been repaired. The run's
/// limit for the figure is shorter.
const RETURNS: Duration = Duration::from_secs(120);
/// The time limit for the condition that reports a fault.
const REPORTED: Duration = Duration::from_secs(60);

/// One of three backends loses its way to the app for a minute.
#[derive(Debug)]
pub struct AppCut;

/// All backends lose their way to the app for a minute.
#[derive(Debug)]
pub struct AppDown;

impl Fault for AppCut {
    fn name(&self) -> &'static str {
        "app_cut"
    }

    fn breaks_app(&self) -> bool {
        true
    }

    fn about(&self) -> &'static str {
        "the node drops the packets from a backend to the app for a minute"
    }

    fn needs(&self) -> Needs {
        // The backend returns after the minute.
        Needs { quiet: Some(Duration::from_secs(30)), ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let (victim, dead) = stage.victim().await?;
            let way = WayToApp::new(&stage.node, &victim.address, stage.target())?;
            way.cut().await?;
            let at = Instant::now();
            let end = async move {
                way.mend().await?;
                Ok(Findings { figures: vec![returned(stage, &victim).await?], ..Findings::default() })
            };
            Ok(ActiveFault { lasts: stage.effort.lasts, ..ActiveFault::new(at, dead).with_findings(end) })
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.gone_while_it_lasts(), seen.late_failed()]
    }

    fn limits(&self) -> Vec<Limit> {
        // Until the backend has left the descriptors, a third of the requests fails.
        let own = [
            Limit::new("gone_s", Bound::AtMost(20.0)),
            Limit::new("late_failed", Bound::AtMost(0.0)),
            Limit::new("returned_s", Bound::AtMost(20.0)),
        ];
        [&own[..], &shares(15.0, 20.0)].concat()
    }
}

/// Measures the time until the HSDirs hold points of a backend again.
async fn returned(stage: &Stage, backend: &BackendPod) -> Result<Figure> {
    let mended = Instant::now();
    until("the backend's points are in the descriptors again", RETURNS, async || {
        let (held, points) = (stage.held_points()?, stage.points_of(backend).await.unwrap_or_default());
        Ok(if points.is_disjoint(&held) { Seen::NotYet(format!("{} points", points.len())) } else { Seen::Yes(()) })
    })
    .await?;
    Ok(Figure::seconds("returned_s", mended.elapsed().as_secs_f64()))
}

impl Fault for AppDown {
    fn name(&self) -> &'static str {
        "app_down"
    }

    fn breaks_app(&self) -> bool {
        true
    }

    fn about(&self) -> &'static str {
        "the node drops the packets from all backends to the app for a minute: no backend is withdrawn"
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let backends = stage.service.backends().await?;
            let ways: Result<Vec<_>> =
                backends.iter().map(|backend| WayToApp::new(&stage.node, &backend.address, stage.target())).collect();
            let ways = ways?;
            let at = Instant::now();
            for way in &ways {
                way.cut().await?;
            }
            let reported = reported(stage, at).await;
            let end = async move {
                for way in &ways {
                    way.mend().await?;
                }
                Ok(Findings { figures: vec![reported?], ..Findings::default() })
            };
            Ok(ActiveFault { lasts: stage.effort.lasts, ..ActiveFault::new(at, [].into()).with_findings(end) })
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.fewest_points()]
    }

    fn limits(&self) -> Vec<Limit> {
        // Nothing can serve the requests of this minute.
        vec![
            Limit::new("fewest_points", Bound::AtLeast(7.0)),
            Limit::new("reported_s", Bound::AtMost(60.0)),
            Limit::new("failed", Bound::Share(100.0)),
            Limit::new("cut", Bound::Share(5.0)),
            Limit::new("slow", Bound::Share(100.0)),
        ]
    }
}

/// Measures the time until the condition `BackendsReady` says that the target fails everywhere.
async fn reported(stage: &Stage, since: Instant) -> Result<Figure> {
    until("BackendsReady reports the failing target", REPORTED, async || {
        let reason = r#"{.status.conditions[?(@.type=="BackendsReady")].reason}"#;
        let seen = stage.run(&format!("get obs/web -o jsonpath={reason}")).await?;
        Ok(if seen.trim() == "TargetFailing" { Seen::Yes(()) } else { Seen::NotYet(seen) })
    })
    .await?;
    Ok(Figure::seconds("reported_s", since.elapsed().as_secs_f64()))
}
