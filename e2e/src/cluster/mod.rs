//! A one-node Kubernetes cluster: etcd, API server, controller manager, scheduler, kube-proxy,
//! containerd, kubelet and DNS.

mod certs;
mod programs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, Node as KubernetesNode, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use self::programs::{Places, Program};
use crate::command::{command, output};
use crate::images::make_image;
use crate::kubectl::Kubectl;
use crate::node::{NAME, Node};
use crate::process::Processes;
use crate::state::{State, source_tree};
use crate::steps::step;
use crate::wait::{Seen, until};

/// The port on which the API server listens.
pub const API_PORT: u16 = 6443;
/// The cluster's DNS domain.
pub const DOMAIN: &str = "cluster.local";
/// The image of the container that holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "localhost/pause:dev";
const DNS: &str = "dns";

/// The Kubernetes cluster of an environment.
#[derive(Debug, Clone)]
pub struct Cluster {
    state: State,
    node: Node,
    processes: Processes,
}

impl Cluster {
    /// Returns the cluster that belongs to a state folder, whether or not it is up.
    pub fn open(state: &State) -> Result<Self> {
        Ok(Self { state: state.clone(), node: Node::open(state)?, processes: Processes::open(state.dir())? })
    }

    /// Starts the cluster on a node that is up. Programs that are already running are left alone.
    pub async fn up(&self) -> Result<()> {
        let programs = kubernetes_programs().await?;
        let (kubernetes, node) = (self.state.kubernetes(), self.state.node());
        let places = Places { programs: &programs, kubernetes: &kubernetes, node: &node };
        step("certificates", certs::make(&kubernetes)).await?;
        let control_plane = step("etcd, API server, controller manager and scheduler", self.control_plane(&places));
        let runtime = step("containerd", self.containerd(&places));
        tokio::try_join!(control_plane, runtime)?;
        step("kubelet, kube-proxy and DNS: the node is Ready", self.kubelet(&places)).await
    }

    /// Returns an API client with the administrator's credentials.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig =
            Kubeconfig::read_from(self.state.kubeconfig()).context("the cluster is not up; run `e2e up`")?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Returns the `kubectl` command with the administrator's credentials.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.state)
    }

    /// Imports an image archive into containerd. The returned output identifies the image's
    /// content.
    pub async fn load_image(&self, archive: &Path) -> Result<String> {
        let mut ctr = self.node.inside("ctr")?;
        ctr.arg("--address").arg(self.state.node().join("containerd.sock"));
        ctr.args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
        output(&mut ctr.into()).await.with_context(|| format!("could not load {}", archive.display()))
    }

    async fn control_plane(&self, places: &Places<'_>) -> Result<()> {
        self.start(&places.etcd())?;
        self.start(&places.api_server())?;
        until("the API server is ready", Duration::from_secs(120), async || {
            self.processes.check("etcd")?;
            self.processes.check("kube-apiserver")?;
            match self.ready().await {
                Ok(()) => Ok(Seen::Yes(())),
                Err(error) => Ok(Seen::not_yet(format!("{error:#}"))),
            }
        })
        .await?;
        self.start(&places.controller_manager())?;
        self.start(&places.scheduler())
    }

    async fn ready(&self) -> Result<()> {
        self.kubectl().run("get --raw /readyz").await?;
        Api::<Namespace>::all(self.client().await?).get("default").await?;
        Ok(())
    }

    async fn containerd(&self, places: &Places<'_>) -> Result<()> {
        self.start(&places.containerd()?)?;
        until("containerd is ready", Duration::from_secs(30), async || {
            self.processes.check("containerd")?;
            let mut ctr = self.node.inside("ctr")?;
            ctr.args(["--address", &places.containerd_socket(), "version"]);
            Ok(match output(&mut ctr.into()).await {
                Ok(_) => Seen::Yes(()),
                Err(error) => Seen::not_yet(error.to_string()),
            })
        })
        .await?;
        self.load_image(&make_image(&["pause"]).await?).await?;
        Ok(())
    }

    async fn kubelet(&self, places: &Places<'_>) -> Result<()> {
        let version =
            output(&mut command(&places.programs.join("kubelet").display().to_string(), ["--version"])).await?;
        let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
        self.start(
            &places.kubelet(minor.with_context(|| format!("could not parse the kubelet's version {version:?}"))?)?,
        )?;
        self.start(&places.proxy())?;
        self.start(&self.dns()?)?;
        let client = self.client().await?;
        let nodes = Api::<KubernetesNode>::all(client.clone());
        until("the node is Ready", Duration::from_secs(120), async || {
            for name in ["kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler", DNS] {
                self.processes.check(name)?;
            }
            let conditions = nodes.get_opt(NAME).await?.and_then(|node| node.status?.conditions).unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
            Ok(match ready {
                Some(ready) if ready.status == "True" => Seen::Yes(()),
                Some(ready) => Seen::not_yet(ready.message.unwrap_or_default()),
                None => Seen::not_yet("not registered"),
            })
        })
        .await?;
        // The API server rejects pods until this account exists.
        let accounts = Api::<ServiceAccount>::namespaced(client, "default");
        until("the default ServiceAccount exists", Duration::from_secs(60), async || {
            let token = accounts.get_opt("default").await?;
            Ok(if token.is_some() { Seen::Yes(()) } else { Seen::not_yet("it is missing") })
        })
        .await
    }

    fn dns(&self) -> Result<Program> {
        let arguments = vec!["--dir".to_owned(), self.state.dir().display().to_string(), "dns".to_owned()];
        Ok(Program { name: DNS, path: std::env::current_exe()?.display().to_string(), arguments })
    }

    fn start(&self, program: &Program) -> Result<()> {
        let mut command = self.node.inside(&program.path)?;
        self.processes.start(program.name, command.args(&program.arguments))
    }
}

async fn kubernetes_programs() -> Result<PathBuf> {
    let script = source_tree().join("e2e/setup/kubernetes.sh");
    let dir = output(&mut command(&script.display().to_string(), [""; 0])).await?;
    Ok(PathBuf::from(dir.trim()))
}
