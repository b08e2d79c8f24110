//! `status` of an `OnionBalancedService`. The operator owns all but `backends` and `published`, which the publisher applies.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The field manager of the operator.
pub const OPERATOR_MANAGER: &str = "onionbalance-operator";
/// The field manager of the publisher.
pub const PUBLISHER_MANAGER: &str = "onionbalance-publisher";

/// What is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OnionBalancedServiceStatus {
    /// The public address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onion_address: Option<String>,
    /// The generation that this status is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Backend pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Backend pods that are Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Ready and wanted backends, "2/3": for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The label selector of the backend pods, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Each backend.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub backends: Vec<BackendStatus>,
    /// Each time period that is published for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["timePeriod"]))]
    pub published: Vec<PublishedStatus>,
    /// `Accepted`, `MasterKeyReady`, `ClientsReady` (with restricted discovery), `BackendsReady`, `Published`, and `Ready`, which
    /// sums them up; `Stalled` only while waiting does not help.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// A backend as the publisher sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// The pod's name; of an external backend its onion address.
    pub name: String,
    /// Its own onion address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onion_address: Option<String>,
    /// Its points in the published descriptors; each counts once, in however many of them it is.
    pub introduction_points: u32,
    /// What it is doing. `Starting`: it has no introduction points yet. `Ready`: its points are published. `Waiting`: there are more
    /// points than the descriptors hold, and it is the turn of others. `Draining`: it is terminating, its points are withdrawn.
    /// `Lost`: it does not answer, or lost its points.
    pub state: BackendState,
    /// What its descriptor says that the published one does not; why it waits; of an external backend also why it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when it is doing so.
    #[schemars(schema_with = "schema::time")]
    pub since: Time,
}

/// What a backend is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendState {
    /// It has no introduction points yet.
    Starting,
    /// Its points are published.
    Ready,
    /// It has points, and others' are published: there are more than the descriptors hold, and they take turns.
    Waiting,
    /// It is terminating; its points are withdrawn.
    Draining,
    /// It does not answer, or lost its points.
    Lost,
}

/// A time period's published descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishedStatus {
    /// The period's number.
    pub time_period: u64,
    /// The newest descriptors' counter. HSDirs may hold different descriptors; those made together have the same counter.
    pub revision_counter: u64,
    /// The points in the newest descriptors; each counts once, in however many of them it is.
    pub introduction_points: u32,
    /// HSDirs that accepted theirs.
    pub hsdirs_accepted: u32,
    /// Responsible HSDirs.
    pub hsdirs_total: u32,
    /// When they were made.
    #[schemars(schema_with = "schema::time")]
    pub last_published: Time,
    /// How many clients can open it; absent: everybody can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorized_clients: Option<u32>,
}
