//! An admission webhook in the test's own process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use axum::routing::post;
use axum::serve::Listener;
use axum::{Json, Router};
use data_encoding::BASE64;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::scene::Scene;

/// The rule of a webhook: returns the changes to a new pod as a JSON patch, or the reason why the
/// pod is rejected.
pub type Rule = fn(&Value) -> Result<Value, String>;

/// A webhook that decides about the new pods of one test's namespace.
pub struct Webhook {
    configurations: Api<MutatingWebhookConfiguration>,
    name: String,
}

impl Webhook {
    /// Starts a webhook and registers it. The API server calls the webhook a moment later.
    pub async fn start(scene: &Scene, rule: Rule) -> Self {
        let files = tempfile::tempdir().unwrap();
        make_certificate(files.path());
        let listener = TlsListener::bind(files.path()).await;
        let address = listener.local_addr().unwrap();
        let decide = move |review: Json<Value>| async move { Json(answer(&review.0, rule)) };
        let router = Router::new().route("/", post(decide));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

        let name = format!("{}.example.org", scene.namespace);
        let labels = json!({"example.org/webhook": scene.namespace});
        let label = Patch::Merge(json!({"metadata": {"labels": labels}}));
        let namespaces: Api<Namespace> = Api::all(scene.client.clone());
        namespaces.patch(&scene.namespace, &PatchParams::default(), &label).await.unwrap();
        let authority = BASE64.encode(&std::fs::read(files.path().join("cert.pem")).unwrap());
        let configuration = json!({
            "metadata": {"name": name},
            "webhooks": [{
                "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 30,
                "clientConfig": {"url": format!("https://{address}/"), "caBundle": authority},
                "namespaceSelector": {"matchLabels": labels},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            }],
        });
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(scene.client.clone());
        let configuration = serde_json::from_value(configuration).unwrap();
        configurations.create(&PostParams::default(), &configuration).await.unwrap();
        Self { configurations, name }
    }

    /// Unregisters the webhook.
    pub async fn end(self) {
        self.configurations.delete(&self.name, &DeleteParams::default()).await.unwrap();
    }
}

/// Answers an `AdmissionReview`.
fn answer(review: &Value, rule: Rule) -> Value {
    let uid = &review["request"]["uid"];
    let response = match rule(&review["request"]["object"]) {
        Ok(patch) => {
            let patch = BASE64.encode(patch.to_string().as_bytes());
            json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": patch})
        }
        Err(reason) => json!({"uid": uid, "allowed": false, "status": {"code": 403, "message": reason}}),
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// Creates a key and a self-signed certificate for 127.0.0.1.
fn make_certificate(folder: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-keyout", "key.pem", "-out", "cert.pem", "-days", "30", "-subj", "/CN=webhook"]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1"]).current_dir(folder);
    let output = openssl.output().expect("could not run openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A listener for TLS connections. The API server calls only webhooks that use TLS.
struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsListener {
    async fn bind(folder: &Path) -> Self {
        let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, peer)) = self.listener.accept().await else { continue };
            // The API server may close a connection early. It then opens another one.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
