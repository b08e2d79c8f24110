use rand::SeedableRng as _;
use rand::rngs::StdRng;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use data_encoding::HEXUPPER;
use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

use super::*;
use crate::common::tor_gate;
use crate::frontend::pods::Pod;
use crate::link::Guard;
use crate::onion::MasterKey;

/// Only the leader merges reports. A standby may run for months while pods come and go.
#[tokio::test]
async fn a_standby_forgets_the_reports_of_pods_that_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let client = kube::Client::new(axum::Router::new(), "shop");
    let token = AgentToken::derive(&MasterKey::generate(&mut StdRng::seed_from_u64(1)));
    let pod = Pod { name: "a".to_owned(), agent: None, ready: true, terminating: false };
    let backend = BackendId("a".to_owned());
    let (pods, seen) = watch::channel(Arc::new(Pods::from([(backend.clone(), pod)])));
    let watched = (seen, watch::channel(Facts::default()).1);
    let own = own_tor(dir.path(), "a");
    let (mut keeper, _links) = GuardKeeper::new(Api::default_namespaced(client), "web", token, own, watched);
    keeper.shared.send_replace(Some("".into()));
    let lines = "Guard in=default rsa_id=0707070707070707070707070707070707070707 sampled_on=2026-09-21T14:13:20 \
                 listed=1\n";
    keeper.reports.take(backend, &GuardReport { id: 1, lines: lines.to_owned() });
    keeper.settle().await;
    assert_eq!(keeper.reports.preferred(&GuardSample::default()), 1);
    pods.send_replace(Arc::default());
    keeper.settle().await;
    assert_eq!(keeper.reports.preferred(&GuardSample::default()), 0);
}

/// The frontend's tor adopts guards only if they belong to the mounted master key.
#[test]
fn a_new_tor_starts_with_the_guards_of_its_own_service() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["key", "guards", "data"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let key = |seed| MasterKey::generate(&mut StdRng::seed_from_u64(seed));
    let adopted = || {
        adopt(&path("guards"), &path("key"), &path("data"));
        tor_state::guard_lines(&path("data")).unwrap()
    };
    assert_eq!(adopted(), "", "there are no shared guards yet");
    let guard = Guard {
        identity: [7; 20],
        nickname: String::new(),
        sampled_on: 1_790_000_000,
        sampled_by: String::new(),
        unlisted_since: None,
        confirmed_on: Some(1_790_000_005),
    };
    let sample = GuardSample::new(vec![guard]).unwrap();
    for (name, content) in guards_to_data(&sample, &AgentToken::derive(&key(1))) {
        std::fs::write(path("guards").join(name), content).unwrap();
    }
    assert_eq!(adopted(), "", "without a key nothing can be checked");
    for (seed, expected) in [(2, String::new()), (1, sample.to_string())] {
        std::fs::write(path("key").join("hs_ed25519_secret_key"), key(seed).to_tor_secret_key_file()).unwrap();
        assert_eq!(adopted(), expected, "{seed}");
    }
}

/// Entries of a Secret.
type Entries<'a> = &'a [(&'a str, &'a [u8])];

/// An API server that holds one Secret.
#[derive(Clone)]
struct Server(Arc<std::sync::Mutex<Value>>);

impl Server {
    fn new() -> Self {
        Self(Arc::new(std::sync::Mutex::new(json!({"metadata": {"name": "web-guards", "resourceVersion": "1"}}))))
    }

    fn set(&self, data: Entries<'_>) {
        let entries = data.iter().map(|(name, bytes)| ((*name).to_owned(), json!(ByteString(bytes.to_vec()))));
        let data: Map<String, Value> = entries.collect();
        self.0.lock().unwrap()["data"] = json!(data);
    }

    fn client(&self) -> kube::Client {
        let read = async |State(server): State<Self>| Json(server.0.lock().unwrap().clone());
        let patch = async |State(server): State<Self>, body: String| {
            let patch: Value = serde_json::from_str(&body).unwrap();
            let mut secret = server.0.lock().unwrap();
            let version = secret["metadata"]["resourceVersion"].clone();
            if patch["metadata"]["resourceVersion"] != version {
                let status = json!({"status": "Failure", "message": "", "reason": "Conflict", "code": 409});
                return (StatusCode::CONFLICT, Json(status));
            }
            let data = patch["data"].as_object().unwrap().clone();
            if secret["data"].is_null() {
                secret["data"] = json!({});
            }
            secret["data"].as_object_mut().unwrap().extend(data);
            let next = version.as_str().unwrap().parse::<u64>().unwrap() + 1;
            secret["metadata"]["resourceVersion"] = json!(next.to_string());
            (StatusCode::OK, Json(secret.clone()))
        };
        let url = "/api/v1/namespaces/shop/secrets/web-guards";
        kube::Client::new(Router::new().route(url, get(read).patch(patch)).with_state(self.clone()), "shop")
    }
}

fn lines(digit: u8, extra: &str) -> String {
    let identity = HEXUPPER.encode(&[digit; 20]);
    format!("Guard in=default rsa_id={identity} sampled_on=2100-01-01T00:00:00 {extra} listed=1\n")
}

/// Returns a keeper that leads, whose own tor has chosen the guard 7.
fn leading_keeper(server: &Server, dir: &Path) -> (GuardKeeper, GuardLinks, AgentToken) {
    std::fs::write(dir.join("state"), lines(7, "sampled_idx=0")).unwrap();
    let token = AgentToken::derive(&MasterKey::generate(&mut StdRng::seed_from_u64(1)));
    let facts = watch::channel(Facts { leading: true, ..Facts::default() }).1;
    let watched = (watch::channel(Arc::default()).1, facts);
    let secrets = Api::default_namespaced(server.client());
    let (keeper, links) = GuardKeeper::new(secrets, "web", token.clone(), own_tor(dir, "a"), watched);
    (keeper, links, token)
}

/// Returns a tor with its data in a directory, in which its gate is, too.
fn own_tor(dir: &Path, identity: &str) -> OwnTor {
    let gate = Arc::new(Gate::new(dir, dir).unwrap());
    OwnTor { data_dir: dir.to_owned(), gate, identity: identity.to_owned(), guards_in_use: 1 }
}

/// Returns the keeper of a frontend whose tor waits at the gate.
fn waiting_keeper(server: &Server, dir: &Path, identity: &str) -> (GuardKeeper, GuardLinks) {
    tor_gate::close(dir, dir, dir).unwrap();
    let token = AgentToken::derive(&MasterKey::generate(&mut StdRng::seed_from_u64(1)));
    let watched = (watch::channel(Arc::default()).1, watch::channel(Facts::default()).1);
    let secrets = Api::default_namespaced(server.client());
    GuardKeeper::new(secrets, "web", token, own_tor(dir, identity), watched)
}

/// The tor of the first frontend chooses guards, and the tor of the second starts with them.
#[tokio::test]
async fn frontends_that_start_together_do_not_choose_separate_guards() {
    let (server, dirs) = (Server::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let (mut first, links) = waiting_keeper(&server, dirs[0].path(), "a");
    let (mut second, _links) = waiting_keeper(&server, dirs[1].path(), "b");
    first.settle().await;
    second.settle().await;
    assert!(!first.own.gate.is_closed() && second.own.gate.is_closed());
    links.drawn.send_replace(Some(format!("${} never-connected\n", "07".repeat(20))));
    first.settle().await;
    second.settle().await;
    assert!(!second.own.gate.is_closed());
    let shared = links.agents.shared.borrow().clone().unwrap();
    assert_eq!(tor_state::guard_lines(dirs[1].path()).unwrap(), *shared);
    // A frontend whose container restarts goes on.
    let (server, dir) = (Server::new(), tempfile::tempdir().unwrap());
    server.set(&[("drawing", b"a")]);
    let (mut restarted, _links) = waiting_keeper(&server, dir.path(), "a");
    restarted.settle().await;
    assert!(!restarted.own.gate.is_closed());
}

/// Two publishers that have both read the empty Secret cannot both write their name.
#[tokio::test]
async fn only_one_frontend_can_claim_the_first_draw() {
    let (server, dirs) = (Server::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let (mut first, _links) = waiting_keeper(&server, dirs[0].path(), "a");
    let (mut second, _links_of_second) = waiting_keeper(&server, dirs[1].path(), "b");
    let read =
        async |keeper: &mut GuardKeeper| keeper.read().await.unwrap_or_else(|failure| panic!("{}", failure.reason));
    let (seen_by_first, seen_by_second) = (read(&mut first).await, read(&mut second).await);
    for (keeper, seen) in [(&mut first, seen_by_first), (&mut second, seen_by_second)] {
        assert!(keeper.start_first(&seen).await.is_ok());
    }
    assert!(!first.own.gate.is_closed() && second.own.gate.is_closed());
}

/// If the Secret cannot be used, all pods start nevertheless, and the backends get the guards of
/// the publisher's own tor.
#[tokio::test]
async fn without_a_usable_secret_the_backends_get_the_guards_of_the_publishers_tor() {
    let (server, dir) = (Server::new(), tempfile::tempdir().unwrap());
    let (mut keeper, links) = waiting_keeper(&server, dir.path(), "a");
    keeper.secret = "missing".to_owned();
    for is_closed in [true, true, false] {
        keeper.settle().await;
        assert_eq!(keeper.own.gate.is_closed(), is_closed, "the Secret may still come");
    }
    assert_eq!(*links.agents.shared.borrow(), None, "tor has not chosen any guards yet");
    std::fs::write(dir.path().join("state"), lines(7, "sampled_idx=0")).unwrap();
    keeper.settle().await;
    let shared = links.agents.shared.borrow().clone().unwrap();
    assert!(shared.contains(&"07".repeat(20)), "{shared}");
}

fn kind(links: &GuardLinks) -> Option<GuardsProblemKind> {
    links.view.borrow().as_ref().and_then(|view| Some(view.problem.as_ref()?.kind))
}

/// A Secret that no publisher of this service has written gives the pods nothing, is replaced by
/// the guards of the publisher's own tor, and is reported.
#[tokio::test]
async fn a_bad_secret_is_replaced_and_reported() {
    let other = AgentToken::derive(&MasterKey::generate(&mut StdRng::seed_from_u64(2)));
    let (honest, forged) = (lines(7, ""), lines(9, ""));
    let foreign = other.guards_mac(&forged);
    let long = "x".repeat(200_000);
    let cases: [(&str, Entries<'_>); 5] = [
        ("corrupt", &[("guards", &[0xff; 300]), ("mac", b"0")]),
        ("foreign", &[("guards", forged.as_bytes()), ("mac", foreign.as_bytes())]),
        ("without a MAC", &[("guards", honest.as_bytes())]),
        ("only a MAC", &[("mac", foreign.as_bytes())]),
        ("too long", &[("guards", long.as_bytes()), ("mac", b"")]),
    ];
    for (name, data) in cases {
        let (server, dir) = (Server::new(), tempfile::tempdir().unwrap());
        server.set(data);
        let (mut keeper, links, _) = leading_keeper(&server, dir.path());
        keeper.settle().await;
        assert_eq!(kind(&links), Some(GuardsProblemKind::Replaced), "{name}");
        assert_eq!(links.view.borrow().as_ref().unwrap().all_figures().problem, kind(&links), "{name}");
        let shared = links.agents.shared.borrow().clone().unwrap();
        assert!(shared.contains(&HEXUPPER.encode(&[7; 20])) && !shared.contains(&"09".repeat(20)), "{name}: {shared}");
        let message = links.view.borrow().as_ref().unwrap().problem.as_ref().unwrap().message.clone();
        assert!(!message.contains(&"09".repeat(20)), "a message must not name a guard: {message}");
    }
}

#[tokio::test]
async fn an_edited_and_an_emptied_secret_get_their_last_content_back() {
    let (server, dir) = (Server::new(), tempfile::tempdir().unwrap());
    let (mut keeper, links, token) = leading_keeper(&server, dir.path());
    keeper.settle().await;
    assert_eq!(kind(&links), None, "a new Secret is empty");
    let good = links.agents.shared.borrow().clone().unwrap();
    let mac = token.guards_mac(&good);
    let edited = good.replace("0707", "0708");
    let edits: [Entries<'_>; 2] = [&[("guards", edited.as_bytes()), ("mac", mac.as_bytes())], &[]];
    for data in edits {
        keeper.problems = Problems::default();
        server.set(data);
        keeper.stored = None;
        keeper.settle().await;
        assert_eq!(kind(&links), Some(GuardsProblemKind::Replaced), "{data:?}");
        let stored = server.0.lock().unwrap()["data"]["guards"].clone();
        assert_eq!(stored, json!(ByteString(good.as_bytes().to_vec())));
    }
}

/// A tor before 0.4.9 does not number its guards. A relay that is not in the consensus stays in the
/// sample, but counts as unlisted.
#[tokio::test]
async fn lines_of_an_older_tor_and_unknown_relays_are_no_damage() {
    let (server, dir) = (Server::new(), tempfile::tempdir().unwrap());
    let (mut keeper, links, token) = leading_keeper(&server, dir.path());
    let old = lines(7, "sampled_by=0.3.5.8 newer=1") + &lines(8, "").replace("listed=1", "listed=0");
    server.set(&[("guards", old.as_bytes()), ("mac", token.guards_mac(&old).as_bytes())]);
    keeper.settle().await;
    let view = links.view.borrow().clone().unwrap();
    assert_eq!(
        (view.problem, view.figures, view.unlisted),
        (None, GuardFigures { shared: 2, preferred: 1, in_use: 1, problem: None }, 1)
    );
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_is_reported_if_this_persists() {
    let (server, dir) = (Server::new(), tempfile::tempdir().unwrap());
    let (mut keeper, links, _) = leading_keeper(&server, dir.path());
    keeper.secret = "missing".to_owned();
    for expected in [None, None, Some(GuardsProblemKind::NotKept)] {
        keeper.settle().await;
        assert_eq!(kind(&links), expected);
    }
    keeper.secret = "web-guards".to_owned();
    keeper.settle().await;
    assert_eq!(kind(&links), None);
}
