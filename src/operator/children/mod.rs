//! The child objects: one pure builder each. A child is wholly determined by its [`Inputs`].

mod config_map;
mod deployment_backend;
mod deployment_frontend;
mod disruption_budgets;
mod network_policies;
mod pod;
mod rbac;
mod secret_master_key;
mod secret_token;
mod service_accounts;
mod services;
mod torrc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

pub use secret_master_key::{GENERATED_ANNOTATION, SECRET_KEY_FILE, secret_master_key};

use super::drift::stamped;
use super::settings::Settings;
use crate::crd::OnionBalancedService;
use crate::crd::names::{self, Component};
use crate::link::{AgentConfigError, AgentToken, ForwardedPort};
use crate::onion::{MasterKey, OnionAddress};

/// A version of `PodDisruptionBudget`: `v1` came with Kubernetes 1.21, `v1beta1` went with 1.25. What we use of them is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyVersion {
    /// `policy/v1`.
    V1,
    /// `policy/v1beta1`.
    V1Beta1,
}

/// The kinds of children, in the order of applying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` `ServiceAccount`.
    ServiceAccount,
    /// `rbac.authorization.k8s.io/v1` `Role`.
    Role,
    /// `v1` `Secret`.
    Secret,
    /// `v1` `ConfigMap`.
    ConfigMap,
    /// `v1` `Service`.
    Service,
    /// `networking.k8s.io/v1` `NetworkPolicy`.
    NetworkPolicy,
    /// `policy` `PodDisruptionBudget`.
    PodDisruptionBudget(PolicyVersion),
    /// `rbac.authorization.k8s.io/v1` `RoleBinding`.
    RoleBinding,
    /// `apps/v1` `Deployment`.
    Deployment,
    /// `coordination.k8s.io/v1` `Lease`: made by the publishers, never applied.
    Lease,
}

impl Kind {
    /// All that an API server serves, in the order of applying.
    pub fn all(policy: Option<PolicyVersion>) -> Vec<Self> {
        let before =
            [Self::ServiceAccount, Self::Role, Self::Secret, Self::ConfigMap, Self::Service, Self::NetworkPolicy];
        before
            .into_iter()
            .chain(policy.map(Self::PodDisruptionBudget))
            .chain([Self::RoleBinding, Self::Deployment])
            .collect()
    }

    /// Those of one step can be applied at once. A `RoleBinding` is refused before the API server knows its `Role`, and pods need all.
    pub fn step(self) -> usize {
        match self {
            Self::RoleBinding => 1,
            Self::Deployment => 2,
            _ => 0,
        }
    }

    /// How many steps there are.
    pub const STEPS: usize = 3;

    /// Where the API server serves it.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::Role => ApiResource::erase::<Role>(&()),
            Self::RoleBinding => ApiResource::erase::<RoleBinding>(&()),
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::PodDisruptionBudget(version) => {
                let current = ApiResource::erase::<PodDisruptionBudget>(&());
                match version {
                    PolicyVersion::V1 => current,
                    PolicyVersion::V1Beta1 => ApiResource {
                        version: "v1beta1".to_owned(),
                        api_version: "policy/v1beta1".to_owned(),
                        ..current
                    },
                }
            }
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::Lease => ApiResource::erase::<Lease>(&()),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.resource().kind)
    }
}

/// Names a child.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ChildId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A child as it should be. Its manifest can hold a secret: no Debug.
#[derive(Clone, PartialEq)]
pub struct Child {
    /// Which.
    pub id: ChildId,
    /// What is applied.
    pub manifest: Value,
}

/// What the children are made from.
pub struct Inputs<'a> {
    /// The object.
    pub object: &'a OnionBalancedService,
    /// Images and the like.
    pub settings: &'a Settings,
    /// The public address.
    pub address: OnionAddress,
    /// Of the master key.
    pub token: &'a AgentToken,
    /// The ports, with their targets resolved.
    pub ports: &'a [ForwardedPort],
    /// The UID of the frontends' `ServiceAccount`; None until it is there.
    pub frontend_account: Option<&'a str>,
}

impl Inputs<'_> {
    fn name(&self) -> String {
        self.object.name_any()
    }

    fn metadata(&self, name: String, component: Option<Component>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: self.object.namespace(),
            labels: Some(names::labels(&self.name(), component)),
            owner_references: Some(vec![owner(self.object, true)]),
            ..ObjectMeta::default()
        }
    }

    fn component_metadata(&self, component: Component) -> ObjectMeta {
        self.metadata(component.child_name(&self.name()), Some(component))
    }
}

/// The children of a service, whatever its spec, in the order of applying.
pub fn ids(service: &str, settings: &Settings) -> Vec<ChildId> {
    let (backend, frontend) = (Component::Backend.child_name(service), Component::Frontend.child_name(service));
    let token = names::agent_token_secret(service);
    let optional = [
        settings.network_policies.is_some().then_some(Kind::NetworkPolicy),
        settings.disruption_budgets().map(Kind::PodDisruptionBudget),
    ];
    let optional = optional.into_iter().flatten().flat_map(|kind| [(kind, &backend), (kind, &frontend)]);
    [
        (Kind::ServiceAccount, &backend),
        (Kind::ServiceAccount, &frontend),
        (Kind::Role, &frontend),
        (Kind::Secret, &token),
        (Kind::ConfigMap, &backend),
        (Kind::ConfigMap, &frontend),
        (Kind::Service, &backend),
        (Kind::Service, &frontend),
    ]
    .into_iter()
    .chain(optional)
    .chain([(Kind::RoleBinding, &frontend), (Kind::Deployment, &backend), (Kind::Deployment, &frontend)])
    .map(|(kind, name)| ChildId { kind, name: name.clone() })
    .collect()
}

/// Why children cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The agent's configuration.
    #[error("the agent's configuration: {0}")]
    AgentConfig(#[from] AgentConfigError),
    /// An object that is no JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// The children as they should be, in the order of applying. The frontends' Deployment waits for their `ServiceAccount`.
pub fn children(inputs: &Inputs<'_>) -> Result<Vec<Child>, BuildError> {
    let backend_config = config_map::backend(inputs)?;
    let frontend_config = config_map::frontend(inputs);
    let backend_deployment = deployment_backend::deployment(inputs, &backend_config)?;
    let frontend_deployment = inputs
        .frontend_account
        .map(|account| deployment_frontend::deployment(inputs, &frontend_config, account))
        .transpose()?;
    let mut children = vec![
        child(Kind::ServiceAccount, &service_accounts::service_account(inputs, Component::Backend))?,
        child(Kind::ServiceAccount, &service_accounts::service_account(inputs, Component::Frontend))?,
        child(Kind::Role, &rbac::role(inputs))?,
        child(Kind::Secret, &secret_token::secret(inputs))?,
        child(Kind::ConfigMap, &backend_config)?,
        child(Kind::ConfigMap, &frontend_config)?,
        child(Kind::Service, &services::service(inputs, Component::Backend))?,
        child(Kind::Service, &services::service(inputs, Component::Frontend))?,
    ];
    if let Some(metrics_from) = &inputs.settings.network_policies {
        children.push(untyped(Kind::NetworkPolicy, network_policies::backend(inputs, metrics_from)?));
        children.push(untyped(Kind::NetworkPolicy, network_policies::frontend(inputs, metrics_from)?));
    }
    if let Some(version) = inputs.settings.disruption_budgets() {
        for component in [Component::Backend, Component::Frontend] {
            let budget = disruption_budgets::budget(inputs, component)?;
            children.push(untyped(Kind::PodDisruptionBudget(version), budget));
        }
    }
    children.push(child(Kind::RoleBinding, &rbac::role_binding(inputs))?);
    for manifest in [Some(backend_deployment), frontend_deployment].into_iter().flatten() {
        children.push(untyped(Kind::Deployment, manifest));
    }
    Ok(children)
}

/// The manifests as they are applied, in that order, the generated key's Secret first: so that a bare client can apply the same
/// (`onionbalance-bench scale`).
pub fn manifests(inputs: &Inputs<'_>, key: &MasterKey) -> Result<Vec<Value>, BuildError> {
    let mut manifests = vec![serde_json::to_value(secret_master_key(inputs.object, key))?];
    manifests.extend(children(inputs)?.iter().map(|child| stamped(&child.manifest)));
    Ok(manifests)
}

/// Of the version that the API server serves.
fn untyped(kind: Kind, mut manifest: Value) -> Child {
    manifest["apiVersion"] = kind.resource().api_version.into();
    let name = manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Child { id: ChildId { kind, name }, manifest }
}

fn child<T: Serialize + Resource>(kind: Kind, object: &T) -> Result<Child, serde_json::Error> {
    Ok(Child { id: ChildId { kind, name: object.name_any() }, manifest: serde_json::to_value(object)? })
}

/// A reference to the object as owner. Never with `blockOwnerDeletion`, which takes a right on its finalizers.
pub fn owner(object: &OnionBalancedService, controller: bool) -> OwnerReference {
    OwnerReference {
        api_version: OnionBalancedService::api_version(&()).into_owned(),
        kind: OnionBalancedService::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: controller.then_some(true),
        block_owner_deletion: None,
    }
}

/// SHA-256 of a text, in hexadecimal.
pub fn hash(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(text))
}

#[cfg(test)]
mod golden;
#[cfg(test)]
pub(super) mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_are_those_of_the_children() {
        let fixture = testing::Fixture::new();
        let built: Vec<_> = children(&fixture.inputs()).unwrap().into_iter().map(|child| child.id).collect();
        assert_eq!(built, ids("web", &fixture.settings));
        assert_eq!(built.len(), 15);
        assert!(built.is_sorted_by_key(|id| id.kind.step()) && built.iter().all(|id| id.kind.step() < Kind::STEPS));
    }

    #[test]
    fn what_is_switched_off_or_not_served_is_not_made() {
        let mut fixture = testing::Fixture::new();
        fixture.settings.network_policies = None;
        fixture.settings.policy = None;
        let built: Vec<_> = children(&fixture.inputs()).unwrap().into_iter().map(|child| child.id).collect();
        assert_eq!(built, ids("web", &fixture.settings));
        assert_eq!(built.len(), 11);
        assert!(!Kind::all(None).contains(&Kind::PodDisruptionBudget(PolicyVersion::V1)));
    }

    #[test]
    fn each_child_is_labelled_owned_and_of_the_objects_namespace() {
        let fixture = testing::Fixture::new();
        for child in children(&fixture.inputs()).unwrap() {
            let metadata = &child.manifest["metadata"];
            assert_eq!(metadata["namespace"], "shop", "{}", child.id);
            assert_eq!(metadata["labels"]["onionbalance.dev/service"], "web", "{}", child.id);
            assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "onionbalance-operator", "{}", child.id);
            assert_eq!(metadata["ownerReferences"][0]["uid"], "uid-of-web", "{}", child.id);
            assert_eq!(metadata["ownerReferences"][0]["controller"], true, "{}", child.id);
        }
    }

    #[test]
    fn the_master_key_is_in_no_child() {
        let fixture = testing::Fixture::new();
        let file = fixture.key.to_tor_secret_key_file();
        let base64 = data_encoding::BASE64.encode(&file);
        let hexadecimal = data_encoding::HEXLOWER.encode(&file[32..64]);
        for child in children(&fixture.inputs()).unwrap() {
            let text = child.manifest.to_string();
            assert!(!text.contains(&base64[50..100]) && !text.contains(&hexadecimal), "{}", child.id);
        }
    }
}
