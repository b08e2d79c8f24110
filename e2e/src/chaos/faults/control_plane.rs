//! What the data plane should do without: the operator, the API server, some of the HSDirs.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::{LocalBoxFuture, try_join_all};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::chaos::fault::{Fault, Needs, Observed, Struck};
use crate::chaos::figure::{Figure, Limit};
use crate::chaos::judge::settled;
use crate::chaos::stage::Stage;
use crate::install;

/// The operator is scaled to 0, and then a backend's pod dies.
#[derive(Debug)]
pub struct OperatorDown;

/// API server and etcd are away for two minutes.
#[derive(Debug)]
pub struct ApiServerDown;

/// Two of the HSDirs that hold the descriptor stand still for a minute.
#[derive(Debug)]
pub struct HsDirsDown;

const NONE_FAILS: Limit = Limit::AtMost(0.0);
const PUBLISHED: Duration = Duration::from_secs(120);

impl Fault for OperatorDown {
    fn name(&self) -> &'static str {
        "operator_down"
    }

    fn about(&self) -> &'static str {
        "the operator is stopped, then a backend's pod is deleted with no grace period"
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck>> {
        Box::pin(async move {
            let operator = format!("--namespace {} ", install::NAMESPACE);
            let scale = format!("{operator}scale deployment/{} --replicas=", install::DEPLOYMENT);
            let kubectl = stage.kubectl.clone();
            kubectl.run(&format!("{scale}0")).await?;
            kubectl.run(&format!("{operator}wait pods --all --for=delete --timeout=60s")).await?;
            let (victim, dead) = stage.victim().await?;
            let backends = stage.service.backends().await?.len();
            let at = Instant::now();
            stage.run(&format!("delete pod {} --grace-period=0 --force --wait=false", victim.name)).await?;
            let service = stage.service.clone();
            Ok(Struck::at(at, dead).ending(Duration::ZERO, async move {
                // The publisher says what it publishes, with or without the operator.
                let added = service.wait_published(backends, PUBLISHED).await;
                kubectl.run(&format!("{scale}1")).await?;
                added.map(drop)
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let added = (seen.ended - seen.at).as_secs_f64();
        vec![
            seen.gone().with(Limit::AtMost(10.0)),
            Figure::told(seen.name("added_s"), added, "s"),
            seen.failed().with(seen.half_a_percent()),
        ]
    }
}

impl Fault for ApiServerDown {
    fn name(&self) -> &'static str {
        "api_server_down"
    }

    fn about(&self) -> &'static str {
        "API server and etcd are killed, and back after two minutes"
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck>> {
        Box::pin(async move {
            let at = Instant::now();
            for program in ["kube-apiserver", "etcd"] {
                stage.processes.kill(program).await?;
            }
            let (cluster, service) = (stage.cluster.clone(), stage.service.clone());
            let backends = self.needs().backends;
            Ok(Struck::at(at, BTreeSet::new()).ending(Duration::from_secs(120), async move {
                cluster.up().await?;
                service.wait_published(backends, PUBLISHED).await?;
                service.wait_condition("Ready", "True", PUBLISHED).await?;
                Ok(())
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        // Each of the three backends has three points: with one of them withdrawn, six would be left.
        vec![seen.failed().with(NONE_FAILS), seen.fewest_points().with(Limit::AtLeast(7.0))]
    }
}

impl Fault for HsDirsDown {
    fn name(&self) -> &'static str {
        "hsdirs_down"
    }

    fn about(&self) -> &'static str {
        "two of the HSDirs stand still for a minute, and a backend's pod is deleted with no grace period"
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck>> {
        Box::pin(async move {
            let names = stage.network.fingerprints()?;
            let held = stage.held()?;
            // An authority that stands still would hold up the consensus, which is another fault.
            let relays = held.keys().filter_map(|hsdir| names.get(hsdir)).filter(|name| name.contains("relay"));
            let frozen: Vec<String> = relays.take(2).cloned().collect();
            ensure!(frozen.len() == 2, "only {frozen:?} hold the descriptor");
            let (victim, dead) = stage.victim().await?;
            let at = Instant::now();
            for relay in &frozen {
                stage.processes.signal(relay, Signal::STOP)?;
            }
            stage.run(&format!("delete pod {} --grace-period=0 --force --wait=false", victim.name)).await?;
            let processes = stage.processes.clone();
            Ok(Struck::at(at, dead).ending(Duration::from_secs(60), async move {
                try_join_all(frozen.iter().map(async |relay| processes.signal(relay, Signal::CONT))).await?;
                Ok(())
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let reachable: Vec<_> = seen.sightings.iter().filter(|sighting| sighting.at < seen.ended).cloned().collect();
        let gone = settled(&reachable, seen.at, |held| held.is_none_or(|held| held.points.is_disjoint(&seen.dead)));
        let gone = gone.map_or(f64::INFINITY, |gone| gone.as_secs_f64());
        vec![
            Figure::told(seen.name("reachable_gone_s"), gone, "s").with(Limit::AtMost(10.0)),
            seen.gone(),
            seen.failed(),
        ]
    }
}
