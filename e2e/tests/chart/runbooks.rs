//! Checks that each alert links to a section of the documentation that explains the alert.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::helm::{documents, read, render, the};

const ALERTS: &str = "charts/onionbalance-operator/files/alerts.yaml";

/// Returns the name and the `runbook_url` of each alert in a list of rule groups.
fn links(groups: &Value) -> BTreeMap<String, String> {
    let rules = groups.as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    rules
        .map(|rule| {
            let name = text(&rule["alert"]).unwrap();
            let link = text(&rule["annotations"]["runbook_url"]);
            (name.clone(), link.unwrap_or_else(|| panic!("{name} has no runbook_url")))
        })
        .collect()
}

/// Returns the text of each section of a page, by the anchor that GitHub generates for its heading.
/// The text ends at the next heading.
fn sections(page: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in format!("\n{page}").split("\n#").skip(1) {
        let (heading, text) = part.split_once('\n').unwrap_or((part, ""));
        let Some(heading) = heading.trim_start_matches('#').strip_prefix(' ') else { continue };
        let mut anchor = heading.to_lowercase().replace(' ', "-");
        anchor.retain(|c| c.is_alphanumeric() || "-_".contains(c));
        found.insert(anchor, text.to_owned());
    }
    found
}

#[test]
fn each_alert_links_to_a_section_that_names_the_alert() {
    let links = links(&documents(&read(ALERTS))[0]["groups"]);
    let mut faults = Vec::new();
    for (alert, link) in &links {
        let (page, anchor) = link.split_once('#').unwrap_or_else(|| panic!("{alert}: {link} names no section"));
        assert!(page.starts_with("docs/"), "{alert}: {link} must begin with the folder that the chart replaces");
        let names_the_alert = |text: &String| text.contains(&format!("`{alert}`"));
        if !sections(&read(page)).get(anchor).is_some_and(names_the_alert) {
            faults.push(format!("{alert}: {link}"));
        }
    }
    assert!(faults.is_empty(), "these links lead to no section, or to one that lacks the alert's name: {faults:#?}");
    assert!(links.len() > 20, "{links:?}");
}

/// Checks that the pages name no alert that was renamed or removed.
#[test]
fn the_pages_name_only_existing_alerts() {
    let links = links(&documents(&read(ALERTS))[0]["groups"]);
    for page in ["docs/operations.md", "docs/offline-key.md"] {
        let text = read(page);
        let quoted = text.split('`').skip(1).step_by(2);
        let is_alert = |word: &&str| word.starts_with("Onionbalance") && word.chars().all(char::is_alphanumeric);
        let unknown: BTreeSet<_> = quoted.filter(is_alert).filter(|name| !links.contains_key(*name)).collect();
        assert!(unknown.is_empty(), "{page} names alerts that do not exist: {unknown:?}");
    }
}

#[test]
fn the_links_begin_with_the_address_in_the_values() {
    let rendered = |docs: &str| {
        let objects = render(json!({"prometheusRule": {"enabled": true, "docsUrl": docs}}));
        links(&the(&objects, "PrometheusRule")["spec"]["groups"])
    };
    let address = "https://git.example.org/onionbalance/docs";
    let original = links(&documents(&read(ALERTS))[0]["groups"]);
    let expected: BTreeMap<_, _> =
        original.into_iter().map(|(alert, link)| (alert, link.replacen("docs", address, 1))).collect();
    assert_eq!(rendered(address), expected);
    assert_eq!(rendered(&format!("{address}/")), expected);
}

#[test]
fn sections_are_recognised() {
    let page = "# One `two`\na\n## Three, four\nb\nc\n#no\n";
    let expected = [("one-two", "a"), ("three-four", "b\nc")].map(|(anchor, text)| (anchor.into(), text.into()));
    assert_eq!(sections(page), BTreeMap::from(expected));
}
