//! Renders the chart with every value changed, alone and together with others, and checks each
//! result against the Kubernetes types. Also checks that an upgrade changes no immutable field.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helm::{RELEASE, documents, helm, helm_on, id, read, render};
use crate::matrix::checked;

/// Values that the chart does not have by default. Together, they set every value of the chart.
fn changes() -> Vec<Value> {
    let digest = format!("sha256:{}", "0".repeat(64));
    let peers = json!([{"namespaceSelector": {"matchLabels": {"a": "b"}}}]);
    let template = json!({"priorityClassName": "high", "nodeSelector": {"pool": "tor"}});
    vec![
        json!({"global": {"imageRegistry": "mirror.example.org", "imagePullSecrets": ["shared"]}}),
        json!({"image": {"repository": "a.example.org/op", "tag": "1", "digest": digest, "pullPolicy": "Always"}}),
        json!({"imagePullSecrets": [{"name": "pull"}]}),
        json!({"dataPlane": {"image": {"repository": "b/op", "tag": "2", "digest": digest}}}),
        json!({"dataPlane": {"imagePullPolicy": "Never"}}),
        json!({"dataPlane": {"networkPolicy": {"enabled": false, "metricsFrom": peers}}}),
        json!({"dataPlane": {"disruptionBudgets": false, "fixedUserIds": false}}),
        json!({"dataPlane": {"log": {"format": "text", "addresses": "full", "filter": "debug"}}}),
        json!({"dataPlane": {"defaultTemplates": {"backend": template, "frontend": template}}}),
        json!({"tor": {"image": {"repository": "c/tor", "tag": "3", "digest": digest}}, "torExtraConfig": "NumCPUs 1"}),
        json!({"tenants": {"refusedTargets": ["none"], "labelPrefixes": ["*"], "annotationPrefixes": ["*"]}}),
        json!({"torExtraConfigSecret": {"name": "bridges", "key": "lines"}, "torExtraConfig": ""}),
        json!({"tenants": {"exposedLocations": true}}),
        json!({"tenants": {"priorityClasses": ["*"], "runtimeClasses": ["*"], "tolerations": ["*"]}}),
        json!({"watchNamespaces": ["shop", "blog"]}),
        json!({"crds": {"install": false}}),
        json!({"crds": {"keep": false, "annotations": {"a": "b"}}}),
        json!({"rbac": {"create": false}}),
        json!({"rbac": {"aggregate": false}}),
        json!({"admissionPolicy": {"enabled": true}}),
        json!({"serviceAccount": {"create": false, "name": "mine"}}),
        json!({"serviceAccount": {"annotations": {"a": "b"}}}),
        json!({"replicas": 3, "strategy": {"type": "Recreate", "rollingUpdate": null}, "revisionHistoryLimit": 0}),
        json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}}}),
        json!({"podDisruptionBudget": {"enabled": true, "maxUnavailable": "50%"}}),
        json!({"log": {"format": "json", "addresses": "full", "filter": "debug"}}),
        json!({"extraEnv": [{"name": "A", "value": "b"}]}),
        json!({"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}}),
        json!({"podSecurityContext": {"runAsUser": null, "runAsGroup": null}}),
        json!({"securityContext": {"privileged": false}}),
        json!({"livenessProbe": {"periodSeconds": 30, "timeoutSeconds": 5}, "readinessProbe": {"periodSeconds": 5}}),
        json!({"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {}}}),
        json!({"topologySpreadConstraints": [], "priorityClassName": "high"}),
        json!({"podLabels": {"a": "b"}, "podAnnotations": {"a": "b"}, "service": {"annotations": {"a": "b"}}}),
        json!({"commonLabels": {"c": "d"}, "commonAnnotations": {"c": "d"}}),
        json!({"nameOverride": "proxy", "namespaceOverride": "tor-system"}),
        json!({"fullnameOverride": "tor"}),
        json!({"monitor": {"enabled": true, "kind": "ServiceMonitor", "interval": "1m", "scrapeTimeout": "5s"}}),
        json!({"monitor": {"enabled": true, "tor": false, "labels": {"a": "b"}}}),
        json!({"monitor": {"enabled": true, "relabelings": [{"targetLabel": "a", "replacement": "b"}]}}),
        json!({"monitor": {"enabled": true, "metricRelabelings": [{"sourceLabels": ["a"], "action": "drop"}]}}),
        json!({"prometheusRule": {"enabled": true, "labels": {"a": "b"}, "docsUrl": "https://a"}}),
        json!({"prometheusRule": {"enabled": true, "disabled": ["OnionbalanceTorFreezes"]}}),
        json!({"dashboard": {"enabled": true, "namespace": "b", "annotations": {"a": "b"}}}),
        json!({"dashboard": {"enabled": true, "labels": {"grafana_dashboard": "2"}}}),
        json!({"networkPolicy": {"enabled": true, "metricsFrom": peers, "egress": [{"ports": [{"port": 443}]}]}}),
        json!({"extraObjects": [{
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "labels": {"app.kubernetes.io/instance": "a"}}, "data": {"b": "c"},
        }]}),
    ]
}

/// Merges values as Helm does: maps are merged, anything else is replaced.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Collects the paths of all values that differ from the chart's.
fn changed(values: &Value, defaults: &Value, path: &str, found: &mut BTreeSet<String>) {
    match (values, defaults) {
        (Value::Object(values), Value::Object(defaults)) if !defaults.is_empty() => {
            for (key, value) in values {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                changed(value, defaults.get(key).unwrap_or(&Value::Null), &path, found);
            }
        }
        (values, defaults) if values != defaults => drop(found.insert(path.to_owned())),
        _ => {}
    }
}

/// Collects the paths of all values of the chart.
fn paths(values: &Value, path: &str, found: &mut BTreeSet<String>) {
    match values.as_object().filter(|map| !map.is_empty()) {
        Some(map) => {
            for (key, value) in map {
                paths(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, found);
            }
        }
        None => drop(found.insert(path.to_owned())),
    }
}

#[test]
fn the_matrix_changes_every_value() {
    let defaults = &documents(&read("charts/onionbalance-operator/values.yaml"))[0];
    let (mut all, mut tried) = (BTreeSet::new(), BTreeSet::new());
    paths(defaults, "", &mut all);
    for values in changes() {
        changed(&values, defaults, "", &mut tried);
    }
    // Both security contexts are tested elsewhere, in full (matrix.rs).
    let covered =
        |path: &String| tried.contains(path) || path.starts_with("securityContext") || path.starts_with("podSecurity");
    let missing: Vec<_> = all.iter().filter(|path| !covered(path)).collect();
    assert!(missing.is_empty(), "the matrix never changes these values: {missing:?}");
}

/// Each change alone, each with the next one, and all of them together (later ones win).
#[test]
fn every_change_renders_objects_of_their_types() {
    let changes = changes();
    let mut all = json!({});
    for (number, change) in changes.iter().enumerate() {
        checked(change.clone());
        let mut pair = change.clone();
        merge(&mut pair, &changes[(number + 1) % changes.len()]);
        checked(pair);
        merge(&mut all, change);
    }
    checked(all);
}

#[test]
fn helm_lint_accepts_every_change() {
    for change in changes() {
        let output = helm(&["lint", "--strict"], &change);
        let printed = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{change}: {}", String::from_utf8_lossy(&printed));
    }
}

/// The fields of our objects that the API server does not let anyone change. A release with other
/// values in these fields could not be upgraded.
fn immutable_fields(objects: &[Value]) -> Value {
    let field = |object: &Value| match object["kind"].as_str().unwrap() {
        "Deployment" => Some(object["spec"]["selector"].clone()),
        "RoleBinding" | "ClusterRoleBinding" => Some(object["roleRef"].clone()),
        "CustomResourceDefinition" => {
            Some(json!([object["spec"]["group"], object["spec"]["names"], object["spec"]["scope"]]))
        }
        _ => None,
    };
    objects.iter().filter_map(|object| Some((id(object), field(object)?))).collect::<serde_json::Map<_, _>>().into()
}

/// `immutable.json` holds the fields of the chart 0.1.0 before it had the values `global`,
/// `strategy` and others. Never change a field in the file: add the objects of a new kind only.
#[test]
fn an_upgrade_changes_no_immutable_field() {
    let recorded: Value = serde_json::from_str(&read("e2e/tests/chart/immutable.json")).unwrap();
    for (name, values) in [
        ("default values", json!({})),
        ("namespaces", json!({"watchNamespaces": ["shop"]})),
        ("names", json!({"nameOverride": "proxy", "podLabels": {"a": "b"}, "commonLabels": {"c": "d"}})),
        ("full name", json!({"fullnameOverride": "tor", "serviceAccount": {"name": "mine"}})),
    ] {
        assert_eq!(immutable_fields(&render(values.clone())), recorded[name], "{name}");
        let output = helm(&["template", RELEASE, "--is-upgrade"], &values);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let upgraded = documents(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(immutable_fields(&upgraded), recorded[name], "{name}, as an upgrade");
    }
}

/// A parent chart shares its values `global`, and sets the others below the chart's name.
#[test]
fn a_parent_chart_sets_the_registry_of_all_its_charts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("charts")).unwrap();
    std::os::unix::fs::symlink(crate::helm::chart(), dir.path().join("charts/onionbalance-operator")).unwrap();
    std::fs::write(dir.path().join("Chart.yaml"), "apiVersion: v2\nname: parent\nversion: 1.0.0\n").unwrap();
    let values = json!({
        "global": {"imageRegistry": "mirror.example.org", "storageClass": "a"},
        "onionbalance-operator": {"replicas": 2},
    });
    let output = helm_on(dir.path(), &["template", "parent"], &values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let objects = documents(&String::from_utf8(output.stdout).unwrap());
    crate::typed::check(&objects);
    assert_eq!(crate::helm::container(&objects)["image"], "mirror.example.org/onionbalance-operator:dev");
    assert_eq!(crate::helm::the(&objects, "Deployment")["spec"]["replicas"], 2);
}
