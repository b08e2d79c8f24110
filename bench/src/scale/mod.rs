//! The operator with many objects on a real API server: how fast, beside a bare client that applies the same children; how
//! many requests; how much memory; and that it writes nothing at rest. No pods run.

mod load;
mod play;
mod requests;
mod server;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use onionbalance_e2e::process::Processes;
use onionbalance_operator::crd::OnionBalancedService;
use tokio::time::{Instant, sleep, timeout};

use self::requests::Requests;
use self::server::{Server, create_namespace};
use crate::memory::resident;
use crate::publisher::program;
use crate::rounds::figure;

const NAMESPACE: &str = "scale";
const OPERATOR: &str = "operator";
/// For all objects.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the operator may still do after the last change; a look repeats itself after 60 s, which rest includes.
const SETTLING: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_secs(75);
/// A publisher's own interval is shorter; the operator minds only what is older than a minute.
const RENEWAL: Duration = Duration::from_secs(15);

/// Prints the figures, with the API server of this folder, and fails where one misses its mark.
pub async fn run(programs: &Path, count: usize) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("onionbalance-scale").tempdir()?;
    let processes = Processes::open(dir.path())?;
    let run = measure(&processes, dir.path(), programs, count).await;
    if run.is_err() {
        for name in processes.names()? {
            eprintln!("the log of {name}: {}", processes.log(&name).display());
        }
        let _ = dir.keep();
    }
    processes.stop_all().await?;
    run
}

async fn measure(processes: &Processes, dir: &Path, programs: &Path, count: usize) -> Result<()> {
    let server = Server::start(processes, &dir.join("server"), programs).await?;
    let (administrator, with_rights) = (server.administrator()?, server.operator()?);
    for namespace in [NAMESPACE, "bare-before", "bare-after"] {
        create_namespace(&administrator, namespace).await?;
    }
    load::create_objects(&administrator, NAMESPACE, count).await?;
    // Half of it on either side: the API server grows slower as it fills.
    let before = load::apply_bare(&with_rights, "bare-before", count.div_ceil(2)).await?;

    let start = Requests::count(&administrator).await?;
    let begun = Instant::now();
    let pid = start_operator(processes, &server)?;
    converged(processes, &administrator, count).await?;
    let took = begun.elapsed();
    sleep(SETTLING).await;
    let converging = Requests::count(&administrator).await?.since(&start);
    let most = resident(pid)?.most;

    play::all_run(&administrator, NAMESPACE, count).await?;
    all_ready(processes, &administrator, count).await?;
    sleep(SETTLING).await;
    let start = Requests::count(&administrator).await?;
    let end_of_rest = Instant::now() + REST;
    while Instant::now() < end_of_rest {
        play::renew_leases(&administrator, NAMESPACE, count).await?;
        sleep(RENEWAL.min(end_of_rest.saturating_duration_since(Instant::now()))).await;
    }
    let rest = Requests::count(&administrator).await?.since(&start);
    processes.check(OPERATOR)?;
    let rss = resident(pid)?;
    processes.stop(OPERATOR).await?;
    let after = load::apply_bare(&with_rights, "bare-after", count - count.div_ceil(2)).await?;

    eprintln!("requests while {count} objects converged:\n{}at rest:\n{}", converging.describe(), rest.describe());
    let rate = |took: Duration| as_f64(count) / took.as_secs_f64();
    let (ours, bare) = (rate(took), rate(before + after));
    figure("objects_per_s", ours, "1/s");
    figure("bare_objects_per_s", bare, "1/s");
    figure("objects_to_bare", ours / bare, "");
    figure("operator_rss_mib", rss.now, "MiB");
    figure("operator_rss_peak_mib", rss.most.max(most), "MiB");
    figure("requests_per_object", as_f64(converging.on_resources()) / as_f64(count), "");
    let writes = rest.writes_but_leases();
    figure("writes_at_rest", as_f64(writes), "");
    ensure!(writes == 0, "something was written at rest");
    ensure!(rss.most < 100.0, "the operator takes more than 100 MiB");
    ensure!(ours >= 0.7 * bare, "the operator is slower than 0.7 times the bare client");
    Ok(())
}

fn start_operator(processes: &Processes, server: &Server) -> Result<u32> {
    let mut command = program()?;
    command.args(["operator", "--tor-image", load::TOR_IMAGE, "--operator-image", load::OPERATOR_IMAGE]);
    command.args(["--probe-port", "0", "--metrics-port", "0"]).env("KUBECONFIG", server.operator_kubeconfig()?);
    processes.start(OPERATOR, &mut command)?;
    Ok(u32::try_from(processes.pid(OPERATOR).context("the operator ended at once")?)?)
}

/// Waits until every object has all its children, and a status that says so. A frontend's Deployment is applied last.
async fn converged(processes: &Processes, client: &Client, count: usize) -> Result<()> {
    enum Seen {
        Object(Box<OnionBalancedService>),
        Deployment(String),
    }
    let objects: Api<OnionBalancedService> = Api::namespaced(client.clone(), NAMESPACE);
    let objects = watcher(objects, watcher::Config::default()).applied_objects();
    let deployments: Api<PartialObjectMeta<Deployment>> = Api::namespaced(client.clone(), NAMESPACE);
    let deployments = watcher(deployments, watcher::Config::default()).applied_objects();
    let seen = stream::select(
        objects.map_ok(|object| Seen::Object(Box::new(object))).boxed(),
        deployments.map_ok(|deployment| Seen::Deployment(deployment.name_any())).boxed(),
    );
    let (mut told, mut made) = (BTreeSet::new(), BTreeSet::new());
    let wait = async {
        futures::pin_mut!(seen);
        while let Some(seen) = seen.next().await {
            match seen? {
                Seen::Object(object) if reason(&object, "BackendsReady") == Some("Progressing") => {
                    told.insert(object.name_any());
                }
                Seen::Object(_) => {}
                Seen::Deployment(name) => {
                    made.insert(name);
                }
            }
            if told.len() == count && made.len() == 2 * count {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    let done = timeout(PATIENCE, wait).await;
    processes.check(OPERATOR)?;
    done.with_context(|| format!("{} objects have a status, {} Deployments are there", told.len(), made.len()))?
}

async fn all_ready(processes: &Processes, client: &Client, count: usize) -> Result<()> {
    let objects: Api<OnionBalancedService> = Api::namespaced(client.clone(), NAMESPACE);
    let seen = watcher(objects, watcher::Config::default()).applied_objects();
    let mut ready = BTreeSet::new();
    let wait = async {
        futures::pin_mut!(seen);
        while let Some(object) = seen.next().await {
            let object = object?;
            if reason(&object, "Ready") == Some("Ready") {
                ready.insert(object.name_any());
            }
            if ready.len() == count {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    let done = timeout(PATIENCE, wait).await;
    processes.check(OPERATOR)?;
    done.with_context(|| format!("{} objects are Ready", ready.len()))?
}

fn reason<'a>(object: &'a OnionBalancedService, kind: &str) -> Option<&'a str> {
    let conditions = &object.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.reason.as_str())
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
