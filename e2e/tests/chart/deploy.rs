//! Checks that the chart with its default values installs the same objects as `deploy/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use onionbalance_e2e::page::Page;
use onionbalance_e2e::state::source_tree;
use serde_json::{Value, json};

use crate::helm::{all, documents, id, read, render, the};
use crate::typed::{self, find_lost};

/// The labels that Helm charts have by convention and that `deploy/` does not have.
const HELM_LABELS: [&str; 4] =
    ["app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"];

#[test]
fn the_chart_and_kustomize_install_the_same_objects() {
    let chart: BTreeMap<String, Value> = render(json!({}))
        .into_iter()
        .filter(|object| object["metadata"]["annotations"].get("helm.sh/hook").is_none())
        .map(without_helm)
        .map(|object| (id(&object), object))
        .collect();
    let deploy = kustomized(&source_tree().join("deploy"));
    let config_maps: BTreeMap<_, _> = deploy
        .iter()
        .filter(|object| object["kind"] == "ConfigMap")
        .map(|object| (object["metadata"]["name"].as_str().unwrap().to_owned(), object["data"].clone()))
        .collect();
    let deploy: BTreeMap<String, Value> = deploy
        .into_iter()
        // Helm creates the release's namespace (--create-namespace), and a chart cannot label it.
        .filter(|object| !["ConfigMap", "Namespace"].contains(&object["kind"].as_str().unwrap()))
        .map(|object| with_environment(object, &config_maps))
        .map(|object| (id(&object), object))
        .collect();
    assert_eq!(chart.keys().collect::<BTreeSet<_>>(), deploy.keys().collect::<BTreeSet<_>>());
    for (id, object) in &chart {
        let (chart, deploy) = (sorted(object), sorted(&deploy[id]));
        let (mut only_chart, mut only_deploy) = (Vec::new(), Vec::new());
        find_lost(&chart, &deploy, "", &mut only_chart);
        find_lost(&deploy, &chart, "", &mut only_deploy);
        assert_eq!((only_chart, only_deploy), (vec![], vec![]), "{id}: only in the chart, only in deploy/");
    }
}

#[test]
fn cluster_and_namespace_roles_have_the_same_rules() {
    let deploy = documents(&read("deploy/rbac.yaml"));
    let rules = &the(&deploy, "ClusterRole")["rules"];
    let cluster = render(json!({"rbac": {"aggregate": false}}));
    assert_eq!(&the(&cluster, "ClusterRole")["rules"], rules);
    let namespaced = render(json!({"watchNamespaces": ["a", "b"]}));
    let elects = |role: &Value| role["metadata"]["name"].as_str().unwrap().ends_with("-leader-election");
    let in_namespaces: Vec<_> = all(&namespaced, "Role").filter(|role| !elects(role)).collect();
    assert_eq!(in_namespaces.len(), 2);
    for role in in_namespaces {
        assert_eq!(&role["rules"], rules);
    }
}

/// For clusters that assign user IDs, `docs/tenants.md` gives values for the chart, and says which
/// lines to remove from `deploy/`.
#[test]
fn the_operators_pod_can_do_without_a_fixed_user_id() {
    let context = |objects: &[Value]| the(objects, "Deployment")["spec"]["template"]["spec"]["securityContext"].clone();
    let mut deploy = context(&documents(&read("deploy/operator.yaml")));
    remove(&mut deploy, &["runAsUser", "runAsGroup"]);
    let chart = context(&render(json!({"podSecurityContext": {"runAsUser": null, "runAsGroup": null}})));
    assert_eq!(deploy, chart);
    assert!(!deploy.to_string().contains("65532"), "{deploy}");
}

/// Returns the objects that a current kubectl builds from a folder. A warning counts as an error,
/// because the next version of kustomize may refuse the field that the warning names.
fn kustomized(folder: &Path) -> Vec<Value> {
    let setup = source_tree().join("e2e/setup/kubectl.sh");
    let program = Command::new(setup).stderr(Stdio::inherit()).output().unwrap();
    assert!(program.status.success(), "e2e/setup/kubectl.sh failed");
    let program = String::from_utf8(program.stdout).unwrap();
    let output = Command::new(program.trim()).arg("kustomize").arg(folder).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.is_empty(), "{printed}");
    documents(&String::from_utf8(output.stdout).unwrap())
}

/// Returns the objects that a current kubectl builds from the overlay that a page of the
/// documentation shows.
fn overlaid(page: &str) -> Vec<Value> {
    let page = Page::open(page).unwrap();
    let overlay = page.file("kustomization.yaml").unwrap();
    assert!(overlay.contains("- ../deploy\n"), "{overlay}");
    let dir = tempfile::tempdir().unwrap();
    // kustomize accepts only relative paths, and resolves symbolic links first.
    let up = "../".repeat(dir.path().canonicalize().unwrap().components().count() - 1);
    let deploy = source_tree().join("deploy").canonicalize().unwrap();
    let deploy = format!("{up}{}", deploy.strip_prefix("/").unwrap().display());
    std::fs::write(dir.path().join("kustomization.yaml"), overlay.replace("../deploy", &deploy)).unwrap();
    let objects = kustomized(dir.path());
    typed::check(&objects);
    objects
}

#[test]
fn the_overlay_in_the_docs_changes_the_image_everywhere_and_removes_the_user_ids() {
    let objects = overlaid("upgrade.md");
    let settings = the(&objects, "ConfigMap");
    assert_eq!(
        settings["data"],
        json!({
            "TOR_IMAGE": "registry.example.org/onionbalance-tor:0.4.8", "ALLOWED_LABEL_PREFIXES": "team",
            "FIXED_USER_IDS": "false", "LEASE_NAME": "onionbalance-operator-leader",
        })
    );
    let deployment = the(&objects, "Deployment");
    assert_eq!(deployment["spec"]["replicas"], 2);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example.org/onionbalance-operator:0.1.0");
    assert_eq!(container["env"], json!([{"name": "OPERATOR_IMAGE", "value": container["image"]}]));
    assert_eq!(container["envFrom"][0]["configMapRef"]["name"], settings["metadata"]["name"]);
    assert!(!deployment.to_string().contains("65532"), "{deployment}");
}

#[test]
fn the_overlay_for_bridges_reads_the_lines_from_the_secret() {
    let objects = overlaid("bridges.md");
    let settings = the(&objects, "ConfigMap");
    assert_eq!(settings["data"]["TOR_IMAGE"], "registry.example.org/onionbalance-tor-obfs4:0.4.8");
    let container = &the(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let lines = json!({"secretKeyRef": {"name": "bridges", "key": "torrc"}});
    let operator = json!({"name": "OPERATOR_IMAGE", "value": container["image"]});
    assert_eq!(container["env"], json!([operator, {"name": "TOR_EXTRA_CONFIG", "valueFrom": lines}]));
}

/// Removes everything that only Helm adds: its own annotations, and its labels, including those in
/// selectors.
fn without_helm(mut object: Value) -> Value {
    remove(&mut object, &HELM_LABELS);
    remove(&mut object, &["helm.sh/resource-policy"]);
    // The file that `onionbalance-operator crd` writes has no labels.
    if object["kind"] == "CustomResourceDefinition" {
        object["metadata"].as_object_mut().unwrap().remove("labels");
    }
    object
}

fn remove(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !keys.contains(&key.as_str()));
            map.values_mut().for_each(|value| remove(value, keys));
            map.retain(|key, value| !(key == "annotations" && value == &json!({})));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| remove(item, keys)),
        _ => {}
    }
}

/// Moves the variables of the object's `ConfigMap`s into the container, where the chart puts them.
fn with_environment(mut object: Value, config_maps: &BTreeMap<String, Value>) -> Value {
    let Some(containers) = object.pointer_mut("/spec/template/spec/containers") else { return object };
    for container in containers.as_array_mut().unwrap() {
        let container = container.as_object_mut().unwrap();
        let sources = container.remove("envFrom").unwrap_or_default();
        let mut variables = Vec::new();
        for source in sources.as_array().into_iter().flatten() {
            let data = &config_maps[source["configMapRef"]["name"].as_str().unwrap()];
            variables
                .extend(data.as_object().unwrap().iter().map(|(name, value)| json!({"name": name, "value": value})));
        }
        variables.extend(container.get("env").and_then(Value::as_array).into_iter().flatten().cloned());
        container.insert("env".to_owned(), variables.into());
    }
    object
}

/// Sorts the environment by name. The order is irrelevant because no variable refers to another.
fn sorted(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(Value::Array(containers)) = object.pointer_mut("/spec/template/spec/containers") {
        for container in containers {
            let variables = container["env"].as_array_mut().unwrap();
            variables.sort_by_key(|variable| variable["name"].to_string());
        }
    }
    object
}
