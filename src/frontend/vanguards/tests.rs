//! Tests of the task that keeps the vanguards, with an API server in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use k8s_openapi::ByteString;
use onionbalance_testnet::Plan;
use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::consensus::NetworkKind;
use crate::link::Vanguard;
use crate::merge::BackendId;
use crate::onion::MasterKey;

const SECRET: &str = "/api/v1/namespaces/shop/secrets/web-guards";

/// The Secret on the API server.
#[derive(Debug, Default)]
struct Content {
    data: BTreeMap<String, ByteString>,
    version: u64,
    reads: usize,
    writes: usize,
}

#[derive(Debug, Clone, Default)]
struct Server(Arc<Mutex<Content>>);

impl Server {
    fn router(&self) -> Router {
        Router::new().route(SECRET, get(Self::read).patch(Self::change)).with_state(self.clone())
    }

    #[allow(clippy::unused_async, reason = "a handler is async")]
    async fn read(State(server): State<Self>) -> Json<Value> {
        let mut content = server.0.lock().unwrap();
        content.reads += 1;
        Json(content.object())
    }

    #[allow(clippy::unused_async, reason = "a handler is async")]
    async fn change(State(server): State<Self>, Json(patch): Json<Value>) -> (StatusCode, Json<Value>) {
        let mut content = server.0.lock().unwrap();
        let version = content.version.to_string();
        if patch["metadata"]["resourceVersion"].as_str() != Some(version.as_str()) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "the object has been modified", "reason": "Conflict", "code": 409});
            return (StatusCode::CONFLICT, Json(status));
        }
        let data: BTreeMap<String, ByteString> = serde_json::from_value(patch["data"].clone()).unwrap();
        content.data.extend(data);
        (content.version, content.writes) = (content.version + 1, content.writes + 1);
        (StatusCode::OK, Json(content.object()))
    }

    /// Writes the entries as somebody else.
    fn write(&self, entries: &[(&'static str, String)]) {
        let mut content = self.0.lock().unwrap();
        let entries = entries.iter().map(|(name, text)| ((*name).to_owned(), ByteString(text.clone().into_bytes())));
        content.data.extend(entries);
        content.version += 1;
    }

    fn stored(&self) -> Vanguards {
        let content = self.0.lock().unwrap();
        let entry = |name: &str| content.data.get(name).map(|bytes| bytes.0.as_slice());
        vanguards_of_data(entry(VANGUARDS_ENTRY), entry(VANGUARDS_MAC_ENTRY), &token()).unwrap()
    }

    /// Returns the number of requests that read and that changed the Secret.
    fn requests(&self) -> (usize, usize) {
        let content = self.0.lock().unwrap();
        (content.reads, content.writes)
    }
}

impl Content {
    fn object(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "data": self.data,
            "metadata": {"name": "web-guards", "namespace": "shop", "resourceVersion": self.version.to_string()}})
    }
}

fn token() -> AgentToken {
    AgentToken::derive(&MasterKey::generate(&mut StdRng::seed_from_u64(1)))
}

fn network(relays: usize) -> Arc<Network> {
    let generated = Plan { relays, ..Plan::default() }.generate();
    Arc::new(Network::parse(&generated.consensus, "", NetworkKind::Public).unwrap())
}

/// A task with its server and its links.
struct Bench {
    server: Server,
    orders: watch::Sender<AgentOrders>,
    keeper: VanguardKeeper,
    links: VanguardLinks,
    _mount: tempfile::TempDir,
}

impl Bench {
    fn new(leading: bool, network: Option<Arc<Network>>) -> Self {
        let (server, mount) = (Server::default(), tempfile::tempdir().unwrap());
        let secrets = Api::default_namespaced(kube::Client::new(server.router(), "shop"));
        let store = VanguardStore::new(secrets, "web", token(), mount.path().to_owned());
        let (orders, seen) = watch::channel(AgentOrders { leading, network, ..AgentOrders::default() });
        let (keeper, links) = VanguardKeeper::new(store, seen);
        Self { server, orders, keeper, links, _mount: mount }
    }

    async fn leading() -> Self {
        let mut bench = Self::new(true, Some(network(40)));
        bench.keeper.settle().await.unwrap();
        bench
    }

    /// Returns the vanguards for the publisher's own tor.
    fn wanted(&self) -> Option<Arc<Vanguards>> {
        self.links.wanted.as_ref().unwrap().borrow().clone()
    }

    fn offered(&self) -> Option<Arc<str>> {
        self.links.agents.offers.borrow().of(&BackendId("a".to_owned()), Some(0))
    }
}

#[tokio::test(start_paused = true)]
async fn the_leader_chooses_the_vanguards_once() {
    let mut bench = Bench::leading().await;
    let stored = bench.server.stored();
    assert_eq!(Layer::ALL.map(|layer| stored.of(layer).len()), [4, 6]);
    assert_eq!(bench.wanted().as_deref(), Some(&stored));
    assert_eq!(bench.offered().as_deref(), Some(&*stored.to_string()));
    for _ in 0..3 {
        bench.keeper.settle().await.unwrap();
    }
    assert_eq!(bench.server.requests(), (1, 1));
    let figures = *bench.links.figures.borrow();
    assert_eq!((figures.sizes, figures.replaced), ([4, 6], [4, 6]));
    // A new consensus with the same relays changes nothing.
    bench.orders.send_modify(|orders| orders.network = Some(network(40)));
    bench.keeper.settle().await.unwrap();
    assert_eq!(bench.server.requests().1, 1);
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_time_is_over_is_replaced() {
    let mut bench = Bench::leading().await;
    let before = bench.server.stored();
    let ended = |layer: Layer| -> Vec<Vanguard> {
        let relays = before.of(layer).iter().enumerate();
        relays
            .map(|(index, relay)| Vanguard { expires: if index == 0 { 1 } else { relay.expires }, ..*relay })
            .collect()
    };
    let changed = Vanguards::new(before.of(Layer::Second).to_vec(), ended(Layer::Third)).unwrap();
    bench.server.write(&vanguards_to_data(&changed, &token()));
    advance(KNOWN).await;
    bench.keeper.settle().await.unwrap();
    let after = bench.server.stored();
    assert_eq!(after.of(Layer::Second), before.of(Layer::Second));
    assert_eq!(after.of(Layer::Third).len(), 6);
    let kept = after.of(Layer::Third).iter().filter(|relay| before.of(Layer::Third).contains(relay)).count();
    assert_eq!(kept, 5);
    assert!(after.of(Layer::Third).iter().all(|relay| relay.expires > 1), "{after:?}");
    // The same relay may be chosen again, with another date. A tor needs to know nothing of this.
    assert_eq!(bench.wanted().map(|wanted| wanted.id()), Some(after.id()));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_deleted_content_is_replaced_by_the_last_one() {
    let mut bench = Bench::leading().await;
    let before = bench.server.stored();
    for [text, mac] in [["onionbalance-vanguards 1\n", "0"], ["", ""]] {
        bench.server.write(&[(VANGUARDS_ENTRY, text.to_owned()), (VANGUARDS_MAC_ENTRY, mac.to_owned())]);
        advance(KNOWN).await;
        bench.keeper.settle().await.unwrap();
        assert_eq!(bench.server.stored(), before, "{text:?}");
        assert_eq!(bench.wanted().as_deref(), Some(&before));
    }
    bench.server.0.lock().unwrap().data.clear();
    advance(KNOWN).await;
    bench.keeper.settle().await.unwrap();
    assert_eq!(bench.server.stored(), before);
}

#[tokio::test(start_paused = true)]
async fn a_standby_writes_nothing_and_reads_again_when_a_backend_knows_others() {
    let mut bench = Bench::new(false, Some(network(40)));
    bench.keeper.settle().await.unwrap();
    assert_eq!((bench.wanted(), bench.server.requests()), (None, (1, 0)));
    let chosen = Bench::leading().await.server.stored();
    bench.server.write(&vanguards_to_data(&chosen, &token()));
    advance(PAUSE).await;
    bench.keeper.settle().await.unwrap();
    assert_eq!(bench.wanted().as_deref(), Some(&chosen));
    // From now on, the backends tell when there are others.
    advance(PAUSE).await;
    bench.keeper.settle().await.unwrap();
    assert_eq!(bench.server.requests(), (2, 0));
    let pod = crate::frontend::pods::Pod { name: "a".to_owned(), agent: None, ready: true, terminating: false };
    let id = BackendId("a".to_owned());
    bench.orders.send_modify(|orders| orders.pods = Arc::new([(id.clone(), pod)].into()));
    bench.links.agents.board.answered(&id, 12345);
    bench.keeper.settle().await.unwrap();
    assert_eq!(bench.server.requests(), (3, 0));
    bench.keeper.settle().await.unwrap();
    assert_eq!(bench.server.requests(), (3, 0), "not more often than every {PAUSE:?}");
}

/// The task that keeps the guards writes the same Secret.
#[tokio::test(start_paused = true)]
async fn a_change_by_others_is_tried_again() {
    let mut bench = Bench::new(true, None);
    bench.keeper.settle().await.unwrap();
    bench.server.write(&[("guards", "x".to_owned())]);
    bench.orders.send_modify(|orders| orders.network = Some(network(40)));
    bench.keeper.settle().await.unwrap();
    assert_eq!((bench.wanted(), bench.server.requests()), (None, (1, 0)));
    bench.keeper.settle().await.unwrap();
    assert_eq!(bench.server.requests(), (2, 1));
    assert!(bench.wanted().is_some());
    assert_eq!(bench.server.0.lock().unwrap().data["guards"].0, b"x");
}

#[tokio::test(start_paused = true)]
async fn a_network_with_too_few_relays_has_no_vanguards() {
    let mut bench = Bench::new(true, Some(network(3)));
    let error = bench.keeper.settle().await.unwrap_err();
    assert!(error.contains("only 3 relays"), "{error}");
    assert_eq!((bench.wanted(), bench.offered(), bench.server.requests().1), (None, None, 0));
}
