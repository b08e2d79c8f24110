//! The frontend that leads dies, or stands still for a minute.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::chaos::fault::{Fault, Needs, Observed, Struck};
use crate::chaos::figure::{Figure, Limit};
use crate::chaos::pods::{Program, signal, thaw};
use crate::chaos::stage::Stage;

/// Publisher and tor of the leader are killed, and its pod deleted: the standby takes over.
#[derive(Debug)]
pub struct FrontendKill;

/// The one frontend's tor is killed.
#[derive(Debug)]
pub struct FrontendTorKill;

/// The leader's programs stand still for a minute, and go on.
#[derive(Debug)]
pub struct FrontendFreeze;

const WITH_STANDBY: Needs = Needs { backends: 3, frontends: 2, streams: false };
const BOTH: [Program; 2] = [Program::Ours, Program::Tor];
const NONE_FAILS: Limit = Limit::AtMost(0.0);

impl Fault for FrontendKill {
    fn name(&self) -> &'static str {
        "frontend_kill"
    }

    fn about(&self) -> &'static str {
        "kill -9 of the leading frontend's publisher and tor, and its pod is deleted: the standby takes over"
    }

    fn needs(&self) -> Needs {
        WITH_STANDBY
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck>> {
        Box::pin(async move {
            let (name, uid) = stage.leader().await?;
            let at = Instant::now();
            // Killed first: a publisher that is asked to end would give its Lease up.
            signal(&uid, &BOTH, Signal::KILL)?;
            stage.run(&format!("delete pod {name} --grace-period=0 --force --wait=false")).await?;
            Ok(Struck::at(at, BTreeSet::new()))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.republished().with(Limit::AtMost(25.0)), seen.failed().with(NONE_FAILS)]
    }
}

impl Fault for FrontendTorKill {
    fn name(&self) -> &'static str {
        "frontend_tor_kill"
    }

    fn about(&self) -> &'static str {
        "kill -9 of the only frontend's tor"
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck>> {
        Box::pin(async move {
            let (_, uid) = stage.leader().await?;
            let at = Instant::now();
            signal(&uid, &[Program::Tor], Signal::KILL)?;
            Ok(Struck::at(at, BTreeSet::new()))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.failed().with(NONE_FAILS), seen.fewest_points()]
    }
}

impl Fault for FrontendFreeze {
    fn name(&self) -> &'static str {
        "frontend_freeze"
    }

    fn about(&self) -> &'static str {
        "SIGSTOP of the leading frontend's publisher and tor, thawed after a minute: the standby takes over, and keeps it"
    }

    fn needs(&self) -> Needs {
        WITH_STANDBY
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck>> {
        Box::pin(async move {
            let (_, uid) = stage.leader().await?;
            let at = Instant::now();
            signal(&uid, &BOTH, Signal::STOP)?;
            Ok(Struck::at(at, BTreeSet::new()).ending(Duration::from_secs(60), async move { thaw(&uid, &BOTH) }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.republished().with(Limit::AtMost(25.0)), seen.failed().with(NONE_FAILS), seen.fewest_points()]
    }
}
