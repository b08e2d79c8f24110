//! A client for the agents' API. Both sides authenticate every message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use super::clock::{self, Clock};
use crate::link::{
    AgentToken, CLOSE_PATH, CloseRequest, LinkError, MAC_HEADER, NONCE_HEADER, PodPhase, Revision, SYNC_PATH,
    SyncRequest, SyncResponse,
};

/// The maximum time that an agent may take to answer, including the time to connect.
pub(super) const DEADLINE: Duration = Duration::from_secs(3);
/// The maximum size of a response body in bytes. A Tor client accepts descriptors of at most 50,000
/// bytes, and JSON escapes their newlines.
const BODY_LIMIT: usize = 128 * 1024;

/// The reason why an agent's answer is missing or was rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum SyncError {
    #[error("the agent did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the agent's address is invalid")]
    Address(#[from] hyper::http::Error),
    #[error("cannot connect to the agent or send the request")]
    Send(#[from] hyper_util::client::legacy::Error),
    #[error("the agent's answer is incomplete or longer than {} bytes", BODY_LIMIT)]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    NotAuthentic(#[from] LinkError),
    #[error("the agent answered with HTTP status {0}")]
    Status(StatusCode),
    #[error("the agent's answer is not a valid sync message")]
    Json(#[from] serde_json::Error),
}

/// The content of a request to an agent.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// True if this publisher is the leader.
    pub(super) leading: bool,
    /// The phase of the agent's pod.
    pub(super) phase: PodPhase,
    /// The revision of the agent's last answer. If the descriptor has not changed since then, the
    /// agent does not send it again.
    pub(super) known_revision: Option<Revision>,
    /// The `id` of the agent's last report on its tor's guards, or 0 if there was none.
    pub(super) known_guards: u64,
    /// The guards that all tors share, if the agent's tor waits for them.
    pub(super) shared_guards: Option<Arc<str>>,
    /// The vanguards that all tors use, if the agent's tor uses others.
    pub(super) vanguards: Option<Arc<str>>,
    /// The newest round of checks, or 0 before the first one.
    pub(super) round: u64,
    /// True if the backend is withdrawn because a target fails there but not elsewhere.
    pub(super) unhealthy: bool,
}

/// An answer of an agent.
struct Answer {
    status: StatusCode,
    /// The result of the check of the answer's MAC.
    authentic: Result<(), LinkError>,
    body: Bytes,
}

/// The publisher's side of its link to the agents. Clones share the connections and the sequence
/// number.
#[derive(Clone)]
pub(super) struct SyncClient {
    http: Client<HttpConnector, Full<Bytes>>,
    token: AgentToken,
    /// The name by which agents identify the publisher's process. It contains the UID of the
    /// publisher's pod.
    publisher: Arc<str>,
    sequence: Arc<AtomicU64>,
    clock: Clock,
}

impl SyncClient {
    /// Creates a client that sends `publisher` to the agents as the name of the publisher's
    /// process.
    pub(super) fn new(token: AgentToken, publisher: &str, clock: Clock) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(DEADLINE));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1)
            .build(connector);
        Self { http, token, publisher: publisher.into(), sequence: Arc::default(), clock }
    }

    /// Sends a request to the agent of a pod at `authority` (`host:port`) and waits at most
    /// `patience` for the answer.
    pub(super) async fn ask(
        &self,
        pod_uid: &str,
        authority: &str,
        question: Question,
        patience: Duration,
    ) -> Result<SyncResponse, SyncError> {
        let exchange = self.exchange(pod_uid, authority, question);
        timeout(patience, exchange).await.map_err(|_| SyncError::Timeout(patience))?
    }

    async fn exchange(&self, pod_uid: &str, authority: &str, question: Question) -> Result<SyncResponse, SyncError> {
        let Question { leading, phase, known_revision, known_guards, shared_guards, vanguards, round, unhealthy } =
            question;
        let request = SyncRequest {
            publisher: self.publisher.to_string(),
            sequence: self.next_sequence(),
            leading,
            phase,
            known_revision,
            known_guards: Some(known_guards),
            shared_guards: shared_guards.map(|lines| lines.to_string()),
            vanguards: vanguards.map(|text| text.to_string()),
            round,
            unhealthy,
        };
        let Answer { status, authentic, body } =
            self.send(pod_uid, authority, SYNC_PATH, serde_json::to_vec(&request)?).await?;
        // An agent that could not authenticate the request cannot authenticate its refusal either.
        // The status is checked first, because it results in a more useful error.
        if status != StatusCode::OK {
            return Err(SyncError::Status(status));
        }
        authentic?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Asks the agent of a pod to close a circuit. Returns false if the agent does not know the
    /// circuit.
    pub(super) async fn close(&self, pod_uid: &str, authority: &str, circuit: u32) -> Result<bool, SyncError> {
        let publisher = self.publisher.to_string();
        let request = CloseRequest { publisher, sequence: self.next_sequence(), circuit };
        let exchange = self.send(pod_uid, authority, CLOSE_PATH, serde_json::to_vec(&request)?);
        let answer = timeout(DEADLINE, exchange).await.map_err(|_| SyncError::Timeout(DEADLINE))??;
        match answer.status {
            StatusCode::OK => answer.authentic.map(|()| true).map_err(SyncError::from),
            // An older agent does not know the path, and its answer is not authentic.
            StatusCode::NOT_FOUND if answer.authentic.is_ok() => Ok(false),
            status => Err(SyncError::Status(status)),
        }
    }

    /// Sends an authenticated request to an agent and returns the answer.
    async fn send(&self, pod_uid: &str, authority: &str, path: &str, body: Vec<u8>) -> Result<Answer, SyncError> {
        let nonce = HEXLOWER.encode(&clock::random::<16>());
        let mac = self.token.request_mac(pod_uid, Method::POST.as_str(), path, &nonce, &body);
        let request = Request::post(format!("http://{authority}{path}"))
            .header(CONTENT_TYPE, "application/json")
            .header(NONCE_HEADER, &nonce)
            .header(MAC_HEADER, mac)
            .body(Full::from(body))?;

        let (head, body) = self.http.request(request).await?.into_parts();
        let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(SyncError::Body)?.to_bytes();
        let expected =
            self.token.response_mac(pod_uid, Method::POST.as_str(), path, &nonce, head.status.as_u16(), &body);
        let mac = head.headers.get(MAC_HEADER).and_then(|mac| mac.to_str().ok());
        Ok(Answer { status: head.status, authentic: AgentToken::verify(&expected, mac), body })
    }

    /// Returns the sequence number of the next request: the wall-clock time in microseconds, or the
    /// last number plus one if that is greater.
    fn next_sequence(&self) -> u64 {
        let wall = self.clock.now().wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
        let next = |last: u64| wall.max(last.saturating_add(1));
        let last = self.sequence.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::State;
    use axum::http::HeaderMap;
    use axum::response::{IntoResponse as _, Response};
    use axum::routing::post;

    use super::*;

    const POD: &str = "pod-1";

    fn token(digit: char) -> AgentToken {
        AgentToken::from_hex(digit.to_string().repeat(64).as_bytes()).unwrap()
    }

    /// The behaviour of the simulated agent.
    #[derive(Clone, Copy, PartialEq)]
    enum Agent {
        Honest,
        SignsForAnotherPod,
        SendsTooMuch,
        Refuses,
        SendsNoJson,
    }

    async fn answer(State(agent): State<Agent>, headers: HeaderMap, body: Bytes) -> Response {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap();
        let nonce = header(NONCE_HEADER);
        let expected = token('a').request_mac(POD, "POST", SYNC_PATH, nonce, &body);
        if agent == Agent::Refuses || AgentToken::verify(&expected, Some(header(MAC_HEADER))).is_err() {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let request: SyncRequest = serde_json::from_slice(&body).unwrap();
        let body = match agent {
            Agent::SendsTooMuch => "x".repeat(BODY_LIMIT + 1),
            Agent::SendsNoJson => "{".to_owned(),
            // The answer repeats fields of the request, so that the test can check them.
            _ => serde_json::json!({
                "onionAddress": "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion",
                "revision": { "boot": 1, "number": request.sequence }, "introductionPoints": 3,
                "descriptor": request.publisher, "streams": 0, "draining": request.leading,
            })
            .to_string(),
        };
        let pod = if agent == Agent::SignsForAnotherPod { "pod-2" } else { POD };
        let mac = token('a').response_mac(pod, "POST", SYNC_PATH, nonce, 200, body.as_bytes());
        ([(MAC_HEADER, mac)], body).into_response()
    }

    fn question(leading: bool) -> Question {
        Question {
            leading,
            phase: PodPhase::Active,
            known_revision: None,
            known_guards: 0,
            shared_guards: None,
            vanguards: None,
            round: 0,
            unhealthy: false,
        }
    }

    async fn ask(agent: Agent, token: AgentToken) -> Result<SyncResponse, SyncError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let server = axum::serve(listener, Router::new().route(SYNC_PATH, post(answer)).with_state(agent));
        let server = tokio::spawn(server.into_future());
        let client = SyncClient::new(token, "publisher-1", Clock::start());
        let question = question(true);
        let first = client.ask(POD, &authority, question.clone(), DEADLINE).await;
        if let Ok(first) = &first {
            let second = client.ask(POD, &authority, question, DEADLINE).await.unwrap();
            assert!(second.revision.number > first.revision.number, "the sequence rises");
        }
        server.abort();
        first
    }

    #[tokio::test]
    async fn the_answer_of_an_honest_agent_is_accepted() {
        let answer = ask(Agent::Honest, token('a')).await.unwrap();
        assert_eq!(answer.descriptor.as_deref(), Some("publisher-1"));
        assert!(answer.draining);
    }

    #[tokio::test]
    async fn any_other_answer_is_rejected() {
        let refused = ask(Agent::Honest, token('b')).await.unwrap_err();
        assert!(matches!(refused, SyncError::Status(StatusCode::UNAUTHORIZED)), "{refused:?}");
        let forged = ask(Agent::SignsForAnotherPod, token('a')).await.unwrap_err();
        assert!(matches!(forged, SyncError::NotAuthentic(_)), "{forged:?}");
        let long = ask(Agent::SendsTooMuch, token('a')).await.unwrap_err();
        assert!(matches!(long, SyncError::Body(_)), "{long:?}");
        let status = ask(Agent::Refuses, token('a')).await.unwrap_err();
        assert!(matches!(status, SyncError::Status(StatusCode::UNAUTHORIZED)), "{status:?}");
        let broken = ask(Agent::SendsNoJson, token('a')).await.unwrap_err();
        assert!(matches!(broken, SyncError::Json(_)), "{broken:?}");
    }

    #[tokio::test]
    async fn a_missing_agent_results_in_a_send_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        drop(listener);
        let client = SyncClient::new(token('a'), "publisher-1", Clock::start());
        let question = question(false);
        assert!(matches!(client.ask(POD, &authority, question, DEADLINE).await, Err(SyncError::Send(_))));
    }
}
