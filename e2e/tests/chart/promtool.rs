//! Checks the alerts and the dashboard's queries with Prometheus' own promtool. All of them must
//! parse, and each alert must fire exactly when it should.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use onionbalance_e2e::dashboard;
use onionbalance_e2e::state::source_tree;
use serde_json::{Value, json};

use crate::helm::{documents, read};

const ALERTS: &str = "charts/onionbalance-operator/files/alerts.yaml";

fn promtool(arguments: &[&str]) {
    let run =
        Command::new("promtool").args(arguments).output().expect("promtool is missing; run apt-get install prometheus");
    let printed = [run.stdout, run.stderr].concat();
    assert!(run.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&printed));
}

/// Runs promtool on a file with the given content. JSON is also valid YAML.
fn promtool_on(arguments: &[&str], content: &Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content.to_string()).unwrap();
    promtool(&[arguments, &[file.path().to_str().unwrap()]].concat());
}

#[test]
fn promtool_accepts_the_alerts() {
    promtool(&["check", "rules", "--lint-fatal", source_tree().join(ALERTS).to_str().unwrap()]);
}

#[test]
fn the_dashboards_queries_are_valid_promql() {
    let queries = dashboard::queries("shop|other", ".*").unwrap();
    assert!(queries.len() > 15, "too few queries: {queries:?}");
    let rules: Vec<_> = queries.iter().map(|query| json!({"record": "a:b", "expr": query.text})).collect();
    // All rules have the same name here, so promtool's warning about duplicates is irrelevant.
    promtool_on(&["check", "rules", "--lint=none"], &json!({"groups": [{"name": "dashboard", "rules": rules}]}));
}

type Series = BTreeMap<&'static str, &'static str>;

/// Returns two hours of metrics, with one value per minute, of a healthy service that has two
/// publishers and one backend.
fn healthy() -> Series {
    let mut series = BTreeMap::from([
        (r#"onionbalance_publisher_hsdirs_failing{namespace="shop",onion_service="web",pod="f1"}"#, "1x120"),
        (r#"onionbalance_publisher_revision_rises_total{namespace="shop",onion_service="web",pod="f1"}"#, "2x120"),
        (r#"onionbalance_publisher_descriptors_total{namespace="shop",onion_service="web",pod="f1"}"#, "9x120"),
        (r#"onionbalance_publisher_foreign_publisher{namespace="shop",onion_service="web",pod="f1"}"#, "0x120"),
    ]);
    series.extend(operators());
    series.extend(publishers());
    series.extend(agents());
    series
}

/// Returns the metrics of the operator's states.
fn operators() -> Series {
    BTreeMap::from([
        (r#"onionbalance_operator_writes_total{namespace="ob",pod="o1"}"#, "5x120"),
        (r#"onionbalance_operator_leader{namespace="ob",pod="o1"}"#, "1x120"),
        (r#"onionbalance_operator_leader{namespace="ob",pod="o2"}"#, "0x120"),
        (r#"onionbalance_operator_reconciliations_total{result="success",namespace="ob",pod="o1"}"#, "0+1x120"),
        (r#"onionbalance_operator_reconciliations_total{result="error",namespace="ob",pod="o1"}"#, "2x120"),
        // The operator once failed to watch Secrets for a moment.
        (
            r#"onionbalance_operator_watch_failing{resource="secrets",watched_namespace="shop",namespace="ob",pod="o1"}"#,
            "1x2 stale",
        ),
        (
            r#"onionbalance_operator_service_ready{namespace="shop",onion_service="web",reason="Ready",pod="o1"}"#,
            "1x120",
        ),
        // The service was Progressing at first, and that series ended a while later.
        (
            r#"onionbalance_operator_service_ready{namespace="shop",onion_service="web",reason="Progressing",pod="o1"}"#,
            "0x4 stale",
        ),
        (
            r#"onionbalance_operator_service_ready{namespace="shop",onion_service="web",reason="KeyInvalid",pod="o1"}"#,
            "_x120",
        ),
        (
            r#"onionbalance_operator_service_ready{namespace="shop",onion_service="off",reason="Suspended",pod="o1"}"#,
            "0x120",
        ),
    ])
}

/// Returns the metrics of the publishers' states.
fn publishers() -> Series {
    BTreeMap::from([
        (r#"onionbalance_publisher_leading{namespace="shop",onion_service="web",pod="f1"}"#, "1x120"),
        (r#"onionbalance_publisher_leading{namespace="shop",onion_service="web",pod="f2"}"#, "0x120"),
        (r#"onionbalance_publisher_tor_up{namespace="shop",onion_service="web",pod="f1"}"#, "1x120"),
        (r#"onionbalance_publisher_tor_up{namespace="shop",onion_service="web",pod="f2"}"#, "1x120"),
        (r#"onionbalance_publisher_backends{state="Ready",namespace="shop",onion_service="web",pod="f1"}"#, "1x120"),
        (r#"onionbalance_publisher_backends{state="Lost",namespace="shop",onion_service="web",pod="f1"}"#, "0x120"),
        (r#"onionbalance_publisher_backends_failing{namespace="shop",onion_service="web",pod="f1"}"#, "0x120"),
        // A standby sees fewer backends, which is normal.
        (r#"onionbalance_publisher_backends{state="Ready",namespace="shop",onion_service="web",pod="f2"}"#, "0x120"),
        (r#"onionbalance_publisher_backends{state="Lost",namespace="shop",onion_service="web",pod="f2"}"#, "1x120"),
        (
            r#"onionbalance_publisher_hsdirs_accepted{period="7",namespace="shop",onion_service="web",pod="f1"}"#,
            "8x120",
        ),
        (r#"onionbalance_publisher_hsdirs{period="7",namespace="shop",onion_service="web",pod="f1"}"#, "8x120"),
        (
            r#"onionbalance_publisher_hsdirs_accepted{period="7",namespace="shop",onion_service="web",pod="f2"}"#,
            "0x120",
        ),
        (r#"onionbalance_publisher_hsdirs{period="7",namespace="shop",onion_service="web",pod="f2"}"#, "8x120"),
        (
            r#"onionbalance_publisher_uploads_total{result="accepted",namespace="shop",onion_service="web",pod="f1"}"#,
            "0+8x120",
        ),
        (
            r#"onionbalance_publisher_uploads_total{result="rejected",namespace="shop",onion_service="web",pod="f1"}"#,
            "1x120",
        ),
        // The signing kits last for 20 days.
        (
            r#"onionbalance_publisher_signing_keys_end_seconds{namespace="shop",onion_service="web",pod="f1"}"#,
            "1728000x120",
        ),
        (r#"onionbalance_publisher_guards_preferred{namespace="shop",onion_service="web",pod="f1"}"#, "1x120"),
        (r#"onionbalance_publisher_guards_allowed{namespace="shop",onion_service="web",pod="f1"}"#, "1x120"),
        (
            r#"onionbalance_publisher_guards_problem{kind="Replaced",namespace="shop",onion_service="web",pod="f1"}"#,
            "0x120",
        ),
        (
            r#"onionbalance_publisher_guards_problem{kind="NotKept",namespace="shop",onion_service="web",pod="f1"}"#,
            "0x120",
        ),
        (r#"onionbalance_publisher_vanguards_outdated{namespace="shop",onion_service="web",pod="f1"}"#, "0x120"),
        (r#"onion_service_reachable{port="80",namespace="shop",onion_service="web",pod="f1"}"#, "1x120"),
    ])
}

/// Returns the metrics of an agent's state.
fn agents() -> Series {
    BTreeMap::from([
        (r#"onionbalance_agent_tor_up{namespace="shop",onion_service="web",pod="b1"}"#, "1x120"),
        (r#"onionbalance_agent_introduction_points{namespace="shop",onion_service="web",pod="b1"}"#, "3x120"),
        (r#"onionbalance_agent_tor_kills_total{namespace="shop",onion_service="web",pod="b1"}"#, "1x120"),
        (r#"onionbalance_agent_streams_total{port="80",namespace="shop",onion_service="web",pod="b1"}"#, "0+60x120"),
        (
            r#"onionbalance_agent_connect_failures_total{port="80",namespace="shop",onion_service="web",pod="b1"}"#,
            "0+1x120",
        ),
        // Once, some streams exceeded a limit of their circuits.
        (
            r#"onionbalance_agent_circuit_breaches_total{limit="open_streams",namespace="shop",onion_service="web",pod="b1"}"#,
            "30x120",
        ),
        (
            r#"onionbalance_agent_circuit_breaches_total{limit="new_streams",namespace="shop",onion_service="web",pod="b1"}"#,
            "0+1x120",
        ),
    ])
}

/// A fault and the only alert that it triggers. The alert is still silent at `quiet_at` and fires
/// at `fires_at`.
struct AlertCase {
    /// The fault, as changes to the healthy metrics. A change applies to every series whose name
    /// contains all of the given parts. It replaces the values of the series, or removes the series
    /// if the new values are `None`.
    changes: &'static [(&'static [&'static str], Option<&'static str>)],
    alert: &'static str,
    labels: &'static str,
    quiet_at: &'static str,
    fires_at: &'static str,
}

const SERVICE: &str = r#"namespace="shop",onion_service="web""#;

#[rustfmt::skip]
const CASES: &[AlertCase] = &[
    AlertCase { changes: &[(&["operator_writes_total"], None)],
        alert: "OnionbalanceOperatorAbsent", labels: r#"severity="warning""#, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["operator_leader", "o1"], Some("0x120"))],
        alert: "OnionbalanceNoOperatorLeads", labels: r#"severity="warning""#, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["result=\"error\""], Some("0+1x120"))],
        alert: "OnionbalanceReconciliationsFail", labels: r#"severity="warning",namespace="ob",pod="o1""#, quiet_at: "15m", fires_at: "18m" },
    AlertCase { changes: &[(&["watch_failing"], Some("1x120"))],
        alert: "OnionbalanceWatchFails", labels: r#"namespace="ob",pod="o1",resource="secrets""#, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["reason=\"Ready\""], None), (&["reason=\"Progressing\""], Some("0x120"))],
        alert: "OnionbalanceServiceNotReady", labels: SERVICE, quiet_at: "14m", fires_at: "16m" },
    AlertCase { changes: &[(&["reason=\"Ready\""], None), (&["reason=\"KeyInvalid\""], Some("0x120"))],
        alert: "OnionbalanceKeyAlarm", labels: r#"namespace="shop",onion_service="web",reason="KeyInvalid""#, quiet_at: "0m", fires_at: "2m" },
    AlertCase { changes: &[(&["publisher_leading", "f1"], Some("0x120"))],
        alert: "OnionbalanceNobodyPublishes", labels: SERVICE, quiet_at: "4m", fires_at: "6m" },
    // All of the service's frontends are gone.
    AlertCase { changes: &[(&["onionbalance_publisher"], None)],
        alert: "OnionbalanceNobodyPublishes", labels: SERVICE, quiet_at: "4m", fires_at: "6m" },
    AlertCase { changes: &[(&["publisher_leading", "f2"], Some("1x120")), (&["backends", "Lost", "f2"], Some("0x120")), (&["hsdirs_accepted", "f2"], Some("8x120"))],
        alert: "OnionbalanceSeveralPublish", labels: SERVICE, quiet_at: "4m", fires_at: "6m" },
    AlertCase { changes: &[(&["guards_preferred", "f1"], Some("2x120"))],
        alert: "OnionbalanceGuardsDiffer", labels: SERVICE, quiet_at: "59m", fires_at: "61m" },
    // The pods of this service may spread over two guards.
    AlertCase { changes: &[(&["guards_preferred", "f1"], Some("2x30 3x90")), (&["guards_allowed", "f1"], Some("2x120"))],
        alert: "OnionbalanceGuardsDiffer", labels: SERVICE, quiet_at: "89m", fires_at: "93m" },
    AlertCase { changes: &[(&["guards_problem", "Replaced"], Some("0x5 1x115"))],
        alert: "OnionbalanceGuardsReplaced", labels: SERVICE, quiet_at: "5m", fires_at: "6m" },
    AlertCase { changes: &[(&["guards_problem", "NotKept"], Some("1x120"))],
        alert: "OnionbalanceGuardsNotKept", labels: SERVICE, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["vanguards_outdated", "f1"], Some("2x120"))],
        alert: "OnionbalanceVanguardsDiffer", labels: SERVICE, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["signing_keys_end", "f1"], Some("1000000x120"))],
        alert: "OnionbalanceSigningKeysExpiring", labels: SERVICE, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["signing_keys_end", "f1"], Some("0x120"))],
        alert: "OnionbalanceSigningKeysEnd", labels: SERVICE, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["backends", "Ready", "f1"], Some("0x120"))],
        alert: "OnionbalanceNoBackendReady", labels: SERVICE, quiet_at: "4m", fires_at: "6m" },
    AlertCase { changes: &[(&["backends", "Lost", "f1"], Some("1x120"))],
        alert: "OnionbalanceBackendsLost", labels: SERVICE, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["backends_failing", "f1"], Some("1x120"))],
        alert: "OnionbalanceTargetFails", labels: SERVICE, quiet_at: "4m", fires_at: "6m" },
    AlertCase { changes: &[(&["hsdirs_accepted", "f1"], Some("0x120"))],
        alert: "OnionbalanceNotOnHSDirs", labels: r#"namespace="shop",onion_service="web",pod="f1",period="7""#, quiet_at: "14m", fires_at: "16m" },
    AlertCase { changes: &[(&["hsdirs_accepted", "f1"], Some("3x120"))],
        alert: "OnionbalanceFewHSDirs", labels: r#"namespace="shop",onion_service="web",pod="f1",period="7""#, quiet_at: "29m", fires_at: "31m" },
    AlertCase { changes: &[(&["uploads_total", "rejected"], Some("0+1x120"))],
        alert: "OnionbalanceUploadsRejected", labels: SERVICE, quiet_at: "29m", fires_at: "33m" },
    AlertCase { changes: &[(&["hsdirs_failing"], Some("4x120"))],
        alert: "OnionbalanceHSDirsFailing", labels: r#"namespace="shop",onion_service="web",pod="f1""#, quiet_at: "59m", fires_at: "61m" },
    AlertCase { changes: &[(&["revision_rises_total"], Some("0+1x120"))],
        alert: "OnionbalanceCounterRises", labels: SERVICE, quiet_at: "38m", fires_at: "44m" },
    AlertCase { changes: &[(&["foreign_publisher"], Some("1x120"))],
        alert: "OnionbalanceForeignPublisher", labels: SERVICE, quiet_at: "0m", fires_at: "2m" },
    AlertCase { changes: &[(&["descriptors_total"], Some("0+2x120"))],
        alert: "OnionbalanceManyRounds", labels: SERVICE, quiet_at: "58m", fires_at: "66m" },
    AlertCase { changes: &[(&["onion_service_reachable"], Some("0x120"))],
        alert: "OnionbalanceAddressUnreachable", labels: r#"namespace="shop",onion_service="web",port="80""#, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["publisher_tor_up", "f2"], Some("0x120"))],
        alert: "OnionbalancePublisherTorDown", labels: r#"namespace="shop",onion_service="web",pod="f2""#, quiet_at: "9m", fires_at: "11m" },
    AlertCase { changes: &[(&["agent_introduction_points"], Some("0x120"))],
        alert: "OnionbalanceBackendWithoutPoints", labels: r#"namespace="shop",onion_service="web",pod="b1""#, quiet_at: "14m", fires_at: "16m" },
    AlertCase { changes: &[(&["agent_tor_kills_total"], Some("0x60 1x10 2x50"))],
        alert: "OnionbalanceTorFreezes", labels: r#"namespace="shop",onion_service="web",pod="b1""#, quiet_at: "65m", fires_at: "80m" },
    AlertCase { changes: &[(&["connect_failures"], Some("0+30x120"))],
        alert: "OnionbalanceTargetUnreachable", labels: r#"namespace="shop",onion_service="web",port="80""#, quiet_at: "9m", fires_at: "13m" },
    AlertCase { changes: &[(&["circuit_breaches", "new_streams"], Some("0+30x120"))],
        alert: "OnionbalanceCircuitLimits", labels: SERVICE, quiet_at: "29m", fires_at: "33m" },
];

/// Returns the expectation that exactly the given alerts fire at the time `at`.
fn fires(at: &str, alerts: &[String]) -> Value {
    let samples: Vec<_> = alerts.iter().map(|labels| json!({"labels": labels, "value": 1})).collect();
    json!({"expr": "ALERTS{alertstate=\"firing\"}", "eval_time": at, "exp_samples": samples})
}

fn test(name: &str, series: &Series, expected: Vec<Value>) -> Value {
    let series: Vec<_> = series.iter().map(|(series, values)| json!({"series": series, "values": values})).collect();
    json!({"name": name, "interval": "1m", "input_series": series, "promql_expr_test": expected})
}

#[test]
fn each_alert_fires_exactly_when_it_should() {
    let severities: BTreeMap<String, String> = documents(&read(ALERTS))[0]["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .map(|rule| {
            (rule["alert"].as_str().unwrap().to_owned(), rule["labels"]["severity"].as_str().unwrap().to_owned())
        })
        .collect();
    let tested: BTreeSet<_> = CASES.iter().map(|case| case.alert.to_owned()).collect();
    assert_eq!(tested, severities.keys().cloned().collect(), "every alert needs a fault in this table");

    let mut tests = vec![test("healthy", &healthy(), vec![fires("60m", &[]), fires("2h", &[])])];
    for AlertCase { changes, alert, labels, quiet_at, fires_at } in CASES {
        let mut series = healthy();
        for (parts, values) in *changes {
            let named: Vec<_> =
                series.keys().copied().filter(|name| parts.iter().all(|part| name.contains(part))).collect();
            assert!(!named.is_empty(), "{alert}: no series has all of {parts:?} in its name");
            for name in named {
                match values {
                    Some(values) => series.insert(name, values),
                    None => series.remove(name),
                };
            }
        }
        let severity = &severities[*alert];
        let labels = if labels.contains("severity=") {
            (*labels).to_owned()
        } else {
            format!("{labels},severity=\"{severity}\"")
        };
        let firing = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",{labels}}}");
        tests.push(test(alert, &series, vec![fires(quiet_at, &[]), fires(fires_at, &[firing])]));
    }
    let rules = source_tree().join(ALERTS);
    promtool_on(&["test", "rules"], &json!({"rule_files": [rules], "evaluation_interval": "1m", "tests": tests}));
}

/// Checks that an alert's texts contain the name of the service.
#[test]
fn an_alert_names_the_service() {
    let mut series = healthy();
    series.retain(|name, _| !name.contains("onionbalance_publisher"));
    let mut test = test("words", &series, Vec::new());
    test["alert_rule_test"] = json!([{
        "eval_time": "6m", "alertname": "OnionbalanceNobodyPublishes",
        "exp_alerts": [{
            "exp_labels": {"severity": "critical", "namespace": "shop", "onion_service": "web"},
            "exp_annotations": {
                "summary": "shop/web: no publisher publishes its descriptor",
                "description": "The descriptor on the HSDirs becomes stale, and changes to the backends do not reach clients. Check \
                    the Deployment web-frontend, the log of its publisher, and the object's condition Published.",
                "runbook_url": "docs/operations.md#nobody-publishes",
            },
        }],
    }]);
    let rules = source_tree().join(ALERTS);
    promtool_on(&["test", "rules"], &json!({"rule_files": [rules], "evaluation_interval": "1m", "tests": [test]}));
}
