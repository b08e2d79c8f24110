//! Label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// The labels of an object.
pub(super) type Labels = BTreeMap<String, String>;

/// Returns true if the selector selects an object with these labels. An empty selector selects
/// everything.
pub(super) fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let mut equal = selector.match_labels.iter().flatten();
    let mut required = selector.match_expressions.iter().flatten();
    equal.all(|(key, value)| labels.get(key) == Some(value)) && required.all(|requirement| holds(requirement, labels))
}

fn holds(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let label = labels.get(&requirement.key);
    let is_listed = label.is_some_and(|label| requirement.values.iter().flatten().any(|value| value == label));
    match requirement.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_operator_is_understood() {
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        let selects = |selector: Value| selects(&serde_json::from_value(selector).unwrap(), &labels);
        let expression = |key: &str, operator: &str, values: &[&str]| {
            let requirement = json!({"key": key, "operator": operator, "values": values});
            json!({"matchExpressions": [requirement]})
        };
        assert!(selects(json!({})) && selects(json!({"matchLabels": {"app": "web"}})));
        assert!(!selects(json!({"matchLabels": {"app": "web", "tier": "x"}})));
        for (key, operator, values, expected) in [
            ("app", "In", ["web", "x"], true),
            ("app", "In", ["y", "x"], false),
            ("app", "NotIn", ["web", "x"], false),
            ("tier", "NotIn", ["web", "x"], true),
        ] {
            assert_eq!(selects(expression(key, operator, &values)), expected, "{key} {operator}");
        }
        assert!(selects(expression("app", "Exists", &[])) && !selects(expression("tier", "Exists", &[])));
        assert!(!selects(expression("app", "DoesNotExist", &[])) && selects(expression("tier", "DoesNotExist", &[])));
    }
}
