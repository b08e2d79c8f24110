//! Tests what kubectl knows about the fields of our custom resource.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use onionbalance_operator::crd::custom_resource_definition;
use serde_json::{Value, json};

use crate::scene::PATIENCE;
use crate::server::{administrator, kubectl, minor_version};
use crate::wait::until;

/// Collects the paths of all fields at and below a node of the schema. The items of a list have the
/// path of the list.
fn fields_of(node: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, field) in node["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        fields_of(field, &path, found);
        found.insert(path);
    }
    if node["items"].is_object() {
        fields_of(&node["items"], path, found);
    }
}

/// Returns the paths of the fields in the output of `kubectl explain --recursive`, which indents
/// each field below the field that contains it.
fn explained(output: &str) -> BTreeSet<String> {
    let (mut found, mut open): (BTreeSet<String>, Vec<(usize, String)>) = (BTreeSet::new(), Vec::new());
    let lines = output.split("FIELDS:\n").nth(1).unwrap_or_default().lines();
    for line in lines.filter(|line| line.contains('<')) {
        let depth = line.len() - line.trim_start().len();
        open.retain(|(outer, _)| *outer < depth);
        let outer = open.last().map(|(_, path)| path.as_str()).unwrap_or_default();
        let path = format!("{outer}.{}", line.split_whitespace().next().unwrap_or_default());
        found.insert(path.clone());
        open.push((depth, path));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains_every_field() {
    administrator().await;
    let crd = serde_json::to_value(custom_resource_definition()).unwrap();
    let mut ours = BTreeSet::new();
    fields_of(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "", &mut ours);
    assert!(ours.contains(".spec.backends.circuitLimits.openStreams") && ours.contains(".status.backends.state"));
    // The server publishes the schema shortly after the CRD is created.
    until("kubectl explains every field", PATIENCE, async || {
        let mut kubectl = kubectl();
        kubectl.args(["explain", "onionbalancedservices", "--recursive"]);
        let output = tokio::task::spawn_blocking(move || kubectl.output()).await.unwrap().unwrap();
        let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let known = explained(&text);
        let missing: Vec<_> = ours.difference(&known).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("kubectl does not know {missing:?}; {error}")) }
    })
    .await;
}

/// Manifests often contain nulls, for example where a template has left a value empty.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_a_null_as_an_absent_field() {
    let client = administrator().await;
    until("the namespace exists", PATIENCE, async || {
        Api::<Namespace>::all(client.clone()).get("default").await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let object = json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
        "metadata": {"name": "nulls", "namespace": "default"},
        "spec": {
            "ports": [{"port": 80, "target": {"address": "a:1", "service": null}, "proxyProtocol": null, "name": null}],
            "masterKey": null, "suspend": null, "restrictedDiscovery": null, "externalBackends": null,
            "backends": {"replicas": 3, "circuitLimits": null, "template": {"affinity": null, "resources": null}},
        },
    });
    for server_side in [false, true] {
        let mut kubectl = kubectl();
        kubectl.args(["apply", "--output", "json", "--filename", "-"]);
        kubectl.args(server_side.then_some(["--server-side", "--force-conflicts"]).iter().flatten());
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = kubectl.spawn().expect("could not run kubectl");
        process.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
        let output = tokio::task::spawn_blocking(move || process.wait_with_output()).await.unwrap().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        // Kubernetes 1.20 keeps the nulls of a server-side apply, unless the field has a default.
        if server_side && minor_version(&client).await <= 20 {
            assert!(
                error.contains("spec.restrictedDiscovery: Invalid value") && !error.contains("masterKey"),
                "{error}"
            );
            continue;
        }
        assert!(output.status.success(), "{server_side}: {error}");
        let stored: Value = serde_json::from_slice(&output.stdout).unwrap();
        let spec = &stored["spec"];
        assert_eq!(spec["ports"], json!([{"port": 80, "target": {"address": "a:1"}}]), "{server_side}");
        assert_eq!((&spec["masterKey"], &spec["suspend"]), (&json!({"delegated": false}), &json!(false)));
        assert_eq!((&spec["backends"]["replicas"], &spec["backends"]["template"]), (&json!(3), &json!({})));
        assert!(spec.get("restrictedDiscovery").is_none() && spec.get("externalBackends").is_none(), "{spec}");
        assert!(spec["backends"].get("circuitLimits").is_none(), "{spec}");
    }
}
