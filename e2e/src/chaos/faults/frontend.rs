//! The frontend that leads dies, stands still for a minute, or is cut off; or one of its two programs does.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::LocalBoxFuture;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use crate::chaos::fault::{Fault, Needs, Observed, Struck, Told};
use crate::chaos::figure::{Figure, Limit};
use crate::chaos::pods::{Link, Program, signal, thaw};
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Publisher and tor of the leader are killed, and its pod deleted: the standby takes over.
    Kill,
    /// The leader's programs stand still for a minute, and go on: the standby takes over, and keeps it.
    Freeze,
    /// The leader's pod is cut off for a minute: the standby takes over, and keeps it.
    LinkCut,
    /// The leader's publisher alone stands still for a minute, and goes on.
    PublisherFreeze,
    /// The only frontend's publisher is killed.
    PublisherKill,
    /// The only frontend's tor is killed.
    TorKill,
    /// The only frontend's tor stands still until it is ended for it.
    TorFreeze,
}

/// A fault of the frontend.
#[derive(Debug)]
pub struct Frontend(pub How);

const BOTH: [Program; 2] = [Program::Ours, Program::Tor];
const NONE: Limit = Limit::AtMost(0.0);
/// The limit for a standby's descriptor on all HSDirs.
const TAKEN_OVER: Limit = Limit::AtMost(25.0);
/// How long a leader stands still or is cut off.
const LASTS: Duration = Duration::from_secs(60);
/// For so long after that it is seen whether the old leader publishes.
const WATCHED: Duration = Duration::from_secs(15);

impl How {
    fn has_standby(self) -> bool {
        matches!(self, Self::Kill | Self::Freeze | Self::LinkCut | Self::PublisherFreeze)
    }
}

impl Fault for Frontend {
    fn name(&self) -> &'static str {
        match self.0 {
            How::Kill => "frontend_kill",
            How::Freeze => "frontend_freeze",
            How::LinkCut => "frontend_link_cut",
            How::PublisherFreeze => "publisher_freeze",
            How::PublisherKill => "publisher_kill",
            How::TorKill => "frontend_tor_kill",
            How::TorFreeze => "frontend_tor_freeze",
        }
    }

    fn about(&self) -> &'static str {
        match self.0 {
            How::Kill => {
                "kill -9 of the leading frontend's publisher and tor, and its pod is deleted: the standby takes over"
            }
            How::Freeze => {
                "SIGSTOP of the leading frontend's publisher and tor, thawed after a minute: the standby keeps it"
            }
            How::LinkCut => "the link of the leading frontend's pod is down for a minute: the standby keeps it",
            How::PublisherFreeze => {
                "SIGSTOP of the leading frontend's publisher, thawed after a minute: the standby keeps it"
            }
            How::PublisherKill => "kill -9 of the only frontend's publisher",
            How::TorKill => "kill -9 of the only frontend's tor",
            How::TorFreeze => "SIGSTOP of the only frontend's tor",
        }
    }

    fn needs(&self) -> Needs {
        Needs { frontends: if self.0.has_standby() { 2 } else { 1 }, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>> {
        Box::pin(async move {
            let (name, uid) = stage.leader().await?;
            let link = Link::of(&stage.node, &uid).await?;
            let newest = stage.newest()?;
            let at = Instant::now();
            let struck = Struck::at(at, BTreeSet::new());
            let ours = &[Program::Ours];
            Ok(match self.0 {
                How::Kill => {
                    // Killed first: a publisher that is asked to end would give its Lease up.
                    signal(&uid, &BOTH, Signal::KILL)?;
                    stage.run(&format!("delete pod {name} --grace-period=0 --force --wait=false")).await?;
                    struck
                }
                How::Freeze => {
                    signal(&uid, &BOTH, Signal::STOP)?;
                    struck.telling(self.old_leader(stage, at, name, async move { thaw(&uid, &BOTH) }))
                }
                How::PublisherFreeze => {
                    signal(&uid, ours, Signal::STOP)?;
                    struck.telling(self.old_leader(stage, at, name, async move { thaw(&uid, ours) }))
                }
                How::LinkCut => {
                    link.cut().await?;
                    struck.telling(self.old_leader(stage, at, name, async move { link.mend().await }))
                }
                How::PublisherKill => {
                    signal(&uid, ours, Signal::KILL)?;
                    struck
                }
                How::TorKill => {
                    signal(&uid, &[Program::Tor], Signal::KILL)?;
                    struck
                }
                How::TorFreeze => {
                    signal(&uid, &[Program::Tor], Signal::STOP)?;
                    struck.ending(Duration::ZERO, published_since(stage, newest))
                }
            })
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let republished = if self.0.has_standby() { seen.republished().with(TAKEN_OVER) } else { seen.republished() };
        vec![republished, seen.failed().with(NONE), seen.fewest_points()]
    }
}

impl Frontend {
    /// Ends the fault after its time, and counts what the old leader publishes once it goes on: another leads, so that would be a race.
    async fn old_leader(
        &self,
        stage: &Stage,
        at: Instant,
        pod: String,
        end: impl Future<Output = Result<()>>,
    ) -> Result<Told> {
        sleep_until(at + LASTS).await;
        let (holder, _) = stage.leader().await?;
        anyhow::ensure!(holder != pod, "no standby took over from {pod}");
        end.await?;
        let ended = Instant::now();
        sleep_until(ended + WATCHED).await;
        let since = ended.elapsed().as_secs();
        let published = published_by(stage, &pod, since).await?;
        let (now, _) = stage.leader().await?;
        Ok(Told {
            figures: vec![
                Figure::count(format!("{}_old_leader_published", self.name()), published, "descriptors").with(NONE),
                Figure::count(format!("{}_leader_changed_back", self.name()), usize::from(now != holder), "times")
                    .with(NONE),
            ],
            ..Told::default()
        })
    }
}

/// How many descriptors a frontend's publisher says that it published, also before its container was restarted.
async fn published_by(stage: &Stage, pod: &str, seconds: u64) -> Result<usize> {
    let restarts = "jsonpath={.status.containerStatuses[?(@.name==\"publisher\")].restartCount}";
    let restarts: u32 = stage.run(&format!("get pod {pod} -o {restarts}")).await?.trim().parse()?;
    let mut said = stage.run(&format!("logs {pod} -c publisher --since={seconds}s")).await?;
    if restarts > 0 {
        said += &stage.run(&format!("logs {pod} -c publisher --since={seconds}s --previous")).await?;
    }
    Ok(said.lines().filter(|line| line.contains("publishing a new descriptor")).count())
}

/// Waits until an HSDir has a descriptor that is newer than this.
async fn published_since(stage: &Stage, newest: u64) -> Result<()> {
    until("a newer descriptor is published", Duration::from_secs(240), async || {
        let newest_now = stage.newest().context("look at the HSDirs")?;
        Ok(if newest_now > newest { Seen::Yes(()) } else { Seen::not_yet("the HSDirs hold the old one") })
    })
    .await
}
