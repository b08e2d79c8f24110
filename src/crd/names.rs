//! The names and labels of an `OnionBalancedService`'s owned objects, which the operator and the
//! publisher must agree on.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use super::OnionBalancedService;

/// The label that names the `OnionBalancedService` to which an owned object belongs.
pub const SERVICE_LABEL: &str = "onionbalance.dev/service";
/// The label that holds the component of an owned object: `backend` or `frontend`.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// The recommended Kubernetes label that names the `OnionBalancedService` of an owned object.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// The recommended Kubernetes label that names the tool that manages an owned object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "onionbalance-operator";
/// The prefix of label and annotation keys that are reserved for the operator.
pub const OUR_PREFIX: &str = "onionbalance.dev/";
/// The prefix of the recommended Kubernetes labels. These are also reserved, because selectors and
/// cluster-wide queries rely on them.
pub const RECOMMENDED_PREFIX: &str = "app.kubernetes.io/";

/// The maximum length of an object's name in characters. `<name>-frontend` must be a DNS label of
/// at most 63 characters.
pub const MAX_NAME_LENGTH: usize = 63 - "-frontend".len();

/// One of the two kinds of pods of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// A pod with tor and the agent.
    Backend,
    /// A pod with tor and the publisher.
    Frontend,
}

impl Component {
    /// Returns the component's name as used in labels and in the names of owned objects.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Frontend => "frontend",
        }
    }

    /// Returns `<service>-backend` or `<service>-frontend`, the name of most owned objects and of
    /// the publishers' Lease.
    pub fn child_name(self, service: &str) -> String {
        format!("{service}-{}", self.as_str())
    }
}

/// Returns the name of the Secret that holds the agent token.
pub fn agent_token_secret(service: &str) -> String {
    format!("{service}-agent-token")
}

/// Returns the name of the Secret with the token for the app's requests to close circuits.
pub fn circuit_token_secret(service: &str) -> String {
    format!("{service}-circuit-token")
}

/// Returns the name of the Secret that holds the entry guards that all tors of the service share.
pub fn guards_secret(service: &str) -> String {
    format!("{service}-guards")
}

/// Returns the name of the `ConfigMap` that holds the operator's copy of the authorized clients.
pub fn authorized_clients(service: &str) -> String {
    format!("{service}-authorized-clients")
}

const MASTER_KEY_SUFFIX: &str = "-master-key";

/// Returns the name of the Secret that holds the master key if `spec.masterKey.secretName` is
/// absent.
pub fn default_master_key_secret(service: &str) -> String {
    format!("{service}{MASTER_KEY_SUFFIX}")
}

/// Returns the name of the Secret that holds the master key of `object`.
pub fn master_key_secret(object: &OnionBalancedService) -> String {
    object.spec.master_key.secret_name.clone().unwrap_or_else(|| default_master_key_secret(&object.name_any()))
}

/// Returns true if `object` keeps its master key in this Secret.
pub fn is_master_key_secret(object: &OnionBalancedService, secret: &str) -> bool {
    match &object.spec.master_key.secret_name {
        Some(name) => name == secret,
        None => secret.strip_suffix(MASTER_KEY_SUFFIX) == object.metadata.name.as_deref(),
    }
}

/// Returns true if both objects keep their master key in the same Secret.
///
/// The operator calls this function for every pair of objects, so it must not allocate.
pub fn same_master_key_secret(one: &OnionBalancedService, other: &OnionBalancedService) -> bool {
    let same = || match (&one.spec.master_key.secret_name, &other.spec.master_key.secret_name) {
        (None, None) => one.metadata.name == other.metadata.name,
        (Some(secret), _) => is_master_key_secret(other, secret),
        (None, Some(secret)) => is_master_key_secret(one, secret),
    };
    one.metadata.namespace == other.metadata.namespace && same()
}

/// Returns the name of the user's Secret that holds the authorized clients, if the spec names one.
pub fn clients_secret(object: &OnionBalancedService) -> Option<&str> {
    object.spec.restricted_discovery.as_ref()?.secret_name.as_deref()
}

/// Returns the labels for an object that belongs to `service`, including the component label if
/// there is a component.
pub fn labels(service: &str, component: Option<Component>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "onionbalance".to_owned()),
        (INSTANCE_LABEL.to_owned(), service.to_owned()),
        (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
        (SERVICE_LABEL.to_owned(), service.to_owned()),
    ]);
    if let Some(component) = component {
        labels.insert(COMPONENT_LABEL.to_owned(), component.as_str().to_owned());
    }
    labels
}

/// Returns true if the labels mark an object as created by the operator for `service`.
pub fn is_labelled(labels: Option<&BTreeMap<String, String>>, service: &str) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    label(MANAGED_BY_LABEL) == Some(MANAGED_BY) && label(SERVICE_LABEL) == Some(service)
}

/// Returns the labels that select the pods of a component. A Deployment's selector is immutable, so
/// these labels must never change.
pub fn pod_labels(service: &str, component: Component) -> BTreeMap<String, String> {
    BTreeMap::from([
        (COMPONENT_LABEL.to_owned(), component.as_str().to_owned()),
        (SERVICE_LABEL.to_owned(), service.to_owned()),
    ])
}

/// Returns [`pod_labels`] as a label selector for watches and for `status.selector`.
pub fn pod_selector(service: &str, component: Component) -> String {
    let labels = pod_labels(service, component);
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selector_matches_the_documentation() {
        assert_eq!(
            pod_selector("web", Component::Backend),
            "app.kubernetes.io/component=backend,onionbalance.dev/service=web"
        );
    }

    #[test]
    fn pods_carry_the_labels_that_select_them() {
        for component in [Component::Backend, Component::Frontend] {
            let labels = labels("web", Some(component));
            assert!(pod_labels("web", component).iter().all(|(key, value)| labels.get(key) == Some(value)));
        }
    }

    #[test]
    fn the_longest_name_gives_children_of_63_characters() {
        let name = "a".repeat(MAX_NAME_LENGTH);
        assert_eq!(Component::Frontend.child_name(&name).len(), 63);
        assert!(Component::Backend.child_name(&name).len() <= 63);
    }
}
