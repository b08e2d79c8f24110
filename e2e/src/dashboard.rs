//! The Prometheus queries of the chart's Grafana dashboard.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::state::source_tree;

/// A query of a dashboard panel, as Grafana sends it to Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The panel's title.
    pub panel: String,
    /// The query expression, with the dashboard's variables replaced.
    pub text: String,
}

/// Returns all queries of the dashboard. `namespace` and `service` are the regular expressions that
/// replace the dashboard's variables of the same names.
pub fn queries(namespace: &str, service: &str) -> Result<Vec<Query>> {
    let file = source_tree().join("charts/onionbalance-operator/files/dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().context("the dashboard has no panels")? {
        let title = panel["title"].as_str().context("a panel has no title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = target["expr"].as_str().context("a target has no expr")?;
            let values = [("$namespace", namespace), ("$service", service), ("$__rate_interval", "1m")];
            let text = values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
            ensure!(!text.contains('$'), "the panel {title:?} uses a variable that this test does not replace: {text}");
            found.push(Query { panel: title.to_owned(), text });
        }
    }
    Ok(found)
}
