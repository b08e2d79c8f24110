//! The chart's Grafana dashboard: what it asks Prometheus.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::state::source_tree;

/// A query of a panel, as Grafana sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The panel's title.
    pub panel: String,
    /// What Prometheus is asked.
    pub text: String,
}

/// All queries, with these regular expressions for the variables `namespace` and `service`.
pub fn queries(namespace: &str, service: &str) -> Result<Vec<Query>> {
    let file = source_tree().join("charts/onionbalance-operator/files/dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().context("panels")? {
        let title = panel["title"].as_str().context("a title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = target["expr"].as_str().context("a query")?;
            let values = [("$namespace", namespace), ("$service", service), ("$__rate_interval", "1m")];
            let text = values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
            ensure!(!text.contains('$'), "{title}: a variable that is not known here: {text}");
            found.push(Query { panel: title.to_owned(), text });
        }
    }
    Ok(found)
}
