//! The kinds of owned objects, and the stages in which they are applied.

use std::fmt;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::ApiResource;

use crate::operator::served::{PolicyVersion, Served};

/// A kind of owned object. The variants are listed in the order in which they are applied.
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
    /// `policy/v1` or `policy/v1beta1` `PodDisruptionBudget`.
    PodDisruptionBudget(PolicyVersion),
    /// `rbac.authorization.k8s.io/v1` `RoleBinding`.
    RoleBinding,
    /// `apps/v1` `Deployment`.
    Deployment,
    /// `coordination.k8s.io/v1` `Lease`. The publishers create it; the operator never applies it.
    Lease,
}

/// A stage in which owned objects are applied. The objects of one stage do not depend on each
/// other, so they can be applied concurrently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The objects that depend on no other object.
    Prerequisites,
    /// The `RoleBinding`, which the API server rejects until the `Role` exists.
    RoleBindings,
    /// The Deployments, whose pods need all the other objects.
    Deployments,
    /// The Deployments that the API server has refused, with the pod settings that it last
    /// accepted.
    Fallbacks,
}

impl Stage {
    /// The regular stages, in the order in which they are applied. Only a refused Deployment needs
    /// the stage `Fallbacks`, which follows them.
    pub const ALL: [Self; 3] = [Self::Prerequisites, Self::RoleBindings, Self::Deployments];
}

impl Kind {
    /// Returns the kinds that the operator applies on an API server with the given optional APIs,
    /// in the order in which they are applied.
    pub fn all(served: Served) -> Vec<Self> {
        let before =
            [Self::ServiceAccount, Self::Role, Self::Secret, Self::ConfigMap, Self::Service, Self::NetworkPolicy];
        before
            .into_iter()
            .chain(served.disruption_budgets.map(Self::PodDisruptionBudget))
            .chain([Self::RoleBinding, Self::Deployment])
            .collect()
    }

    /// Returns the group, version and plural name under which the API server serves this kind.
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

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource().kind)
    }
}

/// The kind and name of an owned object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId {
    /// The kind of the owned object.
    pub kind: Kind,
    /// The name of the owned object.
    pub name: String,
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}
