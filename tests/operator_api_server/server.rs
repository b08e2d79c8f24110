//! A real API server and etcd on loopback, which run for as long as the test process does.

use std::ffi::OsStr;
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

/// A shell script that runs both programs until its standard input is closed. The script stops them
/// with KILL, because a newer API server does not end by itself once its etcd is gone.
const KEEPER: &str = r#"
cd "$1" || exit 1
openssl genrsa -out key.pem 2048 2>/dev/null || exit 1
echo 'admin-token,admin,admin,system:masters' >tokens.csv
# Newer API servers need a newer etcd than Debian's.
etcd=etcd
[ ! -x "$5/etcd" ] || etcd=$5/etcd
"$etcd" --data-dir etcd --listen-client-urls "http://127.0.0.1:$3" --advertise-client-urls "http://127.0.0.1:$3" \
    --listen-peer-urls "http://127.0.0.1:$4" --unsafe-no-fsync >etcd.log 2>&1 &
etcd=$!
cat >audit.yaml <<EOF
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
EOF
"$5/kube-apiserver" --etcd-servers "http://127.0.0.1:$3" --secure-port "$2" --bind-address 127.0.0.1 \
    --advertise-address 192.0.2.1 --cert-dir certs \
    --token-auth-file tokens.csv --authorization-mode RBAC --service-cluster-ip-range 10.96.0.0/16 \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file key.pem \
    --service-account-signing-key-file key.pem \
    --audit-policy-file audit.yaml --audit-log-path audit.log >api-server.log 2>&1 &
server=$!
echo started
read -r _
kill -9 $server $etcd
wait
rm -rf "$1"
"#;

/// The operator's account in `deploy/`. The operator under test has only this account's
/// permissions.
pub const ACCOUNT: &str = "system:serviceaccount:onionbalance-system:onionbalance-operator";
const TOKEN: &str = "admin-token";
/// The maximum time for a server to start on a busy machine.
pub const START: Duration = Duration::from_secs(180);
/// The first minor version of Kubernetes 1 that knows every field of our validation rules.
const FIRST_WITH_RULES: u32 = 28;
/// The operator's own namespace.
pub const OWN_NAMESPACE: &str = "onionbalance-system";

/// The API server that the tests share, and the files it uses.
struct TestApiServer {
    url: String,
    etcd: String,
    folder: PathBuf,
    /// The process that runs [`KEEPER`].
    _keeper: Child,
}

fn server() -> &'static TestApiServer {
    static SERVER: OnceLock<TestApiServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let folder = new_folder("operator-api-server");
        let [port, etcd, peer] = free_ports();
        let programs = programs();
        let arguments = [folder.as_os_str(), port.as_ref(), etcd.as_ref(), peer.as_ref(), programs.as_os_str()];
        let keeper = keep(KEEPER, arguments);
        let [url, etcd] = [format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{etcd}")];
        TestApiServer { url, etcd, folder, _keeper: keeper }
    })
}

/// Returns the URL of the etcd that the API server uses.
pub fn etcd() -> &'static str {
    &server().etcd
}

/// Returns the path of the API server's audit log, which has a line of JSON for each request that
/// the server has answered. A watch has a line only after it has ended.
pub fn audit_log() -> PathBuf {
    server().folder.join("audit.log")
}

/// Creates a temporary folder, which the script that uses it must delete.
pub fn new_folder(prefix: &str) -> PathBuf {
    tempfile::Builder::new().prefix(prefix).tempdir().expect("could not create a temporary folder").keep()
}

/// Returns free ports on loopback.
pub fn free_ports<const N: usize>() -> [String; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("found no free port"));
    listeners.each_ref().map(|listener| listener.local_addr().expect("the listener has no address").port().to_string())
}

/// Runs a shell script that starts programs, prints `started`, and stops the programs when its
/// standard input is closed. The returned process must be kept: the kernel closes the standard
/// input when the test process ends for any reason.
pub fn keep<'a>(script: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Child {
    let mut keeper = Command::new("sh")
        .args(["-c", script, "keeper"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("could not run sh");
    let mut line = String::new();
    let output = keeper.stdout.take().expect("the output is not piped");
    BufReader::new(output).read_line(&mut line).expect("could not read the output");
    assert_eq!(line.trim(), "started", "the script could not start its programs");
    keeper
}

/// Returns the folder that contains `kube-apiserver`, and perhaps an etcd: `KUBEBUILDER_ASSETS` if
/// that is set, otherwise the folder that the setup script prints.
pub fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty()) {
        return folder.into();
    }
    set_up("kubernetes.sh")
}

/// Runs a script in `e2e/setup` and returns the path that the script prints.
pub fn set_up(script: &str) -> PathBuf {
    let path = source_tree().join("e2e/setup").join(script);
    let output = Command::new(path).stderr(Stdio::inherit()).output().expect("could not run a setup script");
    assert!(output.status.success(), "e2e/setup/{script} failed");
    String::from_utf8(output.stdout).expect("the path is not UTF-8").trim().into()
}

/// Returns the root of the source tree. Tests in other packages also include this file, so the
/// manifest's folder is not always the root.
pub fn source_tree() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().find(|folder| folder.join("deploy/rbac.yaml").exists()).expect("found no source tree")
}

fn config(impersonate: Option<&str>) -> Config {
    config_of(&server().url, impersonate)
}

fn config_of(url: &str, impersonate: Option<&str>) -> Config {
    let mut config = Config::new(url.parse().expect("the URL is invalid"));
    // The server creates a self-signed certificate at startup.
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(TOKEN.to_owned().into());
    config.auth_info.impersonate = impersonate.map(ToOwned::to_owned);
    config
}

/// Returns a client with all permissions. Installs the CRD and the operator's permissions first.
pub async fn administrator() -> Client {
    static READY: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let client = Client::try_from(config(None)).expect("could not create a client");
    READY.get_or_init(|| prepare(client.clone())).await;
    client
}

/// Returns a client with all permissions on another server that asks this one who a client is.
pub fn administrator_of(url: &str) -> Client {
    Client::try_from(config_of(url, None)).expect("could not create a client")
}

/// Returns true if the server evaluates our validation rules. Older servers reject the CRD that
/// contains the rules.
///
/// The version decides, rather than an attempt to install the rules, because a newer server that
/// rejects the rules has found a fault in the rules.
pub async fn evaluates_rules(client: &Client) -> bool {
    minor_version(client).await >= FIRST_WITH_RULES
}

/// Returns the server's minor version of Kubernetes 1.
pub async fn minor_version(client: &Client) -> u32 {
    let version = client.apiserver_version().await.expect("the API server did not tell its version");
    version.minor.trim_end_matches('+').parse().expect("the minor version is not a number")
}

/// Returns a client with the permissions that `deploy/` grants the operator.
pub fn operator() -> Client {
    Client::try_from(config(Some(ACCOUNT))).expect("could not create a client")
}

/// Returns a client that has the operator's permissions only in the given namespace, where a Role
/// grants them.
pub async fn operator_with_role(namespace: &str) -> Client {
    let administrator = administrator().await;
    let name = "onionbalance-operator";
    let role: ClusterRole =
        Api::all(administrator.clone()).get(name).await.expect("the operator's ClusterRole is missing");
    let role = json!({"metadata": {"name": name}, "rules": role.rules});
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": namespace}],
    });
    let roles: Api<Role> = Api::namespaced(administrator.clone(), namespace);
    let role = serde_json::from_value(role).expect("could not deserialize the Role");
    roles.create(&PostParams::default(), &role).await.expect("could not create the Role");
    let bindings: Api<RoleBinding> = Api::namespaced(administrator.clone(), namespace);
    let binding_in_it = serde_json::from_value(binding.clone()).expect("could not deserialize the RoleBinding");
    bindings.create(&PostParams::default(), &binding_in_it).await.expect("could not create the RoleBinding");
    // In the operator's own namespace, also bind the Role for leader election.
    let mut elects = binding;
    elects["metadata"]["name"] = namespace.into();
    elects["roleRef"]["name"] = format!("{name}-leader-election").into();
    let bindings: Api<RoleBinding> = Api::namespaced(administrator, OWN_NAMESPACE);
    let elects = serde_json::from_value(elects).expect("could not deserialize the RoleBinding");
    bindings.create(&PostParams::default(), &elects).await.expect("could not create the RoleBinding");
    Client::try_from(config(Some(namespace))).expect("could not create a client")
}

/// Returns a client with the permissions of the given user.
pub fn client_as(user: &str) -> Client {
    Client::try_from(config(Some(user))).expect("could not create a client")
}

/// Returns a kubeconfig for the given account, or for the administrator if there is none.
pub fn kubeconfig_as(account: Option<&str>, namespace: &str) -> serde_json::Value {
    kubeconfig_of("", account, namespace)
}

/// Writes a kubeconfig for the given namespace with the permissions that `deploy/` grants the
/// operator.
pub fn write_kubeconfig(file: &Path, namespace: &str) {
    std::fs::write(file, kubeconfig_as(Some(ACCOUNT), namespace).to_string()).expect("could not write the kubeconfig");
}

/// Writes a kubeconfig with all permissions.
pub fn write_administrators_kubeconfig(file: &Path) {
    std::fs::write(file, kubeconfig_as(None, "default").to_string()).expect("could not write the kubeconfig");
}

/// Writes a kubeconfig that has the administrator's permissions and a server URL that ends with the
/// given path. Returns the path of the file.
pub fn kubeconfig(path: &str) -> PathBuf {
    let file = server().folder.join(format!("kubeconfig{}", path.replace('/', "-")));
    std::fs::write(&file, kubeconfig_of(path, None, "default").to_string()).expect("could not write the kubeconfig");
    file
}

/// Returns a kubeconfig as JSON, which is also valid YAML.
fn kubeconfig_of(path: &str, account: Option<&str>, namespace: &str) -> serde_json::Value {
    let address = format!("{}{path}", server().url);
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "clusters": [{"name": "test", "cluster": {"server": address, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "test", "user": {"token": TOKEN, "as": account}}],
    })
}

/// Returns a kubectl command with the administrator's permissions.
pub fn kubectl() -> Command {
    let mut kubectl = Command::new("kubectl");
    kubectl.env("KUBECONFIG", "/dev/null").args(["--server", &server().url, "--token", TOKEN]);
    kubectl.args(["--insecure-skip-tls-verify", "--cache-dir"]).arg(server().folder.join("kubectl"));
    kubectl
}

async fn prepare(client: Client) {
    // A server that has just started lists only some of its groups.
    until("the API server serves disruption budgets", START, async || {
        kube::discovery::group(&client, "policy").await.map_err(|error| error.to_string())
    })
    .await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut crd = custom_resource_definition();
    if !evaluates_rules(&client).await {
        crd = without_rules(crd);
    }
    let name = crd.metadata.name.clone().expect("the object has no name");
    crds.patch(&name, &PatchParams::apply("test"), &Patch::Apply(&crd)).await.expect("could not apply the CRD");
    for file in ["namespace.yaml", "rbac.yaml", "roles.yaml"] {
        apply_file(&client, &source_tree().join("deploy").join(file)).await;
    }
    wait_established(&crds, &name).await;
}

/// Waits until a server serves the objects of a CRD.
pub async fn wait_established(crds: &Api<CustomResourceDefinition>, name: &str) {
    until("the CRD is established", Duration::from_secs(30), async || {
        let crd = crds.get(name).await.map_err(|error| error.to_string())?;
        let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
        let established =
            conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True");
        established.then_some(()).ok_or_else(|| format!("{conditions:?}"))
    })
    .await;
}

async fn apply_file(client: &Client, file: &Path) {
    let text = std::fs::read_to_string(file).expect("could not read the manifest");
    for document in text.split("\n---\n") {
        let mut object: DynamicObject = serde_saphyr::from_str(document).expect("could not parse the manifest");
        let TypeMeta { api_version, kind } = object.types.clone().expect("the manifest has no kind");
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, &kind));
        let api: Api<DynamicObject> = if ["ServiceAccount", "Role", "RoleBinding"].contains(&kind.as_str()) {
            object.metadata.namespace = Some(OWN_NAMESPACE.to_owned());
            Api::namespaced_with(client.clone(), OWN_NAMESPACE, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        let name = object.metadata.name.clone().expect("the object has no name");
        let parameters = PatchParams::apply("test").force();
        api.patch(&name, &parameters, &Patch::Apply(&object)).await.expect("could not apply the manifest");
    }
}
