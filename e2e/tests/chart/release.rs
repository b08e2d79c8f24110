//! Checks the chart as a release publishes it: `deploy/release/chart.sh` fills in the addresses of
//! the project.

use std::path::{Path, PathBuf};
use std::process::Command;

use onionbalance_e2e::state::source_tree;
use serde_json::{Value, json};

use crate::helm::{RELEASE, documents, helm_on, the};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REPOSITORY: &str = "https://git.example.com/group/project";

/// Packages the chart into a folder, and returns the path of the package.
fn package(folder: &Path, umask: &str) -> PathBuf {
    let script = source_tree().join("deploy/release/chart.sh");
    let mut chart = Command::new("sh");
    chart.args(["-c", r#"umask "$0"; exec "$@""#, umask]).arg(script);
    chart.env("OB_RELEASE", folder).env("OB_REPOSITORY", REPOSITORY).env("OB_REGISTRY", "registry.example.com/Group");
    // A source tree without git has no commit whose time could be used.
    let output = chart.env("SOURCE_DATE_EPOCH", "1000000000").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join(format!("files/onionbalance-operator-{VERSION}.tgz"))
}

/// Returns the text of a file in the package.
fn file(package: &Path, name: &str) -> String {
    let name = format!("onionbalance-operator/{name}");
    let mut tar = Command::new("tar");
    let output = tar.args(["--extract", "--to-stdout", "--file"]).arg(package).arg(name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_packaged_chart_names_the_projects_addresses_and_images() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), "022");
    let chart = &documents(&file(&package, "Chart.yaml"))[0];
    assert_eq!(chart["home"], REPOSITORY);
    assert_eq!(chart["sources"], json!([REPOSITORY]));
    assert_eq!(chart["icon"], format!("{REPOSITORY}/raw/v{VERSION}/docs/logo.svg"));
    let changes = documents(chart["annotations"]["artifacthub.io/changes"].as_str().unwrap());
    let changes = changes[0].as_array().unwrap();
    let kinds = ["added", "changed", "deprecated", "removed", "fixed", "security"];
    let is_change = |change: &Value| {
        change["kind"].as_str().is_some_and(|kind| kinds.contains(&kind)) && change["description"].is_string()
    };
    assert!(!changes.is_empty() && changes.iter().all(is_change), "{changes:?}");
    let readme = file(&package, "README.md");
    assert!(!readme.contains("](../"), "the packaged page has links that lead out of the chart");

    let rendered = helm_on(&package, &["template", RELEASE], &json!({}));
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let objects = documents(&String::from_utf8(rendered.stdout).unwrap());
    let deployment = the(&objects, "Deployment").to_string();
    for image in ["onionbalance-operator", "onionbalance-tor"] {
        let image = format!("registry.example.com/group/{image}:{VERSION}");
        assert!(deployment.contains(&image), "the chart does not use {image}: {deployment}");
    }
}

#[test]
fn two_packages_of_the_same_chart_are_equal() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = [(&dirs[0], "022"), (&dirs[1], "077")].map(|(dir, umask)| package(dir.path(), umask));
    assert!(std::fs::read(first).unwrap() == std::fs::read(second).unwrap());
}
