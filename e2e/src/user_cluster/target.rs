//! The user's cluster, as the demo finds it.

use std::fs;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node as KubernetesNode;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};

use super::context::{CURRENT, Chosen, choose, read};
use super::maker::{Machine, Maker, NodeFacts, detect, foreign_nodes};
use super::plan::{CRD, Images, NAMESPACE, RELEASE};
use super::removal::{Origin, of_crd, of_namespace, remove_crd};
use crate::bringup::tor_network;
use crate::cluster::Cluster;
use crate::command::{command, output};
use crate::helm::Helm;
use crate::images::make_image;
use crate::kubectl::{Access, Kubectl};
use crate::node::Node;
use crate::state::State;
use crate::steps::say;

/// The places of containerd's socket: Debian's and kubeadm's, and that of k3s.
const SOCKETS: [&str; 2] = ["/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"];

/// A cluster that was running already.
pub struct Target {
    chosen: Chosen,
    nodes: Vec<NodeFacts>,
    maker: Maker,
    /// The state folder, if the cluster is the one that `e2e up` has started on this machine.
    own: Option<State>,
    /// An API client with the user's credentials.
    pub client: Client,
    /// The `kubectl` command with the user's credentials.
    pub kubectl: Kubectl,
    /// The `helm` command with the user's credentials.
    pub helm: Helm,
}

impl Target {
    /// Finds the cluster of a context: [`CURRENT`], or a context's name. The programs write their
    /// files to `folder`. Changes nothing on the cluster.
    pub async fn open(state: &State, wanted: &str, folder: &Path) -> Result<Self> {
        let chosen = choose(&read()?, wanted)?;
        let context = chosen.context.clone();
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let unusable = || format!("could not use the context {context}");
        let client = Client::try_from(Config::from_kubeconfig(&options).await.with_context(unusable)?)?;
        client
            .apiserver_version()
            .await
            .with_context(|| format!("the API server of the context {context} at {} did not answer", chosen.server))?;
        let nodes = nodes(&client).await?;
        let own = is_own(state, &chosen)?.then(|| state.clone());
        Ok(Self {
            maker: detect(&context, &nodes, &machine()?),
            own,
            nodes,
            kubectl: Kubectl::of_context(&context, folder.join("kubectl")),
            helm: Helm::of(Access::Context(context), NAMESPACE, folder.join("helm")).await?,
            client,
            chosen,
        })
    }

    /// Returns the context's name.
    pub fn context(&self) -> &str {
        &self.chosen.context
    }

    /// Returns the torrc lines of the private Tor network that the cluster's pods can reach, or
    /// `None` if there is only the public network.
    pub fn private_network(&self) -> Result<Option<String>> {
        self.own.as_ref().map(|state| tor_network(state)?.torrc_lines()).transpose()
    }

    /// Prints where the demo will run and what it will create. On a terminal, asks the user unless
    /// the user has named the context.
    pub fn confirm(&self, wanted: &str, images: Option<&Images>) -> Result<()> {
        let source = match (images, &self.own) {
            (Some(images), _) => format!("{} and others, which the nodes have or pull", images.name("operator")),
            (None, Some(_)) => "imported into the node's containerd".to_owned(),
            (None, None) => format!("loaded into {}", self.maker.description()),
        };
        let tor = if self.own.is_some() { "private" } else { "public" };
        println!(
            "\nThe demo runs on the cluster of this context:\n\
             \x20 context  {}\n\
             \x20 server   {}\n\
             \x20 nodes    {}\n\
             \x20 images   {source}\n\
             \x20 network  the {tor} Tor network\n\
             \x20 creates  the namespace {NAMESPACE} with the Helm release {RELEASE} and a service, and the CRD\n\
             \x20          {CRD} unless the cluster has it\n",
            self.context(),
            self.chosen.server,
            self.nodes.len(),
        );
        if wanted != CURRENT || !std::io::stdin().is_terminal() {
            return Ok(());
        }
        println!("Type the context's name to continue:");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        ensure!(answer.trim() == self.context(), "nothing was changed, because you typed another name");
        Ok(())
    }

    /// Checks that the demo would not disturb anything on the cluster. Returns true if the cluster
    /// lacks the CRD.
    pub async fn check_free(&self) -> Result<bool> {
        match of_namespace(&self.kubectl).await? {
            Origin::Absent => {}
            Origin::Demo => bail!(
                "an earlier demo is still on the cluster; remove it first: make demo-down CLUSTER={}",
                self.context()
            ),
            Origin::Other => bail!("the cluster already has a namespace {NAMESPACE}, which the demo did not create"),
        }
        let ours = ListParams::default().labels("app.kubernetes.io/name=onionbalance-operator");
        let operators = Api::<Deployment>::all(self.client.clone()).list(&ours).await;
        let operators = operators.context("could not look for operators that run already")?;
        if let Some(other) = operators.iter().next() {
            bail!(
                "the operator {} in the namespace {} runs already and may act on the demo's service, too; use that \
                 operator (kubectl apply -f deploy/samples/web.yaml), or try the demo on another cluster",
                other.name_any(),
                other.namespace().unwrap_or_default()
            );
        }
        // An interrupted removal may have left the CRD of an earlier version.
        remove_crd(&self.kubectl).await?;
        Ok(of_crd(&self.kubectl).await? == Origin::Absent)
    }

    /// Returns an error if the demo cannot load images into the nodes, or if the nodes could not
    /// run these images.
    pub fn check_loadable(&self) -> Result<()> {
        let foreign = foreign_nodes(&self.nodes, std::env::consts::ARCH);
        let problem = if self.own.is_none() && self.maker == Maker::Other {
            format!("the demo cannot load images into this cluster, which is {}", self.maker.description())
        } else if foreign.is_empty() {
            return Ok(());
        } else {
            format!("the nodes {} have another processor architecture than this machine", foreign.join(", "))
        };
        bail!(
            "{problem}; push the images to a registry from which the nodes can pull, and name it in the variable \
             IMAGES: make demo CLUSTER={} IMAGES=registry.example.org/onions",
            self.context()
        )
    }

    /// Builds the images and loads them into the nodes.
    pub async fn load_images(&self, operator: &Path) -> Result<()> {
        let operator = operator.to_str().context("the operator's path is not UTF-8")?;
        for arguments in [&["tor"][..], &["sample"], &["operator", operator]] {
            self.load_image(&make_image(arguments).await?).await?;
        }
        Ok(())
    }

    async fn load_image(&self, archive: &Path) -> Result<()> {
        if let Some(state) = &self.own {
            return Cluster::open(state)?.load_image(archive).await.map(drop);
        }
        let load = self.maker.load_command(archive).context("no command loads images into this cluster")?;
        let mut program = command(load.program, &load.arguments);
        program.envs(load.variable);
        output(&mut program).await.with_context(|| format!("could not load {}", archive.display()))?;
        Ok(())
    }
}

/// Returns the facts about the cluster's nodes. The list is empty if the user may not see them.
async fn nodes(client: &Client) -> Result<Vec<NodeFacts>> {
    match Api::<KubernetesNode>::all(client.clone()).list(&ListParams::default()).await {
        Ok(nodes) => Ok(nodes.items.into_iter().map(NodeFacts::from).collect()),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            say("these credentials may not list the cluster's nodes, so only the context's name tells who made it");
            Ok(Vec::new())
        }
        Err(error) => Err(error).context("could not list the cluster's nodes"),
    }
}

fn machine() -> Result<Machine> {
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    let sockets = SOCKETS.into_iter().filter(|socket| Path::new(socket).exists());
    Ok(Machine { host_name, sockets: sockets.map(ToOwned::to_owned).collect() })
}

/// Returns true if a context leads to the cluster that `e2e up` has started in a state folder.
fn is_own(state: &State, chosen: &Chosen) -> Result<bool> {
    if !state.kubeconfig().exists() || !Node::open(state)?.is_up() {
        return Ok(false);
    }
    let own = choose(&Kubeconfig::read_from(state.kubeconfig())?, CURRENT)?;
    Ok(own.server == chosen.server && own.authority == chosen.authority)
}
