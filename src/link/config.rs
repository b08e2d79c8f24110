//! `agent.yaml`: written by the operator into the backend's ConfigMap, read by `backend init` and by the agent.

use serde::{Deserialize, Serialize};

use crate::onion::OnionAddress;

/// What an agent is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfig {
    /// The public address: goes into `ob_config`.
    pub master_onion_address: OnionAddress,
    /// The ports of the onion address.
    pub ports: Vec<ForwardedPort>,
    /// How many points tor is asked for.
    pub introduction_points: u8,
    /// How long open streams may go on after the points are withdrawn.
    pub drain_timeout_seconds: u32,
    /// How long new streams are still taken after the points are withdrawn: clients hold cached descriptors.
    pub linger_seconds: u32,
}

/// A port of the onion address and where its streams go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForwardedPort {
    /// Its name, for metrics and messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port that clients connect to; tor's unix socket is `forward/<port>.sock`.
    pub port: u16,
    /// `host:port`, resolved for each connection.
    pub target: String,
}
