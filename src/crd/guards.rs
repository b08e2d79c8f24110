//! The state of the entry guards and vanguards that the pods of a service share, in `status`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The entry guards that all pods share, as seen by the leading publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardsStatus {
    /// The number of shared guards.
    pub shared: u32,
    /// The number of shared guards that are not in the Tor consensus.
    pub unlisted: u32,
    /// The number of distinct guards that the pods try first. It is at most
    /// `spec.anonymity.guardsInUse` if all pods agree, and 0 until a pod has reported its guards.
    pub in_use: u32,
    /// The problem with the Secret of the guards. Absent if there was none in the last hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<GuardsProblem>,
}

/// The vanguards that all pods share, as seen by the leading publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VanguardsStatus {
    /// The number of shared relays at the second hop. It is 0 until the publisher has chosen some.
    pub second_hop: u32,
    /// The number of shared relays at the third hop. It is 0 until the publisher has chosen some.
    pub third_hop: u32,
    /// The number of backends whose tor does not use these relays. It is greater than 0 for some
    /// seconds after each replacement of a relay.
    pub outdated: u32,
}

/// A problem with the Secret of the shared guards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardsProblem {
    /// The kind of the problem. `Replaced`: the content could not be used, so the publisher
    /// replaced the content. `NotKept`: the publisher cannot read or write the Secret.
    pub kind: GuardsProblemKind,
    /// A human-readable explanation. It names no guard.
    pub message: String,
    /// The time at which the publisher noticed the problem.
    #[schemars(schema_with = "schema::time")]
    pub noticed: Time,
}

/// The kind of a problem with the Secret of the shared guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GuardsProblemKind {
    /// The content could not be used, so the publisher replaced the content.
    Replaced,
    /// The publisher cannot read or write the Secret.
    NotKept,
}
