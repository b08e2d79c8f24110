//! Gives each test its own namespace on a shared cluster, and saves the namespace's state if the
//! test fails.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use onionbalance_e2e::bringup::tor_network;
use onionbalance_e2e::cluster::Cluster;
use onionbalance_e2e::install;
use onionbalance_e2e::kubectl::Kubectl;
use onionbalance_e2e::onionkey;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::service::Service;
use onionbalance_e2e::state::State;
use onionbalance_e2e::torclient::{TorClient, key_line};
use onionbalance_e2e::tornet::{Tor, make_private_dir};
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::onion::ClientSecretKey;

/// The time limit for anything that should happen within seconds. It is long because the machine
/// may be busy with other work.
pub const SOON: Duration = Duration::from_secs(60);
/// The time limit for pods to start and bootstrap, and for their introduction points to be
/// published.
pub const PUBLISHED: Duration = Duration::from_secs(180);

/// The label selector of the frontends of the object `web`.
pub const FRONTEND: &str = "onionbalance.dev/service=web,app.kubernetes.io/component=frontend";

/// A test's namespace on the cluster.
pub struct Scene {
    /// The `kubectl` command with the administrator's credentials.
    pub kubectl: Kubectl,
    client: Client,
    state: State,
    namespace: String,
    clients: AtomicU32,
}

/// Runs a test in a namespace with the sample web app behind the Service `web`.
pub async fn scene(name: &str, test: impl AsyncFnOnce(&Scene) -> Result<()>) -> Result<()> {
    empty_scene(name, async |scene| {
        scene.apply_target().await?;
        test(scene).await
    })
    .await
}

/// Runs a test in an empty namespace.
pub async fn empty_scene(name: &str, test: impl AsyncFnOnce(&Scene) -> Result<()>) -> Result<()> {
    empty_scene_after("install", name, test).await
}

/// Runs a test in an empty namespace on a cluster that an `e2e` command has prepared. All tests of
/// one test program must use the same command.
pub async fn empty_scene_after(command: &str, name: &str, test: impl AsyncFnOnce(&Scene) -> Result<()>) -> Result<()> {
    let scene = Scene::set(command, name).await?;
    let outcome = AssertUnwindSafe(test(&scene)).catch_unwind().await;
    if matches!(outcome, Ok(Ok(()))) {
        return scene.clear().await;
    }
    eprintln!("the state of the failed test {name} is in {}", scene.dump()?.display());
    match outcome {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    }
}

impl Scene {
    async fn set(command: &str, name: &str) -> Result<Self> {
        let state = brought_up(command)?;
        let cluster = Cluster::open(&state)?;
        let (kubectl, namespace) = (cluster.kubectl(), format!("e2e-{name}"));
        let scene = Self { kubectl, client: cluster.client().await?, state, namespace, clients: AtomicU32::new(0) };
        scene.clear().await?;
        let namespaces = Api::<Namespace>::all(scene.client.clone());
        until("the namespace of an earlier run is gone", SOON, async || {
            let left = namespaces.get_opt(&scene.namespace).await?;
            Ok(left.map_or(Seen::Yes(()), |left| Seen::NotYet(format!("{:?}", left.status))))
        })
        .await?;
        scene.kubectl.run(&format!("create namespace {}", scene.namespace)).await?;
        Ok(scene)
    }

    /// Deletes the namespace if it exists, without waiting for its removal. Its pods get a grace
    /// period of one second, because none needs to drain.
    async fn clear(&self) -> Result<()> {
        self.kubectl.run(&format!("delete namespace {} --ignore-not-found --wait=false", self.namespace)).await?;
        self.run("delete pods --all --grace-period=1 --wait=false").await?;
        Ok(())
    }

    /// Applies the sample web app and the Service `web`.
    pub async fn apply_target(&self) -> Result<()> {
        self.kubectl(&["apply", "-f", "-"], TARGET).await?;
        Ok(())
    }

    /// Returns the namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns an API client with the administrator's credentials.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns the state folder of the environment.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Creates an empty folder for the test's own files.
    pub fn fresh_folder(&self) -> Result<PathBuf> {
        let dir = self.state.dir().join("files").join(&self.namespace);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Returns the path of the administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.kubeconfig()
    }

    /// Returns a handle to the `OnionBalancedService` with the given name in the namespace.
    pub fn service(&self, name: &str) -> Service {
        Service::new(&self.client, &self.namespace, name)
    }

    /// Returns the UIDs, restart counts and deletion timestamps of the pods that a label selector
    /// selects.
    pub async fn running(&self, selector: &str) -> Result<String> {
        let path = "{range.items[*]}{.metadata.uid}{.status.containerStatuses[*].restartCount}{.metadata.deletionTimestamp};{end}";
        self.run(&format!("get pods -l {selector} -o jsonpath={path}")).await
    }

    /// Runs kubectl in the namespace. `arguments` are separated by single spaces.
    pub async fn run(&self, arguments: &str) -> Result<String> {
        self.kubectl.run(&format!("--namespace {} {arguments}", self.namespace)).await
    }

    /// Runs kubectl in the namespace with the given standard input.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.kubectl.run_with_input(&[&["--namespace", &self.namespace], arguments].concat(), input).await
    }

    /// Applies an `OnionBalancedService` with kubectl. `spec` is YAML, indented by two spaces.
    pub async fn apply(&self, name: &str, spec: &str) -> Result<Service> {
        let header = "apiVersion: onionbalance.dev/v1alpha1\nkind: OnionBalancedService\nmetadata:\n  name:";
        self.kubectl(&["apply", "-f", "-"], &format!("{header} {name}\nspec:\n{spec}")).await?;
        Ok(self.service(name))
    }

    /// Starts a real Tor client with empty state.
    pub async fn tor_client(&self) -> Result<TorClient> {
        self.tor_client_with("").await
    }

    /// Starts a Tor client that has a client key for an onion address.
    pub async fn tor_client_with_key(&self, key: &ClientSecretKey, onion: &str) -> Result<TorClient> {
        let number = self.clients.load(Ordering::Relaxed);
        let dir = self.state.dir().join("clients").join(format!("keys-{}-{number}", self.namespace));
        self.tor_client_with(&key_line(&dir, key, onion)?).await
    }

    async fn tor_client_with(&self, lines: &str) -> Result<TorClient> {
        let name = format!("client-{}-{}", self.namespace, self.clients.fetch_add(1, Ordering::Relaxed));
        let dir = self.state.dir().join("clients").join(&name);
        let torrc = tor_network(&self.state)?.torrc_lines()? + lines;
        TorClient::fresh(&Processes::open(self.state.dir())?, &name, &dir, &torrc, None).await
    }

    /// Starts a stock tor outside the cluster, with an onion service that forwards to `target` and
    /// also answers for the address `master`. Sets it up as a user would: first the key, then
    /// `ob_config`, then the torrc. Returns the tor and its own address.
    pub async fn tor_outside(&self, master: &str, target: &str) -> Result<(Tor, String)> {
        let name = format!("outside-{}", self.namespace);
        let dir = self.state.dir().join("outside").join(&name);
        let tor = Tor::open(&Processes::open(self.state.dir())?, &name, &dir);
        tor.remove().await?;
        make_private_dir(&dir)?;
        let key = onionkey::make(&Processes::open(&dir)?, &dir).await?;
        std::fs::write(key.dir.join("ob_config"), format!("MasterOnionAddress {master}\n"))?;
        let network = tor_network(&self.state)?.torrc_lines()?;
        let service = key.dir.display();
        let torrc = format!(
            "{network}SocksPort 0
HiddenServiceDir {service}
HiddenServiceOnionBalanceInstance 1
HiddenServicePort 80 {target}
"
        );
        tor.start(Command::new("tor"), &torrc)?;
        Ok((tor, key.address))
    }

    /// Waits until `look` succeeds. The text of its last failure goes into the error.
    pub async fn wait(
        &self,
        what: &str,
        limit: Duration,
        look: impl AsyncFn() -> Result<Result<(), String>>,
    ) -> Result<()> {
        until(what, limit, async || Ok(look().await?.map_or_else(Seen::NotYet, Seen::Yes))).await
    }

    /// Writes objects, logs and events of the namespace to text files in a folder.
    fn dump(&self) -> Result<PathBuf> {
        let dir = self.state.dir().with_file_name("e2e-failures").join(&self.namespace);
        std::fs::create_dir_all(&dir)?;
        let (ours, operators) = (self.namespace.as_str(), install::NAMESPACE);
        for (file, namespace, arguments) in [
            ("objects.yaml", ours, "get obs,pods,deployments,configmaps,services,leases,roles,rolebindings -o yaml"),
            ("pods.txt", ours, "describe pods"),
            ("events.txt", ours, "get events --sort-by=.lastTimestamp"),
            ("operator.log", operators, "logs deployment/onionbalance-operator --tail=2000"),
            ("operator-pods.txt", operators, "describe pods"),
        ] {
            std::fs::write(dir.join(file), self.seen(namespace, arguments))?;
        }
        let pods = self.seen(ours, "get pods -o name");
        let mut logs = String::new();
        for pod in pods.lines().filter(|line| line.starts_with("pod/")) {
            let log = self.seen(ours, &format!("logs {pod} --all-containers --prefix --tail=500"));
            writeln!(logs, "===== {pod}\n{log}")?;
        }
        std::fs::write(dir.join("pods.log"), logs)?;
        Ok(dir)
    }

    fn seen(&self, namespace: &str, arguments: &str) -> String {
        let mut kubectl = Command::new("kubectl");
        kubectl.env("KUBECONFIG", self.state.kubeconfig()).args(["--namespace", namespace]);
        match kubectl.args(arguments.split(' ')).output() {
            Ok(done) => [String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)].concat(),
            Err(error) => error.to_string(),
        }
    }
}

/// Brings the cluster up once for all tests, with a state folder of its own.
fn brought_up(command: &str) -> Result<State> {
    static STATE: OnceLock<Result<State, String>> = OnceLock::new();
    STATE
        .get_or_init(|| bring_up(command).map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn bring_up(command: &str) -> Result<State> {
    let dir = std::env::var_os("OB_E2E_DIR").map(PathBuf::from);
    let state = State::new(dir)?;
    let program = Path::new(env!("CARGO_BIN_EXE_e2e"));
    let status = Command::new(program)
        .arg("--dir")
        .arg(state.dir())
        .arg(command)
        .status()
        .with_context(|| format!("could not run {}", program.display()))?;
    anyhow::ensure!(status.success(), "e2e {command} failed: {status}");
    Ok(state)
}

/// Two replicas of the sample web app behind the Service `web`, whose port is named `http`.
const TARGET: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: localhost/onionbalance-sample:dev
        imagePullPolicy: IfNotPresent
        ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
";
