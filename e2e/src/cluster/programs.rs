//! The command lines and configurations of the cluster's programs, all of which run inside the
//! node.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::machine::CNI_PLUGINS;
use crate::node::{BRIDGE, BRIDGE_ADDRESS, CGROUP, NAME, NODE_ADDRESS, POD_NETWORK, SERVICE_NETWORK};

/// A program and its arguments.
pub struct Program {
    /// The process name, unique within the environment.
    pub name: &'static str,
    /// The program's path, or a name to look up in `PATH`.
    pub path: String,
    /// The program's arguments.
    pub arguments: Vec<String>,
}

/// The folders that the programs use.
pub struct Places<'a> {
    /// The folder of Kubernetes' programs.
    pub programs: &'a Path,
    /// The folder of the certificates, the kubeconfigs and etcd's data.
    pub kubernetes: &'a Path,
    /// The folder to which containerd and the kubelet write.
    pub node: &'a Path,
}

impl Places<'_> {
    /// Returns the path of containerd's socket.
    pub fn containerd_socket(&self) -> String {
        self.node.join("containerd.sock").display().to_string()
    }

    /// Returns the command line of etcd, which stores the cluster's data.
    pub fn etcd(&self) -> Program {
        let listen = "http://127.0.0.1:2379";
        let data = self.kubernetes.join("etcd");
        program(
            "etcd",
            &self.etcd_program(),
            [
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={listen}"),
                format!("--advertise-client-urls={listen}"),
                "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
                "--unsafe-no-fsync".to_owned(),
            ],
        )
    }

    /// Returns the path of the etcd that belongs to Kubernetes' programs, or else the name of
    /// Debian's. Newer API servers need a newer etcd than Debian's.
    fn etcd_program(&self) -> String {
        let own = self.programs.join("etcd");
        if own.exists() { own.display().to_string() } else { "etcd".to_owned() }
    }

    /// Returns the command line of the API server.
    pub fn api_server(&self) -> Program {
        self.kubernetes_program(
            "kube-apiserver",
            [
                "--etcd-servers=http://127.0.0.1:2379".to_owned(),
                format!("--secure-port={}", super::API_PORT),
                format!("--advertise-address={NODE_ADDRESS}"),
                self.file("tls-cert-file", "apiserver.crt"),
                self.file("tls-private-key-file", "apiserver.key"),
                self.file("client-ca-file", "ca.crt"),
                self.file("service-account-key-file", "service-account.key"),
                self.file("service-account-signing-key-file", "service-account.key"),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--allow-privileged=true".to_owned(),
                // Without this, `kubectl logs` and `exec` would resolve the node's name, which no
                // DNS server knows.
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
                self.file("kubelet-client-certificate", "admin.crt"),
                self.file("kubelet-client-key", "admin.key"),
            ],
        )
    }

    /// Returns the command line of the controller manager, which creates the pods of Deployments
    /// and collects garbage.
    pub fn controller_manager(&self) -> Program {
        self.kubernetes_program(
            "kube-controller-manager",
            [
                self.file("kubeconfig", "controller-manager.conf"),
                self.file("service-account-private-key-file", "service-account.key"),
                self.file("root-ca-file", "ca.crt"),
                "--use-service-account-credentials".to_owned(),
                "--leader-elect=false".to_owned(),
                self.file("flex-volume-plugin-dir", "volume-plugins"),
            ],
        )
    }

    /// Returns the command line of the scheduler.
    pub fn scheduler(&self) -> Program {
        self.kubernetes_program(
            "kube-scheduler",
            [self.file("kubeconfig", "scheduler.conf"), "--leader-elect=false".to_owned()],
        )
    }

    /// Returns the command line of kube-proxy, which routes Services.
    pub fn proxy(&self) -> Program {
        self.kubernetes_program(
            "kube-proxy",
            [
                self.file("kubeconfig", "proxy.conf"),
                format!("--hostname-override={NAME}"),
                format!("--cluster-cidr={POD_NETWORK}"),
                // These limits apply to the whole machine and cannot be set in a network namespace.
                "--conntrack-max-per-core=0".to_owned(),
                "--conntrack-tcp-timeout-established=0".to_owned(),
                "--conntrack-tcp-timeout-close-wait=0".to_owned(),
            ],
        )
    }

    /// Writes containerd's configuration and returns its command line.
    pub fn containerd(&self) -> Result<Program> {
        let node = self.node.display();
        let config = self.node.join("containerd.toml");
        fs::write(
            &config,
            format!(
                r#"version = 2
root = "{node}/containerd"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE no process can lower its OOM score, and no sandbox would start.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{node}/cni.d"
"#,
                socket = self.containerd_socket(),
                pause = super::PAUSE_IMAGE,
                snapshotter = self.snapshotter()?,
            ),
        )?;
        fs::create_dir_all(self.node.join("cni.d"))?;
        let network = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {
                "type": "host-local", "dataDir": self.node.join("addresses"),
                "ranges": [[{"subnet": POD_NETWORK}]], "routes": [{"dst": "0.0.0.0/0"}],
            }},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]});
        fs::write(self.node.join("cni.d/10-pods.conflist"), serde_json::to_vec_pretty(&network)?)?;
        Ok(program("containerd", "containerd", [format!("--config={}", config.display())]))
    }

    /// Writes the kubelet's configuration and returns its command line. `minor` is Kubernetes'
    /// minor version.
    pub fn kubelet(&self, minor: u32) -> Result<Program> {
        let socket = format!("unix://{}", self.containerd_socket());
        fs::write(self.node.join("resolv.conf"), format!("nameserver {BRIDGE_ADDRESS}\n"))?;
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": false},
                "x509": {"clientCAFile": self.kubernetes.join("ca.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{CGROUP}"),
            "enforceNodeAllocatable": [],
            "failSwapOn": false,
            "clusterDomain": super::DOMAIN,
            "clusterDNS": [BRIDGE_ADDRESS],
            "resolvConf": self.node.join("resolv.conf"),
            "tlsCertFile": self.kubernetes.join("node.crt"),
            "tlsPrivateKeyFile": self.kubernetes.join("node.key"),
            "volumePluginDir": self.kubernetes.join("volume-plugins"),
            // Report a pod's readiness immediately instead of ten seconds later.
            "nodeStatusUpdateFrequency": "1s",
            // These have been the defaults since Kubernetes 1.27. A few pods that start at the same
            // time exhaust the earlier limit of 5 calls a second. The API server, and everything
            // that waits for a pod's address, would then learn the address seconds later.
            "kubeAPIQPS": 50, "kubeAPIBurst": 100, "eventRecordQPS": 50, "eventBurst": 100,
            "imageGCHighThresholdPercent": 100,
            // A full disk does not matter to this cluster, so no pod is evicted because of it.
            "evictionHard": {"memory.available": "100Mi"},
        });
        let mut arguments = vec![
            format!("--config={}", self.node.join("kubelet.json").display()),
            self.file("kubeconfig", "node.conf"),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={NODE_ADDRESS}"),
            format!("--root-dir={}", self.node.join("kubelet").display()),
            format!("--cert-dir={}", self.node.join("kubelet-pki").display()),
        ];
        if minor < 27 {
            arguments.push("--container-runtime=remote".to_owned());
            arguments.push(format!("--container-runtime-endpoint={socket}"));
        } else {
            config["containerRuntimeEndpoint"] = json!(socket);
        }
        if minor >= 31 {
            config["failCgroupV1"] = json!(false);
        }
        fs::write(self.node.join("kubelet.json"), serde_json::to_vec_pretty(&config)?)?;
        Ok(self.kubernetes_program("kubelet", arguments))
    }

    fn kubernetes_program(&self, name: &'static str, arguments: impl IntoIterator<Item = String>) -> Program {
        program(name, &self.programs.join(name).display().to_string(), arguments)
    }

    fn file(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.kubernetes.join(name).display())
    }

    /// Returns the name of the snapshotter for containerd. An overlayfs cannot be stacked on
    /// another overlayfs, so the snapshotter is `native` if the node's folder is on an overlayfs,
    /// as it usually is inside a container.
    fn snapshotter(&self) -> Result<&'static str> {
        const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
        let kind = rustix::fs::statfs(self.node)?.f_type;
        Ok(if kind == OVERLAYFS_MAGIC { "native" } else { "overlayfs" })
    }
}

fn program(name: &'static str, path: &str, arguments: impl IntoIterator<Item = String>) -> Program {
    Program { name, path: path.to_owned(), arguments: arguments.into_iter().collect() }
}
