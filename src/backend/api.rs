//! The publisher's call, `POST /v1/sync`: authenticated both ways, it takes in what the publisher knows and gives the
//! descriptor when that is new.

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

use super::Failure;
use super::drain::Drain;
use super::forward::Traffic;
use super::observer::TorState;
use crate::link::{
    AgentToken, LinkError, MAC_HEADER, MAX_REQUEST_BYTES, NONCE_HEADER, SYNC_PATH, SyncRequest, SyncResponse,
};
use crate::onion::OnionAddress;

const METHOD: &str = "POST";
/// Publishers whose sequence numbers are kept: a service has a few, and each rollout brings new ones.
const MAX_PUBLISHERS: usize = 32;

/// What the call answers from.
#[derive(Debug)]
pub struct Api {
    pod_uid: String,
    token_file: PathBuf,
    address: OnionAddress,
    tor: watch::Receiver<TorState>,
    drain: Arc<Drain>,
    traffic: Arc<Traffic>,
    sequences: Mutex<Sequences>,
}

impl Api {
    /// Fails when there is no good token.
    pub fn new(
        pod_uid: String,
        token_file: PathBuf,
        address: OnionAddress,
        tor: watch::Receiver<TorState>,
        drain: Arc<Drain>,
        traffic: Arc<Traffic>,
    ) -> Result<Self, Failure> {
        let api = Self { pod_uid, token_file, address, tor, drain, traffic, sequences: Mutex::default() };
        api.read_token()?;
        Ok(api)
    }

    pub fn router(self) -> Router {
        Router::new()
            .route(SYNC_PATH, post(sync))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(Arc::new(self))
    }

    /// Read for each call: the kubelet replaces the file when the Secret changes.
    fn read_token(&self) -> Result<AgentToken, Failure> {
        let complain = |error: &dyn std::fmt::Display| format!("{}: {error}", self.token_file.display());
        let text = std::fs::read(&self.token_file).map(zeroize::Zeroizing::new).map_err(|error| complain(&error))?;
        Ok(AgentToken::from_hex(&text).map_err(|error| complain(&error))?)
    }

    fn answer(&self, request: &SyncRequest) -> SyncResponse {
        let tor = self.tor.borrow();
        let revision = tor.points.revision();
        let known = request.known_revision == Some(revision);
        SyncResponse {
            onion_address: self.address,
            revision,
            introduction_points: tor.points.count(),
            descriptor: if known { None } else { tor.points.descriptor().map(|text| text.to_string()) },
            streams: self.traffic.open(),
            draining: self.drain.is_running(),
        }
    }
}

async fn sync(State(api): State<Arc<Api>>, headers: HeaderMap, body: Bytes) -> Response {
    let token = match api.read_token() {
        Ok(token) => token,
        Err(error) => {
            tracing::error!("no agent token: {error}");
            return (StatusCode::SERVICE_UNAVAILABLE, "the agent has no token\n").into_response();
        }
    };
    let caller = match authenticate(&token, &api.pod_uid, &headers, &body) {
        Ok(nonce) => Caller { token: &token, pod_uid: &api.pod_uid, nonce },
        Err(error) => {
            // Anybody in the cluster can cause these lines; the publisher reports its refusals itself.
            tracing::debug!("a call to the API was refused: {error}");
            return (StatusCode::UNAUTHORIZED, format!("{error}\n")).into_response();
        }
    };
    let request: SyncRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return caller.reply(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n")),
    };
    if let Err(last) = api.sequences.lock().unwrap_or_else(PoisonError::into_inner).advance(&request) {
        let problem = format!("the sequence must rise: {} after {last}\n", request.sequence);
        return caller.reply(StatusCode::CONFLICT, "text/plain", problem);
    }
    api.drain.heard(request.leading, request.phase);
    match serde_json::to_string(&api.answer(&request)) {
        Ok(json) => caller.reply(StatusCode::OK, "application/json", json),
        Err(error) => caller.reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
    }
}

/// Gives the request's nonce.
fn authenticate<'a>(
    token: &AgentToken,
    pod_uid: &str,
    headers: &'a HeaderMap,
    body: &[u8],
) -> Result<&'a str, LinkError> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let nonce = header(NONCE_HEADER).ok_or(LinkError::NotAuthentic)?;
    AgentToken::verify(&token.request_mac(pod_uid, METHOD, SYNC_PATH, nonce, body), header(MAC_HEADER))?;
    Ok(nonce)
}

/// An authenticated request's answers.
struct Caller<'a> {
    token: &'a AgentToken,
    pod_uid: &'a str,
    nonce: &'a str,
}

impl Caller<'_> {
    fn reply(&self, status: StatusCode, content_type: &'static str, body: String) -> Response {
        let mac =
            self.token.response_mac(self.pod_uid, METHOD, SYNC_PATH, self.nonce, status.as_u16(), body.as_bytes());
        (status, [(MAC_HEADER, mac.as_str()), (CONTENT_TYPE.as_str(), content_type)], body).into_response()
    }
}

/// The last sequence number of each publisher, the one that was heard last at the end.
#[derive(Debug, Default)]
struct Sequences(Vec<(String, u64)>);

impl Sequences {
    /// Takes a request's number in; Err with the last one when it did not rise.
    fn advance(&mut self, request: &SyncRequest) -> Result<(), u64> {
        if let Some(index) = self.0.iter().position(|(publisher, _)| *publisher == request.publisher) {
            let (_, last) = self.0[index];
            if request.sequence <= last {
                return Err(last);
            }
            self.0.remove(index);
        } else if self.0.len() >= MAX_PUBLISHERS {
            self.0.remove(0);
        }
        self.0.push((request.publisher.clone(), request.sequence));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::drain::DrainTimes;
    use crate::backend::points::Points;
    use crate::backend::stall::Mended;
    use crate::link::{PodPhase, Revision};

    fn request(publisher: &str, sequence: u64) -> SyncRequest {
        SyncRequest {
            publisher: publisher.to_owned(),
            sequence,
            leading: false,
            phase: PodPhase::Active,
            known_revision: None,
        }
    }

    #[test]
    fn a_descriptor_is_sent_until_its_revision_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "00".repeat(32)).unwrap();
        let tor = TorState {
            answering: true,
            bootstrapped: 100,
            points: Points::with_count(3),
            kills: 0,
            mended: Mended::default(),
        };
        let revision = tor.points.revision();
        let (tor, _) = watch::channel(tor);
        let traffic = Arc::new(Traffic::default());
        let times = DrainTimes { linger: Duration::ZERO, timeout: Duration::ZERO };
        let drain = Arc::new(Drain::new(times, traffic.watch_open()));
        let address = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
        let api = Api::new("uid".to_owned(), token, address, tor.subscribe(), drain, traffic).unwrap();

        let other_boot = Revision { boot: revision.boot + 1, ..revision };
        let other_points = Revision { number: revision.number + 1, ..revision };
        for known in [None, Some(other_boot), Some(other_points)] {
            let answer = api.answer(&SyncRequest { known_revision: known, ..request("p", 1) });
            assert_eq!((answer.revision, answer.descriptor.as_deref()), (revision, Some("text")), "{known:?}");
        }
        let answer = api.answer(&SyncRequest { known_revision: Some(revision), ..request("p", 1) });
        assert_eq!((answer.revision, answer.introduction_points, answer.descriptor), (revision, 3, None));

        tor.send_modify(|tor| _ = tor.points.clear());
        let answer = api.answer(&SyncRequest { known_revision: Some(revision), ..request("p", 1) });
        assert_eq!((answer.introduction_points, answer.descriptor), (0, None));
        assert_ne!(answer.revision, revision);
    }

    #[test]
    fn each_publishers_sequence_must_rise() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.advance(&request("a", 5)), Ok(()));
        assert_eq!(sequences.advance(&request("a", 5)), Err(5));
        assert_eq!(sequences.advance(&request("a", 4)), Err(5));
        assert_eq!(sequences.advance(&request("b", 1)), Ok(()));
        assert_eq!(sequences.advance(&request("a", 9)), Ok(()));
        assert_eq!(sequences.advance(&request("a", 8)), Err(9));
    }

    #[test]
    fn the_publisher_not_heard_for_longest_is_forgotten_first() {
        let mut sequences = Sequences::default();
        for number in 0..MAX_PUBLISHERS {
            sequences.advance(&request(&number.to_string(), 10)).unwrap();
        }
        sequences.advance(&request("0", 11)).unwrap();
        sequences.advance(&request("new", 1)).unwrap();
        assert_eq!(sequences.0.len(), MAX_PUBLISHERS);
        assert_eq!(sequences.advance(&request("0", 11)), Err(11), "heard since");
        assert_eq!(sequences.advance(&request("1", 1)), Ok(()), "forgotten");
    }
}
