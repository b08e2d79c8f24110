//! What the data plane should do without: the operator, the API server, some of the HSDirs.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::{LocalBoxFuture, try_join_all};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use onionbalance_operator::crd::OnionBalancedServiceStatus;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chaos::fault::{Fault, Needs, Observed, Struck, Told};
use crate::chaos::figure::{Figure, Limit};
use crate::chaos::stage::Stage;
use crate::install;
use crate::steps::say;

/// The operator is scaled to 0, and then a backend's pod dies.
#[derive(Debug)]
pub struct OperatorDown;

/// What is away of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// Its store alone.
    Etcd,
    /// Store and API server.
    ApiServerAndEtcd,
}

/// They are away for two minutes.
#[derive(Debug)]
pub struct ControlPlane(pub Programs);

/// Two of the HSDirs that hold the descriptor stand still for a minute.
#[derive(Debug)]
pub struct HsDirsDown;

const NONE_FAILS: Limit = Limit::AtMost(0.0);
const PUBLISHED: Duration = Duration::from_secs(120);
const AWAY: Duration = Duration::from_secs(120);
/// For so long after the API server is back its statuses are looked at.
const WATCHED: Duration = Duration::from_secs(30);

impl Fault for OperatorDown {
    fn name(&self) -> &'static str {
        "operator_down"
    }

    fn about(&self) -> &'static str {
        "the operator is stopped, then a backend's pod is deleted with no grace period"
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>> {
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

impl Fault for ControlPlane {
    fn name(&self) -> &'static str {
        match self.0 {
            Programs::Etcd => "etcd_down",
            Programs::ApiServerAndEtcd => "api_server_down",
        }
    }

    fn about(&self) -> &'static str {
        match self.0 {
            Programs::Etcd => "etcd is killed, and back after two minutes",
            Programs::ApiServerAndEtcd => "API server and etcd are killed, and back after two minutes",
        }
    }

    fn needs(&self) -> Needs {
        Needs { quiet: Some(AWAY), ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>> {
        Box::pin(async move {
            let clean = conditions(&stage.service.status().await?);
            let at = Instant::now();
            let programs: &[&str] = match self.0 {
                Programs::Etcd => &["etcd"],
                Programs::ApiServerAndEtcd => &["kube-apiserver", "etcd"],
            };
            for program in programs {
                stage.processes.kill(program).await?;
            }
            Ok(Struck::at(at, BTreeSet::new()).telling(async move {
                sleep_until(at + AWAY).await;
                stage.cluster.up().await?;
                let others = other_statuses(stage, &clean).await?;
                stage.service.wait_published(self.needs().backends, PUBLISHED).await?;
                let name = format!("{}_other_statuses", self.name());
                let figure = Figure::count(name, others.len(), "statuses").with(NONE_FAILS);
                for other in others {
                    say(&format!("back, and the status was {other:?}"));
                }
                Ok(Told { figures: vec![figure], ..Told::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        // Each of the three backends has three points: with one of them withdrawn, six would be left.
        vec![seen.failed().with(NONE_FAILS), seen.fewest_points().with(Limit::AtLeast(7.0))]
    }
}

/// Each condition's kind, status, reason and the time of its last change: what must be the same when the API server is back.
fn conditions(status: &OnionBalancedServiceStatus) -> BTreeSet<String> {
    let told = |c: &Condition| format!("{}={} {} since {}", c.type_, c.status, c.reason, c.last_transition_time.0);
    status.conditions.iter().map(told).collect()
}

/// What was told in the time after the API server came back beside what was told before.
async fn other_statuses(stage: &Stage, clean: &BTreeSet<String>) -> Result<BTreeSet<BTreeSet<String>>> {
    let mut others = BTreeSet::new();
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        let told = conditions(&stage.service.status().await?);
        if told != *clean {
            others.insert(told.difference(clean).cloned().collect());
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(others)
}

/// HSDirs that stand still.
const FROZEN: u8 = 2;

impl Fault for HsDirsDown {
    fn name(&self) -> &'static str {
        "hsdirs_down"
    }

    fn about(&self) -> &'static str {
        "two of the HSDirs stand still for a minute, and a backend's pod is deleted with no grace period"
    }

    fn needs(&self) -> Needs {
        Needs { silent_hsdirs: FROZEN, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>> {
        Box::pin(async move {
            let names = stage.network.fingerprints()?;
            let held = stage.held()?;
            // An authority that stands still would hold up the consensus, which is another fault.
            let relays = held.keys().filter_map(|hsdir| names.get(hsdir)).filter(|name| name.contains("relay"));
            let frozen: Vec<String> = relays.take(FROZEN.into()).cloned().collect();
            ensure!(frozen.len() == usize::from(FROZEN), "only {frozen:?} hold the descriptor");
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
        // Of the HSDirs that answer. No limit: two relays of eleven are in many circuits, also in those to other HSDirs, and each that
        // is begun through them costs its time.
        vec![seen.gone_while_it_lasts(), seen.failed().with(Limit::AtMost(0.0))]
    }
}
