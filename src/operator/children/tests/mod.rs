//! Tests of the owned objects as a whole, and the fixture that the builders' own tests use.

mod admission_policy;
mod golden;
pub mod support;

use super::*;
use crate::operator::served::{Fields, PolicyVersion, Served};
use support::{Fixture, all_children};

/// Returns the fields of a service whose publishers accept requests to close circuits.
pub fn closing_circuits() -> Value {
    serde_json::json!({
        "ports": [{"port": 80, "target": {"address": "a:1"}, "proxyProtocol": "v1"}], "backends": {"circuitLimits": {}},
    })
}

#[test]
fn ids_lists_exactly_the_children_in_the_order_in_which_they_are_applied() {
    let restricted = serde_json::json!({"restrictedDiscovery": {"secretName": "clients"}});
    let fixture = Fixture::of(&restricted);
    let built: Vec<_> = all_children(&fixture.inputs()).into_iter().map(|child| child.id).collect();
    assert_eq!(built, ids(&fixture.object, &fixture.environment));
    assert_eq!(built.len(), 17);
    assert!(built.iter().any(|id| id.to_string() == "ConfigMap web-authorized-clients"));
    let fixture = Fixture::of(&closing_circuits());
    let built: Vec<_> = all_children(&fixture.inputs()).into_iter().map(|child| child.id).collect();
    assert_eq!(built, ids(&fixture.object, &fixture.environment));
    assert_eq!(built.len(), 17);
    assert!(built.iter().any(|id| id.to_string() == "Secret web-circuit-token"));
    let fixture = Fixture::new();
    let built: Vec<_> = all_children(&fixture.inputs()).into_iter().map(|child| child.id).collect();
    assert_eq!(built, ids(&fixture.object, &fixture.environment));
    assert_eq!(built.len(), 16);
    let kinds = |stage| children(&fixture.inputs(), stage).unwrap().into_iter().map(|child| child.id.kind);
    assert!(kinds(Stage::Prerequisites).all(|kind| kind < Kind::RoleBinding));
    assert!(kinds(Stage::RoleBindings).all(|kind| kind == Kind::RoleBinding));
    assert!(kinds(Stage::Deployments).all(|kind| kind == Kind::Deployment));
}

#[test]
fn a_kind_that_is_disabled_or_not_served_is_not_built() {
    let mut fixture = Fixture::new();
    fixture.environment.settings.network_policies = None;
    fixture.environment.served.disruption_budgets = None;
    let built: Vec<_> = all_children(&fixture.inputs()).into_iter().map(|child| child.id).collect();
    assert_eq!(built, ids(&fixture.object, &fixture.environment));
    assert_eq!(built.len(), 12);
    let kinds = Kind::all(Served { disruption_budgets: None, fields: Fields::default() });
    assert!(!kinds.contains(&Kind::PodDisruptionBudget(PolicyVersion::V1)));
}

#[test]
fn only_the_pods_of_a_withheld_component_are_not_configured() {
    let fixture = Fixture::new();
    let all: Vec<_> = all_children(&fixture.inputs()).into_iter().map(|child| child.id.to_string()).collect();
    for component in [Component::Backend, Component::Frontend] {
        let inputs = Inputs { withheld: &[component], ..fixture.inputs() };
        let built: Vec<_> = all_children(&inputs).into_iter().map(|child| child.id.to_string()).collect();
        let name = component.child_name("web");
        let missing: Vec<_> = all.iter().filter(|id| !built.contains(id)).cloned().collect();
        assert_eq!(missing, [format!("ConfigMap {name}"), format!("Deployment {name}")]);
    }
}

#[test]
fn without_a_key_only_the_secrets_and_the_copy_of_the_clients_are_missing() {
    let fixture = Fixture::of(&serde_json::json!({"restrictedDiscovery": {"secretName": "clients"}}));
    let names =
        |inputs: &Inputs<'_>| all_children(inputs).into_iter().map(|child| child.id.to_string()).collect::<Vec<_>>();
    let built = names(&Inputs { token: None, ..fixture.inputs() });
    let missing: Vec<_> = names(&fixture.inputs()).into_iter().filter(|name| !built.contains(name)).collect();
    assert_eq!(missing, ["Secret web-agent-token", "Secret web-guards", "ConfigMap web-authorized-clients"]);
}

#[test]
fn an_older_server_gets_no_optional_field() {
    let mut fixture = Fixture::new();
    let known = ["terminationGracePeriodSeconds\":2", "matchLabelKeys", "unhealthyPodEvictionPolicy"];
    let used = |fixture: &Fixture| {
        let manifests = all_children(&fixture.inputs()).into_iter().map(|child| child.manifest.to_string());
        let text: String = manifests.collect();
        known.map(|field| text.matches(field).count())
    };
    // The probes of the agent, of the publisher and of the frontend's tor; two Deployments; two
    // budgets.
    assert_eq!(used(&fixture), [3, 2, 2]);
    fixture.environment.served.fields = Fields::default();
    assert_eq!(used(&fixture), [0, 0, 0]);
}

#[test]
fn each_child_has_the_labels_owner_and_namespace_of_its_service() {
    let restricted = serde_json::json!({"restrictedDiscovery": {"secretName": "clients"}});
    for child in all_children(&Fixture::of(&restricted).inputs()) {
        let metadata = &child.manifest["metadata"];
        assert_eq!(metadata["namespace"], "shop", "{}", child.id);
        assert_eq!(metadata["labels"]["onionbalance.dev/service"], "web", "{}", child.id);
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "onionbalance-operator", "{}", child.id);
        if child.id.to_string() == "Secret web-guards" {
            continue;
        }
        assert_eq!(metadata["ownerReferences"][0]["uid"], "uid-of-web", "{}", child.id);
        assert_eq!(metadata["ownerReferences"][0]["controller"], true, "{}", child.id);
    }
}

#[test]
fn no_child_contains_the_master_key() {
    let fixture = Fixture::new();
    let file = fixture.key.to_tor_secret_key_file();
    let base64 = data_encoding::BASE64.encode(&file);
    let hexadecimal = data_encoding::HEXLOWER.encode(&file[32..64]);
    for child in all_children(&fixture.inputs()) {
        let text = child.manifest.to_string();
        assert!(!text.contains(&base64[50..100]) && !text.contains(&hexadecimal), "{}", child.id);
    }
}
