//! Runs Helm, which the setup script installs, on the chart.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use onionbalance_e2e::state::source_tree;
use serde_json::Value;

pub const RELEASE: &str = "onionbalance-operator";
pub const NAMESPACE: &str = "onionbalance-system";

/// Returns the path of the chart's folder.
pub fn chart() -> PathBuf {
    source_tree().join("charts/onionbalance-operator")
}

/// Reads a file of the source tree.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(source_tree().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Parses the documents of a YAML text.
pub fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    documents.into_iter().filter(|document| !document.is_null()).map(with_integers).collect()
}

/// Converts numbers like 20.0 to 20, because Helm and the CRD in `crds/` write the same number
/// differently.
pub fn with_integers(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, with_integers(value))).collect(),
        Value::Array(items) => items.into_iter().map(with_integers).collect(),
        Value::Number(number) => match number.as_f64() {
            #[allow(clippy::cast_possible_truncation, reason = "the numbers in manifests are small")]
            Some(float) if number.is_f64() && float.fract() == 0.0 => (float as i64).into(),
            _ => Value::Number(number),
        },
        other => other,
    }
}

/// Runs Helm with the given arguments, and with the values on its standard input.
pub fn helm(arguments: &[&str], values: &Value) -> Output {
    helm_on(&chart(), arguments, values)
}

/// Runs Helm like [`helm`], on another chart.
pub fn helm_on(chart: &Path, arguments: &[&str], values: &Value) -> Output {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let script = Command::new(source_tree().join("e2e/setup/helm.sh")).stderr(Stdio::inherit()).output().unwrap();
        assert!(script.status.success(), "e2e/setup/helm.sh failed");
        String::from_utf8(script.stdout).unwrap().trim().into()
    });
    let mut helm = Command::new(program)
        .args(arguments)
        .arg(chart)
        .args(["--namespace", NAMESPACE, "--values", "-"])
        // The tests must not contact a cluster, wherever they run.
        .env("KUBECONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    helm.stdin.take().unwrap().write_all(values.to_string().as_bytes()).unwrap();
    helm.wait_with_output().unwrap()
}

/// Returns the objects that the chart renders from the given values, including its test pod.
pub fn render(values: Value) -> Vec<Value> {
    let output = helm(&["template", RELEASE], &values);
    assert!(output.status.success(), "{values}: {}", String::from_utf8_lossy(&output.stderr));
    documents(&String::from_utf8(output.stdout).unwrap())
}

/// Returns the error message with which the chart rejects the given values.
pub fn refusal(values: Value) -> String {
    let output = helm(&["template", RELEASE], &values);
    assert!(!output.status.success(), "the chart accepted {values}");
    String::from_utf8(output.stderr).unwrap()
}

/// Returns the only object of a kind.
pub fn the<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<_> = all(objects, kind).collect();
    assert_eq!(found.len(), 1, "expected exactly one {kind}, but found {found:?}");
    found[0]
}

/// Returns all objects of a kind.
pub fn all<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// Returns the object's kind, namespace and name.
pub fn id(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

/// Returns the operator's container.
pub fn container(objects: &[Value]) -> &Value {
    &the(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
}

/// Returns the value of an environment variable of the operator.
pub fn variable<'a>(objects: &'a [Value], name: &str) -> Option<&'a str> {
    container(objects)["env"].as_array()?.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}
