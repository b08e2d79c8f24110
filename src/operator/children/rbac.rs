//! The publisher's permissions. For its own service, the publisher may read the pods, the
//! `OnionBalancedService` and the operator's copy of the authorized clients, write the status, and
//! hold the Lease. If the pods share guards or vanguards, it may also read and write the Secret of
//! the guards, which the operator creates. It has no other permissions. In particular, it cannot
//! read any Secret that a user names, because everyone who can run a program in its pod has its
//! permissions.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::{Resource as _, ResourceExt as _};

use super::Inputs;
use crate::crd::OnionBalancedService;
use crate::crd::names::{self, Component};

/// Builds the Role of the publisher. Nothing in the spec adds a rule, so a user cannot extend the
/// permissions by naming other objects.
pub(super) fn role(inputs: &Inputs<'_>) -> Role {
    let service = inputs.name();
    let lease = Component::Frontend.child_name(&service);
    let group = OnionBalancedService::group(&());
    let guards = names::guards_secret(&service);
    let mut rules = vec![
        rule("", "pods", &["list", "watch"], None),
        rule(&group, "onionbalancedservices", &["list", "watch"], Some(&service)),
        rule(&group, "onionbalancedservices/status", &["patch"], Some(&service)),
        // Creation cannot be restricted by name, because the authorizer does not see the request
        // body.
        rule("coordination.k8s.io", "leases", &["create"], None),
        rule("coordination.k8s.io", "leases", &["get", "update"], Some(&lease)),
        // The copy is watched rather than mounted, so that a change takes effect immediately.
        rule("", "configmaps", &["list", "watch"], Some(&names::authorized_clients(&service))),
    ];
    // A user may have given the guards' name to a Secret with another content.
    let is_named = names::is_master_key_secret(inputs.object, &guards);
    let is_named = is_named || names::clients_secret(inputs.object) == Some(&*guards);
    let is_kept = inputs.shares_guards() || inputs.shares_vanguards();
    if is_kept && !inputs.guards_taken && !is_named {
        rules.push(rule("", "secrets", &["get", "patch"], Some(&guards)));
    }
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
    use serde_json::{Value, json};

    use crate::operator::children::Inputs;
    use crate::operator::children::tests::support::{Fixture, all_children};

    /// Returns the fixture of a service whose pods share their guards.
    fn sharing(spec: &Value) -> Fixture {
        let mut fixture = Fixture::of(spec);
        fixture.environment.settings.tor_extra_config = String::new();
        fixture
    }

    fn rules(inputs: &Inputs<'_>) -> Value {
        let children = all_children(inputs);
        let role = children.into_iter().find(|child| child.id.to_string() == "Role web-frontend");
        role.unwrap().manifest["rules"].take()
    }

    #[test]
    fn the_role_grants_exactly_these_permissions() {
        let obs = "onionbalance.dev";
        assert_eq!(
            rules(&sharing(&json!({})).inputs()),
            json!([
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
                {"apiGroups": [obs], "resources": ["onionbalancedservices"], "resourceNames": ["web"], "verbs": ["list", "watch"]},
                {"apiGroups": [obs], "resources": ["onionbalancedservices/status"], "resourceNames": ["web"], "verbs": ["patch"]},
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
                {
                    "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["web-frontend"],
                    "verbs": ["get", "update"],
                },
                {
                    "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["web-authorized-clients"],
                    "verbs": ["list", "watch"],
                },
                {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["web-guards"], "verbs": ["get", "patch"]},
            ])
        );
    }

    /// Everyone who may run a program in a frontend pod can use the publisher's token.
    #[test]
    fn no_spec_lets_the_publisher_read_a_secret_or_any_other_object_that_the_spec_names() {
        let rules = |spec| rules(&sharing(&spec).inputs());
        let plain = rules(json!({}));
        let secrets = plain.as_array().unwrap().iter().filter(|rule| rule.to_string().contains("secrets"));
        let names: Vec<_> = secrets.map(|rule| rule["resourceNames"].clone()).collect();
        assert_eq!(names, [json!(["web-guards"])]);
        for spec in [
            json!({"restrictedDiscovery": {"secretName": "web-guards"}}),
            json!({"masterKey": {"secretName": "web-guards"}}),
        ] {
            let rules = rules(spec.clone());
            assert!(!rules.to_string().contains("secrets"), "{spec}: {rules}");
        }
        for spec in [
            json!({"restrictedDiscovery": {"secretName": "clients"}}),
            json!({"masterKey": {"secretName": "mine"}}),
            json!({"ports": [{"port": 80, "target": {"service": {"name": "pods", "port": 80}}}]}),
            json!({"frontend": {"template": {"imagePullSecrets": [{"name": "pull"}]}}}),
        ] {
            assert_eq!(rules(spec.clone()), plain, "{spec}");
        }
    }

    #[test]
    fn a_publisher_that_keeps_no_guards_can_read_no_secret() {
        let grants = |inputs: &Inputs<'_>| rules(inputs).to_string().contains("secrets");
        let fixture = sharing(&json!({}));
        assert!(grants(&fixture.inputs()));
        assert!(!grants(&Inputs { guards_taken: true, ..fixture.inputs() }), "the Secret is somebody else's");
        assert!(!grants(&sharing(&json!({"anonymity": {"guards": "PerPod"}})).inputs()));
        assert!(grants(&sharing(&json!({"anonymity": {"guards": "PerPod", "vanguards": "Full"}})).inputs()));
        assert!(!grants(&Fixture::new().inputs()), "the tors use bridges");
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
