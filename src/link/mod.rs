//! What publisher and agent say to each other: the token, the mutual HMAC over HTTP, and the messages. Pure.
//!
//! The publisher polls every backend pod: `POST /v1/sync` with a [`SyncRequest`], answered with a [`SyncResponse`].
//! Both directions carry `onionbalance-mac`, HMAC-SHA256 under the service's token: a request's covers
//! ("request", pod UID, method, path, nonce, body), the answer's ("response", pod UID, method, path, the request's nonce,
//! status, body), each field with its length. The nonce (`onionbalance-nonce`, 16 random bytes in hex) ties an answer to
//! its request; the sequence number in the request's body, rising per publisher, makes a replayed request worthless.

mod config;

pub use config::{AgentConfig, ForwardedPort};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::onion::{MasterKey, OnionAddress};

/// The path of the one authenticated call.
pub const SYNC_PATH: &str = "/v1/sync";
/// Header: the MAC, 64 hexadecimal digits.
pub const MAC_HEADER: &str = "onionbalance-mac";
/// Header: the nonce, 32 hexadecimal digits.
pub const NONCE_HEADER: &str = "onionbalance-nonce";
/// The agent's authenticated API.
pub const AGENT_API_PORT: u16 = 9400;
/// Probes (`/startupz`, `/livez`, `/readyz`) and, in a backend, `/drain`: publisher, agent and operator alike.
pub const PROBE_PORT: u16 = 9401;
/// Metrics: publisher, agent and operator alike.
pub const METRICS_PORT: u16 = 9402;

/// A service's agent token: 32 bytes, derived from the master key. Zeroized on drop, never printed.
#[derive(Clone)]
pub struct AgentToken(#[allow(dead_code)] Zeroizing<[u8; 32]>);

/// Why a message is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LinkError {
    /// The MAC is missing, malformed or wrong.
    #[error("the message is not authentic (is the agent token of another service, or stale?)")]
    NotAuthentic,
    /// The token file does not hold 32 bytes in hexadecimal.
    #[error("an agent token is 64 hexadecimal digits")]
    TokenForm,
}

impl AgentToken {
    /// HKDF-SHA256 of the master key, label `onionbalance.dev/agent-token/v1`.
    pub fn derive(_key: &MasterKey) -> Self {
        todo!()
    }

    /// From the Secret's `token`: 64 hexadecimal digits, a line end is allowed.
    pub fn from_hex(_text: &[u8]) -> Result<Self, LinkError> {
        todo!()
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(&self) -> Zeroizing<String> {
        todo!()
    }

    /// A request's MAC, in hexadecimal.
    pub fn request_mac(&self, _pod_uid: &str, _method: &str, _path: &str, _nonce: &str, _body: &[u8]) -> String {
        todo!()
    }

    /// An answer's MAC, in hexadecimal.
    pub fn response_mac(
        &self,
        _pod_uid: &str,
        _method: &str,
        _path: &str,
        _nonce: &str,
        _status: u16,
        _body: &[u8],
    ) -> String {
        todo!()
    }

    /// Compares in constant time.
    pub fn verify(_expected: &str, _got: Option<&str>) -> Result<(), LinkError> {
        todo!()
    }
}

/// What the publisher knows of the pod it speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Not terminating: a `/drain` that runs returns at once (it is a liveness kill).
    Active,
    /// Its deletionTimestamp is set; its points are being withdrawn.
    Terminating,
    /// Terminating, and no responsible, reachable HSDir holds its points any more: the linger time begins.
    Withdrawn,
}

/// Publisher to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncRequest {
    /// The publisher's pod UID.
    pub publisher: String,
    /// Rises with every request of a publisher.
    pub sequence: u64,
    /// Whether this publisher leads: only a leader's word on `phase` counts.
    pub leading: bool,
    /// What Kubernetes says of the agent's pod.
    pub phase: PodPhase,
    /// The `revision` of the last answer taken in; its descriptor is not sent again.
    pub known_revision: Option<Revision>,
}

/// Names a set of introduction points: changes when the set does, and when the agent restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Random per agent start.
    pub boot: u64,
    /// Rises when the points change.
    pub number: u64,
}

/// Agent to publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncResponse {
    /// The backend's own onion address.
    pub onion_address: OnionAddress,
    /// Names the current points.
    pub revision: Revision,
    /// How many points its descriptor has; 0 while tor has none.
    pub introduction_points: usize,
    /// The descriptor as tor gave it; None when `known_revision` is current or there is none.
    pub descriptor: Option<String>,
    /// Open streams.
    pub streams: u64,
    /// `/drain` is running.
    pub draining: bool,
}
