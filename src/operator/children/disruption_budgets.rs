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
/// cannot keep a node from being drained. A pod that is not ready may always be evicted where the
/// API server supports this: such a pod serves nobody, and could otherwise block the drain forever.
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
            unhealthy_pod_eviction_policy: inputs
                .fields()
                .unhealthy_pod_eviction_policy
                .then(|| "AlwaysAllow".to_owned()),
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
        fixture.environment.served.fields.unhealthy_pod_eviction_policy = false;
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

    #[test]
    fn a_pod_that_is_not_ready_may_be_evicted_where_the_server_supports_it() {
        let mut fixture = Fixture::new();
        let policy = |fixture: &Fixture, component| {
            let budget = fixture.child(&format!("PodDisruptionBudget web-{component}"));
            budget["spec"].get("unhealthyPodEvictionPolicy").cloned()
        };
        for component in ["backend", "frontend"] {
            fixture.environment.served.fields.unhealthy_pod_eviction_policy = true;
            assert_eq!(policy(&fixture, component), Some(json!("AlwaysAllow")));
            fixture.environment.served.fields.unhealthy_pod_eviction_policy = false;
            assert_eq!(policy(&fixture, component), None);
        }
    }
}
