//! Outages that only a client notices: the target refuses streams or hangs, nobody serves the
//! published introduction points, or the HSDirs hold no descriptor. The condition `Reachable` must
//! report each of them with its own reason, with open and with restricted discovery.
//!
//! During the fault, all requests to our service may fail. Another client watches the service next
//! to the probe: while the probe reports an outage, no request of this client may succeed, and the
//! requests must succeed when the probe reports that the service answers again.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use onionbalance_operator::onion::ClientSecretKey;
use tokio::time::Instant;

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::limit::{Bound, Limit};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::stage::{PROBE, Stage};
use crate::chaos::target::Mood;
use crate::chaos::witness::Witness;
use crate::wait::{Seen, until};

/// Four outages, one after another, first with open and then with restricted discovery.
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
/// The outages: the figure of the time until the probe reports the outage, and its reasons. A relay
/// may accept introductions for a tor that has ended, even minutes later. A client then waits for
/// the rendezvous, and so does the probe.
const REPORTED: [(&str, &[&str]); 4] = [
    ("refuses_s", &["TargetFailed"]),
    ("hangs_s", &["TargetFailed"]),
    ("points_s", &["IntroductionFailed", "RendezvousFailed"]),
    ("unheld_s", &["DescriptorFailed"]),
];

impl Fault for Outages {
    fn name(&self) -> &'static str {
        "outages"
    }

    fn about(&self) -> &'static str {
        "the target refuses streams, then it hangs, then no backend is left, then no HSDir has the descriptor; all of \
         this again with restricted discovery; measures the time until `Reachable` says so (about 20 minutes)"
    }

    fn needs(&self) -> Needs {
        Needs { every: EVERY, quiet: None, ..Needs::default() }
    }

    fn breaks_app(&self) -> bool {
        true
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let settings = format!(r#"{{"periodSeconds":{PERIOD},"timeoutSeconds":{TIMEOUT},"http":{{"path":"/0"}}}}"#);
            stage.set_probe(&settings).await?;
            reachable(stage, &["Answered"]).await?;
            Ok(ActiveFault::new(Instant::now(), BTreeSet::new()).with_findings(async move {
                let mut slowest = Slowest::default();
                self.pass(stage, None, &mut slowest).await?;
                let key = ClientSecretKey::from_bytes([16; 32]);
                stage.restrict(&[key.public()]).await?;
                self.pass(stage, Some(&key), &mut slowest).await?;
                stage.restrict(&[]).await?;
                stage.set_probe(PROBE).await?;
                Ok(Findings { figures: slowest.figures(), ..Findings::default() })
            }))
        })
    }

    fn figures(&self, _: &Observed) -> Vec<Figure> {
        Vec::new()
    }

    fn limits(&self) -> Vec<Limit> {
        let in_time = Bound::AtMost(f64::from(PERIOD + TIMEOUT + WRITES));
        let noticed = REPORTED.map(|(what, _)| Limit::new(what, in_time));
        let back = [Limit::new("back_s", in_time)];
        let all = ["failed", "cut", "slow"].map(|what| Limit::new(what, Bound::Share(100.0)));
        [&noticed[..], &back, &all].concat()
    }
}

/// The longest times of both passes.
#[derive(Debug, Default)]
struct Slowest {
    reported: [f64; REPORTED.len()],
    back: f64,
}

impl Slowest {
    fn figures(&self) -> Vec<Figure> {
        let reported = REPORTED.iter().zip(self.reported).map(|((what, _), seconds)| Figure::seconds(*what, seconds));
        reported.chain([Figure::seconds("back_s", self.back)]).collect()
    }
}

impl Outages {
    /// Causes each outage once. `key` is the key of the other client if discovery is restricted.
    async fn pass(&self, stage: &Stage, key: Option<&ClientSecretKey>, slowest: &mut Slowest) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut witness = Witness::start(stage, dir.path(), key).await?;
        witness.succeeds().await?;
        for (outage, mood) in [Mood::Refuses, Mood::Hangs].into_iter().enumerate() {
            stage.set_mood(mood);
            slowest.begins(stage, outage, &mut witness).await?;
            stage.set_mood(Mood::Answers);
            slowest.ends(stage, &mut witness).await?;
        }
        stage.scale(0).await?;
        // A backend that drains still serves clients.
        until("all backends are gone", PATIENCE, async || {
            let left = stage.service.backends_in_any_state().await?;
            Ok(if left == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{left} are left")) })
        })
        .await?;
        slowest.begins(stage, 2, &mut witness).await?;
        // Nothing is uploaded while there is no backend, and a relay keeps descriptors in memory.
        stage.network.restart_relays().await?;
        until("no HSDir has the descriptor", PATIENCE, async || {
            let left = witness.hsdirs(stage).await?;
            Ok(if left == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{left} have it")) })
        })
        .await?;
        slowest.begins(stage, 3, &mut witness).await?;
        stage.scale(self.needs().backends).await?;
        stage.service.wait_published(self.needs().backends, PATIENCE).await?;
        slowest.ends(stage, &mut witness).await?;
        witness.remove().await
    }
}

impl Slowest {
    /// Waits until the probe reports an outage that has just begun.
    async fn begins(&mut self, stage: &Stage, outage: usize, witness: &mut Witness) -> Result<()> {
        let reported = reachable(stage, REPORTED[outage].1).await?;
        self.reported[outage] = self.reported[outage].max(reported);
        witness.fails().await
    }

    /// Waits until the probe reports that an outage is over, which has just been repaired.
    async fn ends(&mut self, stage: &Stage, witness: &mut Witness) -> Result<()> {
        self.back = self.back.max(reachable(stage, &["Answered"]).await?);
        witness.succeeds().await
    }
}

/// Waits until the condition `Reachable` has one of these reasons. Returns the time in seconds that
/// this took.
async fn reachable(stage: &Stage, reasons: &[&str]) -> Result<f64> {
    let begun = Instant::now();
    until(&format!("Reachable has one of the reasons {reasons:?}"), PATIENCE, async || {
        let conditions = stage.service.status().await?.conditions;
        let found = conditions.into_iter().find(|condition| condition.type_ == "Reachable");
        let found = found.map(|condition| condition.reason).unwrap_or_default();
        Ok(if reasons.contains(&found.as_str()) { Seen::Yes(()) } else { Seen::NotYet(found) })
    })
    .await?;
    Ok(begun.elapsed().as_secs_f64())
}
