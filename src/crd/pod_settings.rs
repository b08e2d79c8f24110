//! The settings of pods in the spec of an `OnionBalancedService`. Backends and frontends have the
//! same settings.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::schema;

/// The pod settings that a user may change. Containers and volumes are not included, because
/// permission to write this object must not imply permission to mount any Secret in the namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSettings {
    /// Additional labels for the pods, at most 128. Keys that begin with `onionbalance.dev/` or
    /// `app.kubernetes.io/` are rejected. The operator accepts only labels that its administrator
    /// allows (`--allowed-label-prefixes`), by default none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "texts")]
    #[schemars(schema_with = "schema::texts_with_own_keys")]
    pub labels: BTreeMap<String, String>,
    /// Additional annotations for the pods, at most 128. Keys that begin with `onionbalance.dev/`
    /// or `app.kubernetes.io/` are rejected. The operator accepts only annotations that its
    /// administrator allows (`--allowed-annotation-prefixes`), by default none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "texts")]
    #[schemars(schema_with = "schema::texts_with_own_keys")]
    pub annotations: BTreeMap<String, String>,
    /// The resource requests and limits of the pod's two containers. If absent, the operator's
    /// defaults apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ContainerResources>,
    /// The labels that a node must have to run the pods, as in a pod's `spec.nodeSelector`. At most
    /// 128 labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "texts")]
    #[schemars(schema_with = "schema::texts")]
    pub node_selector: BTreeMap<String, String>,
    /// The affinity of the pods, as in a pod's `spec.affinity`. If absent, the operator's default
    /// applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub affinity: Option<Value>,
    /// The tolerations of the pods, as in a pod's `spec.tolerations`. The operator accepts only
    /// tolerations that its administrator allows (`--allowed-tolerations`), by default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::any_objects")]
    pub tolerations: Vec<Value>,
    /// The topology spread constraints of the pods, as in a pod's `spec.topologySpreadConstraints`.
    /// If empty, the pods are spread over the nodes where possible.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::any_objects")]
    pub topology_spread_constraints: Vec<Value>,
    /// The name of the pods' priority class. The operator accepts only classes that its
    /// administrator allows (`--allowed-priority-classes`), by default none. If absent or empty,
    /// the operator's default applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// The name of the pods' runtime class. The operator accepts only classes that its
    /// administrator allows (`--allowed-runtime-classes`), by default none. If absent or empty, the
    /// operator's default applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub runtime_class_name: Option<String>,
    /// The Secrets that hold the credentials for pulling the images, at most 64. If empty, the
    /// operator's default applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub image_pull_secrets: Vec<SecretReference>,
}

/// A reference to a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretReference {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The resources of a pod's two containers. An absent field keeps the operator's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ContainerResources {
    /// The resources of the `tor` container. If absent, the operator's default applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tor: Option<Resources>,
    /// The resources of the `agent` container, or of the `publisher` container in a frontend. If
    /// absent, the operator's default applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Resources>,
}

/// The resources of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Resources {
    /// The resources that the scheduler reserves for the container, for example `cpu: 100m`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub requests: BTreeMap<String, IntOrString>,
    /// The maximum resources that the container may use, for example `memory: 128Mi`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub limits: BTreeMap<String, IntOrString>,
}

/// Deserializes a map of texts. Null stands for an empty text, as in the fields of Kubernetes' own
/// types.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let texts: BTreeMap<String, Option<String>> = BTreeMap::deserialize(deserializer)?;
    Ok(texts.into_iter().map(|(key, text)| (key, text.unwrap_or_default())).collect())
}
