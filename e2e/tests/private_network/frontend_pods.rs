//! Frontends that use a real API server. Each has its own tor and publisher, as a frontend pod
//! would. The tests write the pod status in place of the kubelet.

mod forwarder;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::torclient::get;
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::crd::OnionBalancedService;
use onionbalance_operator::crd::names::{Component, labels};
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;

pub use self::forwarder::Forwarder;
use crate::data_plane::{DataPlane, backend_address};
use crate::server;

/// The annotation on the Lease that names the frontend that is cut off from the network.
pub const CUT_OFF: &str = "onionbalance.dev/cut-off";
const SERVICE: &str = "web";
const LEASE: &str = "web-frontend";
const ACCOUNT: &str = "web-frontend";
const GUARDS: &str = "web-guards";

/// A service that exists in Kubernetes, and its backends.
pub struct Pods {
    pub plane: DataPlane,
    processes: Processes,
    client: Client,
    namespace: String,
}

/// The processes of a frontend.
pub struct Frontend {
    /// The process name of the frontend's tor.
    pub tor: String,
    /// The process name of the frontend's publisher.
    pub publisher: String,
    /// The frontend's identity in the Lease.
    pub identity: String,
    pod: String,
    address: String,
}

impl Pods {
    /// Starts a network and the given number of backends with their pods.
    pub async fn start(backends: usize) -> Result<Self> {
        Self::start_in("frontends", backends, false).await
    }

    /// Starts a network and the given number of backends with their pods, which share vanguards.
    pub async fn start_sharing_vanguards(backends: usize) -> Result<Self> {
        let pods = Self::start_in("vanguards", backends, true).await?;
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": GUARDS}}))?;
        pods.api().create(&PostParams::default(), &secret).await?;
        Ok(pods)
    }

    async fn start_in(namespace: &str, backends: usize, shares_vanguards: bool) -> Result<Self> {
        let client = server::administrator().await;
        let namespace = namespace.to_owned();
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::all(client.clone()).create(&PostParams::default(), &object).await?;
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": ACCOUNT}}))?;
        Api::namespaced(client.clone(), &namespace).create(&PostParams::default(), &account).await?;
        let object: OnionBalancedService = serde_json::from_value(json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": SERVICE},
            "spec": {
                "ports": [{"port": 80, "target": {"address": "127.0.0.1:1"}}],
                // Other rules apply to a single publisher that cannot reach the API server.
                "frontend": {"replicas": 2},
            },
        }))?;
        Api::namespaced(client.clone(), &namespace).create(&PostParams::default(), &object).await?;
        let mut uids = Vec::new();
        for number in 0..backends {
            uids.push(create_pod(&client, &namespace, &backend(number), Component::Backend).await?);
        }
        let plane = DataPlane::start_for(uids, shares_vanguards).await?;
        let processes = plane.processes();
        let pods = Self { plane, processes, client, namespace };
        for number in 0..backends {
            let mut status = json!({"phase": "Running", "podIP": backend_address(number)});
            if shares_vanguards {
                // Only Ready pods take turns when the vanguards change.
                status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
            }
            pods.set_status(&backend(number), status).await?;
        }
        Ok(pods)
    }

    /// Starts a frontend whose publisher can reach the API server. Its pod is not Ready yet.
    pub async fn frontend(&self, name: &str) -> Result<Frontend> {
        self.frontend_with(name, &server::kubeconfig_as(None, &self.namespace)).await
    }

    /// Starts a frontend like [`Self::frontend`], but its publisher reaches the API server only
    /// through the returned forwarder.
    pub async fn frontend_behind_a_forwarder(&self, name: &str) -> Result<(Frontend, Forwarder)> {
        let mut kubeconfig = server::kubeconfig_as(None, &self.namespace);
        let url = kubeconfig.pointer_mut("/clusters/0/cluster/server").context("the kubeconfig names no server")?;
        let address = url.as_str().and_then(|url| url.strip_prefix("https://")).context("the server has no URL")?;
        let forwarder = Forwarder::start(address.parse()?).await?;
        *url = format!("https://{}", forwarder.address()).into();
        Ok((self.frontend_with(name, &kubeconfig).await?, forwarder))
    }

    async fn frontend_with(&self, name: &str, kubeconfig: &Value) -> Result<Frontend> {
        let pod = format!("{LEASE}-{name}");
        let uid = create_pod(&self.client, &self.namespace, &pod, Component::Frontend).await?;
        let file = self.plane.path(&format!("kubeconfig-{name}"));
        std::fs::write(&file, kubeconfig.to_string())?;
        let arguments = ["--service", SERVICE, "--namespace", &self.namespace, "--pod-name", &pod];
        let environment = [("KUBECONFIG", file.display().to_string())];
        let address = self.plane.start_leased_frontend(name, &uid, &arguments, &environment).await?;
        Ok(frontend(name, &pod, &uid, address))
    }

    /// Starts a frontend that cannot reach the API server and believes that it leads.
    pub async fn frontend_without_lease(&self, name: &str) -> Result<Frontend> {
        let address = self.plane.start_frontend_without_lease(name).await?;
        Ok(frontend(name, name, name, address))
    }

    /// Stops a frontend's processes.
    pub async fn stop(&self, frontend: &Frontend) -> Result<()> {
        self.processes.stop(&frontend.publisher).await?;
        self.processes.stop(&frontend.tor).await
    }

    /// Waits until the publisher is ready, and then sets the Ready condition of its pod.
    pub async fn set_ready(&self, frontend: &Frontend) -> Result<()> {
        until("the publisher is ready", Duration::from_secs(60), async || {
            let answer = frontend.ask(9401, "/readyz").await;
            Ok(answer.map_or_else(|error| Seen::not_yet(format!("{error:#}")), |_| Seen::Yes(())))
        })
        .await?;
        self.set_status(&frontend.pod, json!({"conditions": [{"type": "Ready", "status": "True"}]})).await
    }

    /// Deletes a backend's pod.
    pub async fn delete_backend(&self, number: usize) -> Result<()> {
        let pods: Api<Pod> = self.api();
        pods.delete(&backend(number), &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// Sends a signal to a process.
    pub fn signal(&self, process: &str, signal: Signal) -> Result<()> {
        self.processes.signal(process, signal)
    }

    /// Returns the time from a moment until a process first logged the given words.
    pub fn first_logged(&self, process: &str, words: &str, since: Timestamp) -> Result<Duration> {
        self.logged(process, words, since)?.first().copied().with_context(|| format!("{process} did not log {words:?}"))
    }

    /// Returns the time from a moment until a process last logged the given words.
    pub fn last_logged(&self, process: &str, words: &str, since: Timestamp) -> Result<Duration> {
        self.logged(process, words, since)?.last().copied().with_context(|| format!("{process} did not log {words:?}"))
    }

    /// Waits until a process has logged the given words since a moment.
    pub async fn until_logged(&self, process: &str, words: &str, since: Timestamp) -> Result<()> {
        until(&format!("{process} logs {words:?}"), Duration::from_secs(60), async || {
            let is_logged = !self.logged(process, words, since)?.is_empty();
            Ok(if is_logged { Seen::Yes(()) } else { Seen::not_yet("it did not") })
        })
        .await
    }

    /// Returns the number of uploads that a frontend's publisher has begun, according to its log.
    pub fn begun_uploads(&self, frontend: &Frontend) -> Result<usize> {
        Ok(self.processes.logged(&frontend.publisher, "uploading hsdir=")?.len())
    }

    fn logged(&self, process: &str, words: &str, since: Timestamp) -> Result<Vec<Duration>> {
        let times = self.processes.logged(process, words)?;
        Ok(times.into_iter().filter_map(|time| time.duration_since(since).try_into().ok()).collect())
    }

    /// Opens a connection to the control socket of a frontend's tor.
    pub async fn control(&self, frontend: &Frontend) -> Result<Control> {
        let folder = frontend.tor.trim_end_matches("-tor");
        let control = self.plane.path(folder).join("run/control");
        Control::open(&control.join("socket"), &control.join("cookie")).await
    }

    pub async fn holder(&self) -> Result<String> {
        let lease = self.api::<Lease>().get(LEASE).await?;
        Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
    }

    /// Returns the value of an annotation of the Lease.
    pub async fn annotation(&self, name: &str) -> Result<Option<String>> {
        Ok(self.api::<Lease>().get(LEASE).await?.annotations().get(name).cloned())
    }

    /// Returns the Secret of the guards and vanguards.
    pub async fn guards_secret(&self) -> Result<Secret> {
        Ok(self.api().get(GUARDS).await?)
    }

    /// Changes entries of the Secret of the guards and vanguards.
    pub async fn change_guards_secret(&self, entries: &[(&str, String)]) -> Result<()> {
        let data: BTreeMap<_, _> = entries.iter().map(|(name, text)| (*name, text)).collect();
        let patch = Patch::Merge(json!({"stringData": data}));
        self.api::<Secret>().patch(GUARDS, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn set_status(&self, pod: &str, status: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"status": status}));
        self.api::<Pod>().patch_status(pod, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

impl Frontend {
    /// Returns the frontend's metrics by name, without the names' common prefix.
    pub async fn figures(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.ask(9402, "/metrics").await?;
        let samples = text.lines().filter_map(|line| line.strip_prefix("onionbalance_publisher_")?.rsplit_once(' '));
        samples.map(|(name, value)| Ok((name.to_owned(), value.parse()?))).collect()
    }

    /// Returns the values of a metric for each time period, by label.
    pub async fn periods(&self, figure: &str) -> Result<BTreeMap<String, u64>> {
        let figures = self.figures().await?.into_iter();
        let of_period = figures.filter_map(|(name, value)| Some((name.strip_prefix(figure)?.to_owned(), value)));
        Ok(of_period.filter(|(label, _)| label.starts_with('{')).collect())
    }

    /// Returns the number of responsible HSDirs in a time period.
    pub async fn responsible(&self) -> Result<usize> {
        let number =
            self.periods("hsdirs").await?.into_values().min().context("the publisher has published nothing")?;
        Ok(usize::try_from(number)?)
    }

    /// Waits until the frontend's metrics satisfy a condition.
    pub async fn until(&self, what: &str, limit: Duration, is: impl Fn(&BTreeMap<String, u64>) -> bool) -> Result<()> {
        until(&format!("{}: {what}", self.publisher), limit, async || {
            let figures = match self.figures().await {
                Ok(figures) => figures,
                Err(error) => return Ok(Seen::not_yet(format!("{error:#}"))),
            };
            Ok(if is(&figures) { Seen::Yes(()) } else { Seen::NotYet(format!("{figures:?}")) })
        })
        .await
    }

    /// Waits until all HSDirs of both time periods hold points of the given number of backends.
    pub async fn until_published(&self, backends: usize) -> Result<()> {
        self.until("it has published", Duration::from_secs(120), |figures| {
            let all = |name: &str| -> Vec<u64> {
                let of_period = figures.iter().filter(|(figure, _)| figure.starts_with(&format!("{name}{{")));
                of_period.map(|(_, value)| *value).collect()
            };
            let (accepted, hsdirs) = (all("hsdirs_accepted"), all("hsdirs"));
            let ready = figures.get("backends{state=\"Ready\"}") == Some(&(backends as u64));
            ready && hsdirs.len() == 2 && accepted == hsdirs
        })
        .await
    }

    /// Returns true if the probe of the frontend's tor at this path succeeds.
    pub async fn tor_is_alive(&self, path: &str) -> Result<bool> {
        match self.ask(9401, path).await {
            Ok(_) => Ok(true),
            Err(error) => {
                ensure!(format!("{error:#}").contains(" 503 "), "{error:#}");
                Ok(false)
            }
        }
    }

    async fn ask(&self, port: u16, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect((self.address.as_str(), port)).await?;
        get(&mut stream, "publisher", path).await
    }
}

fn frontend(name: &str, pod: &str, uid: &str, address: String) -> Frontend {
    Frontend {
        tor: format!("frontend-{name}-tor"),
        publisher: format!("frontend-{name}-publisher"),
        identity: format!("{pod}_{uid}"),
        pod: pod.to_owned(),
        address,
    }
}

fn backend(number: usize) -> String {
    format!("web-backend-{number}")
}

/// Creates a pod and returns its UID.
async fn create_pod(client: &Client, namespace: &str, name: &str, component: Component) -> Result<String> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels(SERVICE, Some(component))},
        "spec": {
            "serviceAccountName": ACCOUNT, "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "operator:1"}],
        },
    }))?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    pods.create(&PostParams::default(), &pod).await?.uid().context("the new pod has no UID")
}
