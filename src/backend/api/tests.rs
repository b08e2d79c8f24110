use std::time::Duration;

use http_body_util::BodyExt as _;

use super::*;
use crate::backend::drain::DrainTimes;
use crate::backend::points::Points;
use crate::backend::stall::Mended;
use crate::link::{PodPhase, Revision, TargetState, Vanguard, Vanguards};

const POD_UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const ADDRESS: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
/// The descriptor that the agent under test serves.
const DESCRIPTOR: &str = "text";
const NONCE: &str = "00112233445566778899aabbccddeeff";

/// An agent with three introduction points.
struct Bench {
    api: Arc<Api>,
    tor: watch::Sender<TorState>,
    circuits: Arc<Circuits>,
    guards: watch::Sender<Option<GuardReport>>,
    vanguards: Arc<SharedVanguards>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, token(0).to_hex().as_bytes()).unwrap();
        let points = Points::with_count(3);
        let tor = TorState { answering: true, bootstrapped: 100, points, kills: 0, mended: Mended::default() };
        let (tor, _) = watch::channel(tor);
        let traffic = Arc::new(Traffic::default());
        let times = DrainTimes { linger: Duration::ZERO, timeout: Duration::ZERO };
        let drain = Arc::new(Drain::new(times, traffic.watch_open()));
        let (address, pod_uid) = (ADDRESS.parse().unwrap(), POD_UID.to_owned());
        let circuits = Circuits::new(8, None);
        let guards = watch::Sender::new(None);
        let vanguards = Arc::new(SharedVanguards::for_tests());
        let gate = Arc::new(Gate::new(dir.path(), dir.path()).unwrap());
        let watched = TorGuards { newest: guards.subscribe(), gate, turn: Turn::default() };
        let parts = Parts { drain, traffic, circuits: circuits.clone(), vanguards: vanguards.clone() };
        let api = Api::new(pod_uid, token_file, address, tor.subscribe(), watched, parts).unwrap();
        let api = api.with_health(Arc::new(Health::for_tests()));
        Self { api: Arc::new(api), tor, circuits, guards, vanguards, _dir: dir }
    }

    /// Sends a request and returns the status, MAC and body of the response.
    async fn send(&self, request: &Signed) -> (StatusCode, Option<String>, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in [(NONCE_HEADER, &request.nonce), (MAC_HEADER, &request.mac)] {
            if let Some(value) = value {
                headers.insert(name, value.parse().unwrap());
            }
        }
        Self::parts(sync(State(self.api.clone()), headers, request.body.clone().into()).await).await
    }

    /// Sends a request to close circuit 42, signed for the given path.
    async fn close(&self, path: &str, sequence: u64) -> (StatusCode, Option<String>, String) {
        let request = CloseRequest { publisher: "p".to_owned(), sequence, circuit: 42 };
        let body = serde_json::to_string(&request).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(NONCE_HEADER, NONCE.parse().unwrap());
        headers
            .insert(MAC_HEADER, token(0).request_mac(POD_UID, METHOD, path, NONCE, body.as_bytes()).parse().unwrap());
        Self::parts(close_circuit(State(self.api.clone()), headers, body.into()).await).await
    }

    async fn parts(response: Response) -> (StatusCode, Option<String>, String) {
        let (head, body) = response.into_parts();
        let mac = head.headers.get(MAC_HEADER).map(|mac| mac.to_str().unwrap().to_owned());
        (head.status, mac, String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap())
    }
}

/// A request with its authentication headers.
#[derive(Debug, Clone)]
struct Signed {
    nonce: Option<String>,
    mac: Option<String>,
    body: String,
}

impl Signed {
    /// Signs a request from a leading publisher to a pod.
    fn new(token: &AgentToken, pod_uid: &str, sequence: u64) -> Self {
        let body = serde_json::to_string(&SyncRequest { leading: true, ..request("p", sequence) }).unwrap();
        let mac = token.request_mac(pod_uid, METHOD, SYNC_PATH, NONCE, body.as_bytes());
        Self { nonce: Some(NONCE.to_owned()), mac: Some(mac), body }
    }
}

fn token(byte: u8) -> AgentToken {
    AgentToken::from_hex(format!("{byte:02x}").repeat(32).as_bytes()).unwrap()
}

fn request(publisher: &str, sequence: u64) -> SyncRequest {
    SyncRequest {
        publisher: publisher.to_owned(),
        sequence,
        leading: false,
        phase: PodPhase::Active,
        known_revision: None,
        known_guards: None,
        shared_guards: None,
        vanguards: None,
        round: 0,
        unhealthy: false,
    }
}

#[tokio::test]
async fn an_authenticated_request_gets_an_authenticated_response_with_the_descriptor() {
    let bench = Bench::new();
    let (status, mac, body) = bench.send(&Signed::new(&token(0), POD_UID, 1)).await;
    assert_eq!(status, StatusCode::OK);
    let answer: SyncResponse = serde_json::from_str(&body).unwrap();
    assert_eq!((answer.introduction_points, answer.descriptor.as_deref()), (3, Some(DESCRIPTOR)));
    let expected = token(0).response_mac(POD_UID, METHOD, SYNC_PATH, NONCE, 200, body.as_bytes());
    assert_eq!(mac, Some(expected));
}

#[tokio::test]
async fn the_response_contains_the_health_of_the_targets() {
    let (_, _, body) = Bench::new().send(&Signed::new(&token(0), POD_UID, 1)).await;
    let answer: SyncResponse = serde_json::from_str(&body).unwrap();
    let targets: Vec<_> = answer.targets.iter().map(|target| (target.port, target.state)).collect();
    assert_eq!(targets, [(80, TargetState::Passing)]);
}

#[tokio::test]
async fn an_unauthenticated_request_is_rejected_and_reveals_and_changes_nothing() {
    let bench = Bench::new();
    let heard = Signed::new(&token(0), POD_UID, 1);
    assert_eq!(bench.send(&heard).await.0, StatusCode::OK);

    let next = Signed::new(&token(0), POD_UID, 2);
    let altered = next.body.replace("\"sequence\":2", "\"sequence\":3");
    assert_ne!(altered, next.body);
    let other_nonce = Some(NONCE.replace('0', "1"));
    for (case, request) in [
        ("unsigned", Signed { nonce: None, mac: None, ..next.clone() }),
        ("without a MAC", Signed { mac: None, ..next.clone() }),
        ("without a nonce", Signed { nonce: None, ..next.clone() }),
        ("with an empty MAC", Signed { mac: Some(String::new()), ..next.clone() }),
        ("with a truncated MAC", Signed { mac: next.mac.as_ref().map(|mac| mac[..63].to_owned()), ..next.clone() }),
        ("signed with another token", Signed::new(&token(1), POD_UID, 2)),
        ("signed for another pod", Signed::new(&token(0), "another-uid", 2)),
        ("with another nonce", Signed { nonce: other_nonce, ..next.clone() }),
        ("with an altered body", Signed { body: altered, ..next.clone() }),
        ("with the nonce and MAC of an earlier request", Signed { body: next.body.clone(), ..heard.clone() }),
        ("not even JSON", Signed { body: "{".to_owned(), ..next.clone() }),
    ] {
        let (status, mac, body) = bench.send(&request).await;
        assert_eq!((status, mac), (StatusCode::UNAUTHORIZED, None), "{case}");
        assert_eq!(body, format!("{}\n", LinkError::NotAuthentic), "{case}");
    }
    assert_eq!(bench.send(&next).await.0, StatusCode::OK, "a rejected request must not advance the sequence");
}

#[tokio::test]
async fn a_replayed_request_is_rejected_and_reveals_nothing() {
    let bench = Bench::new();
    let first = Signed::new(&token(0), POD_UID, 1);
    assert_eq!(bench.send(&first).await.0, StatusCode::OK);
    let (status, _, body) = bench.send(&first).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(body, "sequence number 1 is not greater than the previous one, 1\n");
}

#[test]
fn a_descriptor_is_sent_until_its_revision_is_known() {
    let Bench { api, tor, .. } = &Bench::new();
    let revision = tor.borrow().points.revision();
    let other_boot = Revision { boot: revision.boot + 1, ..revision };
    let other_points = Revision { number: revision.number + 1, ..revision };
    for known in [None, Some(other_boot), Some(other_points)] {
        let answer = api.answer(&SyncRequest { known_revision: known, ..request("p", 1) });
        assert_eq!((answer.revision, answer.descriptor.as_deref()), (revision, Some(DESCRIPTOR)), "{known:?}");
    }
    let answer = api.answer(&SyncRequest { known_revision: Some(revision), ..request("p", 1) });
    assert_eq!((answer.revision, answer.introduction_points, answer.descriptor), (revision, 3, None));

    tor.send_modify(|tor| _ = tor.points.clear());
    let answer = api.answer(&SyncRequest { known_revision: Some(revision), ..request("p", 1) });
    assert_eq!((answer.introduction_points, answer.descriptor), (0, None));
    assert_ne!(answer.revision, revision);
}

#[test]
fn guards_are_sent_only_to_a_publisher_that_expects_them_and_does_not_know_them() {
    let Bench { api, guards, .. } = &Bench::new();
    let sent = |known_guards| api.answer(&SyncRequest { known_guards, ..request("p", 1) }).guards;
    assert_eq!(sent(Some(0)), None, "tor has no guards yet");
    let report = GuardReport { id: 5, lines: "Guard in=default\n".to_owned() };
    guards.send_replace(Some(report.clone()));
    assert_eq!(sent(None), None, "an older publisher");
    for known in [0, 4] {
        assert_eq!(sent(Some(known)), Some(report.clone()));
    }
    assert_eq!(sent(Some(5)), None);
}

#[test]
fn the_sequence_numbers_of_each_publisher_must_increase() {
    let mut sequences = Sequences::default();
    assert_eq!(sequences.advance("a", 5), Ok(()));
    assert_eq!(sequences.advance("a", 5), Err(5));
    assert_eq!(sequences.advance("a", 4), Err(5));
    assert_eq!(sequences.advance("b", 1), Ok(()));
    assert_eq!(sequences.advance("a", 9), Ok(()));
    assert_eq!(sequences.advance("a", 8), Err(9));
}

#[test]
fn the_publisher_with_the_oldest_request_is_dropped_first() {
    let mut sequences = Sequences::default();
    for number in 0..MAX_PUBLISHERS {
        sequences.advance(&number.to_string(), 10).unwrap();
    }
    sequences.advance("0", 11).unwrap();
    sequences.advance("new", 1).unwrap();
    assert_eq!(sequences.0.len(), MAX_PUBLISHERS);
    assert_eq!(sequences.advance("0", 11), Err(11), "publisher 0 has sent another request since");
    assert_eq!(sequences.advance("1", 1), Ok(()), "the number of publisher 1 was dropped");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_closes_a_circuit_once_for_each_authentic_request() {
    let bench = Bench::new();
    assert_eq!(bench.close(SYNC_PATH, 1).await.0, StatusCode::UNAUTHORIZED, "the MAC covers the path");
    assert_eq!(bench.close(CLOSE_PATH, 1).await.0, StatusCode::NOT_FOUND, "no such circuit");
    let _stream = bench.circuits.take(42).unwrap();
    let tor = async {
        let request = bench.circuits.next_request().await;
        assert_eq!(request.circuit, 42);
        bench.circuits.answered(request, true);
    };
    let ((status, mac, body), ()) = tokio::join!(bench.close(CLOSE_PATH, 2), tor);
    assert_eq!((status, body.as_str()), (StatusCode::OK, "closed\n"));
    assert_eq!(mac, Some(token(0).response_mac(POD_UID, METHOD, CLOSE_PATH, NONCE, 200, body.as_bytes())));
    assert_eq!(bench.close(CLOSE_PATH, 2).await.0, StatusCode::CONFLICT, "a replay");
    assert_eq!(bench.close(CLOSE_PATH, 3).await.0, StatusCode::SERVICE_UNAVAILABLE, "tor does not answer");
}

/// A deposed leader may still know the vanguards of yesterday.
#[tokio::test]
async fn only_the_leader_replaces_the_vanguards() {
    let bench = Bench::new();
    let relay = |number| Vanguard { identity: [number; 20], expires: 9 };
    let vanguards = Vanguards::new(vec![relay(1)], vec![relay(2)]).unwrap();
    let wanted = || bench.vanguards.watch().unwrap().borrow().as_deref().map(Vanguards::id);
    for (sequence, leading) in [(1, false), (2, true)] {
        let request = SyncRequest { leading, vanguards: Some(vanguards.to_string()), ..request("p", sequence) };
        let body = serde_json::to_string(&request).unwrap();
        let mac = token(0).request_mac(POD_UID, METHOD, SYNC_PATH, NONCE, body.as_bytes());
        let (status, _, body) = bench.send(&Signed { nonce: Some(NONCE.to_owned()), mac: Some(mac), body }).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(wanted(), leading.then(|| vanguards.id()));
        let answer: SyncResponse = serde_json::from_str(&body).unwrap();
        assert_eq!(answer.vanguards, Some(0), "tor does not use them yet");
    }
}
