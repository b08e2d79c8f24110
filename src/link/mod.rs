//! The protocol between a publisher and its agents: the shared token, mutual HMAC authentication
//! over HTTP, and the messages. The code is pure.
//!
//! The publisher polls every backend pod with `POST /v1/sync` and a [`SyncRequest`], and the agent
//! responds with a [`SyncResponse`]. Both messages carry an `onionbalance-mac` header, an
//! HMAC-SHA256 under the service's token. The MAC of a request covers ("request", pod UID, method,
//! path, nonce, body). The MAC of a response covers ("response", pod UID, method, path, the
//! request's nonce, status, body). Each field is preceded by its length. The nonce
//! (`onionbalance-nonce`, 16 random bytes in hexadecimal) ties a response to its request. The
//! sequence number in the request body increases with every request from a publisher, so an agent
//! rejects a replayed request.
//!
//! `POST /v1/circuits/close` with a [`CloseRequest`] is authenticated in the same way. It passes on
//! the app's request to close a circuit.

mod circuit;
mod clients;
mod config;
mod drain;
mod guards;
mod health;
mod message;
pub mod paths;
mod sealed;
mod targets;
mod token;
mod vanguards;

pub use circuit::{CircuitAddress, NoCircuitAddress};
pub use clients::ClientsCopy;
pub use config::{AgentConfig, AgentConfigError, CircuitLimits, ForwardedPort, StreamRate, check_target};
pub use drain::{grace_period, longest_drain};
pub use guards::{
    GUARDS_IN_USE, Guard, GuardError, GuardReports, GuardSample, GuardsSecretError, MAC_ENTRY, SAMPLE_ENTRY,
    guards_of_data, guards_to_data,
};
pub use health::{HttpCheck, HttpsCheck, TargetCheck, TargetHealth, TargetState, brief};
pub use message::{CloseRequest, GuardReport, PodPhase, Revision, SyncRequest, SyncResponse};
pub use targets::{REFUSED_TARGETS, RefusedTargets, RefusedTargetsError};
pub use token::{AgentToken, LinkError};
pub use vanguards::{
    Candidate, Layer, TooFewRelays, VANGUARDS_ENTRY, VANGUARDS_MAC_ENTRY, Vanguard, Vanguards, VanguardsError,
    VanguardsSecretError, vanguards_of_data, vanguards_to_data,
};

/// The path of the agent's endpoint for publishers that poll the agent.
pub const SYNC_PATH: &str = "/v1/sync";
/// The path of the endpoints that close a circuit: the agent's for publishers, and the publisher's
/// for the app.
pub const CLOSE_PATH: &str = "/v1/circuits/close";
/// The HTTP header that contains the MAC as 64 hexadecimal digits.
pub const MAC_HEADER: &str = "onionbalance-mac";
/// The HTTP header that contains the nonce as 32 hexadecimal digits.
pub const NONCE_HEADER: &str = "onionbalance-nonce";
/// The maximum length, in bytes, of a request body that an agent reads. A sample of guards has
/// about 15,000 bytes.
pub const MAX_REQUEST_BYTES: usize = 32 * 1024;
/// The maximum length, in bytes, of a response body that a publisher reads. A descriptor is at
/// most 50,000 bytes long.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// The port of the agent's authenticated API.
pub const AGENT_API_PORT: u16 = 9400;
/// The port on which the publisher, the agent and the operator serve their probes (`/startupz`,
/// `/livez` and `/readyz`). The agent also serves `/drain` on this port.
pub const PROBE_PORT: u16 = 9401;
/// The path at which the publisher answers the probes of its tor. A request fails once tor has been
/// silent for 20 s.
pub const TOR_PROBE_PATH: &str = "/tor/livez";
/// The query of a request to [`TOR_PROBE_PATH`] that fails once tor has been silent for 3 s. An
/// older publisher ignores the query.
pub const EARLY: &str = "early";
/// The port on which the publisher serves the app's requests to close circuits.
pub const CIRCUITS_PORT: u16 = 9404;
/// The port on which the publisher, the agent and the operator serve their metrics.
pub const METRICS_PORT: u16 = 9402;
/// The port of tor's own metrics on the pod's loopback interface. The publisher and the agent proxy
/// these metrics.
pub const TOR_METRICS_PORT: u16 = 9403;
