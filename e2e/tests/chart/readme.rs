//! Checks that the table of values in the chart's README matches `values.yaml`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::helm::{documents, read};

#[test]
fn the_readme_lists_every_value_with_its_default() {
    let values = &documents(&read("charts/onionbalance-operator/values.yaml"))[0];
    let readme = read("charts/onionbalance-operator/README.md");
    let table: BTreeMap<&str, Value> = readme.lines().filter_map(row).collect();
    for (path, default) in &table {
        let value = path.split('.').fold(values, |value, key| &value[key]);
        assert_eq!(value, default, "{path}");
    }
    let mut missing = Vec::new();
    find_missing(values, "", &table, &mut missing);
    assert!(missing.is_empty(), "these values are missing from the README's table: {missing:?}");
}

/// Returns the path and the default value in a row of the table.
fn row(line: &str) -> Option<(&str, Value)> {
    let mut cells = line.strip_prefix("| `")?.splitn(3, " | ");
    let path = cells.next()?.strip_suffix('`')?;
    let default = cells.next()?.trim_matches('`');
    Some((path, serde_json::from_str(default).unwrap_or_else(|error| panic!("{path}: {error}"))))
}

fn find_missing(value: &Value, path: &str, table: &BTreeMap<&str, Value>, missing: &mut Vec<String>) {
    if table.contains_key(path) {
        return;
    }
    match value.as_object().filter(|map| !map.is_empty()) {
        Some(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                find_missing(value, &path, table, missing);
            }
        }
        None => missing.push(path.to_owned()),
    }
}
