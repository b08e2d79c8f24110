//! What publisher and agent say to each other: the token, the mutual HMAC over HTTP, and the messages. Pure.
//!
//! The publisher polls every backend pod: `POST /v1/sync` with a [`SyncRequest`], answered with a [`SyncResponse`].
//! Both directions carry `onionbalance-mac`, HMAC-SHA256 under the service's token: a request's covers
//! ("request", pod UID, method, path, nonce, body), the answer's ("response", pod UID, method, path, the request's nonce,
//! status, body), each field with its length. The nonce (`onionbalance-nonce`, 16 random bytes in hex) ties an answer to
//! its request; the sequence number in the request's body, rising per publisher, makes a replayed request worthless.

mod config;
mod drain;
mod message;
pub mod paths;
mod token;

pub use config::{AgentConfig, ConfigError, ForwardedPort};
pub use drain::{grace_period, longest_drain};
pub use message::{PodPhase, Revision, SyncRequest, SyncResponse};
pub use token::{AgentToken, LinkError};

/// The path of the one authenticated call.
pub const SYNC_PATH: &str = "/v1/sync";
/// Header: the MAC, 64 hexadecimal digits.
pub const MAC_HEADER: &str = "onionbalance-mac";
/// Header: the nonce, 32 hexadecimal digits.
pub const NONCE_HEADER: &str = "onionbalance-nonce";
/// The longest body of a request that an agent reads, bytes.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// The longest body of an answer that a publisher reads, bytes: a descriptor has at most 50,000.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// The agent's authenticated API.
pub const AGENT_API_PORT: u16 = 9400;
/// Probes (`/startupz`, `/livez`, `/readyz`) and, in a backend, `/drain`: publisher, agent and operator alike.
pub const PROBE_PORT: u16 = 9401;
/// Metrics: publisher, agent and operator alike.
pub const METRICS_PORT: u16 = 9402;
/// tor's own metrics, on the pod's loopback: publisher and agent pass them on.
pub const TOR_METRICS_PORT: u16 = 9403;
