//! The cluster's certificates and kubeconfigs, generated with openssl.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use crate::command::{command, output};
use crate::node;

/// The certificates to generate, each as a file name, a subject and alternative names.
const IDENTITIES: [(&str, &str, &str); 6] = [
    ("apiserver", "/CN=kube-apiserver", SERVER_NAMES),
    ("admin", "/O=system:masters/CN=admin", "DNS:admin"),
    ("controller-manager", "/CN=system:kube-controller-manager", "DNS:localhost"),
    ("scheduler", "/CN=system:kube-scheduler", "DNS:localhost"),
    ("proxy", "/CN=system:kube-proxy", "DNS:localhost"),
    ("node", "/O=system:nodes/CN=system:node:node1", "DNS:node1,IP:10.245.0.2"),
];

const SERVER_NAMES: &str = "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
    DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.96.0.1,IP:10.245.0.2";

/// Generates `ca.crt`, `ca.key`, `service-account.key`, and a `.crt`, `.key` and `.conf` file for
/// each identity. Does nothing if the files already exist.
pub async fn make(dir: &Path) -> Result<()> {
    let done = dir.join("certificates");
    if done.exists() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    openssl(dir, "ecparam -name prime256v1 -genkey -noout -out service-account.key").await?;
    openssl(dir, &format!("req -x509 {NEW_KEY} -keyout ca.key -out ca.crt -days 365 -subj /CN=kubernetes")).await?;
    for (name, subject, names) in IDENTITIES {
        openssl(dir, &format!("req {NEW_KEY} -keyout {name}.key -out {name}.csr -subj {subject}")).await?;
        fs::write(dir.join(format!("{name}.ext")), format!("subjectAltName={names}"))?;
        let sign = format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 365 -extfile {name}.ext"
        );
        openssl(dir, &sign).await?;
        fs::write(dir.join(format!("{name}.conf")), kubeconfig(dir, name)?)?;
    }
    fs::write(done, "")?;
    Ok(())
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

async fn openssl(dir: &Path, arguments: &str) -> Result<()> {
    output(command("openssl", arguments.split(' ')).current_dir(dir)).await?;
    Ok(())
}

/// Returns a kubeconfig as JSON, which is also valid YAML.
fn kubeconfig(dir: &Path, name: &str) -> Result<String> {
    let file = |suffix: &str| -> PathBuf { dir.join(format!("{name}.{suffix}")) };
    Ok(serde_json::to_string_pretty(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {
            "server": format!("https://{}:{}", node::NODE_ADDRESS, super::API_PORT),
            "certificate-authority": dir.join("ca.crt"),
        }}],
        "users": [{"name": name, "user": {"client-certificate": file("crt"), "client-key": file("key")}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name}}],
        "current-context": "e2e",
    }))?)
}
