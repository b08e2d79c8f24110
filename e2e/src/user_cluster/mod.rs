//! The demo on a cluster that was running already: kind, minikube, k3d or any other.
//!
//! The demo runs in a namespace of its own and removes everything that it has created. It cannot
//! reach the cluster's pods directly, so the backends' shares come from the service's status.

mod context;
mod maker;
mod plan;
mod removal;
mod target;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use onionbalance_operator::crd::{BackendState, OnionBalancedServiceStatus};
use tokio::time::Instant;

use self::plan::{Images, NAMESPACE, RELEASE};
use self::target::Target;
use crate::chance::most_failures;
use crate::demo::showing_changes;
use crate::fetch_table::FetchTable;
use crate::fetches::caller;
use crate::helm::Helm;
use crate::process::Processes;
use crate::service::Service;
use crate::spread::{Spread, Verdict};
use crate::state::{State, source_tree};
use crate::steps::{say, step};
use crate::torclient::TorClient;
use crate::tornet::torrc;

/// The number of fetches. On the public network, each takes some seconds.
const FETCHES: usize = 20;
/// The proportion of fetches that may fail on the public Tor network for reasons that no service
/// can prevent.
const LOST_IN_PUBLIC: f64 = 0.25;
/// The longest time until the service is published. In the public network, each backend's tor first
/// downloads the directory, which takes a minute or more.
const PUBLISHED: Duration = Duration::from_secs(600);

/// The user's choices for a demo on a cluster that runs already.
pub struct Options {
    /// The context's name, or `current-context`.
    pub cluster: String,
    /// The beginning of the images' names, if they are in a registry.
    pub images: Option<String>,
    /// Leave everything on the cluster.
    pub keep: bool,
}

/// Runs the demo on the cluster of a context. `operator` is the path of the program that goes into
/// the operator's image. Afterwards, also if a step fails or the user interrupts the demo, removes
/// what the demo has created.
pub async fn demo(state: &State, options: &Options, operator: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let images = options.images.as_deref().map(Images::in_registry).transpose()?;
    let target = Target::open(state, &options.cluster, folder.path()).await?;
    if images.is_none() {
        target.check_loadable()?;
    }
    target.confirm(&options.cluster, images.as_ref())?;
    let installs_crd = target.check_free().await?;
    let names = if let Some(images) = images {
        images
    } else {
        step("images", target.load_images(operator)).await?;
        Images::loaded()
    };
    let demo = Demo { target, names, folder: folder.path().to_owned() };
    let run = async {
        let outcome = demo.run(installs_crd).await;
        if outcome.is_err() {
            demo.show_problem().await;
        }
        outcome
    };
    let outcome = tokio::select! {
        outcome = run => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    let removed = if options.keep {
        demo.print_hints();
        Ok(())
    } else {
        removal::remove(&demo.target.kubectl, &demo.target.helm).await
    };
    let by_hand = || format!("could not remove the demo; try again: make demo-down CLUSTER={}", demo.target.context());
    match (outcome, removed.with_context(by_hand)) {
        (Err(error), Err(second)) => Err(error.context(format!("{second:#}; before that, the demo failed"))),
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// Removes what an earlier demo has left on the cluster of a context.
pub async fn down(state: &State, cluster: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let target = Target::open(state, cluster, folder.path()).await?;
    say(&format!("removing the demo from the cluster of the context {}", target.context()));
    removal::remove(&target.kubectl, &target.helm).await
}

/// A demo that has not created anything yet, or that is running.
struct Demo {
    target: Target,
    names: Images,
    folder: PathBuf,
}

impl Demo {
    async fn run(&self, installs_crd: bool) -> Result<()> {
        let network = self.target.private_network()?;
        let torrc = network.clone().unwrap_or_default();
        step("operator", self.install(&torrc, installs_crd)).await?;
        let service = Service::new(&self.target.client, NAMESPACE, "web");
        step("the sample web app", self.apply_sample()).await?;
        let ready = async { service.wait_condition("Ready", "True", PUBLISHED).await.map(drop) };
        step("the sample service is published", showing_changes(&service, ready)).await?;
        let onion = service.onion_address().await?;
        println!("\n{onion}\n\n{}", self.kubectl("get obs,pods").await?);
        let client = step("a Tor client", self.client(&torrc)).await.with_context(|| match network {
            Some(_) => "the client did not connect to the private Tor network",
            None => "this machine could not connect to the public Tor network; a firewall may block it",
        })?;
        let fetched = fetch(&service, &client, &onion).await;
        client.remove().await?;
        let spread = fetched?;
        println!("\n{}", self.kubectl("get obs,pods").await?);
        judge(&spread, network.is_some())
    }

    async fn kubectl(&self, arguments: &str) -> Result<String> {
        self.target.kubectl.run(&format!("{arguments} --namespace {NAMESPACE}")).await
    }

    async fn install(&self, torrc: &str, installs_crd: bool) -> Result<()> {
        let values = self.folder.join("values.json");
        fs::write(&values, serde_json::to_vec_pretty(&plan::values(&self.names, torrc, installs_crd))?)?;
        // `create` fails if someone else has created the namespace in the meantime.
        self.target.kubectl.run_with_input(&["create", "-f", "-"], &plan::namespace().to_string()).await?;
        let (chart, values) = (Helm::chart(), values.display().to_string());
        let install = ["install", RELEASE, &chart, "--values", &values, "--wait", "--timeout", "5m"];
        self.target.helm.run(&install).await?;
        Ok(())
    }

    async fn apply_sample(&self) -> Result<()> {
        let manifest = fs::read_to_string(source_tree().join("deploy/samples/web.yaml"))?;
        let sample = plan::sample(&manifest, &self.names)?;
        self.target.kubectl.run_with_input(&["apply", "--namespace", NAMESPACE, "-f", "-"], &sample).await?;
        self.kubectl("rollout status deployment/web --timeout=180s").await?;
        Ok(())
    }

    /// Starts a Tor client on this machine, which ends with this process.
    async fn client(&self, torrc: &str) -> Result<TorClient> {
        let torrc = torrc.to_owned() + &torrc::owner(std::process::id());
        let processes = Processes::open(&self.folder)?;
        TorClient::fresh(&processes, "client", &self.folder.join("client"), &torrc, None).await
    }

    /// Prints what may explain a failure, as far as the cluster answers.
    async fn show_problem(&self) {
        say("the demo failed; this is the state of its namespace:");
        for arguments in [
            "get obs,pods --output=wide",
            "get events --sort-by=.lastTimestamp",
            &format!("logs deployment/{RELEASE}-onionbalance-operator --tail=30"),
        ] {
            match self.kubectl(arguments).await {
                Ok(printed) => eprintln!("$ kubectl {arguments}\n{printed}"),
                Err(error) => eprintln!("$ kubectl {arguments}\n{error:#}"),
            }
        }
    }

    fn print_hints(&self) {
        let context = self.target.context();
        println!(
            "
Look around:
  kubectl --context {context} --namespace {NAMESPACE} get obs,pods,deployments
  kubectl --context {context} --namespace {NAMESPACE} scale obs/web --replicas=5
Remove the demo:
  make demo-down CLUSTER={context}
"
        );
    }
}

/// Makes all fetches through one client. Each uses a new circuit, and so a new introduction point.
async fn fetch(service: &Service, client: &TorClient, onion: &str) -> Result<Spread> {
    let (mut spread, mut table) = (Spread::default(), FetchTable::new(FETCHES).without_stale());
    for number in 0..FETCHES {
        let points = points(&service.status().await?);
        let pods = service.backends().await?;
        let start = Instant::now();
        let outcome = match client.fetch(onion, &format!("fetch {number}")).await {
            Ok(page) => {
                let caller = caller(&page).unwrap_or_default();
                let pod = pods.iter().find(|pod| pod.address == caller);
                let name = pod.map_or_else(|| format!("unknown pod {caller}"), |pod| pod.name.clone());
                spread.served(&points, &name);
                format!("{name} answered")
            }
            Err(error) => {
                spread.failed();
                format!("failed: {error:#}")
            }
        };
        table.show(&spread, &format!("{outcome} after {:.1} s", start.elapsed().as_secs_f64()))?;
    }
    Ok(spread)
}

/// Returns the number of each ready backend's introduction points, as the status reports them.
fn points(status: &OnionBalancedServiceStatus) -> BTreeMap<String, u32> {
    let ready = status.backends.iter().filter(|backend| backend.state == BackendState::Ready);
    ready.map(|backend| (backend.name.clone(), backend.introduction_points)).collect()
}

/// Fails if more fetches failed than the network explains, or if a backend did not serve its share.
fn judge(spread: &Spread, is_private: bool) -> Result<()> {
    let (failed, all) = (spread.failures(), spread.fetches());
    let most = if is_private { 0 } else { most_failures(all, LOST_IN_PUBLIC) };
    if failed > most {
        bail!("{failed} of {all} fetches failed; see the table above");
    }
    if spread.backends().keys().any(|name| name.starts_with("unknown pod")) {
        say("this cluster hides from the app which backend called it, so the demo cannot compare the backends");
    } else if spread.backends().values().any(|count| count.verdict() == Verdict::Unfair) {
        bail!("a backend did not serve its share; see the table above");
    } else {
        say("no backend's count contradicts its share");
    }
    match failed {
        0 => say("no fetch failed"),
        failed => say(&format!("{failed} of {all} fetches failed, which the public Tor network explains")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(served: &[&str], failed: usize) -> Spread {
        let points = BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 3)]);
        let mut spread = Spread::default();
        for name in served {
            spread.served(&points, name);
        }
        for _ in 0..failed {
            spread.failed();
        }
        spread
    }

    #[test]
    fn a_private_network_excuses_no_failed_fetch_and_the_public_one_excuses_some() {
        let turns = ["a", "b"].repeat(8);
        assert!(judge(&spread(&turns, 0), true).is_ok());
        assert_eq!(
            judge(&spread(&turns, 1), true).unwrap_err().to_string(),
            "1 of 17 fetches failed; see the table above"
        );
        assert!(judge(&spread(&turns, 4), false).is_ok());
        assert!(judge(&spread(&["a"], FETCHES - 1), false).is_err());
        assert!(judge(&spread(&[], FETCHES), false).is_err());
    }

    #[test]
    fn a_backend_that_serves_nothing_fails_the_demo_unless_the_cluster_hides_the_callers() {
        let one = ["a"; 60];
        assert!(judge(&spread(&one, 0), false).unwrap_err().to_string().contains("its share"));
        assert!(judge(&spread(&["unknown pod 10.0.0.1"; 60], 0), false).is_ok());
    }
}
