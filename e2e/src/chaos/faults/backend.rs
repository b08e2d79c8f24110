//! Faults in which one of three backends fails or hangs.

use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::chaos::fault::{ActiveFault, Fault};
use crate::chaos::figure::{Figure, Limit};
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

/// How long an agent is frozen or a link is cut. Clients are observed during the same minute.
const LASTS: Duration = Duration::from_secs(60);

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
                    active.ending(LASTS, async move { resume(&uid, &[PodProgram::Ours]) })
                }
                Self::PodDelete => {
                    stage.run(&format!("delete pod {} --grace-period=0 --force --wait=false", victim.name)).await?;
                    active
                }
                Self::LinkCut => {
                    link.cut().await?;
                    active.ending(LASTS, async move { link.mend().await })
                }
            })
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        match self {
            Self::TorKill | Self::PodDelete => {
                let mut figures =
                    vec![seen.gone().with(Limit::AtMost(10.0)), seen.failed().with(seen.half_a_percent())];
                figures.extend(seen.slow_fresh());
                figures
            }
            Self::TorFreeze | Self::AgentFreeze | Self::LinkCut => {
                let [percent, late] = seen.slow_fresh();
                let gone = if *self == Self::TorFreeze { seen.gone() } else { seen.gone_while_it_lasts() };
                vec![
                    gone.with(Limit::AtMost(15.0)),
                    percent.with(Limit::Below(10.0)),
                    late.with(Limit::AtMost(0.0)),
                    seen.failed(),
                ]
            }
            Self::AgentKill => {
                let mut figures = vec![seen.failed()];
                figures.extend(seen.slow_fresh());
                figures
            }
        }
    }
}
