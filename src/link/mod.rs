//! The protocol between publisher and agent: the token, the mutual HMAC over HTTP, and the
//! messages. The code is pure.
//!
//! The publisher polls every backend pod with `POST /v1/sync` and a [`SyncRequest`], and the agent
//! answers with a [`SyncResponse`]. Both messages carry an `onionbalance-mac` header, an
//! HMAC-SHA256 under the service's token. The MAC of a request covers ("request", pod UID, method,
//! path, nonce, body). The MAC of an answer covers ("response", pod UID, method, path, the
//! request's nonce, status, body). Each field is preceded by its length. The nonce
//! (`onionbalance-nonce`, 16 random bytes in hexadecimal) ties an answer to its request. The
//! sequence number in the request's body rises per publisher, so that a replayed request is
//! worthless.

mod config;
mod drain;
mod message;
pub mod paths;
mod token;

pub use config::{AgentConfig, AgentConfigError, ForwardedPort};
pub use drain::{grace_period, longest_drain};
pub use message::{PodPhase, Revision, SyncRequest, SyncResponse};
pub use token::{AgentToken, LinkError};

/// The path of the only authenticated call.
pub const SYNC_PATH: &str = "/v1/sync";
/// The header with the MAC, 64 hexadecimal digits.
pub const MAC_HEADER: &str = "onionbalance-mac";
/// The header with the nonce, 32 hexadecimal digits.
pub const NONCE_HEADER: &str = "onionbalance-nonce";
/// The maximum length, in bytes, of a request body that an agent reads.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// The maximum length, in bytes, of a response body that a publisher reads. A descriptor is at
/// most 50,000 bytes long.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// The port of the agent's authenticated API.
pub const AGENT_API_PORT: u16 = 9400;
/// The port for probes (`/startupz`, `/livez` and `/readyz`) of publisher, agent and operator. An
/// agent also serves `/drain` on it.
pub const PROBE_PORT: u16 = 9401;
/// The port for the metrics of publisher, agent and operator.
pub const METRICS_PORT: u16 = 9402;
/// The port for tor's own metrics on the pod's loopback interface. Publisher and agent pass these
/// metrics on.
pub const TOR_METRICS_PORT: u16 = 9403;
