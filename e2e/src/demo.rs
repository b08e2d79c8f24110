//! The demo: runs a service with three backends, fetches pages through real Tor clients, and shows
//! how the backends share the load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

use crate::bringup::tor_network;
use crate::cluster::Cluster;
use crate::fetch_table::FetchTable;
use crate::fetches::fetch_until;
use crate::process::Processes;
use crate::service::{Service, lines};
use crate::spread::{Spread, Verdict};
use crate::state::{State, source_tree};
use crate::steps::{say, step};
use crate::torclient::TorClient;

const LASTING_SOCKS_PORT: u16 = 15_900;
/// The number of fetches that the demo makes.
const FETCHES: usize = 60;

/// Says how to use the user's own cluster if there seems to be one.
pub fn mention_other_clusters() {
    if std::env::var_os("KUBECONFIG").is_some_and(|files| !files.is_empty()) {
        say("the demo starts a cluster of its own; to use that of KUBECONFIG, run: make demo CLUSTER=current-context");
    }
}

/// Applies the sample service on a cluster that runs the operator, makes 60 fetches, and prints how
/// the backends shared them.
pub async fn run(state: &State) -> Result<()> {
    let cluster = Cluster::open(state)?;
    let kubectl = cluster.kubectl();
    kubectl.run(&format!("apply -f {}", source_tree().join("deploy/samples/web.yaml").display())).await?;
    let service = Service::new(&cluster.client().await?, "default", "web");
    step("the sample service is published", wait_published(&service)).await?;
    let onion = service.onion_address().await?;
    println!("\n{onion}\n\n{}", kubectl.run("get obs").await?);

    let (clients, mut table) = (AtomicUsize::new(0), FetchTable::new(FETCHES));
    let client = async || fresh_client(state, clients.fetch_add(1, Ordering::Relaxed)).await;
    let is_done = |spread: &Spread| spread.fetches() >= FETCHES;
    let spread = fetch_until(&service, client, is_done, |spread, last| table.show(spread, last)).await?;
    leave_client(state).await?;
    print_hints(state, &onion);
    // The demo makes a fixed number of fetches, so the verdict may still be open.
    if spread.verdict() == Verdict::Unfair {
        bail!("{} fetches failed, or a backend did not serve its share; see the table above", spread.failures());
    }
    say("no fetch failed, and the backends' counts agree with their shares");
    Ok(())
}

async fn wait_published(service: &Service) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(180);
    let replicas = usize::try_from(service.api().get("web").await?.spec.backends.replicas)?;
    let published = async {
        service.wait_published(replicas, LIMIT).await?;
        service.wait_condition("Ready", "True", LIMIT).await.map(drop)
    };
    showing_changes(service, published).await
}

/// Waits for something, and prints every change to the service's status meanwhile.
pub(crate) async fn showing_changes(service: &Service, wait: impl Future<Output = Result<()>>) -> Result<()> {
    let start = Instant::now();
    let show = async {
        let mut shown = Vec::new();
        loop {
            let now = service.status().await.map_or(Vec::new(), |status| lines(&status));
            for line in now.iter().filter(|line| !shown.contains(*line)) {
                eprintln!("    {:5.1} s  {line}", start.elapsed().as_secs_f64());
            }
            shown = now;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        done = wait => done,
        () = show => Ok(()),
    }
}

async fn fresh_client(state: &State, number: usize) -> Result<TorClient> {
    let name = format!("client{number}");
    let torrc = tor_network(state)?.torrc_lines()?;
    TorClient::fresh(&Processes::open(state.dir())?, &name, &state.dir().join("clients").join(&name), &torrc, None)
        .await
}

/// Starts a client that keeps running so that the user can try the service.
async fn leave_client(state: &State) -> Result<()> {
    let torrc = tor_network(state)?.torrc_lines()?;
    let dir = state.dir().join("clients/lasting");
    let processes = Processes::open(state.dir())?;
    TorClient::fresh(&processes, "client", &dir, &torrc, Some(LASTING_SOCKS_PORT)).await?;
    Ok(())
}

fn print_hints(state: &State, onion: &str) {
    println!(
        "
Look around:
  export KUBECONFIG={}
  kubectl get obs,pods,deployments
  kubectl get obs web -o yaml
  kubectl scale obs/web --replicas=5
  curl --socks5-hostname 127.0.0.1:{LASTING_SOCKS_PORT} http://{onion}/
Take it down:
  make demo-down
",
        state.kubeconfig().display()
    );
}
