//! Checks that the monitors, the alerts and the dashboard are well-formed and use only metrics that
//! exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use onionbalance_e2e::state::source_tree;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, all, documents, id, read, render, the};
use crate::typed;

/// The fields that the chart uses in a `PodMonitor` or `ServiceMonitor`. Any other field is an
/// error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(dead_code, reason = "parsing the fields is the test")]
struct Monitor {
    selector: Selector,
    namespace_selector: Option<Namespaces>,
    pod_metrics_endpoints: Option<Vec<Endpoint>>,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(dead_code, reason = "parsing the fields is the test")]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(dead_code, reason = "parsing the fields is the test")]
struct Namespaces {
    any: Option<bool>,
    match_names: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(dead_code, reason = "parsing the fields is the test")]
struct Endpoint {
    port: String,
    path: String,
    interval: Option<String>,
    scrape_timeout: Option<String>,
    honor_labels: Option<bool>,
    relabelings: Option<Vec<Relabeling>>,
    metric_relabelings: Option<Vec<Relabeling>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(dead_code, reason = "parsing the fields is the test")]
struct Relabeling {
    source_labels: Option<Vec<String>>,
    target_label: Option<String>,
    regex: Option<String>,
    replacement: Option<String>,
    action: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "parsing the fields is the test")]
struct Group {
    name: String,
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "parsing the fields is the test")]
struct Alert {
    #[serde(rename = "alert")]
    name: String,
    expr: String,
    r#for: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// Panics if an object of the Prometheus operator has a field that its type does not define.
pub fn parse(object: &Value) {
    let spec = object["spec"].clone();
    let parsed = match object["kind"].as_str().unwrap() {
        "PrometheusRule" => serde_json::from_value::<Rules>(spec).map(drop),
        "PodMonitor" | "ServiceMonitor" => serde_json::from_value::<Monitor>(spec).map(drop),
        other => panic!("the test has no type for {other}"),
    };
    parsed.unwrap_or_else(|error| panic!("{}: {error}", id(object)));
}

#[test]
fn one_monitor_for_the_operator_and_one_for_all_services() {
    for (kind, endpoints) in [("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")] {
        for namespaces in [json!([]), json!(["shop"])] {
            let monitor =
                json!({"enabled": true, "kind": kind, "interval": "30s", "labels": {"release": "prometheus"}});
            let objects = render(json!({"monitor": monitor, "watchNamespaces": namespaces}));
            typed::check(&objects);
            let [operator, services] = <[&Value; 2]>::try_from(all(&objects, kind).collect::<Vec<_>>()).unwrap();
            let selector = |monitor: &Value| monitor["spec"]["selector"]["matchLabels"].clone();
            assert_eq!(selector(operator), the(&objects, "Deployment")["spec"]["selector"]["matchLabels"]);
            let ours = json!({"app.kubernetes.io/name": "onionbalance", "app.kubernetes.io/managed-by": "onionbalance-operator"});
            assert_eq!(selector(services), ours);
            let everywhere =
                if namespaces == json!([]) { json!({"any": true}) } else { json!({"matchNames": ["shop"]}) };
            assert_eq!(services["spec"]["namespaceSelector"], everywhere);
            for monitor in [operator, services] {
                assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
                let endpoint = &monitor["spec"][endpoints][0];
                assert_eq!((&endpoint["port"], &endpoint["interval"]), (&json!("metrics"), &json!("30s")));
            }
        }
    }
}

#[test]
fn tor_metrics_are_scraped_unless_disabled() {
    for (tor, expected) in [(true, vec!["/metrics", "/tor/metrics"]), (false, vec!["/metrics"])] {
        let objects = render(json!({"monitor": {"enabled": true, "interval": "30s", "tor": tor}}));
        typed::check(&objects);
        let [operator, services] = <[&Value; 2]>::try_from(all(&objects, "PodMonitor").collect::<Vec<_>>()).unwrap();
        let paths = |monitor: &Value| -> Vec<String> {
            let endpoints = monitor["spec"]["podMetricsEndpoints"].as_array().unwrap();
            assert!(endpoints.iter().all(|endpoint| endpoint["port"] == "metrics" && endpoint["interval"] == "30s"));
            endpoints.iter().map(|endpoint| endpoint["path"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(paths(operator), ["/metrics"]);
        assert_eq!(paths(services), expected);
        for endpoint in services["spec"]["podMetricsEndpoints"].as_array().unwrap() {
            assert_eq!(endpoint["relabelings"][0]["targetLabel"], "onion_service");
        }
    }
}

/// Checks that Prometheus keeps the label `namespace` of the operator's metrics about services. In
/// the metrics of service pods, Prometheus replaces this label: tor could otherwise name any
/// namespace.
#[test]
fn only_the_operators_own_labels_are_honoured() {
    for (kind, endpoints) in [("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")] {
        let objects = render(json!({"monitor": {"enabled": true, "kind": kind}}));
        let [operator, services] = <[&Value; 2]>::try_from(all(&objects, kind).collect::<Vec<_>>()).unwrap();
        assert_eq!(operator["spec"][endpoints][0]["honorLabels"], true);
        for endpoint in services["spec"][endpoints].as_array().unwrap() {
            assert!(endpoint.get("honorLabels").is_none(), "{endpoint}");
        }
    }
}

#[test]
fn further_relabelings_follow_those_of_the_chart() {
    let cluster = json!({"targetLabel": "cluster", "replacement": "north"});
    let drop = json!({"sourceLabels": ["__name__"], "regex": "tor_hs_.*", "action": "drop"});
    let monitor = json!({"enabled": true, "relabelings": [cluster], "metricRelabelings": [drop]});
    let objects = render(json!({"monitor": monitor}));
    typed::check(&objects);
    let [operator, services] = <[&Value; 2]>::try_from(all(&objects, "PodMonitor").collect::<Vec<_>>()).unwrap();
    let endpoint = |monitor: &Value, number: usize| monitor["spec"]["podMetricsEndpoints"][number].clone();
    assert_eq!(endpoint(operator, 0)["relabelings"], json!([cluster]));
    assert_eq!(endpoint(operator, 0)["metricRelabelings"], json!([drop]));
    for (number, own) in [(0, 0), (1, 1)] {
        let endpoint = endpoint(services, number);
        assert_eq!(endpoint["relabelings"][0]["targetLabel"], "onion_service");
        assert_eq!(endpoint["relabelings"][1], cluster);
        assert_eq!(endpoint["metricRelabelings"].as_array().unwrap().len(), own + 1);
        assert_eq!(endpoint["metricRelabelings"][own], drop);
    }
}

/// Checks that the monitors use the label that the operator sets.
#[test]
fn monitors_identify_a_service_by_its_label() {
    let label = onionbalance_operator::crd::names::SERVICE_LABEL.replace(['.', '/'], "_");
    let monitor = read("charts/onionbalance-operator/templates/monitor.yaml");
    assert!(monitor.contains(&format!("[__meta_kubernetes_pod_label_{label}]")));
    assert!(monitor.contains("targetLabel: onion_service"));
}

#[test]
fn alerts_can_be_disabled() {
    let alerts = |disabled: &[&str]| {
        let objects =
            render(json!({"prometheusRule": {"enabled": true, "disabled": disabled, "labels": {"role": "alert"}}}));
        typed::check(&objects);
        let rule = the(&objects, "PrometheusRule");
        assert_eq!(rule["metadata"]["labels"]["role"], "alert");
        let rules: Rules = serde_json::from_value(rule["spec"].clone()).unwrap();
        rules.groups.into_iter().flat_map(|group| group.rules).map(|alert| alert.name).collect::<BTreeSet<_>>()
    };
    let all = alerts(&[]);
    let some = alerts(&["OnionbalanceOperatorAbsent", "OnionbalanceReconciliationsFail"]);
    assert_eq!(all.len(), some.len() + 2);
    assert!(some.is_subset(&all) && !some.contains("OnionbalanceOperatorAbsent"));
}

/// Checks that Helm does not interpret Prometheus' own templates.
#[test]
fn alerts_are_rendered_verbatim() {
    let file = &documents(&read("charts/onionbalance-operator/files/alerts.yaml"))[0];
    let objects = render(json!({"prometheusRule": {"enabled": true}}));
    assert_eq!(the(&objects, "PrometheusRule")["spec"]["groups"], file["groups"]);
}

#[test]
fn the_dashboard_is_rendered_verbatim() {
    let objects = render(json!({"dashboard": {"enabled": true, "annotations": {"grafana_folder": "Tor"}}}));
    typed::check(&objects);
    let config_map = the(&objects, "ConfigMap");
    assert_eq!(config_map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(config_map["metadata"]["namespace"], NAMESPACE);
    let elsewhere = render(json!({"dashboard": {"enabled": true, "namespace": "monitoring"}}));
    assert_eq!(the(&elsewhere, "ConfigMap")["metadata"]["namespace"], "monitoring");
    assert_eq!(config_map["metadata"]["annotations"]["grafana_folder"], "Tor");
    let text = config_map["data"]["onionbalance-operator.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let file: Value = serde_json::from_str(&read("charts/onionbalance-operator/files/dashboard.json")).unwrap();
    assert_eq!(dashboard, file);
    let ids: Vec<_> = file["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "two panels have the same id");
}

/// Checks that no panel covers another one, and that each fits the 24 columns of the dashboard.
#[test]
fn the_panels_of_the_dashboard_do_not_overlap() {
    let file: Value = serde_json::from_str(&read("charts/onionbalance-operator/files/dashboard.json")).unwrap();
    let mut covered = BTreeMap::new();
    for panel in file["panels"].as_array().unwrap() {
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + width <= 24, "{} is too far to the right", panel["title"]);
        for place in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            let other = covered.insert(place, &panel["title"]);
            assert_eq!(other, None, "{} covers this panel", panel["title"]);
        }
    }
}

/// Checks that every metric in the alerts and the dashboard exists. To do so, searches the sources
/// for the metric's name. The sources contain the names of all metrics, because the programs' own
/// tests contain the full text of the metrics.
#[test]
fn alerts_and_dashboard_name_existing_metrics() {
    let known = metrics(&sources(&source_tree().join("src")));
    assert!(known.len() >= 18, "too few metrics in the sources: {known:?}");
    for file in ["alerts.yaml", "dashboard.json"] {
        let named = metrics(&read(&format!("charts/onionbalance-operator/files/{file}")));
        assert!(named.len() >= 9, "{file} names too few metrics: {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} names metrics that do not exist: {unknown:?}");
    }
}

/// Returns the names of our metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let prefixes = ["onionbalance_operator_", "onionbalance_publisher_", "onionbalance_agent_", "onion_service_"];
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| prefixes.iter().any(|prefix| word.len() > prefix.len() && word.starts_with(prefix)))
        .map(ToOwned::to_owned)
        .collect()
}

fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    text
}
