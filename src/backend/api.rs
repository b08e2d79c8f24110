//! The agent's API, which the publisher calls. Requests and responses are both authenticated.
//!
//! A request to `POST /v1/sync` carries the publisher's view of the pod. The response carries the
//! backend's state, and its descriptor if the publisher does not have the newest revision. A
//! request to `POST /v1/circuits/close` closes a client's circuit.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use tokio::sync::watch;

use super::AgentError;
use super::circuits::{Circuits, Closure};
use super::drain::Drain;
use super::forward::Traffic;
use super::guards::Turn;
use super::health::Health;
use super::observer::TorState;
use super::vanguards::SharedVanguards;
use crate::common::log_limit::{Line, LogLimit};
use crate::common::tor_gate::Gate;
use crate::link::{
    AgentToken, CLOSE_PATH, CloseRequest, GuardReport, LinkError, MAC_HEADER, MAX_REQUEST_BYTES, NONCE_HEADER,
    SYNC_PATH, SyncRequest, SyncResponse,
};
use crate::onion::OnionAddress;

const METHOD: &str = "POST";
/// The maximum number of publishers for which sequence numbers are kept. A service has a few
/// publishers, and each rollout brings new ones.
const MAX_PUBLISHERS: usize = 32;

/// The entry guards of the agent's tor.
#[derive(Debug)]
pub struct TorGuards {
    /// The newest report on the guards.
    pub newest: watch::Receiver<Option<GuardReport>>,
    /// The gate at which a tor without guards waits.
    pub gate: Arc<Gate>,
    /// The guard that this pod tries first.
    pub turn: Turn,
}

/// The parts of the agent that the API gives orders to.
#[derive(Debug)]
pub struct Parts {
    /// The end of the pod.
    pub drain: Arc<Drain>,
    /// The streams that the agent forwards.
    pub traffic: Arc<Traffic>,
    /// The circuits of these streams.
    pub circuits: Arc<Circuits>,
    /// The vanguards of tor.
    pub vanguards: Arc<SharedVanguards>,
}

/// The state of the agent's API.
#[derive(Debug)]
pub struct Api {
    pod_uid: String,
    token_file: PathBuf,
    address: OnionAddress,
    tor: watch::Receiver<TorState>,
    guards: TorGuards,
    drain: Arc<Drain>,
    traffic: Arc<Traffic>,
    circuits: Arc<Circuits>,
    vanguards: Arc<SharedVanguards>,
    health: Arc<Health>,
    sequences: Mutex<Sequences>,
    /// The sequence numbers of the requests to close circuits.
    closing_sequences: Mutex<Sequences>,
    /// The limit for the errors about an unreadable token, which every request can cause.
    token_errors: LogLimit,
}

impl Api {
    /// Creates the API of the pod `pod_uid`. Returns an error if the token file is missing or
    /// invalid.
    pub fn new(
        pod_uid: String,
        token_file: PathBuf,
        address: OnionAddress,
        tor: watch::Receiver<TorState>,
        guards: TorGuards,
        parts: Parts,
    ) -> Result<Self, AgentError> {
        let Parts { drain, traffic, circuits, vanguards } = parts;
        let api = Self {
            pod_uid,
            token_file,
            address,
            tor,
            guards,
            drain,
            traffic,
            circuits,
            vanguards,
            health: Arc::default(),
            sequences: Mutex::default(),
            closing_sequences: Mutex::default(),
            token_errors: LogLimit::default(),
        };
        api.read_token()?;
        Ok(api)
    }

    /// Replaces the health of the targets. Without this call, no target is checked.
    pub fn with_health(self, health: Arc<Health>) -> Self {
        Self { health, ..self }
    }

    /// Returns the router that serves the API.
    pub fn router(self) -> Router {
        Router::new()
            .route(SYNC_PATH, post(sync))
            .route(CLOSE_PATH, post(close_circuit))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(Arc::new(self))
    }

    /// Reads the agent token. Each API request reads the file again, because the kubelet replaces
    /// it when the Secret changes.
    fn read_token(&self) -> Result<AgentToken, AgentError> {
        let path = self.token_file.display();
        let with_path = |error: &dyn std::fmt::Display| format!("cannot read the agent token {path}: {error}");
        let text = std::fs::read(&self.token_file).map(zeroize::Zeroizing::new).map_err(|error| with_path(&error))?;
        Ok(AgentToken::from_hex(&text).map_err(|error| with_path(&error))?)
    }

    /// Authenticates the sender of a request. Returns the refusal if the request is not authentic.
    fn caller<'a>(
        &'a self,
        path: &'static str,
        headers: &'a HeaderMap,
        body: &[u8],
    ) -> Result<Caller<'a>, (StatusCode, String)> {
        let token = self.read_token().map_err(|error| {
            if let Some(Line { suppressed }) = self.token_errors.line() {
                tracing::error!(suppressed, "could not authenticate an API request: {error}");
            }
            (StatusCode::SERVICE_UNAVAILABLE, "the agent has no token\n".to_owned())
        })?;
        match authenticate(&token, &self.pod_uid, path, headers, body) {
            Ok(nonce) => Ok(Caller { token, pod_uid: &self.pod_uid, path, nonce }),
            Err(error) => {
                // This is only a debug message, because anyone in the cluster can trigger it. A
                // publisher logs its own rejected requests.
                tracing::debug!(%error, "rejected an API request");
                Err((StatusCode::UNAUTHORIZED, format!("{error}\n")))
            }
        }
    }

    fn answer(&self, request: &SyncRequest) -> SyncResponse {
        let tor = self.tor.borrow();
        let revision = tor.points.revision();
        let known = request.known_revision == Some(revision);
        let guards = self.guards.newest.borrow().clone();
        SyncResponse {
            onion_address: self.address,
            revision,
            introduction_points: tor.points.count(),
            descriptor: if known { None } else { tor.points.descriptor().map(|text| text.to_string()) },
            streams: self.traffic.open(),
            draining: self.drain.is_running(),
            guards: guards.filter(|report| request.known_guards.is_some_and(|known| known != report.id)),
            awaits_guards: self.guards.gate.is_closed(),
            vanguards: self.vanguards.used(),
            targets: self.health.report(request),
        }
    }
}

async fn sync(State(api): State<Arc<Api>>, headers: HeaderMap, body: Bytes) -> Response {
    let caller = match api.caller(SYNC_PATH, &headers, &body) {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    let request: SyncRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return caller.reply(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n")),
    };
    if let Err(problem) = advance(&api.sequences, &request.publisher, request.sequence) {
        return caller.reply(StatusCode::CONFLICT, "text/plain", problem);
    }
    api.drain.heard(request.leading, request.phase);
    if let Some(lines) = &request.shared_guards {
        api.guards.turn.offer(&api.guards.gate, lines);
    }
    // Only the leader keeps the vanguards. Another publisher may still know older ones.
    if let Some(text) = request.vanguards.as_ref().filter(|_| request.leading) {
        api.vanguards.offer(text);
    }
    api.health.heard(&request);
    match serde_json::to_string(&api.answer(&request)) {
        Ok(json) => caller.reply(StatusCode::OK, "application/json", json),
        Err(error) => caller.reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
    }
}

async fn close_circuit(State(api): State<Arc<Api>>, headers: HeaderMap, body: Bytes) -> Response {
    let caller = match api.caller(CLOSE_PATH, &headers, &body) {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    let request: CloseRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return caller.reply(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n")),
    };
    if let Err(problem) = advance(&api.closing_sequences, &request.publisher, request.sequence) {
        return caller.reply(StatusCode::CONFLICT, "text/plain", problem);
    }
    let (status, text) = match api.circuits.close(request.circuit).await {
        Closure::Closed => (StatusCode::OK, "closed\n"),
        Closure::Unknown => (StatusCode::NOT_FOUND, "the circuit has ended, or had no stream lately\n"),
        Closure::NoAnswer => (StatusCode::SERVICE_UNAVAILABLE, "tor did not answer\n"),
    };
    caller.reply(status, "text/plain", text.to_owned())
}

/// Records the sequence number of a request. Returns the problem if the number is not greater than
/// the previous one of the same publisher.
fn advance(sequences: &Mutex<Sequences>, publisher: &str, sequence: u64) -> Result<(), String> {
    let advanced = sequences.lock().unwrap_or_else(PoisonError::into_inner).advance(publisher, sequence);
    advanced.map_err(|last| format!("sequence number {sequence} is not greater than the previous one, {last}\n"))
}

/// Checks the MAC of a request and returns its nonce.
fn authenticate<'a>(
    token: &AgentToken,
    pod_uid: &str,
    path: &str,
    headers: &'a HeaderMap,
    body: &[u8],
) -> Result<&'a str, LinkError> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let nonce = header(NONCE_HEADER).ok_or(LinkError::NotAuthentic)?;
    AgentToken::verify(&token.request_mac(pod_uid, METHOD, path, nonce, body), header(MAC_HEADER))?;
    Ok(nonce)
}

/// The sender of an authenticated request, to which the agent sends authenticated responses.
struct Caller<'a> {
    token: AgentToken,
    pod_uid: &'a str,
    path: &'static str,
    nonce: &'a str,
}

impl Caller<'_> {
    fn reply(&self, status: StatusCode, content_type: &'static str, body: String) -> Response {
        let mac =
            self.token.response_mac(self.pod_uid, METHOD, self.path, self.nonce, status.as_u16(), body.as_bytes());
        (status, [(MAC_HEADER, mac.as_str()), (CONTENT_TYPE.as_str(), content_type)], body).into_response()
    }
}

/// The latest sequence number of each publisher, ordered by the time of the latest request.
#[derive(Debug, Default)]
struct Sequences(Vec<(String, u64)>);

impl Sequences {
    /// Records the sequence number of a request. Returns the previous number as an error if the new
    /// one is not greater.
    fn advance(&mut self, publisher: &str, sequence: u64) -> Result<(), u64> {
        if let Some(index) = self.0.iter().position(|(known, _)| known == publisher) {
            let (_, last) = self.0[index];
            if sequence <= last {
                return Err(last);
            }
            self.0.remove(index);
        } else if self.0.len() >= MAX_PUBLISHERS {
            self.0.remove(0);
        }
        self.0.push((publisher.to_owned(), sequence));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
