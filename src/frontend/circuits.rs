//! The app's API: `POST /v1/circuits/close`, which closes the circuit of a client.
//!
//! The body is the source address of the PROXY header, which names the backend and the circuit. The
//! publisher passes the request on to the agent of that backend.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::directory::AgentDirectory;
use super::sync::SyncClient;
use crate::common::log_limit::{Line, LogLimit};
use crate::common::{http, http_server};
use crate::link::{AgentToken, CLOSE_PATH, CircuitAddress, MAX_REQUEST_BYTES};

/// The state of the app's API.
pub(super) struct CircuitsApi {
    token: Zeroizing<String>,
    client: SyncClient,
    directory: AgentDirectory,
    /// The requests are passed on one after another, so that their sequence numbers arrive in
    /// order.
    turn: Mutex<()>,
    failures: LogLimit,
}

impl CircuitsApi {
    /// Creates the API. The app's token is derived from the agent token.
    pub(super) fn new(token: &AgentToken, client: SyncClient, directory: AgentDirectory) -> Self {
        let (turn, failures) = (Mutex::new(()), LogLimit::default());
        Self { token: token.circuit_token(), client, directory, turn, failures }
    }

    /// Serves the API until the future is dropped.
    pub(super) async fn serve(self, address: Option<IpAddr>, port: u16) -> io::Result<()> {
        let socket = http::bind(address, port)?;
        let router = Router::new()
            .route(CLOSE_PATH, post(close))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(Arc::new(self));
        http_server::serve(socket, router, CancellationToken::new()).await;
        Ok(())
    }

    /// Closes the circuit with this address. Returns the status and the text of the response.
    async fn close(&self, address: &[u8]) -> (StatusCode, String) {
        let text = String::from_utf8_lossy(address);
        let address: CircuitAddress = match text.trim().parse() {
            Ok(address) => address,
            Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let Some((id, agent)) = self.directory.of_circuit(address) else {
            return (StatusCode::NOT_FOUND, "no backend has the mark in this address\n".to_owned());
        };
        let _turn = self.turn.lock().await;
        match self.client.close(&id.0, &agent.authority, address.circuit).await {
            Ok(true) => (StatusCode::OK, "closed\n".to_owned()),
            Ok(false) => (StatusCode::NOT_FOUND, "the circuit has ended, or had no stream lately\n".to_owned()),
            Err(error) => {
                if let Some(Line { suppressed }) = self.failures.line() {
                    tracing::warn!(%error, suppressed, "could not pass on a request to close a circuit");
                }
                (StatusCode::BAD_GATEWAY, format!("{error}\n"))
            }
        }
    }
}

async fn close(State(api): State<Arc<CircuitsApi>>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let credentials = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = credentials.and_then(|credentials| credentials.strip_prefix("Bearer "));
    if AgentToken::verify(&api.token, token).is_err() {
        let problem = "send the header \"Authorization: Bearer TOKEN\" with the token of this service\n";
        return (StatusCode::UNAUTHORIZED, problem.to_owned());
    }
    api.close(&body).await
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::frontend::clock::Clock;
    use crate::frontend::directory::Agent;
    use crate::link::{CloseRequest, MAC_HEADER, NONCE_HEADER};
    use crate::merge::BackendId;

    const ONION: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
    const ADDRESS: &str = "fc00:dead:beef:4dad:d1b3:8b83:0:2a";
    const POD: &str = "pod-1";

    fn token() -> AgentToken {
        AgentToken::from_hex(&[b'a'; 64]).unwrap()
    }

    /// Simulates an agent that has circuit 42 only.
    async fn agent(headers: HeaderMap, body: Bytes) -> (StatusCode, [(&'static str, String); 1], &'static str) {
        let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap();
        let expected = token().request_mac(POD, "POST", CLOSE_PATH, header(NONCE_HEADER), &body);
        AgentToken::verify(&expected, Some(header(MAC_HEADER))).unwrap();
        let request: CloseRequest = serde_json::from_slice(&body).unwrap();
        let status = if request.circuit == 42 { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let mac = token().response_mac(POD, "POST", CLOSE_PATH, header(NONCE_HEADER), status.as_u16(), b"text");
        (status, [(MAC_HEADER, mac)], "text")
    }

    async fn api() -> Arc<CircuitsApi> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let server = axum::serve(listener, Router::new().route(CLOSE_PATH, post(agent)));
        tokio::spawn(server.into_future());
        let directory = AgentDirectory::default();
        directory.answered(&BackendId(POD.into()), Agent { onion_address: ONION.parse().unwrap(), authority });
        let client = SyncClient::new(token(), "publisher-1", Clock::start());
        Arc::new(CircuitsApi::new(&token(), client, directory))
    }

    async fn ask(api: &Arc<CircuitsApi>, token: &str, address: &'static str) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        close(State(api.clone()), headers, address.into()).await.0.as_u16()
    }

    #[tokio::test]
    async fn the_request_reaches_the_backend_in_the_address() {
        let api = api().await;
        let right = token().circuit_token();
        assert_eq!(ask(&api, &right, ADDRESS).await, 200);
        assert_eq!(ask(&api, &right, "fc00:dead:beef:4dad:d1b3:8b83:0:2a\n").await, 200);
        assert_eq!(ask(&api, &right, "fc00:dead:beef:4dad:d1b3:8b83:0:2b").await, 404, "another circuit");
        assert_eq!(ask(&api, &right, "fc00:dead:beef:4dad:d1b3:8b84:0:2a").await, 404, "another backend");
        assert_eq!(ask(&api, &right, "10.0.0.1").await, 400);
    }

    #[tokio::test]
    async fn only_the_apps_token_authenticates_a_request() {
        let api = api().await;
        for wrong in ["", "a", &token().to_hex(), &token().circuit_token()[1..]] {
            assert_eq!(ask(&api, wrong, ADDRESS).await, 401);
        }
        let response = close(State(api), HeaderMap::new(), ADDRESS.into()).await;
        assert_eq!(response.0, StatusCode::UNAUTHORIZED);
    }
}
