//! Tests of the CRD on a current API server for custom resources, which evaluates the validation
//! rules (CEL). This server has no other APIs: it runs next to the API server of the other tests,
//! which authenticates the clients and knows the namespaces.

mod definition;
mod objects;
mod openapi;
mod subresources;

use std::path::PathBuf;
use std::process::Child;
use std::sync::OnceLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, GetParams, Patch, PatchParams};
use kube::client::Body;
use kube::core::{ApiResource, Request};
use kube::{Client, Resource as _};
use onionbalance_operator::crd::{OnionBalancedService, custom_resource_definition};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::server::{
    START, administrator, administrator_of, etcd, free_ports, keep, kubeconfig, new_folder, set_up, wait_established,
};
use crate::wait::until;

/// A shell script that runs the CRD server until its standard input is closed. The server has no
/// admission plugins for kinds that the other API server, Kubernetes 1.20, lacks.
const KEEPER: &str = r#"
cd "$1" || exit 1
"$2" --secure-port "$3" --bind-address 127.0.0.1 --cert-dir certs --etcd-servers "$4" --etcd-prefix /crd-server \
    --kubeconfig "$5" --authentication-kubeconfig "$5" --authorization-kubeconfig "$5" \
    --authentication-skip-lookup --enable-priority-and-fairness=false --disable-admission-plugins \
    MutatingAdmissionPolicy,MutatingAdmissionWebhook,ValidatingAdmissionPolicy,ValidatingAdmissionWebhook \
    >crd-server.log 2>&1 &
server=$!
echo started
read -r _
kill -9 $server
wait
rm -rf "$1"
"#;

/// The namespace of all objects. The tests use different names.
const NAMESPACE: &str = "default";

/// The CRD server that the tests share.
struct CrdServer {
    url: String,
    folder: PathBuf,
    /// The process that runs [`KEEPER`].
    _keeper: Child,
}

fn start() -> CrdServer {
    let folder = new_folder("crd-server");
    let [port] = free_ports();
    let (program, kubeconfig) = (set_up("crd-server.sh"), kubeconfig(""));
    let arguments = [folder.as_os_str(), program.as_os_str(), port.as_ref(), etcd().as_ref(), kubeconfig.as_os_str()];
    let keeper = keep(KEEPER, arguments);
    CrdServer { url: format!("https://127.0.0.1:{port}"), folder, _keeper: keeper }
}

/// A server's response to a request.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    /// The values of the headers `Warning`.
    pub warnings: Vec<String>,
    pub body: Value,
}

/// Returns a client of the CRD server on which our CRD is installed, and the server's response to
/// the CRD.
pub async fn crd_server() -> (Client, &'static Answer) {
    static SERVER: OnceLock<CrdServer> = OnceLock::new();
    static INSTALLED: OnceCell<Answer> = OnceCell::const_new();
    // The other API server must be ready first.
    administrator().await;
    let server = SERVER.get_or_init(start);
    let client = administrator_of(&server.url);
    let answer = INSTALLED.get_or_init(|| install(server, client.clone())).await;
    (client, answer)
}

async fn install(server: &CrdServer, client: Client) -> Answer {
    until("the CRD server is ready", START, async || {
        let ready = Request::new("").get("readyz", &GetParams::default()).unwrap();
        let log = || std::fs::read_to_string(server.folder.join("crd-server.log")).unwrap_or_default();
        client.request_text(ready).await.map_err(|error| format!("{error}; its log:\n{}", log()))
    })
    .await;
    let crd = custom_resource_definition();
    let answer = apply_crd(&client, &serde_json::to_value(&crd).unwrap(), &PatchParams::apply("test")).await;
    assert_eq!(answer.code, 201, "the server rejects the CRD: {:?}", answer.body["message"]);
    wait_established(&Api::all(client), crd.metadata.name.as_deref().unwrap()).await;
    answer
}

/// Applies a CRD.
pub async fn apply_crd(client: &Client, crd: &Value, parameters: &PatchParams) -> Answer {
    let name = crd["metadata"]["name"].as_str().expect("the CRD has no name");
    let path = CustomResourceDefinition::url_path(&(), None);
    let request = Request::new(path).patch(name, parameters, &Patch::Apply(crd)).unwrap();
    let response = client.send(request.map(Body::from)).await.expect("the server did not respond");
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|value| value.to_str().unwrap().to_owned()).collect();
    let code = response.status().as_u16();
    let body = response.into_body().collect_bytes().await.expect("could not read the response");
    Answer { code, warnings, body: serde_json::from_slice(&body).expect("the response is not JSON") }
}

/// Returns an API for our objects on the CRD server.
pub async fn objects() -> Api<DynamicObject> {
    objects_of(crd_server().await.0, &ApiResource::erase::<OnionBalancedService>(&()))
}

/// Returns an API for the objects of a CRD.
pub fn objects_of(client: Client, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(client, NAMESPACE, resource)
}
