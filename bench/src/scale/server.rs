//! A real API server and etcd on loopback, with the CRD and the operator's permissions installed.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::{Api, Client, Config};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::state::source_tree;
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::crd::{custom_resource_definition, without_rules};
use serde_json::json;

/// The namespace in which `deploy/` installs the operator.
const OPERATOR_NAMESPACE: &str = "onionbalance-system";
const OPERATOR_ACCOUNT: &str = "system:serviceaccount:onionbalance-system:onionbalance-operator";
const ADMINISTRATOR: &str = "administrator-token";
const OPERATOR: &str = "operator-token";
/// The first minor version of Kubernetes 1 that knows every field of the CRD's validation rules.
const FIRST_WITH_RULES: u32 = 28;

/// A running API server. It is stopped together with the other [`Processes`] of the benchmark.
pub struct ApiServer {
    url: String,
    dir: PathBuf,
}

impl ApiServer {
    /// Starts the API server from the folder that contains `kube-apiserver`, and installs the CRD
    /// and the permissions.
    pub async fn start(processes: &Processes, dir: &Path, programs: &Path) -> Result<Self> {
        let [port, client, peer] = free_ports()?;
        let etcd = format!("http://127.0.0.1:{client}");
        fs::create_dir_all(dir)?;
        let key = dir.join("key.pem");
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048")
            .output()
            .context("could not run openssl")?;
        anyhow::ensure!(made.status.success(), "openssl could not generate a key");
        let groups = "\"system:serviceaccounts,system:authenticated\"";
        fs::write(
            dir.join("tokens.csv"),
            format!("{ADMINISTRATOR},admin,admin,system:masters\n{OPERATOR},{OPERATOR_ACCOUNT},operator,{groups}\n"),
        )?;
        // Newer API servers need a newer etcd than Debian's.
        let own = programs.join("etcd");
        let mut command = ending_with_us(&if own.exists() { own.display().to_string() } else { "etcd".to_owned() });
        command.arg("--data-dir").arg(dir.join("etcd")).args(["--listen-client-urls", &etcd]);
        command.args(["--advertise-client-urls", &etcd, "--unsafe-no-fsync"]);
        command.args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")]);
        processes.start("etcd", &mut command)?;
        let mut command = ending_with_us(&programs.join("kube-apiserver").display().to_string());
        command.args(["--etcd-servers", &etcd, "--secure-port", &port.to_string(), "--bind-address", "127.0.0.1"]);
        command.arg("--cert-dir").arg(dir.join("certs")).arg("--token-auth-file").arg(dir.join("tokens.csv"));
        command.args(["--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16"]);
        // Nothing connects to this address. Without it, the server would need a default route.
        command.args(["--advertise-address", "192.0.2.1"]);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        command.arg("--service-account-key-file").arg(&key).arg("--service-account-signing-key-file").arg(&key);
        processes.start("kube-apiserver", &mut command)?;
        let server = Self { url: format!("https://127.0.0.1:{port}"), dir: dir.to_owned() };
        server.prepare(processes).await?;
        Ok(server)
    }

    /// Returns a client with all permissions.
    pub fn administrator(&self) -> Result<Client> {
        self.client(ADMINISTRATOR)
    }

    /// Returns a client with the permissions that `deploy/` grants the operator.
    pub fn operator(&self) -> Result<Client> {
        self.client(OPERATOR)
    }

    /// Writes a kubeconfig with the operator's permissions and returns its path.
    pub fn operator_kubeconfig(&self) -> Result<PathBuf> {
        let file = self.dir.join("operator.conf");
        // A kubeconfig may be written as JSON, which is valid YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "scale",
            "clusters": [{"name": "scale", "cluster": {"server": self.url, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "operator", "user": {"token": OPERATOR}}],
            "contexts": [{"name": "scale", "context": {
                "cluster": "scale", "user": "operator", "namespace": OPERATOR_NAMESPACE,
            }}],
        });
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    fn client(&self, token: &str) -> Result<Client> {
        let mut config = Config::new(self.url.parse()?);
        // The server creates a self-signed certificate at startup.
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.to_owned().into());
        Ok(Client::try_from(config)?)
    }

    async fn prepare(&self, processes: &Processes) -> Result<()> {
        let client = self.administrator()?;
        until("the API server answers", Duration::from_secs(120), async || {
            processes.check("etcd")?;
            processes.check("kube-apiserver")?;
            let default = Api::<Namespace>::all(client.clone()).get("default").await;
            Ok(default.map_or_else(|error| Seen::not_yet(error.to_string()), Seen::Yes))
        })
        .await?;
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let mut crd = custom_resource_definition();
        if !evaluates_rules(&client).await? {
            crd = without_rules(crd);
        }
        let name = crd.metadata.name.clone().context("the CRD has no name")?;
        crds.patch(&name, &PatchParams::apply("scale-test"), &Patch::Apply(&crd)).await?;
        for file in ["namespace.yaml", "rbac.yaml"] {
            apply_file(&client, &source_tree().join("deploy").join(file)).await?;
        }
        until("the CRD is established", Duration::from_secs(30), async || {
            let conditions = crds.get(&name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            let established = conditions.iter().any(|found| found.type_ == "Established" && found.status == "True");
            Ok(if established { Seen::Yes(()) } else { Seen::not_yet(format!("{conditions:?}")) })
        })
        .await
    }
}

/// Returns true if the API server evaluates the CRD's validation rules. Older servers reject a CRD
/// that contains the rules.
async fn evaluates_rules(client: &Client) -> Result<bool> {
    let minor = client.apiserver_version().await?.minor;
    // Some distributions append a plus sign.
    let number: u32 = minor.trim_end_matches('+').parse().with_context(|| format!("unknown minor version {minor}"))?;
    Ok(number >= FIRST_WITH_RULES)
}

/// Creates a namespace.
pub async fn create_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(())
}

async fn apply_file(client: &Client, file: &Path) -> Result<()> {
    let text = fs::read_to_string(file)?;
    for document in text.split("\n---\n") {
        let mut object: DynamicObject = serde_saphyr::from_str(document)?;
        let TypeMeta { api_version, kind } = object.types.clone().context("a manifest has no kind")?;
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let api: Api<DynamicObject> = if ["ServiceAccount", "Role", "RoleBinding"].contains(&kind.as_str()) {
            object.metadata.namespace = Some(OPERATOR_NAMESPACE.to_owned());
            Api::namespaced_with(client.clone(), OPERATOR_NAMESPACE, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        let name = object.metadata.name.clone().context("a manifest has no name")?;
        api.patch(&name, &PatchParams::apply("scale-test").force(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("could not apply {kind} {name} of {}", file.display()))?;
    }
    Ok(())
}

fn free_ports() -> Result<[u16; 3]> {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        let listener = listener.as_ref().ok().context("found no free port")?;
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Returns a command whose process the kernel kills when this process ends for any reason.
fn ending_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}
