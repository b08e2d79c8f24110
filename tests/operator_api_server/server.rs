//! A real API server with its etcd, on loopback, for as long as this process lives.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::{ClusterRole, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, TypeMeta};
use kube::{Api, Client, Config};
use onionbalance_operator::crd::{custom_resource_definition, without_rules};
use serde_json::json;

use crate::wait::until;

/// Runs both programs until its standard input ends, as it does when this process is gone, however it went.
const KEEPER: &str = r#"
cd "$1" || exit 1
openssl genrsa -out key.pem 2048 2>/dev/null || exit 1
echo 'admin-token,admin,admin,system:masters' >tokens.csv
etcd --data-dir etcd --listen-client-urls "http://127.0.0.1:$3" --advertise-client-urls "http://127.0.0.1:$3" \
    --listen-peer-urls "http://127.0.0.1:$4" --unsafe-no-fsync >etcd.log 2>&1 &
etcd=$!
"$5/kube-apiserver" --etcd-servers "http://127.0.0.1:$3" --secure-port "$2" --bind-address 127.0.0.1 \
    --advertise-address 192.0.2.1 --cert-dir certs \
    --token-auth-file tokens.csv --authorization-mode RBAC --service-cluster-ip-range 10.96.0.0/16 \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file key.pem \
    --service-account-signing-key-file key.pem >api-server.log 2>&1 &
server=$!
echo started
read -r _
kill $server $etcd
wait
rm -rf "$1"
"#;

/// The account of `deploy/`: the operator has its rights and no others.
const ACCOUNT: &str = "system:serviceaccount:onionbalance-system:onionbalance-operator";
const TOKEN: &str = "admin-token";
/// The operator's own namespace.
pub const OWN_NAMESPACE: &str = "onionbalance-system";

/// Where it listens.
struct Server {
    url: String,
    folder: PathBuf,
    /// Its standard input ends with this process.
    _keeper: Child,
}

#[allow(clippy::zombie_processes, reason = "it outlives this process, to clean up after it")]
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let folder =
            tempfile::Builder::new().prefix("operator-api-server").tempdir().expect("a temporary folder").keep();
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("its address").port().to_string();
        let ports: Vec<_> = listeners.iter().map(port).collect();
        drop(listeners);
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            .args(&ports)
            .arg(programs())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("its output")).read_line(&mut line).expect("its first line");
        assert_eq!(line.trim(), "started", "the API server's files are in {}", folder.display());
        Server { url: format!("https://127.0.0.1:{}", ports[0]), folder, _keeper: keeper }
    })
}

/// The folder of `kube-apiserver`: `KUBEBUILDER_ASSETS`, or where the set-up script has put what it built.
pub fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS") {
        return folder.into();
    }
    let script = source_tree().join("e2e/setup/kubernetes.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().expect("the set-up script");
    assert!(output.status.success(), "e2e/setup/kubernetes.sh failed");
    String::from_utf8(output.stdout).expect("a path").trim().into()
}

/// Other packages' tests use this file, too.
pub fn source_tree() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().find(|folder| folder.join("deploy/rbac.yaml").exists()).expect("the source tree")
}

fn config(impersonate: Option<&str>) -> Config {
    let mut config = Config::new(server().url.parse().expect("a URL"));
    // Its certificate is its own, made at this start.
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(TOKEN.to_owned().into());
    config.auth_info.impersonate = impersonate.map(ToOwned::to_owned);
    config
}

/// A client that may do all; the server has our CRD and our role.
pub async fn administrator() -> Client {
    static READY: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let client = Client::try_from(config(None)).expect("a client");
    READY.get_or_init(|| prepare(client.clone())).await;
    client
}

/// A client that may do what `deploy/` allows the operator.
pub fn operator() -> Client {
    Client::try_from(config(Some(ACCOUNT))).expect("a client")
}

/// A client that may do in this namespace what `deploy/` allows the operator in all: by a Role, and nothing outside it.
pub async fn operator_with_role(namespace: &str) -> Client {
    let administrator = administrator().await;
    let name = "onionbalance-operator";
    let role: ClusterRole = Api::all(administrator.clone()).get(name).await.expect("the role of deploy/");
    let role = json!({"metadata": {"name": name}, "rules": role.rules});
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": namespace}],
    });
    let roles: Api<Role> = Api::namespaced(administrator.clone(), namespace);
    let role = serde_json::from_value(role).expect("a Role");
    roles.create(&PostParams::default(), &role).await.expect("the API server takes the Role");
    let bindings: Api<RoleBinding> = Api::namespaced(administrator.clone(), namespace);
    let binding_in_it = serde_json::from_value(binding.clone()).expect("a RoleBinding");
    bindings.create(&PostParams::default(), &binding_in_it).await.expect("the API server takes the RoleBinding");
    // And in the operator's own namespace the Role by which leaders are elected.
    let mut elects = binding;
    elects["metadata"]["name"] = namespace.into();
    elects["roleRef"]["name"] = format!("{name}-leader-election").into();
    let bindings: Api<RoleBinding> = Api::namespaced(administrator, OWN_NAMESPACE);
    let elects = serde_json::from_value(elects).expect("a RoleBinding");
    bindings.create(&PostParams::default(), &elects).await.expect("the API server takes the RoleBinding");
    Client::try_from(config(Some(namespace))).expect("a client")
}

/// A client that may do what this user may.
pub fn client_as(user: &str) -> Client {
    Client::try_from(config(Some(user))).expect("a client")
}

/// A kubeconfig for a program that runs as this account; as the administrator where there is none.
pub fn kubeconfig_as(account: Option<&str>, namespace: &str) -> serde_json::Value {
    kubeconfig_of("", account, namespace)
}

/// Writes a kubeconfig with the rights that `deploy/` gives the operator, in this namespace.
pub fn write_kubeconfig(file: &Path, namespace: &str) {
    std::fs::write(file, kubeconfig_as(Some(ACCOUNT), namespace).to_string()).expect("a file");
}

/// Writes a kubeconfig with all rights.
pub fn write_administrators_kubeconfig(file: &Path) {
    std::fs::write(file, kubeconfig_as(None, "default").to_string()).expect("a file");
}

/// A kubeconfig with the administrator's rights, for the API server below this path.
pub fn kubeconfig(path: &str) -> PathBuf {
    let file = server().folder.join(format!("kubeconfig{}", path.replace('/', "-")));
    std::fs::write(&file, kubeconfig_of(path, None, "default").to_string()).expect("a writable folder");
    file
}

/// JSON is YAML.
fn kubeconfig_of(path: &str, account: Option<&str>, namespace: &str) -> serde_json::Value {
    let address = format!("{}{path}", server().url);
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "clusters": [{"name": "test", "cluster": {"server": address, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "test", "user": {"token": TOKEN, "as": account}}],
    })
}

/// kubectl with the administrator's rights.
pub fn kubectl() -> Command {
    let mut kubectl = Command::new("kubectl");
    kubectl.env("KUBECONFIG", "/dev/null").args(["--server", &server().url, "--token", TOKEN]);
    kubectl.args(["--insecure-skip-tls-verify", "--cache-dir"]).arg(server().folder.join("kubectl"));
    kubectl
}

async fn prepare(client: Client) {
    until("the API server answers", Duration::from_secs(60), async || {
        client.apiserver_version().await.map_err(|error| error.to_string())
    })
    .await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = without_rules(custom_resource_definition());
    let name = crd.metadata.name.clone().expect("a name");
    crds.patch(&name, &PatchParams::apply("test"), &Patch::Apply(&crd)).await.expect("the API server takes the CRD");
    for file in ["namespace.yaml", "rbac.yaml", "roles.yaml"] {
        apply_file(&client, &source_tree().join("deploy").join(file)).await;
    }
    until("the CRD is established", Duration::from_secs(30), async || {
        let crd = crds.get(&name).await.map_err(|error| error.to_string())?;
        let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
        let established =
            conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True");
        established.then_some(()).ok_or_else(|| format!("{conditions:?}"))
    })
    .await;
}

async fn apply_file(client: &Client, file: &Path) {
    let text = std::fs::read_to_string(file).expect("a manifest");
    for document in text.split("\n---\n") {
        let mut object: DynamicObject = serde_saphyr::from_str(document).expect("a manifest");
        let TypeMeta { api_version, kind } = object.types.clone().expect("a kind");
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, &kind));
        let api: Api<DynamicObject> = if ["ServiceAccount", "Role", "RoleBinding"].contains(&kind.as_str()) {
            object.metadata.namespace = Some(OWN_NAMESPACE.to_owned());
            Api::namespaced_with(client.clone(), OWN_NAMESPACE, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        let name = object.metadata.name.clone().expect("a name");
        let parameters = PatchParams::apply("test").force();
        api.patch(&name, &parameters, &Patch::Apply(&object)).await.expect("the API server takes the manifest");
    }
}
