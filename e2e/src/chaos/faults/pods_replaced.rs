//! Replaces all pods of two services again and again, and counts the relays through which the
//! services have entered the network: one service shares its guards, the other does not.
//!
//! A tor that is new asks a directory authority for its first consensus. Authorities are no guards
//! in this network, and connections to them are not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::time::{Instant, sleep};

use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::hops::of_pods;
use crate::chaos::limit::{Bound, Limit, like_plain};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::stage::Stage;
use crate::service::Service;
use crate::steps::say;
use crate::wait::{Seen, until};

/// The replacement of a hundred backends and ten frontends.
#[derive(Debug)]
pub struct PodsReplaced;

/// The number of relays in the network for this fault. All of them are guards.
const GUARDS: u16 = 22;
/// The number of backends that are replaced at a time.
const BACKENDS: usize = 10;
/// The number of times that all backends and the frontend are replaced.
const WAVES: usize = 10;
/// The number of pods of one service that must have been asked for their guards.
const PODS: usize = (WAVES + 1) * (BACKENDS + 1);
/// The maximum time until all pods of a wave have entered the network.
const WAVE: Duration = Duration::from_secs(300);
/// The interval at which all tors of a service are asked.
const SAMPLED: Duration = Duration::from_secs(2);
/// The interval between requests to the stage's service, which has nothing to do with the two
/// others but shares the machine with them.
const EVERY: Duration = Duration::from_secs(2);

impl Fault for PodsReplaced {
    fn name(&self) -> &'static str {
        "pods_replaced"
    }

    fn about(&self) -> &'static str {
        "100 backends and 10 frontends of two other services are replaced: one service shares its guards, one does not"
    }

    fn needs(&self) -> Needs {
        Needs { every: EVERY, quiet: None, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            stage.network.add_guards(GUARDS).await?;
            let at = Instant::now();
            Ok(ActiveFault::new(at, BTreeSet::new()).with_findings(async move {
                // One after the other: the machine runs few pods at a time.
                let shared = replace(stage, "shared", "Shared").await?;
                let per_pod = replace(stage, "per-pod", "PerPod").await?;
                let authorities = authorities(stage)?;
                let mut figures = vec![Figure::seconds("took_s", at.elapsed().as_secs_f64())];
                for (prefix, entries) in [("", shared), ("per_pod_", per_pod)] {
                    let guards = entries.values().flatten().filter(|relay| !authorities.contains(*relay));
                    let guards: BTreeSet<_> = guards.collect();
                    let what = format!("{prefix}guards_distinct_after_100_pods");
                    figures.push(Figure::count(what, guards.len(), "guards"));
                    figures.push(Figure::count(format!("{prefix}sampled"), entries.len(), "pods"));
                }
                Ok(Findings { figures, ..Findings::default() })
            }))
        })
    }

    fn figures(&self, _: &Observed) -> Vec<Figure> {
        Vec::new()
    }

    #[allow(clippy::cast_precision_loss, reason = "the count is about a hundred")]
    fn limits(&self) -> Vec<Limit> {
        let own = [
            Limit::new("guards_distinct_after_100_pods", Bound::AtMost(3.0)),
            // If separate guards did not differ either, the network would show nothing.
            Limit::new("per_pod_guards_distinct_after_100_pods", Bound::AtLeast(10.0)),
            Limit::new("sampled", Bound::AtLeast(PODS as f64)),
            Limit::new("per_pod_sampled", Bound::AtLeast(PODS as f64)),
        ];
        [&own[..], &like_plain(5.0)].concat()
    }
}

/// Returns the fingerprints of the directory authorities.
fn authorities(stage: &Stage) -> Result<BTreeSet<String>> {
    let processes = stage.network.authority_processes();
    let relays = stage.network.fingerprints()?.into_iter();
    Ok(relays.filter(|(_, process)| processes.contains(process)).map(|(relay, _)| relay).collect())
}

/// Creates a service, replaces all its pods again and again, and deletes the service with its pods,
/// so that the next service starts in peace. Returns the relays to which the tor of each pod has
/// had connections, by the pod's UID.
async fn replace(stage: &Stage, name: &str, mode: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let object = format!(
        "apiVersion: onionbalance.dev/v1alpha1\nkind: OnionBalancedService\nmetadata: {{name: {name}}}\nspec:\n  \
         deletionPolicy: Delete\n  ports: [{{port: 80, target: {{address: \"{}\"}}}}]\n  \
         backends: {{replicas: {BACKENDS}}}\n  frontend: {{replicas: 1, probe: {{enabled: false}}}}\n  \
         anonymity: {{guards: {mode}}}\n",
        stage.target()
    );
    let service = Service::new(&stage.cluster.client().await?, &stage.namespace, name);
    stage.kubectl.run_with_input(&["--namespace", &stage.namespace, "apply", "-f", "-"], &object).await?;
    let delete = format!("delete pods --selector=onionbalance.dev/service={name} --grace-period=1 --wait=false");
    let (mut entries, mut old) = (BTreeMap::new(), BTreeSet::new());
    for wave in 0..=WAVES {
        old.append(&mut entered(&service, &old, &mut entries).await?);
        let relays: BTreeSet<_> = entries.values().flatten().collect();
        say(&format!("{name}: wave {wave}, {} pods, connections to {} relays", entries.len(), relays.len()));
        if wave < WAVES {
            stage.run(&delete).await?;
        }
    }
    stage.run(&format!("delete obs/{name} --wait=false")).await?;
    until(&format!("the pods of {name} have ended"), WAVE, async || {
        // The Deployments can replace pods until they are deleted, too.
        stage.run(&delete).await?;
        let left = service.pods().await?.len();
        if left == 0 {
            return Ok(Seen::Yes(()));
        }
        sleep(SAMPLED).await;
        Ok(Seen::NotYet(format!("{left} are left")))
    })
    .await?;
    Ok(entries)
}

/// Waits until as many new pods as the service needs run, the new backends are Ready, and the tor
/// of each new pod has a connection. Records the connections of all pods in `entries`, and returns
/// the UIDs of the new pods.
async fn entered(
    service: &Service,
    old: &BTreeSet<String>,
    entries: &mut BTreeMap<String, BTreeSet<String>>,
) -> Result<BTreeSet<String>> {
    until("all new pods have entered the network", WAVE, async || {
        let pods = service.pods().await?;
        let all: BTreeSet<String> = pods.iter().filter_map(Pod::uid).collect();
        for (pod, hops) in of_pods(&all).await? {
            entries.entry(pod).or_default().extend(hops.connected);
        }
        let new = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).filter_map(Pod::uid);
        let new: BTreeSet<String> = new.filter(|uid| !old.contains(uid)).collect();
        let ready = service.ready_backends().await?.iter().filter(|uid| new.contains(*uid)).count();
        let connected = new.iter().filter(|uid| entries.get(*uid).is_some_and(|relays| !relays.is_empty())).count();
        if new.len() == BACKENDS + 1 && connected == new.len() && ready == BACKENDS {
            return Ok(Seen::Yes(new));
        }
        sleep(SAMPLED).await;
        Ok(Seen::NotYet(format!("{} pods, {connected} with connections, {ready} backends Ready", new.len())))
    })
    .await
}
