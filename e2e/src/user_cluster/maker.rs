//! Finds out which tool made a cluster, and which command loads an image archive into its nodes.
//!
//! Nothing here has an effect, so tests cover the tools that a machine lacks.

use std::path::Path;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

/// The label with which minikube marks its nodes. The value is the profile.
const MINIKUBE_PROFILE: &str = "minikube.k8s.io/name";

/// The properties of a node that tell which tool made its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// The ID that the node's maker gave it, as in `kind://docker/dev/dev-control-plane`.
    pub provider_id: String,
    /// The profile, if minikube made the node.
    pub minikube_profile: Option<String>,
    /// The container runtime and its version, as in `containerd://1.6.20`.
    pub runtime: String,
    /// The processor architecture, as in `amd64`.
    pub architecture: String,
}

impl From<Node> for NodeFacts {
    fn from(node: Node) -> Self {
        let info = node.status.as_ref().and_then(|status| status.node_info.clone()).unwrap_or_default();
        Self {
            name: node.name_any(),
            minikube_profile: node.labels().get(MINIKUBE_PROFILE).cloned(),
            provider_id: node.spec.and_then(|spec| spec.provider_id).unwrap_or_default(),
            runtime: info.container_runtime_version,
            architecture: info.architecture,
        }
    }
}

/// The properties of this machine that tell whether the cluster runs on it.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// The machine's host name.
    pub host_name: String,
    /// The sockets of containerd that exist on this machine.
    pub sockets: Vec<String>,
}

/// The tool that made a cluster, as far as the loading of images depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Maker {
    /// kind, whose nodes are containers.
    Kind {
        /// The cluster's name in kind.
        cluster: String,
        /// The program that runs the containers: `docker`, `podman` or `nerdctl`.
        runs_in: String,
    },
    /// minikube.
    Minikube {
        /// The profile's name.
        profile: String,
    },
    /// k3d, whose nodes are containers that run k3s.
    K3d {
        /// The cluster's name in k3d.
        cluster: String,
    },
    /// Any tool, if the only node is this machine and runs containerd, as with k3s or kubeadm.
    ThisMachine {
        /// The path of containerd's socket.
        socket: String,
    },
    /// Any other tool. The nodes pull images from a registry.
    Other,
}

/// A command that loads an image archive into the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadCommand {
    /// The program's name.
    pub program: &'static str,
    /// The program's arguments.
    pub arguments: Vec<String>,
    /// An environment variable and its value.
    pub variable: Option<(&'static str, String)>,
}

/// Finds out who made the cluster of a kubectl context. The nodes decide. Their maker's usual name
/// for a context decides if the nodes tell nothing, or if their list is empty because the user may
/// not see them.
pub fn detect(context: &str, nodes: &[NodeFacts], machine: &Machine) -> Maker {
    nodes
        .iter()
        .find_map(by_node)
        .or_else(|| by_context(context))
        .or_else(|| on_this_machine(nodes, machine))
        .unwrap_or(Maker::Other)
}

fn by_node(node: &NodeFacts) -> Option<Maker> {
    if let Some(path) = node.provider_id.strip_prefix("kind://") {
        let mut parts = path.split('/');
        let (runs_in, cluster) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        return Some(Maker::Kind { cluster, runs_in });
    }
    if let Some(name) = node.provider_id.strip_prefix("k3s://k3d-") {
        // The name of a node is CLUSTER-server-0 or CLUSTER-agent-0.
        let (name, _) = name.rsplit_once('-')?;
        let cluster = name.strip_suffix("-server").or_else(|| name.strip_suffix("-agent"))?;
        return Some(Maker::K3d { cluster: cluster.to_owned() });
    }
    node.minikube_profile.clone().map(|profile| Maker::Minikube { profile })
}

fn by_context(context: &str) -> Option<Maker> {
    if let Some(cluster) = context.strip_prefix("kind-") {
        return Some(Maker::Kind { cluster: cluster.to_owned(), runs_in: "docker".to_owned() });
    }
    if let Some(cluster) = context.strip_prefix("k3d-") {
        return Some(Maker::K3d { cluster: cluster.to_owned() });
    }
    (context == "minikube").then(|| Maker::Minikube { profile: context.to_owned() })
}

fn on_this_machine(nodes: &[NodeFacts], machine: &Machine) -> Option<Maker> {
    let [node] = nodes else { return None };
    let is_here = node.name == machine.host_name && node.runtime.starts_with("containerd://");
    // k3s runs a containerd of its own, possibly beside the system's.
    let is_k3s = node.provider_id.starts_with("k3s://");
    let socket = machine.sockets.iter().find(|socket| socket.contains("k3s") == is_k3s)?;
    is_here.then(|| Maker::ThisMachine { socket: socket.clone() })
}

impl Maker {
    /// Returns the command that loads an image archive into all nodes, or `None` if the nodes can
    /// only pull images.
    pub fn load_command(&self, archive: &Path) -> Option<LoadCommand> {
        let archive = archive.display().to_string();
        let load = |program, arguments: &[&str]| LoadCommand {
            program,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            variable: None,
        };
        Some(match self {
            Self::Kind { cluster, runs_in } => LoadCommand {
                variable: Some(("KIND_EXPERIMENTAL_PROVIDER", runs_in.clone())),
                ..load("kind", &["load", "image-archive", &archive, "--name", cluster])
            },
            Self::Minikube { profile } => load("minikube", &["image", "load", &archive, "--profile", profile]),
            Self::K3d { cluster } => load("k3d", &["image", "import", &archive, "--cluster", cluster]),
            Self::ThisMachine { socket } => {
                load("ctr", &["--address", socket, "--namespace", "k8s.io", "images", "import", &archive])
            }
            Self::Other => return None,
        })
    }

    /// Describes the cluster for users.
    pub fn description(&self) -> String {
        match self {
            Self::Kind { cluster, .. } => format!("the kind cluster {cluster}"),
            Self::Minikube { profile } => format!("the minikube profile {profile}"),
            Self::K3d { cluster } => format!("the k3d cluster {cluster}"),
            Self::ThisMachine { .. } => "a cluster whose only node is this machine".to_owned(),
            Self::Other => "neither kind, minikube, k3d nor a single node on this machine".to_owned(),
        }
    }
}

/// Returns the names of the nodes whose architecture differs from this machine's, on which our
/// images would not run. `here` is the architecture in the terms of Rust, as in `x86_64`.
pub fn foreign_nodes<'a>(nodes: &'a [NodeFacts], here: &str) -> Vec<&'a str> {
    let here = match here {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    nodes.iter().filter(|node| node.architecture != here).map(|node| node.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, provider_id: &str) -> NodeFacts {
        NodeFacts {
            name: name.to_owned(),
            provider_id: provider_id.to_owned(),
            runtime: "containerd://2.0.1".to_owned(),
            ..NodeFacts::default()
        }
    }

    fn machine() -> Machine {
        let sockets = ["/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"];
        Machine { host_name: "laptop".to_owned(), sockets: sockets.map(ToOwned::to_owned).to_vec() }
    }

    fn command(maker: &Maker) -> String {
        let load = maker.load_command(Path::new("/images/tor.tar")).unwrap();
        let variable = load.variable.map(|(name, value)| format!("{name}={value} ")).unwrap_or_default();
        format!("{variable}{} {}", load.program, load.arguments.join(" "))
    }

    #[test]
    fn kind_is_known_by_its_provider_id_under_any_context_name() {
        let nodes = [node("dev-control-plane", "kind://podman/dev/dev-control-plane"), node("dev-worker", "")];
        for context in ["kind-dev", "renamed", "k3d-other"] {
            let found = detect(context, &nodes, &machine());
            assert_eq!(found, Maker::Kind { cluster: "dev".to_owned(), runs_in: "podman".to_owned() }, "{context}");
        }
        let found = detect("renamed", &nodes, &machine());
        assert_eq!(
            command(&found),
            "KIND_EXPERIMENTAL_PROVIDER=podman kind load image-archive /images/tor.tar --name dev"
        );
    }

    #[test]
    fn a_context_name_decides_if_the_nodes_tell_nothing() {
        let kind = Maker::Kind { cluster: "my-dev".to_owned(), runs_in: "docker".to_owned() };
        assert_eq!(detect("kind-my-dev", &[], &machine()), kind);
        assert_eq!(detect("k3d-dev", &[], &machine()), Maker::K3d { cluster: "dev".to_owned() });
        assert_eq!(detect("minikube", &[], &machine()), Maker::Minikube { profile: "minikube".to_owned() });
        assert_eq!(detect("production", &[], &machine()), Maker::Other);
        assert_eq!(detect("a-kind-dev", &[node("n", "aws:///eu-west-1a/i-1")], &machine()), Maker::Other);
    }

    #[test]
    fn minikube_is_known_by_its_label() {
        let mut minikube = node("team", "");
        minikube.minikube_profile = Some("team".to_owned());
        let found = detect("team", &[minikube], &machine());
        assert_eq!(command(&found), "minikube image load /images/tor.tar --profile team");
    }

    #[test]
    fn k3d_is_known_by_the_names_of_its_nodes() {
        for provider_id in ["k3s://k3d-a-server-b-server-0", "k3s://k3d-a-server-b-agent-12"] {
            let found = detect("x", &[node("n", provider_id)], &machine());
            assert_eq!(command(&found), "k3d image import /images/tor.tar --cluster a-server-b", "{provider_id}");
        }
    }

    #[test]
    fn only_a_single_node_that_is_this_machine_gets_images_through_its_socket() {
        let here = node("laptop", "");
        let found = detect("default", std::slice::from_ref(&here), &machine());
        assert_eq!(
            command(&found),
            "ctr --address /run/containerd/containerd.sock --namespace k8s.io images import /images/tor.tar"
        );
        let k3s = detect("default", &[node("laptop", "k3s://laptop")], &machine());
        assert_eq!(k3s, Maker::ThisMachine { socket: "/run/k3s/containerd/containerd.sock".to_owned() });
        assert_eq!(detect("default", &[here.clone(), node("other", "")], &machine()), Maker::Other);
        assert_eq!(detect("default", &[node("other", "")], &machine()), Maker::Other);
        let docker = NodeFacts { runtime: "docker://24.0".to_owned(), ..here.clone() };
        assert_eq!(detect("default", &[docker], &machine()), Maker::Other);
        assert_eq!(detect("default", &[here], &Machine { sockets: Vec::new(), ..machine() }), Maker::Other);
        assert_eq!(Maker::Other.load_command(Path::new("x")), None);
    }

    #[test]
    fn the_facts_come_from_the_node_object() {
        let object = serde_json::json!({
            "metadata": {"name": "m", "labels": {"minikube.k8s.io/name": "team"}},
            "spec": {"providerID": "kind://docker/dev/m"},
            "status": {"nodeInfo": {
                "architecture": "arm64", "containerRuntimeVersion": "containerd://1.7.0", "operatingSystem": "linux",
                "bootID": "", "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
                "osImage": "", "systemUUID": "",
            }},
        });
        let facts = NodeFacts::from(serde_json::from_value::<Node>(object).unwrap());
        let expected = NodeFacts {
            name: "m".to_owned(),
            provider_id: "kind://docker/dev/m".to_owned(),
            minikube_profile: Some("team".to_owned()),
            runtime: "containerd://1.7.0".to_owned(),
            architecture: "arm64".to_owned(),
        };
        assert_eq!(facts, expected);
        assert_eq!(foreign_nodes(std::slice::from_ref(&facts), "x86_64"), ["m"]);
        assert!(foreign_nodes(&[facts], "aarch64").is_empty());
    }
}
