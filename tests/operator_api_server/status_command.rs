//! Tests of the command `kubectl-onionbalance status`, run as a separate process with a kubeconfig.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::scene::Scene;
use crate::server::kubeconfig;

fn status(kubeconfig: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-onionbalance"));
    command.arg("status").args(arguments).env("KUBECONFIG", kubeconfig).env_remove("CLICOLOR_FORCE");
    command
}

async fn run(kubeconfig: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = status(kubeconfig, arguments);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_problems_and_then_readiness() {
    let scene = Scene::start("status-command").await;
    let (kubeconfig, namespace) = (kubeconfig(""), scene.namespace.as_str());
    let (code, text, _) = run(&kubeconfig, &["-n", namespace]).await;
    assert_eq!((code, text.as_str()), (Some(0), "No OnionBalancedServices found.\n"));

    scene.create("web", json!({})).await;
    scene.wait_condition("web", "Published", "False NotPublished").await;
    let (code, text, _) = run(&kubeconfig, &["-n", namespace, "web"]).await;
    assert_eq!(code, Some(3), "{text}");
    let address = scene.address("web").await;
    for part in
        [&*format!("{namespace}/web  Progressing\n"), &address, "0/2 ready", "Published: NotPublished", "→ kubectl"]
    {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert!(!text.contains('\u{1b}'), "the output is not a terminal, but has colours: {text:?}");

    scene.report_backends("web", 2).await;
    scene.report_published("web").await;
    scene.wait_condition("web", "Ready", "True Ready").await;
    let (code, text, _) = run(&kubeconfig, &["-n", namespace, "web"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("{namespace}/web  Ready\n")) && text.contains("on 8 of 8 HSDirs"), "{text}");

    let (code, text, _) = run(&kubeconfig, &["-n", namespace, "-o", "json"]).await;
    let summary: Value = serde_json::from_str(&text).unwrap();
    let service = &summary["services"][0];
    assert_eq!((code, &service["ready"], &service["name"]), (Some(0), &json!(true), &json!("web")));
    assert_eq!((&service["onionAddress"], &service["published"][0]["hsdirsTotal"]), (&json!(address), &json!(8)));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_until_interrupted() {
    let scene = Scene::start("status-watch").await;
    scene.create("web", json!({})).await;
    scene.wait_condition("web", "Ready", "False Progressing").await;
    let mut command = status(&kubeconfig(""), &["-n", &scene.namespace, "web", "--watch"]);
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    let mut wait_for = |part: &str| {
        let mut text = String::new();
        while !text.contains(part) {
            assert!(lines.read_line(&mut text).unwrap() > 0, "the program ended early: {text}");
        }
    };
    wait_for("web  Progressing");
    scene.report_backends("web", 2).await;
    scene.report_published("web").await;
    wait_for("web  Ready");
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    lines.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_explain_what_to_do() {
    let scene = Scene::start("status-errors").await;
    let folder = tempfile::tempdir().unwrap();
    let nobody = folder.path().join("nobody");
    let text = std::fs::read_to_string(kubeconfig("")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    // Nothing listens on port 9 (discard).
    std::fs::write(&nobody, text.replace(server, "https://127.0.0.1:9")).unwrap();
    let namespace = scene.namespace.as_str();
    for (kubeconfig, arguments, expected) in [
        (folder.path().join("none"), vec!["web"], "error: cannot find a cluster: "),
        (nobody, vec!["web"], "error: the cluster at https://127.0.0.1:9/ does not answer: "),
        // The API server serves nothing below this path, so it looks like a server without the CRD.
        (
            kubeconfig("/apis/apps"),
            vec!["web"],
            "has no CustomResourceDefinition for OnionBalancedService; install the operator",
        ),
        (kubeconfig(""), vec!["-n", namespace, "none"], "OnionBalancedService test-status-errors/none does not exist"),
    ] {
        let (code, out, error) = run(&kubeconfig, &arguments).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let (code, _, error) = run(&kubeconfig(""), &["-A", "web"]).await;
    assert!(code == Some(2) && error.contains("cannot be used with"), "{error}");
    scene.end().await;
}
