//! One of three backends dies, or is there and does nothing.

use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::chaos::fault::{Fault, Observed, Struck};
use crate::chaos::figure::{Figure, Limit};
use crate::chaos::pods::{Link, Program, signal, thaw};
use crate::chaos::stage::Stage;

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// SIGKILL to its tor.
    TorKill,
    /// SIGSTOP to its tor.
    TorFreeze,
    /// SIGKILL to its agent.
    AgentKill,
    /// SIGSTOP to its agent.
    AgentFreeze,
    /// Its pod is deleted without a grace period.
    PodDelete,
    /// Its pod's link is down.
    LinkCut,
}

/// A fault of one backend.
#[derive(Debug)]
pub struct Backend(pub How);

/// For as long a frozen agent or a cut link stays so: the minute in which clients are watched.
const LASTS: Duration = Duration::from_secs(60);

impl Fault for Backend {
    fn name(&self) -> &'static str {
        match self.0 {
            How::TorKill => "backend_tor_kill",
            How::TorFreeze => "backend_tor_freeze",
            How::AgentKill => "backend_agent_kill",
            How::AgentFreeze => "backend_agent_freeze",
            How::PodDelete => "backend_pod_delete",
            How::LinkCut => "backend_link_cut",
        }
    }

    fn about(&self) -> &'static str {
        match self.0 {
            How::TorKill => "kill -9 of a backend's tor",
            How::TorFreeze => "SIGSTOP of a backend's tor",
            How::AgentKill => "kill -9 of a backend's agent",
            How::AgentFreeze => "SIGSTOP of a backend's agent",
            How::PodDelete => "a backend's pod is deleted with no grace period",
            How::LinkCut => "the link of a backend's pod is down for a minute",
        }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>> {
        Box::pin(async move {
            let (victim, dead) = stage.victim().await?;
            let link = Link::of(&stage.node, &victim.uid).await?;
            let uid = victim.uid.clone();
            let struck = Struck::at(Instant::now(), dead);
            Ok(match self.0 {
                How::TorKill => {
                    signal(&uid, &[Program::Tor], Signal::KILL)?;
                    struck
                }
                How::TorFreeze => {
                    signal(&uid, &[Program::Tor], Signal::STOP)?;
                    struck
                }
                How::AgentKill => {
                    signal(&uid, &[Program::Ours], Signal::KILL)?;
                    // Its tor lives on, and so do its points, once the agent is back.
                    Struck { dead: [].into(), ..struck }
                }
                How::AgentFreeze => {
                    signal(&uid, &[Program::Ours], Signal::STOP)?;
                    struck.ending(LASTS, async move { thaw(&uid, &[Program::Ours]) })
                }
                How::PodDelete => {
                    stage.run(&format!("delete pod {} --grace-period=0 --force --wait=false", victim.name)).await?;
                    struck
                }
                How::LinkCut => {
                    link.cut().await?;
                    struck.ending(LASTS, async move { link.mend().await })
                }
            })
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        match self.0 {
            How::TorKill | How::PodDelete => {
                let mut figures =
                    vec![seen.gone().with(Limit::AtMost(10.0)), seen.failed().with(seen.half_a_percent())];
                figures.extend(seen.slow_fresh());
                figures
            }
            How::TorFreeze | How::AgentFreeze | How::LinkCut => {
                let [percent, late] = seen.slow_fresh();
                let gone = if self.0 == How::TorFreeze { seen.gone() } else { seen.gone_while_it_lasts() };
                vec![
                    gone.with(Limit::AtMost(15.0)),
                    percent.with(Limit::Below(10.0)),
                    late.with(Limit::AtMost(0.0)),
                    seen.failed(),
                ]
            }
            How::AgentKill => {
                let mut figures = vec![seen.failed()];
                figures.extend(seen.slow_fresh());
                figures
            }
        }
    }
}
