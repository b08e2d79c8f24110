//! The publisher's permissions. For its own service, the publisher may read the pods, the
//! `OnionBalancedService` and the Secret of the authorized clients, write the status, and hold the
//! Lease. It has no other permissions.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::{Resource as _, ResourceExt as _};

use super::Inputs;
use crate::crd::OnionBalancedService;
use crate::crd::names::{self, Component};

/// Builds the Role of the publisher.
pub(super) fn role(inputs: &Inputs<'_>) -> Role {
    let service = inputs.name();
    let lease = Component::Frontend.child_name(&service);
    let group = OnionBalancedService::group(&());
    let mut rules = vec![
        rule("", "pods", &["list", "watch"], None),
        rule(&group, "onionbalancedservices", &["list", "watch"], Some(&service)),
        rule(&group, "onionbalancedservices/status", &["patch"], Some(&service)),
        // Creation cannot be restricted by name, because the authorizer does not see the request
        // body.
        rule("coordination.k8s.io", "leases", &["create"], None),
        rule("coordination.k8s.io", "leases", &["get", "update"], Some(&lease)),
    ];
    // The Secret is watched rather than mounted, so that a change takes effect immediately and a
    // missing Secret does not keep the pod from starting.
    rules.extend(names::clients_secret(inputs.object).map(|name| rule("", "secrets", &["list", "watch"], Some(name))));
    Role { metadata: inputs.component_metadata(Component::Frontend), rules: Some(rules) }
}

fn rule(group: &str, resource: &str, verbs: &[&str], name: Option<&str>) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: name.map(|name| vec![name.to_owned()]),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    }
}

/// Builds the `RoleBinding` of the publisher.
pub(super) fn role_binding(inputs: &Inputs<'_>) -> RoleBinding {
    let name = Component::Frontend.child_name(&inputs.name());
    RoleBinding {
        metadata: inputs.component_metadata(Component::Frontend),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: inputs.object.namespace(),
            ..Subject::default()
        }]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::operator::children::tests::support::Fixture;

    #[test]
    fn the_role_grants_exactly_these_permissions() {
        let obs = "onionbalance.dev";
        assert_eq!(
            Fixture::new().child("Role web-frontend")["rules"],
            json!([
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
                {"apiGroups": [obs], "resources": ["onionbalancedservices"], "resourceNames": ["web"], "verbs": ["list", "watch"]},
                {"apiGroups": [obs], "resources": ["onionbalancedservices/status"], "resourceNames": ["web"], "verbs": ["patch"]},
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
                {
                    "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["web-frontend"],
                    "verbs": ["get", "update"],
                },
            ])
        );
    }

    #[test]
    fn the_only_readable_secret_is_that_of_the_authorized_clients() {
        let role = Fixture::of(&json!({"restrictedDiscovery": {"secretName": "clients"}})).child("Role web-frontend");
        let secrets: Vec<_> =
            role["rules"].as_array().unwrap().iter().filter(|rule| rule["resources"] == json!(["secrets"])).collect();
        let expected = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["clients"], "verbs": ["list", "watch"]});
        assert_eq!(secrets, [&expected]);
    }

    #[test]
    fn only_the_frontends_account_has_the_role() {
        let binding = Fixture::new().child("RoleBinding web-frontend");
        assert_eq!(binding["roleRef"]["name"], "web-frontend");
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "web-frontend", "namespace": "shop"}])
        );
    }
}
