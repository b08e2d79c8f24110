//! Outages that only a client notices: the target refuses streams or hangs, or nobody serves the
//! published introduction points. The condition `Reachable` must report each of them.
//!
//! During the fault, all requests to our service may fail. The probe must agree with them: while it
//! reports an outage, there is one.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::limit::{Bound, Limit};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::stage::{PROBE, Stage};
use crate::chaos::target::Mood;
use crate::wait::{Seen, until};

/// Three outages, one after another.
#[derive(Debug)]
pub struct Outages;

/// The period of the probe in seconds.
const PERIOD: u16 = 20;
/// The timeout of the probe in seconds.
const TIMEOUT: u16 = 60;
/// The time in seconds in which the publisher and the operator write the status, in addition to the
/// times of the probe. The publisher writes its part every five seconds at most.
const WRITES: u16 = 10;
/// The interval between requests. In an outage, a request may last a minute.
const EVERY: Duration = Duration::from_secs(1);
/// The time after which the fault gives up waiting for a result of the probe.
const PATIENCE: Duration = Duration::from_secs(240);

impl Fault for Outages {
    fn name(&self) -> &'static str {
        "outages"
    }

    fn about(&self) -> &'static str {
        "the target refuses streams, then it hangs, then no backend is left; measures the time until `Reachable` says so \
         (about ten minutes)"
    }

    fn needs(&self) -> Needs {
        Needs { every: EVERY, quiet: None, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let settings = format!(r#"{{"periodSeconds":{PERIOD},"timeoutSeconds":{TIMEOUT},"http":{{"path":"/0"}}}}"#);
            stage.set_probe(&settings).await?;
            reachable(stage, "Answered").await?;
            Ok(ActiveFault::new(Instant::now(), BTreeSet::new()).with_findings(async move {
                let mut figures = Vec::new();
                let mut back = 0.0_f64;
                for (what, mood) in [("refuses_s", Mood::Refuses), ("hangs_s", Mood::Hangs)] {
                    stage.set_mood(mood);
                    figures.push(Figure::seconds(what, reachable(stage, "TargetFailed").await?));
                    stage.set_mood(Mood::Answers);
                    back = back.max(reachable(stage, "Answered").await?);
                }
                stage.scale(0).await?;
                until("all backends are gone", PATIENCE, async || {
                    let left = stage.service.backends().await?.len();
                    Ok(if left == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{left} are left")) })
                })
                .await?;
                figures.push(Figure::seconds("points_s", reachable(stage, "IntroductionFailed").await?));
                stage.scale(self.needs().backends).await?;
                stage.service.wait_published(self.needs().backends, PATIENCE).await?;
                back = back.max(reachable(stage, "Answered").await?);
                figures.push(Figure::seconds("back_s", back));
                stage.set_probe(PROBE).await?;
                Ok(Findings { figures, ..Findings::default() })
            }))
        })
    }

    fn figures(&self, _: &Observed) -> Vec<Figure> {
        Vec::new()
    }

    fn limits(&self) -> Vec<Limit> {
        let in_time = Bound::AtMost(f64::from(PERIOD + TIMEOUT + WRITES));
        let noticed = ["refuses_s", "hangs_s", "points_s", "back_s"].map(|what| Limit::new(what, in_time));
        let all = ["failed", "cut", "slow"].map(|what| Limit::new(what, Bound::Share(100.0)));
        [&noticed[..], &all].concat()
    }
}

/// Waits until the condition `Reachable` has this reason. Returns the time in seconds that this
/// took.
async fn reachable(stage: &Stage, reason: &str) -> Result<f64> {
    let begun = Instant::now();
    until(&format!("Reachable has the reason {reason}"), PATIENCE, async || {
        let conditions = stage.service.status().await?.conditions;
        let found = conditions.into_iter().find(|condition| condition.type_ == "Reachable");
        let found = found.map(|condition| condition.reason).unwrap_or_default();
        Ok(if found == reason { Seen::Yes(()) } else { Seen::NotYet(found) })
    })
    .await?;
    Ok(begun.elapsed().as_secs_f64())
}
