//! The `status` of an `OnionBalancedService`.
//!
//! The publisher applies `backends`, `published`, `probes`, `guards` and `vanguards`. The operator
//! owns every other field.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GuardsStatus, ProbeStatus, VanguardsStatus, schema};

/// The name of the operator's field manager in server-side apply.
pub const OPERATOR_MANAGER: &str = "onionbalance-operator";
/// The name of the publisher's field manager in server-side apply.
pub const PUBLISHER_MANAGER: &str = "onionbalance-publisher";

/// The observed state of an onion service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OnionBalancedServiceStatus {
    /// The public onion address, for example `abc….onion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onion_address: Option<String>,
    /// The generation of the object that the operator last reconciled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The number of backend pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// The number of backend pods that are Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// The number of ready backends and the number of desired backends for display, for example
    /// "2/3".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The label selector of the backend pods, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The state of each backend, as seen by the leading publisher.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub backends: Vec<BackendStatus>,
    /// The published descriptors, one entry per time period.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["timePeriod"]))]
    pub published: Vec<PublishedStatus>,
    /// The result of the last probe of each port (`spec.frontend.probe`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"]))]
    pub probes: Vec<ProbeStatus>,
    /// The entry guards that all pods share. Absent if the pods share none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guards: Option<GuardsStatus>,
    /// The vanguards that all pods share. Absent unless `spec.anonymity.vanguards` is `Full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vanguards: Option<VanguardsStatus>,
    /// The conditions of the service: `Accepted`, `MasterKeyReady`, `SigningKeysReady` (only with
    /// signing kits), `ClientsReady` (only with restricted discovery), `BackendsReady`,
    /// `Published`, `Reachable` (unless the probe is switched off or the service is suspended),
    /// `GuardsShared` (only if the pods share their guards), and the summary `Ready`.
    /// `LocationExposed` is present only if the location of the servers is not hidden. `Stalled` is
    /// present only while the object cannot become ready until a user changes something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The state of one backend, as seen by the leading publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// The name of the pod, or the onion address of an external backend.
    pub name: String,
    /// The onion address of the backend itself, not of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onion_address: Option<String>,
    /// The number of the backend's introduction points in the published descriptors. An
    /// introduction point in several descriptors counts once.
    pub introduction_points: u32,
    /// The state of the backend. `Starting`: the backend has no introduction points yet. `Ready`:
    /// its introduction points are published. `Waiting`: there are more introduction points than
    /// the descriptors can hold, and it is another backend's turn. `Excluded`: the backend's
    /// congestion control differs from that of most backends, so its introduction points are not
    /// published. `Unhealthy`: a target fails at the backend while it passes at another one, so the
    /// backend's introduction points have been withdrawn. `Draining`: the pod is terminating and
    /// its introduction points have been withdrawn. `Lost`: the backend does not respond or has
    /// lost its introduction points.
    pub state: BackendState,
    /// The ports whose targets fail their checks at this backend (`spec.ports[].healthCheck`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub failing_ports: Vec<u16>,
    /// A human-readable remark: which features of the backend's own descriptor are missing from the
    /// published one, why the backend is waiting or excluded, why targets fail, or why an external
    /// backend has no introduction points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The time at which the backend entered this state.
    #[schemars(schema_with = "schema::time")]
    pub since: Time,
}

/// The state of a backend, as seen by the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendState {
    /// The backend has no introduction points yet.
    Starting,
    /// The backend's introduction points are published.
    Ready,
    /// The backend has introduction points, but it is another backend's turn, because there are
    /// more introduction points than the descriptors can hold.
    Waiting,
    /// The backend has introduction points, but they are not published, because its congestion
    /// control differs from that of most backends.
    Excluded,
    /// A target fails at the backend while it passes at another one, so the backend's introduction
    /// points have been withdrawn.
    Unhealthy,
    /// The pod is terminating and its introduction points have been withdrawn.
    Draining,
    /// The backend does not respond, or it has lost its introduction points.
    Lost,
}

/// The published descriptors of one time period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishedStatus {
    /// The number of the time period (rend-spec-v3, section 2.2.1).
    pub time_period: u64,
    /// The revision counter of the newest descriptors. HSDirs may hold different descriptors, but
    /// all descriptors that were published together have the same counter.
    pub revision_counter: u64,
    /// The number of introduction points in the newest descriptors. An introduction point in
    /// several descriptors counts once.
    pub introduction_points: u32,
    /// The number of HSDirs that accepted the newest descriptor.
    pub hsdirs_accepted: u32,
    /// The number of HSDirs that are responsible for this time period.
    pub hsdirs_total: u32,
    /// The time at which the publisher built the newest descriptors.
    #[schemars(schema_with = "schema::time")]
    pub last_published: Time,
    /// The number of authorized clients that can decrypt the descriptors, without the probe's own
    /// client. If absent, every client can decrypt them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorized_clients: Option<u32>,
    /// The time at which the publisher last noticed a descriptor with a valid signature that this
    /// service's publishers did not make. Absent if it noticed none in the last three hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub foreign_publisher: Option<Time>,
}
