//! Tests of the command `kubectl-onionbalance doctor`, run as a separate process with a kubeconfig.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use data_encoding::{BASE64, HEXLOWER};
use k8s_openapi::api::core::v1::{Endpoints, Event, Secret};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::refusals::{create_pod, write_status};
use crate::scene::Scene;
use crate::server::{kubeconfig, kubeconfig_as};

/// Runs the command. Returns its exit code, output and error.
async fn doctor(kubeconfig: PathBuf, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-onionbalance"));
    command.arg("doctor").args(arguments).arg("--kubeconfig").arg(kubeconfig).env_remove("CLICOLOR_FORCE");
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Returns the line of the report that begins with this mark and area.
fn line<'a>(report: &'a str, mark: &str, area: &str) -> &'a str {
    let begin = format!("{mark:<11}{area}: ");
    report.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no line {begin:?} in {report}"))
}

/// Creates an Event about a pod, as the kubelet would.
async fn report_mount(scene: &Scene, pod: &str, words: &str) {
    let now = format!("{:.0}", jiff::Timestamp::now());
    let event = json!({
        "metadata": {"name": pod}, "type": "Warning", "reason": "FailedMount", "message": words, "lastTimestamp": now,
        "involvedObject": {"kind": "Pod", "namespace": scene.namespace, "name": pod},
    });
    let event: Event = serde_json::from_value(event).unwrap();
    scene.api().create(&PostParams::default(), &event).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_the_problems_of_a_service_until_there_are_none() {
    let scene = Scene::start("doctor-problems").await;
    let namespace = scene.namespace.as_str();
    scene.create("web", json!({"backends": {"replicas": 1}, "frontend": {"replicas": 1}})).await;
    scene.wait_condition("web", "Published", "False NotPublished").await;
    let backend = create_pod(&scene, "backend").await;
    write_status(&scene, &backend, json!({"phase": "Pending", "startTime": format!("{:.0}", jiff::Timestamp::now())}))
        .await;
    report_mount(&scene, "web-backend-x", "secret \"x\" not found").await;

    let (code, report, error) = doctor(kubeconfig(""), &["web", "-n", namespace]).await;
    assert_eq!((code, error.as_str()), (Some(1), ""), "{report}");
    line(&report, "ok", "CRD");
    let secret = line(&report, "ok", "key");
    assert!(secret.ends_with("Secret web-master-key holds the key of the address."), "{secret}");
    let pods = line(&report, "problem", "backend pods");
    assert!(pods.contains("web-backend-x: FailedMount: secret \"x\" not found. → "), "{pods}");
    assert!(pods.ends_with(&format!("kubectl describe pod web-backend-x -n {namespace}")), "{pods}");
    assert!(line(&report, "problem", "frontend pods").contains("0 of 1 pods exist."), "{report}");
    assert!(line(&report, "problem", "target").contains("no pod is behind Service web."), "{report}");
    assert!(line(&report, "problem", "publisher").contains("No publisher has ever held the Lease."), "{report}");

    let frontend = create_pod(&scene, "frontend").await;
    for pod in [&backend, &frontend] {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        write_status(&scene, pod, json!({"phase": "Running", "conditions": ready})).await;
    }
    let subset = json!({"addresses": [{"ip": "192.0.2.1"}], "ports": [{"name": "http", "port": 8080}]});
    let endpoints: Endpoints =
        serde_json::from_value(json!({"metadata": {"name": "web"}, "subsets": [subset]})).unwrap();
    scene.api().create(&PostParams::default(), &endpoints).await.unwrap();
    scene.report_backends("web", 1).await;
    scene.report_published("web").await;
    scene.report_probe("web", "Answered").await;
    scene.wait_condition("web", "Reachable", "True Answered").await;
    scene.wait_condition("web", "Ready", "True Ready").await;

    let (code, report, _) = doctor(kubeconfig(""), &["web", "-n", namespace]).await;
    assert_eq!(code, Some(0), "{report}");
    for area in [
        "key",
        "backend pods",
        "frontend pods",
        "tor",
        "policies",
        "target",
        "publisher",
        "backends",
        "HSDirs",
        "address",
    ] {
        line(&report, "ok", area);
    }
    assert!(report.lines().last().unwrap().starts_with(&format!("{namespace}/web: no problems")), "{report}");
    scene.end().await;
}

/// The Secret is read, but nothing of the private key may be printed.
#[tokio::test(flavor = "multi_thread")]
async fn prints_no_private_key() {
    let scene = Scene::start("doctor-key").await;
    scene.create("web", json!({})).await;
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    let key =
        scene.wait_for::<Secret>("web-master-key", |_| true).await.data.unwrap()["hs_ed25519_secret_key"].0.clone();
    let namespace = scene.namespace.as_str();
    for arguments in [&["web", "-n", namespace][..], &["web", "-n", namespace, "-o", "json"]] {
        let (_, report, error) = doctor(kubeconfig(""), arguments).await;
        assert!(report.contains("web-master-key"), "{report}");
        // The last 64 bytes of the file are the expanded key.
        for part in key[32..].chunks(16) {
            for text in [BASE64.encode(part).trim_end_matches('=')[..20].to_owned(), HEXLOWER.encode(part)] {
                assert!(!report.contains(&text) && !error.contains(&text), "the key is printed");
            }
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_the_user_may_not_read() {
    let scene = Scene::start("doctor-rights").await;
    scene.create("web", json!({})).await;
    scene.wait_condition("web", "Published", "False NotPublished").await;
    let role = json!({"metadata": {"name": "reader"}, "rules": [
        {"apiGroups": ["onionbalance.dev"], "resources": ["onionbalancedservices"], "verbs": ["list"]},
    ]});
    let role: Role = serde_json::from_value(role).unwrap();
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "doctor-reader"}],
    });
    let binding: RoleBinding = serde_json::from_value(binding).unwrap();
    scene.api::<Role>().create(&PostParams::default(), &role).await.unwrap();
    let bindings: Api<RoleBinding> = scene.api();
    bindings.create(&PostParams::default(), &binding).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), &kubeconfig_as(Some("doctor-reader"), &scene.namespace));
    let (code, report, error) = doctor(config, &["web", "-o", "json"]).await;
    assert_eq!((code, error.as_str()), (Some(1), ""), "{report}");
    let report: Value = serde_json::from_str(&report).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let unchecked: Vec<_> = findings.iter().filter(|finding| finding["mark"] == "unchecked").collect();
    let areas: Vec<_> = unchecked.iter().map(|finding| finding["area"].as_str().unwrap()).collect();
    assert_eq!(areas[..5], ["CRD", "operator", "key", "pods", "policies"]);
    let command = format!("kubectl auth can-i get secrets -n {}", scene.namespace);
    assert_eq!(unchecked[2]["commands"], json!([command]));
    assert_eq!(report["unchecked"], unchecked.len());

    let stranger = write(folder.path(), &kubeconfig_as(Some("doctor-stranger"), &scene.namespace));
    let (code, report, error) = doctor(stranger, &["web"]).await;
    assert_eq!((code, report.as_str()), (Some(2), ""), "{error}");
    assert!(error.contains("the API server refuses the request"), "{error}");
    scene.end().await;
}

fn write(folder: &Path, config: &Value) -> PathBuf {
    let file = folder.join(config["users"][0]["user"]["as"].as_str().unwrap_or("administrator"));
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_is_a_problem_and_a_missing_cluster_is_no_examination() {
    let scene = Scene::start("doctor-missing").await;
    let (code, report, _) = doctor(kubeconfig(""), &["none", "-n", &scene.namespace]).await;
    assert_eq!(code, Some(1), "{report}");
    assert!(line(&report, "problem", "object").contains("test-doctor-missing/none does not exist."), "{report}");
    // The API server serves nothing below this path, so it looks like a server without the CRD.
    let (code, report, _) = doctor(kubeconfig("/apis/apps"), &["web", "-n", &scene.namespace]).await;
    assert_eq!(code, Some(1), "{report}");
    assert!(line(&report, "problem", "CRD").contains("no CustomResourceDefinition"), "{report}");
    let (code, report, error) = doctor("/nonexistent".into(), &["web"]).await;
    assert_eq!((code, report.as_str()), (Some(2), ""), "{error}");
    assert!(error.starts_with("error: cannot use the kubeconfig /nonexistent: "), "{error}");
    scene.end().await;
}
