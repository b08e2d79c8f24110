//! The `PodDisruptionBudget`s, which limit how many pods may be evicted at the same time, for
//! example when a node is drained.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::Inputs;
use crate::crd::names::{self, Component};

/// Builds the `PodDisruptionBudget` of a component, which allows the disruption of one frontend, or
/// of a quarter of the backends (rounded up). It never forbids all evictions, so that a single pod
/// cannot keep a node from being drained. The field `unhealthyPodEvictionPolicy` is not set,
/// because older API servers reject it.
pub(super) fn budget(inputs: &Inputs<'_>, component: Component) -> Result<Value, serde_json::Error> {
    let max_unavailable = match component {
        Component::Backend => IntOrString::String("25%".to_owned()),
        Component::Frontend => IntOrString::Int(1),
    };
    serde_json::to_value(PodDisruptionBudget {
        metadata: inputs.component_metadata(component),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(max_unavailable),
            selector: Some(LabelSelector {
                match_labels: Some(names::pod_labels(&inputs.name(), component)),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::operator::children::tests::support::Fixture;
    use crate::operator::served::PolicyVersion;

    #[test]
    fn a_budget_has_the_served_version_and_allows_an_eviction() {
        let mut fixture = Fixture::new();
        for (version, name) in [(PolicyVersion::V1, "policy/v1"), (PolicyVersion::V1Beta1, "policy/v1beta1")] {
            fixture.environment.served.disruption_budgets = Some(version);
            for (component, most) in [("backend", json!("25%")), ("frontend", json!(1))] {
                let budget = fixture.child(&format!("PodDisruptionBudget web-{component}"));
                assert_eq!(budget["apiVersion"], name);
                let labels = json!({"app.kubernetes.io/component": component, "onionbalance.dev/service": "web"});
                assert_eq!(budget["spec"], json!({"maxUnavailable": most, "selector": {"matchLabels": labels}}));
            }
        }
    }
}
