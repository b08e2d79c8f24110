//! Outages that the data plane should survive: of the operator, of the API server, and of some
//! HSDirs.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::{LocalBoxFuture, try_join_all};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use onionbalance_operator::crd::OnionBalancedServiceStatus;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::limit::{Bound, Limit, harmless, like_plain, shares};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::stage::Stage;
use crate::install;
use crate::steps::say;
use crate::tornet::process_name;

/// An outage of the operator, which is scaled down to 0 before a backend's pod is deleted.
#[derive(Debug)]
pub struct OperatorDown;

/// A two-minute outage of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlPlaneDown {
    /// Only etcd, which stores the cluster's data, is killed.
    Etcd,
    /// Both etcd and the API server are killed.
    ApiServerAndEtcd,
}

/// A one-minute freeze of two of the HSDirs that hold the descriptor.
#[derive(Debug)]
pub struct HsDirsDown;

const PUBLISHED: Duration = Duration::from_secs(120);
const AWAY: Duration = Duration::from_secs(120);
/// The time for which the status is watched after the API server returns.
const WATCHED: Duration = Duration::from_secs(30);

impl Fault for OperatorDown {
    fn name(&self) -> &'static str {
        "operator_down"
    }

    fn about(&self) -> &'static str {
        "the operator is stopped, then a backend's pod is deleted without a grace period"
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
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
            Ok(ActiveFault::new(at, dead).ending(Duration::ZERO, async move {
                // The publisher writes its part of the status even while the operator is stopped.
                let added = service.wait_published(backends, PUBLISHED).await;
                kubectl.run(&format!("{scale}1")).await?;
                added.map(drop)
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.gone(), Figure::seconds("added_s", (seen.ended - seen.at).as_secs_f64())]
    }

    fn limits(&self) -> Vec<Limit> {
        let own = [Limit::new("gone_s", Bound::AtMost(10.0)), Limit::new("added_s", Bound::AtMost(30.0))];
        [&own[..], &shares(0.5, 1.0)].concat()
    }
}

impl Fault for ControlPlaneDown {
    fn name(&self) -> &'static str {
        match self {
            Self::Etcd => "etcd_down",
            Self::ApiServerAndEtcd => "api_server_down",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Etcd => "etcd is killed, and restarted after two minutes",
            Self::ApiServerAndEtcd => "the API server and etcd are killed, and restarted after two minutes",
        }
    }

    fn needs(&self) -> Needs {
        Needs { quiet: Some(AWAY), ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let clean = conditions(&stage.service.status().await?);
            let at = Instant::now();
            let programs: &[&str] = match self {
                Self::Etcd => &["etcd"],
                Self::ApiServerAndEtcd => &["kube-apiserver", "etcd"],
            };
            for program in programs {
                stage.processes.kill(program).await?;
            }
            Ok(ActiveFault::new(at, BTreeSet::new()).with_findings(async move {
                sleep_until(at + AWAY).await;
                stage.cluster.up().await?;
                let others = other_statuses(stage, &clean).await?;
                stage.service.wait_published(self.needs().backends, PUBLISHED).await?;
                let figure = Figure::count("other_statuses", others.len(), "statuses");
                for other in others {
                    say(&format!("the status had other conditions after the restart: {other:?}"));
                }
                Ok(Findings { figures: vec![figure], ..Findings::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        vec![seen.fewest_points()]
    }

    fn limits(&self) -> Vec<Limit> {
        // Each of the three backends has three points, so withdrawing one backend would leave six.
        let own = [Limit::new("fewest_points", Bound::AtLeast(7.0)), Limit::new("other_statuses", Bound::AtMost(0.0))];
        [&own[..], &harmless()].concat()
    }
}

/// Returns the type, status, reason and last transition time of each condition. These must be
/// unchanged once the API server is back.
fn conditions(status: &OnionBalancedServiceStatus) -> BTreeSet<String> {
    let text = |c: &Condition| format!("{}={} {} since {}", c.type_, c.status, c.reason, c.last_transition_time.0);
    status.conditions.iter().map(text).collect()
}

/// Watches the status after the API server is back, and returns every set of conditions that
/// differs from `clean`. Each returned set contains only the conditions that are not in `clean`.
async fn other_statuses(stage: &Stage, clean: &BTreeSet<String>) -> Result<BTreeSet<BTreeSet<String>>> {
    let mut others = BTreeSet::new();
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        let current = conditions(&stage.service.status().await?);
        if current != *clean {
            others.insert(current.difference(clean).cloned().collect());
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(others)
}

/// The number of frozen HSDirs.
const FROZEN: u8 = 2;

impl Fault for HsDirsDown {
    fn name(&self) -> &'static str {
        "hsdirs_down"
    }

    fn about(&self) -> &'static str {
        "two of the HSDirs are frozen for a minute, and a backend's pod is deleted without a grace period"
    }

    fn needs(&self) -> Needs {
        Needs { silent_hsdirs: FROZEN, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let (relays, held) = (stage.relays_but_guards().await?, stage.held()?);
            let relays = held.keys().filter_map(|hsdir| Some((hsdir.clone(), process_name(relays.get(hsdir)?))));
            let (hsdirs, frozen): (BTreeSet<_>, Vec<_>) = relays.take(FROZEN.into()).unzip();
            ensure!(frozen.len() == usize::from(FROZEN), "too few relays hold the descriptor: {frozen:?}");
            let (victim, dead) = stage.victim().await?;
            let at = Instant::now();
            for relay in &frozen {
                stage.processes.signal(relay, Signal::STOP)?;
            }
            stage.run(&format!("delete pod {} --grace-period=0 --force --wait=false", victim.name)).await?;
            let processes = stage.processes.clone();
            Ok(ActiveFault::new(at, dead).silencing(hsdirs).ending(Duration::from_secs(60), async move {
                try_join_all(frozen.iter().map(async |relay| processes.signal(relay, Signal::CONT))).await?;
                Ok(())
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        // Only the HSDirs that still answer are considered.
        vec![seen.gone_while_it_lasts()]
    }

    fn limits(&self) -> Vec<Limit> {
        // The two frozen relays (of eleven) are part of many circuits, including those to other
        // HSDirs, and every circuit that is attempted through them costs time.
        let own = [Limit::new("gone_s", Bound::AtMost(50.0))];
        [&own[..], &like_plain(5.0)].concat()
    }
}
