//! Helm, as the set-up script installs it, at work on the chart.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use onionbalance_e2e::state::source_tree;
use serde_json::Value;

pub const RELEASE: &str = "onionbalance-operator";
pub const NAMESPACE: &str = "onionbalance-system";

/// The chart's folder.
pub fn chart() -> PathBuf {
    source_tree().join("charts/onionbalance-operator")
}

/// A file of the source tree.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(source_tree().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML text.
pub fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    documents.into_iter().filter(|document| !document.is_null()).map(with_integers).collect()
}

/// 20.0 is 20: Helm and our own CRD write the same number in two ways.
pub fn with_integers(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, with_integers(value))).collect(),
        Value::Array(items) => items.into_iter().map(with_integers).collect(),
        Value::Number(number) => match number.as_f64() {
            #[allow(clippy::cast_possible_truncation, reason = "no such number is in a manifest")]
            Some(float) if number.is_f64() && float.fract() == 0.0 => (float as i64).into(),
            _ => Value::Number(number),
        },
        other => other,
    }
}

/// Runs Helm with these values on its standard input.
pub fn helm(arguments: &[&str], values: &Value) -> Output {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let script = Command::new(source_tree().join("e2e/setup/helm.sh")).stderr(Stdio::inherit()).output().unwrap();
        assert!(script.status.success(), "e2e/setup/helm.sh failed");
        String::from_utf8(script.stdout).unwrap().trim().into()
    });
    let mut helm = Command::new(program)
        .args(arguments)
        .arg(chart())
        .args(["--namespace", NAMESPACE, "--values", "-"])
        // No cluster is asked, wherever the tests run.
        .env("KUBECONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    helm.stdin.take().unwrap().write_all(values.to_string().as_bytes()).unwrap();
    helm.wait_with_output().unwrap()
}

/// What the chart makes of these values, its test pod among it.
pub fn render(values: Value) -> Vec<Value> {
    let output = helm(&["template", RELEASE], &values);
    assert!(output.status.success(), "{values}: {}", String::from_utf8_lossy(&output.stderr));
    documents(&String::from_utf8(output.stdout).unwrap())
}

/// Why the chart refuses these values.
pub fn refusal(values: Value) -> String {
    let output = helm(&["template", RELEASE], &values);
    assert!(!output.status.success(), "{values} is taken");
    String::from_utf8(output.stderr).unwrap()
}

/// The one object of this kind.
pub fn the<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<_> = all(objects, kind).collect();
    assert_eq!(found.len(), 1, "{kind}: {found:?}");
    found[0]
}

/// All objects of this kind.
pub fn all<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// Kind, namespace and name.
pub fn id(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

/// The operator's container.
pub fn container(objects: &[Value]) -> &Value {
    &the(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
}

/// The value of a variable of the operator's environment.
pub fn variable<'a>(objects: &'a [Value], name: &str) -> Option<&'a str> {
    container(objects)["env"].as_array()?.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}
