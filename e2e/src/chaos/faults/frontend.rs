//! Faults of the leading frontend: it fails, hangs or is cut off, or one of its two programs fails.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::LocalBoxFuture;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::limit::{Bound, Limit, harmless};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::pods::{Link, PodProgram, resume, signal};
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// A failure of the leading frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontendFault {
    /// The leader's publisher and tor are killed, and its pod is deleted. The standby takes over.
    Kill,
    /// The leader's publisher and tor are frozen for a minute. The standby takes over and keeps the
    /// leadership.
    Freeze,
    /// The link of the leader's pod is down for a minute. The standby takes over and keeps the
    /// leadership.
    LinkCut,
    /// Only the leader's publisher is frozen for a minute. The standby takes over and keeps the
    /// leadership.
    PublisherFreeze,
    /// The only frontend's publisher is killed.
    PublisherKill,
    /// The only frontend's tor is killed.
    TorKill,
    /// The only frontend's tor is frozen until it is killed and restarted.
    TorFreeze,
}

const BOTH: [PodProgram; 2] = [PodProgram::Ours, PodProgram::Tor];
/// The duration for which a leader is frozen or cut off.
const LASTS: Duration = Duration::from_secs(60);
/// How long after the end of the fault the old leader is watched, in case it publishes again.
const WATCHED: Duration = Duration::from_secs(15);

/// The time in which a lone frontend whose tor is frozen must publish again if the probe of its tor
/// has its own grace period.
const WITH_GRACE_PERIOD: Duration = Duration::from_secs(25);
/// The time in which it must publish again if the kubelet waits for the pod's grace period.
const WITHOUT_GRACE_PERIOD: Duration = Duration::from_secs(120);

impl FrontendFault {
    fn has_standby(self) -> bool {
        matches!(self, Self::Kill | Self::Freeze | Self::LinkCut | Self::PublisherFreeze)
    }
}

impl Fault for FrontendFault {
    fn name(&self) -> &'static str {
        match self {
            Self::Kill => "frontend_kill",
            Self::Freeze => "frontend_freeze",
            Self::LinkCut => "frontend_link_cut",
            Self::PublisherFreeze => "publisher_freeze",
            Self::PublisherKill => "publisher_kill",
            Self::TorKill => "frontend_tor_kill",
            Self::TorFreeze => "frontend_tor_freeze",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Kill => {
                "kill -9 of the leading frontend's publisher and tor, and deletion of its pod: the standby takes over"
            }
            Self::Freeze => {
                "SIGSTOP of the leading frontend's publisher and tor for a minute: the standby keeps the leadership"
            }
            Self::LinkCut => {
                "the link of the leading frontend's pod is down for a minute: the standby keeps the leadership"
            }
            Self::PublisherFreeze => {
                "SIGSTOP of the leading frontend's publisher for a minute: the standby keeps the leadership"
            }
            Self::PublisherKill => "kill -9 of the only frontend's publisher",
            Self::TorKill => "kill -9 of the only frontend's tor",
            Self::TorFreeze => "SIGSTOP of the only frontend's tor",
        }
    }

    fn needs(&self) -> Needs {
        let longer = match self {
            Self::Kill | Self::PublisherKill | Self::TorKill => 0,
            // The old leader is watched for some time.
            Self::Freeze | Self::LinkCut | Self::PublisherFreeze => 25,
            Self::TorFreeze => 75,
        };
        let quiet = Some(Duration::from_secs(longer));
        Needs { frontends: if self.has_standby() { 2 } else { 1 }, quiet, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let (name, uid) = stage.leader().await?;
            let link = Link::of(&stage.node, &uid).await?;
            let newest = stage.newest()?;
            let at = Instant::now();
            let active = ActiveFault::new(at, BTreeSet::new());
            let ours = &[PodProgram::Ours];
            Ok(match self {
                Self::Kill => {
                    // Kill the publisher before deleting its pod: on SIGTERM, a publisher would
                    // release its Lease.
                    signal(&uid, &BOTH, Signal::KILL)?;
                    stage.run(&format!("delete pod {name} --grace-period=0 --force --wait=false")).await?;
                    active
                }
                Self::Freeze => {
                    signal(&uid, &BOTH, Signal::STOP)?;
                    active.with_findings(self.old_leader(stage, at, name, async move { resume(&uid, &BOTH) }))
                }
                Self::PublisherFreeze => {
                    signal(&uid, ours, Signal::STOP)?;
                    active.with_findings(self.old_leader(stage, at, name, async move { resume(&uid, ours) }))
                }
                Self::LinkCut => {
                    link.cut().await?;
                    active.with_findings(self.old_leader(stage, at, name, async move { link.mend().await }))
                }
                Self::PublisherKill => {
                    signal(&uid, ours, Signal::KILL)?;
                    active
                }
                Self::TorKill => {
                    signal(&uid, &[PodProgram::Tor], Signal::KILL)?;
                    active
                }
                Self::TorFreeze => {
                    signal(&uid, &[PodProgram::Tor], Signal::STOP)?;
                    active.with_findings(tor_back(stage, at, newest))
                }
            })
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.republished(), seen.fewest_points()]
    }

    fn limits(&self) -> Vec<Limit> {
        let republished = match self {
            Self::Kill | Self::Freeze | Self::LinkCut | Self::PublisherFreeze => 25.0,
            Self::PublisherKill | Self::TorKill => 10.0,
            Self::TorFreeze => WITHOUT_GRACE_PERIOD.as_secs_f64(),
        };
        // Each of the three backends has three points, so withdrawing one backend would leave six.
        let mut limits = vec![
            Limit::new("republished_s", Bound::AtMost(republished)),
            Limit::new("fewest_points", Bound::AtLeast(7.0)),
        ];
        if matches!(self, Self::Freeze | Self::LinkCut | Self::PublisherFreeze) {
            limits.push(Limit::new("old_leader_published", Bound::AtMost(0.0)));
            limits.push(Limit::new("leader_changed_back", Bound::AtMost(0.0)));
        }
        if *self == Self::TorFreeze {
            limits.push(Limit::new("late_s", Bound::AtMost(0.0)));
        }
        limits.extend(harmless());
        limits
    }
}

impl FrontendFault {
    /// Ends the fault when its time is over, and counts the descriptors that the old leader
    /// publishes afterwards. The count must be 0: another frontend leads by then, and two
    /// publishing frontends would overwrite each other's descriptors.
    async fn old_leader(
        &self,
        stage: &Stage,
        at: Instant,
        pod: String,
        end: impl Future<Output = Result<()>>,
    ) -> Result<Findings> {
        sleep_until(at + LASTS).await;
        let (holder, _) = stage.leader().await?;
        anyhow::ensure!(holder != pod, "no standby took over from {pod}");
        end.await?;
        let ended = Instant::now();
        sleep_until(ended + WATCHED).await;
        let since = ended.elapsed().as_secs();
        let published = published_by(stage, &pod, since).await?;
        let (now, _) = stage.leader().await?;
        Ok(Findings {
            figures: vec![
                Figure::count("old_leader_published", published, "descriptors"),
                Figure::count("leader_changed_back", usize::from(now != holder), "times"),
            ],
            ..Findings::default()
        })
    }
}

/// Counts the descriptors that a frontend's publisher logged as published, including those logged
/// before a restart of its container.
async fn published_by(stage: &Stage, pod: &str, seconds: u64) -> Result<usize> {
    let restarts = "jsonpath={.status.containerStatuses[?(@.name==\"publisher\")].restartCount}";
    let restarts: u32 = stage.run(&format!("get pod {pod} -o {restarts}")).await?.trim().parse()?;
    let mut log = stage.run(&format!("logs {pod} -c publisher --since={seconds}s")).await?;
    if restarts > 0 {
        log += &stage.run(&format!("logs {pod} -c publisher --since={seconds}s --previous")).await?;
    }
    Ok(log.lines().filter(|line| line.contains("publishing a new descriptor")).count())
}

/// Waits until the frontend publishes again, and measures by how much it misses its time. It has
/// less time if the probe of its tor has its own grace period (decision 19).
async fn tor_back(stage: &Stage, at: Instant, newest: u64) -> Result<Findings> {
    published_since(stage, newest).await?;
    let back = at.elapsed();
    let allowed = if stage.probe_has_grace_period().await? { WITH_GRACE_PERIOD } else { WITHOUT_GRACE_PERIOD };
    let late = Figure::seconds("late_s", back.saturating_sub(allowed).as_secs_f64());
    Ok(Findings { figures: vec![late], ..Findings::default() })
}

/// Waits until an HSDir holds a descriptor with a higher revision counter than `newest`.
async fn published_since(stage: &Stage, newest: u64) -> Result<()> {
    until("a newer descriptor is published", Duration::from_secs(240), async || {
        let newest_now = stage.newest().context("could not read the HSDirs' descriptors")?;
        Ok(if newest_now > newest { Seen::Yes(()) } else { Seen::not_yet("the HSDirs still hold the old one") })
    })
    .await
}
