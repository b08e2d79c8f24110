//! Names and labels of an object's children: what operator and publisher must agree on.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use super::OnionBalancedService;

/// Label: the object that a child belongs to.
pub const SERVICE_LABEL: &str = "onionbalance.dev/service";
/// Label: backend or frontend.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Label: the object that a child belongs to, as tools know it.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Label: who made it.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "onionbalance-operator";
/// Label and annotation keys with this prefix are ours.
pub const OUR_PREFIX: &str = "onionbalance.dev/";
/// The recommended labels are ours too: selectors and queries of the whole cluster rely on them.
pub const RECOMMENDED_PREFIX: &str = "app.kubernetes.io/";

/// The longest name an object may have: `<name>-frontend` must be a DNS label of at most 63 characters.
pub const MAX_NAME_LENGTH: usize = 63 - "-frontend".len();

/// One of the two kinds of pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// tor and the agent.
    Backend,
    /// tor and the publisher.
    Frontend,
}

impl Component {
    /// Its name, as in labels and in children's names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Frontend => "frontend",
        }
    }

    /// `<service>-backend`, `<service>-frontend`: the name of most children, and of the frontend's Lease.
    pub fn child_name(self, service: &str) -> String {
        format!("{service}-{}", self.as_str())
    }
}

/// The Secret of the agent token.
pub fn agent_token_secret(service: &str) -> String {
    format!("{service}-agent-token")
}

const MASTER_KEY_SUFFIX: &str = "-master-key";

/// The Secret of the master key where `spec.masterKey.secretName` is unset.
pub fn default_master_key_secret(service: &str) -> String {
    format!("{service}{MASTER_KEY_SUFFIX}")
}

/// The Secret of the master key.
pub fn master_key_secret(object: &OnionBalancedService) -> String {
    object.spec.master_key.secret_name.clone().unwrap_or_else(|| default_master_key_secret(&object.name_any()))
}

/// Whether it names this Secret as that of its master key.
pub fn is_master_key_secret(object: &OnionBalancedService, secret: &str) -> bool {
    match &object.spec.master_key.secret_name {
        Some(name) => name == secret,
        None => secret.strip_suffix(MASTER_KEY_SUFFIX) == object.metadata.name.as_deref(),
    }
}

/// Whether both name one Secret as that of their master key. Asked of each two of all objects.
pub fn same_master_key_secret(one: &OnionBalancedService, other: &OnionBalancedService) -> bool {
    let same = || match (&one.spec.master_key.secret_name, &other.spec.master_key.secret_name) {
        (None, None) => one.metadata.name == other.metadata.name,
        (Some(secret), _) => is_master_key_secret(other, secret),
        (None, Some(secret)) => is_master_key_secret(one, secret),
    };
    one.metadata.namespace == other.metadata.namespace && same()
}

/// The Secret of the authorized clients, if one is named.
pub fn clients_secret(object: &OnionBalancedService) -> Option<&str> {
    object.spec.restricted_discovery.as_ref()?.secret_name.as_deref()
}

/// The labels of everything that belongs to `service`; those of a component where it belongs to one.
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

/// Whether labels say that it was made for `service`.
pub fn is_labelled(labels: Option<&BTreeMap<String, String>>, service: &str) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    label(MANAGED_BY_LABEL) == Some(MANAGED_BY) && label(SERVICE_LABEL) == Some(service)
}

/// What selects the pods of a component. Immutable in a Deployment, so never to be changed.
pub fn pod_labels(service: &str, component: Component) -> BTreeMap<String, String> {
    BTreeMap::from([
        (COMPONENT_LABEL.to_owned(), component.as_str().to_owned()),
        (SERVICE_LABEL.to_owned(), service.to_owned()),
    ])
}

/// [`pod_labels`] as a selector: for a watch, and for `status.selector`.
pub fn pod_selector(service: &str, component: Component) -> String {
    let labels = pod_labels(service, component);
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selector_of_the_architecture_page() {
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
