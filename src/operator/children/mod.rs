//! The owned objects ("children") of a service. A pure function builds each of them from the
//! [`Inputs`] alone.

mod config_map;
mod config_map_clients;
mod deployment_backend;
mod deployment_frontend;
mod disruption_budgets;
mod kind;
mod last_good;
mod network_policies;
mod pod;
mod rbac;
mod secret_guards;
mod secret_master_key;
mod secret_token;
mod service_accounts;
mod services;
#[cfg(test)]
pub(super) mod tests;
mod torrc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;

pub use kind::{ChildId, Kind, Stage};
pub use last_good::{LAST_GOOD_ANNOTATION, LastGood};
pub use secret_master_key::{GENERATED_ANNOTATION, SECRET_KEY_FILE, SIGNING_KIT_FILE, secret_master_key};

use super::origin;
use super::served::Fields;
use super::settings::{Environment, Settings};
use super::stamp::stamped;
use crate::crd::clients::ClientList;
use crate::crd::names::{self, Component};
use crate::crd::{GuardMode, OnionBalancedService, ServerLocation, VanguardMode};
use crate::link::{AgentConfigError, AgentToken, ForwardedPort};
use crate::onion::{MasterKey, OnionAddress};

/// The desired state of an owned object. The manifest can contain a secret, so this type does not
/// implement `Debug`.
#[derive(Clone, PartialEq)]
pub struct Child {
    /// The kind and name of the owned object.
    pub id: ChildId,
    /// The manifest of the owned object, without the annotations that [`origin::marked`] and
    /// [`stamped`] add.
    pub manifest: Value,
}

/// Everything that the manifests of a service's owned objects depend on.
pub struct Inputs<'a> {
    /// The service that owns the objects.
    pub object: &'a OnionBalancedService,
    /// The operator's settings, and the optional APIs and fields of the API server.
    pub environment: &'a Environment,
    /// The public address of the service.
    pub address: OnionAddress,
    /// The token shared by the publishers and the agents. It is derived from the master key, so it
    /// is unknown if there is no usable key. Its Secret, the Secret of the guards and the copy of
    /// the authorized clients are then not built.
    pub token: Option<&'a AgentToken>,
    /// The service's ports, with resolved targets.
    pub ports: &'a [ForwardedPort],
    /// The content of the Secret of the authorized clients, if the Secret exists.
    pub clients: Option<&'a ClientList>,
    /// The UID of the frontends' `ServiceAccount`, or `None` if the account does not exist yet.
    pub frontend_account: Option<&'a str>,
    /// The components whose pods cannot be configured. Their `ConfigMap`s and Deployments are not
    /// built.
    pub withheld: &'a [Component],
    /// True if the Secret that has the name of the guards' Secret belongs to somebody else. The
    /// publishers must then not read or change this Secret.
    pub guards_taken: bool,
}

impl Inputs<'_> {
    fn name(&self) -> String {
        self.object.name_any()
    }

    fn settings(&self) -> &Settings {
        &self.environment.settings
    }

    fn fields(&self) -> Fields {
        self.environment.served.fields
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

    /// Returns true if all tors of the service share their guards. Backends whose location is
    /// exposed have no guards, and must not wait for any.
    fn shares_guards(&self) -> bool {
        let spec = &self.object.spec;
        if spec.anonymity.guards == GuardMode::PerPod || self.is_exposed() {
            return false;
        }
        let lines = [&self.settings().tor_extra_config, &spec.backends.extra_torrc, &spec.frontend.extra_torrc];
        torrc::shares_guards(lines.map(String::as_str))
    }

    /// Returns true if all tors of the service share their vanguards.
    fn shares_vanguards(&self) -> bool {
        self.object.spec.anonymity.vanguards == VanguardMode::Full && !self.is_exposed()
    }

    /// Returns true if the location of the backends is exposed.
    fn is_exposed(&self) -> bool {
        self.object.spec.anonymity.server_location == ServerLocation::Exposed
    }

    /// Returns the torrc lines for every tor of the service. A consensus that switches
    /// vanguards-lite off would make tor ignore the shared vanguards, too.
    fn lines_of_all_tors(&self) -> String {
        let lines = &self.settings().tor_extra_config;
        if self.shares_vanguards() { format!("{lines}\nVanguardsLiteEnabled 1") } else { lines.clone() }
    }

    /// Returns true if the publishers accept the app's requests to close circuits: circuits are
    /// limited, and the app of at least one port learns their addresses. A bad port counts with its
    /// last good value.
    fn closes_circuits(&self) -> bool {
        self.object.spec.backends.circuit_limits.is_some() && self.ports.iter().any(|port| port.proxy_header)
    }

    fn builds(&self, component: Component) -> bool {
        !self.withheld.contains(&component)
    }

    fn component_metadata(&self, component: Component) -> ObjectMeta {
        self.metadata(component.child_name(&self.name()), Some(component))
    }
}

/// Returns the kinds and names of all owned objects of a service, in the order in which they are
/// applied.
pub fn ids(object: &OnionBalancedService, environment: &Environment) -> Vec<ChildId> {
    let service = &object.name_any();
    let (backend, frontend) = (Component::Backend.child_name(service), Component::Frontend.child_name(service));
    let (token, guards) = (names::agent_token_secret(service), names::guards_secret(service));
    let circuit_token = object.spec.closes_circuits().then(|| names::circuit_token_secret(service));
    let clients = names::clients_secret(object).map(|_| names::authorized_clients(service));
    let optional = [
        environment.settings.network_policies.is_some().then_some(Kind::NetworkPolicy),
        environment.disruption_budgets().map(Kind::PodDisruptionBudget),
    ];
    let optional = optional.into_iter().flatten().flat_map(|kind| [(kind, &backend), (kind, &frontend)]);
    [
        (Kind::ServiceAccount, &backend),
        (Kind::ServiceAccount, &frontend),
        (Kind::Role, &frontend),
        (Kind::Secret, &token),
        (Kind::Secret, &guards),
    ]
    .into_iter()
    .chain(circuit_token.as_ref().map(|name| (Kind::Secret, name)))
    .chain(clients.as_ref().map(|name| (Kind::ConfigMap, name)))
    .chain([(Kind::ConfigMap, &backend), (Kind::ConfigMap, &frontend)])
    .chain([(Kind::Service, &backend), (Kind::Service, &frontend)])
    .chain(optional)
    .chain([(Kind::RoleBinding, &frontend), (Kind::Deployment, &backend), (Kind::Deployment, &frontend)])
    .map(|(kind, name)| ChildId { kind, name: name.clone() })
    .collect()
}

/// An error that keeps the owned objects of a service from being built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The agent's configuration could not be built.
    #[error("could not build the agent's configuration: {0}")]
    AgentConfig(#[from] AgentConfigError),
    /// An owned object could not be converted to JSON.
    #[error("could not convert an owned object to JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Builds the owned objects of one stage, in the order in which they are applied. The frontends'
/// Deployment is omitted until its `ServiceAccount` exists. See also [`Inputs::withheld`] and
/// [`Inputs::token`].
pub fn children(inputs: &Inputs<'_>, stage: Stage) -> Result<Vec<Child>, BuildError> {
    match stage {
        Stage::Prerequisites => prerequisites(inputs),
        Stage::RoleBindings => Ok(vec![child(Kind::RoleBinding, &rbac::role_binding(inputs))?]),
        Stage::Deployments | Stage::Fallbacks => deployments(inputs),
    }
}

fn prerequisites(inputs: &Inputs<'_>) -> Result<Vec<Child>, BuildError> {
    let mut children = vec![
        child(Kind::ServiceAccount, &service_accounts::service_account(inputs, Component::Backend))?,
        child(Kind::ServiceAccount, &service_accounts::service_account(inputs, Component::Frontend))?,
        child(Kind::Role, &rbac::role(inputs))?,
    ];
    if let Some(token) = inputs.token {
        children.push(child(Kind::Secret, &secret_token::secret(inputs, token))?);
        children.push(child(Kind::Secret, &secret_guards::secret(inputs))?);
        let circuit_token = secret_token::circuit_secret(inputs, token);
        children.extend(circuit_token.map(|secret| child(Kind::Secret, &secret)).transpose()?);
        let copy = config_map_clients::config_map(inputs, token);
        children.extend(copy.map(|copy| child(Kind::ConfigMap, &copy)).transpose()?);
    }
    if inputs.builds(Component::Backend) {
        children.push(child(Kind::ConfigMap, &config_map::backend(inputs)?)?);
    }
    if inputs.builds(Component::Frontend) {
        children.push(child(Kind::ConfigMap, &config_map::frontend(inputs))?);
    }
    for component in [Component::Backend, Component::Frontend] {
        children.push(child(Kind::Service, &services::service(inputs, component))?);
    }
    if let Some(metrics_from) = &inputs.settings().network_policies {
        children.push(untyped(Kind::NetworkPolicy, network_policies::backend(inputs, metrics_from)?));
        children.push(untyped(Kind::NetworkPolicy, network_policies::frontend(inputs, metrics_from)?));
    }
    if let Some(version) = inputs.environment.disruption_budgets() {
        for component in [Component::Backend, Component::Frontend] {
            let budget = disruption_budgets::budget(inputs, component)?;
            children.push(untyped(Kind::PodDisruptionBudget(version), budget));
        }
    }
    Ok(children)
}

fn deployments(inputs: &Inputs<'_>) -> Result<Vec<Child>, BuildError> {
    let mut children = Vec::new();
    if inputs.builds(Component::Backend) {
        let backend = deployment_backend::deployment(inputs, &config_map::backend(inputs)?)?;
        children.push(untyped(Kind::Deployment, backend));
    }
    if let Some(account) = inputs.frontend_account.filter(|_| inputs.builds(Component::Frontend)) {
        let frontend = deployment_frontend::deployment(inputs, &config_map::frontend(inputs), account)?;
        children.push(untyped(Kind::Deployment, frontend));
    }
    Ok(children)
}

/// Builds the manifests exactly as the operator applies them, in the same order. The Secret of the
/// generated key comes first. `onionbalance-bench scale` applies these manifests with a bare
/// client.
pub fn manifests(inputs: &Inputs<'_>, key: &MasterKey) -> Result<Vec<Value>, BuildError> {
    let mut manifests = vec![serde_json::to_value(secret_master_key(inputs.object, key))?];
    for stage in Stage::ALL {
        let children = children(inputs, stage)?.into_iter();
        manifests.extend(children.map(|Child { id, manifest }| {
            stamped(&origin::marked(manifest, Some(origin::mark(key, inputs.object, &id))))
        }));
    }
    Ok(manifests)
}

/// Creates a child from a manifest, and sets its API version to the one that the API server serves.
fn untyped(kind: Kind, mut manifest: Value) -> Child {
    manifest["apiVersion"] = kind.resource().api_version.into();
    let name = manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Child { id: ChildId { kind, name }, manifest }
}

fn child<T: Serialize + Resource>(kind: Kind, object: &T) -> Result<Child, serde_json::Error> {
    Ok(Child { id: ChildId { kind, name: object.name_any() }, manifest: serde_json::to_value(object)? })
}

/// Returns an owner reference to the service. It never sets `blockOwnerDeletion`, because that
/// would require permission to update the service's finalizers.
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
