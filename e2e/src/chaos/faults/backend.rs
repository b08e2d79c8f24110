//! Faults in which one of three backends fails or hangs.

use anyhow::Result;
use futures::future::LocalBoxFuture;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::chaos::fault::{ActiveFault, Fault};
use crate::chaos::figure::Figure;
use crate::chaos::limit::{Bound, Limit, shares};
use crate::chaos::observed::Observed;
use crate::chaos::pods::{Link, PodProgram, resume, signal};
use crate::chaos::stage::Stage;

/// A failure of a single backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendFault {
    /// The backend's tor receives SIGKILL.
    TorKill,
    /// The backend's tor receives SIGSTOP.
    TorFreeze,
    /// The backend's agent receives SIGKILL.
    AgentKill,
    /// The backend's agent receives SIGSTOP.
    AgentFreeze,
    /// The backend's pod is deleted without a grace period.
    PodDelete,
    /// The network link of the backend's pod is down.
    LinkCut,
}

impl Fault for BackendFault {
    fn name(&self) -> &'static str {
        match self {
            Self::TorKill => "backend_tor_kill",
            Self::TorFreeze => "backend_tor_freeze",
            Self::AgentKill => "backend_agent_kill",
            Self::AgentFreeze => "backend_agent_freeze",
            Self::PodDelete => "backend_pod_delete",
            Self::LinkCut => "backend_link_cut",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Self::TorKill => "kill -9 of a backend's tor",
            Self::TorFreeze => "SIGSTOP of a backend's tor",
            Self::AgentKill => "kill -9 of a backend's agent",
            Self::AgentFreeze => "SIGSTOP of a backend's agent",
            Self::PodDelete => "a backend's pod is deleted without a grace period",
            Self::LinkCut => "the link of a backend's pod is down for a minute",
        }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let (victim, dead) = stage.victim().await?;
            let link = Link::of(&stage.node, &victim.uid).await?;
            let uid = victim.uid.clone();
            let active = ActiveFault::new(Instant::now(), dead);
            Ok(match self {
                Self::TorKill => {
                    signal(&uid, &[PodProgram::Tor], Signal::KILL)?;
                    active
                }
                Self::TorFreeze => {
                    signal(&uid, &[PodProgram::Tor], Signal::STOP)?;
                    active
                }
                Self::AgentKill => {
                    signal(&uid, &[PodProgram::Ours], Signal::KILL)?;
                    // The tor keeps running, and its points are still valid once the agent is back.
                    ActiveFault { dead: [].into(), ..active }
                }
                Self::AgentFreeze => {
                    signal(&uid, &[PodProgram::Ours], Signal::STOP)?;
                    active.ending(stage.effort.lasts, async move { resume(&uid, &[PodProgram::Ours]) })
                }
                Self::PodDelete => {
                    stage.run(&format!("delete pod {} --grace-period=0 --force --wait=false", victim.name)).await?;
                    active
                }
                Self::LinkCut => {
                    link.cut().await?;
                    active.ending(stage.effort.lasts, async move { link.mend().await })
                }
            })
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let mut figures = seen.slow_fresh().to_vec();
        match self {
            Self::TorKill | Self::TorFreeze | Self::PodDelete => figures.push(seen.gone()),
            Self::AgentFreeze | Self::LinkCut => figures.push(seen.gone_while_it_lasts()),
            Self::AgentKill => {}
        }
        figures
    }

    fn limits(&self) -> Vec<Limit> {
        // A backend that hangs delays clients until it has left the descriptors. Of the 80 requests
        // that fresh clients begin in the minute after the fault, fewer than 10% may be slow.
        let hangs = [
            Limit::new("gone_s", Bound::AtMost(15.0)),
            Limit::new("slow_minute", Bound::Below(8.0)),
            Limit::new("slow_late", Bound::AtMost(0.0)),
        ];
        match self {
            Self::TorKill | Self::PodDelete => {
                [&[Limit::new("gone_s", Bound::AtMost(10.0))][..], &shares(0.5, 1.0)].concat()
            }
            Self::AgentKill => shares(2.0, 2.0).to_vec(),
            Self::TorFreeze => [&hangs[..], &shares(1.0, 5.0)].concat(),
            // Clients with a cached descriptor still choose this backend in one of three requests.
            Self::AgentFreeze => [&hangs[..], &shares(2.0, 25.0)].concat(),
            Self::LinkCut => [&hangs[..], &shares(5.0, 25.0)].concat(),
        }
    }
}
