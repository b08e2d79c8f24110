//! Tests of several services that share one connection to a scripted tor. The private-network tests
//! cover the behaviour of a real tor over minutes.

use onionbalance_testnet::Plan;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, duplex};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::testing::address;
use super::*;
use crate::consensus::NetworkKind;
use crate::control::Client;

/// The maximum time that a test waits. Only a test that would otherwise hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);
const HSDIR: Fingerprint = Fingerprint([7; 20]);

/// A simulated tor that is bootstrapped and accepts all commands. The tests decide which events it
/// sends.
struct Scene {
    clock: Clock,
    registry: Option<Registry>,
    session: JoinHandle<Lost>,
    /// The uploads and fetches that were requested from tor.
    asked: mpsc::UnboundedReceiver<String>,
    /// The signals that tor received.
    signals: mpsc::UnboundedReceiver<String>,
    say: mpsc::UnboundedSender<String>,
}

struct Service(mpsc::Receiver<TorNews>);

impl Scene {
    fn begin() -> Self {
        Self::begin_with(None)
    }

    /// Begins with the network that an earlier connection has read.
    fn begin_with(network: Option<Arc<Network>>) -> Self {
        let (ours, theirs) = duplex(64 << 10);
        let (client, events) = Client::over(ours, PATIENCE);
        let (mut services, registry) = Services::new();
        services.network = network;
        let clock = Clock::start();
        let session = tokio::spawn(async move {
            let Err(lost) = Session::run(&mut services, clock, client, events).await;
            lost
        });
        let (asked_in, asked) = mpsc::unbounded_channel();
        let (signals_in, signals) = mpsc::unbounded_channel();
        let (say, said) = mpsc::unbounded_channel();
        tokio::spawn(tor(theirs, asked_in, signals_in, said));
        Self { clock, registry: Some(registry), session, asked, signals, say }
    }

    fn register(&self, index: usize) -> Service {
        let (voice, news) = mpsc::channel(16);
        self.registry.as_ref().unwrap().register(address(index), voice);
        Service(news)
    }

    fn upload(&self) -> Upload {
        Upload { hsdir: HSDIR, descriptor: "hs-descriptor 3\n".into(), ordered: self.clock.now() }
    }

    async fn asked(&mut self) -> String {
        timeout(PATIENCE, self.asked.recv()).await.unwrap().unwrap()
    }

    fn event(&self, text: &str) {
        self.say.send(format!("650 HS_DESC {text}\r\n")).unwrap();
    }
}

impl Service {
    async fn hears(&mut self) -> TorNews {
        timeout(PATIENCE, self.0.recv()).await.unwrap().unwrap()
    }

    async fn is_up(&mut self) -> TorOrders {
        match self.hears().await {
            TorNews::Up(orders) => orders,
            other => panic!("{other:?}"),
        }
    }

    async fn uploaded(&mut self) -> Result<(), UploadError> {
        match self.hears().await {
            TorNews::Uploaded(HSDIR, result) => result,
            other => panic!("{other:?}"),
        }
    }

    async fn fetched(&mut self, index: usize) -> Result<Arc<str>, FetchError> {
        match self.hears().await {
            TorNews::Fetched { address: whose, hsdir: HSDIR, result } if whose == address(index) => result,
            other => panic!("{other:?}"),
        }
    }
}

async fn tor(
    stream: tokio::io::DuplexStream,
    asked: mpsc::UnboundedSender<String>,
    signals: mpsc::UnboundedSender<String>,
    mut said: mpsc::UnboundedReceiver<String>,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut lines = BufReader::new(reader).lines();
    loop {
        let answer = tokio::select! {
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { return };
                match line.split(' ').next().unwrap() {
                    "GETCONF" if line.ends_with("UseMicrodescriptors") => "250 UseMicrodescriptors=auto\r\n".to_owned(),
                    "GETCONF" => "250 TestingTorNetwork=1\r\n".to_owned(),
                    "GETINFO" if line.ends_with("bootstrap-phase") => {
                        "250-status/bootstrap-phase=NOTICE BOOTSTRAP PROGRESS=100\r\n250 OK\r\n".to_owned()
                    }
                    "GETINFO" => "551 none\r\n".to_owned(),
                    "SETEVENTS" => "250 OK\r\n".to_owned(),
                    "SIGNAL" => {
                        signals.send(line).unwrap();
                        "250 OK\r\n".to_owned()
                    }
                    command => {
                        while command == "+HSPOST" && lines.next_line().await.unwrap().as_deref() != Some(".") {}
                        asked.send(line).unwrap();
                        "250 OK\r\n".to_owned()
                    }
                }
            }
            said = said.recv() => match said {
                Some(said) => said,
                None => return,
            },
        };
        writer.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn fetch(index: usize) -> Fetch {
    Fetch { address: address(index), hsdir: HSDIR }
}

fn name(index: usize) -> String {
    address(index).identifier()
}

#[tokio::test]
async fn results_are_sent_to_the_service_that_requested_the_upload() {
    let mut scene = Scene::begin();
    let (mut one, mut two) = (scene.register(0), scene.register(1));
    let hsdir = format!("${}~x", "07".repeat(20));
    let orders = [one.is_up().await, two.is_up().await];
    // Both services upload to the same HSDir at the same time.
    for (index, orders) in orders.iter().enumerate() {
        assert!(orders.upload(scene.upload()));
        assert_eq!(scene.asked().await, format!("+HSPOST SERVER={} HSADDRESS={}", "07".repeat(20), name(index)));
    }
    scene.event(&format!("UPLOADED {} UNKNOWN {hsdir}", name(1)));
    scene.event(&format!("FAILED {} NO_AUTH {hsdir} x REASON=UPLOAD_REJECTED", name(0)));
    assert_eq!(two.uploaded().await, Ok(()));
    assert_eq!(one.uploaded().await, Err(UploadError::Rejected));

    // One service is registered later, and one is removed.
    let mut three = scene.register(2);
    let orders = three.is_up().await;
    drop(two);
    assert!(orders.upload(scene.upload()));
    scene.asked().await;
    scene.event(&format!("UPLOADED {} UNKNOWN {hsdir}", name(1)));
    scene.event(&format!("UPLOADED {} UNKNOWN {hsdir}", name(2)));
    assert_eq!(three.uploaded().await, Ok(()));
}

#[tokio::test]
async fn a_fetch_is_shared_and_distinguished_from_an_upload() {
    let mut scene = Scene::begin();
    let (mut one, mut two) = (scene.register(0), scene.register(1));
    let hsdir = format!("${}~x", "07".repeat(20));
    let orders = [one.is_up().await, two.is_up().await];
    assert!(orders[0].fetch(fetch(2)) && orders[1].fetch(fetch(2)));
    assert_eq!(scene.asked().await, format!("HSFETCH {} SERVER={}", name(2), "07".repeat(20)));
    // None of these events ends the fetch.
    scene.event(&format!("REQUESTED {} NO_AUTH {hsdir} x HSDIR_INDEX=00", name(2)));
    scene.event(&format!("FAILED {} NO_AUTH {hsdir} x REASON=NOT_FOUND", name(0)));
    scene.event(&format!("RECEIVED {} NO_AUTH {hsdir} x", name(2)));
    scene.say.send(format!("650+HS_DESC_CONTENT {} x {hsdir}\r\n\r\nline\r\n.\r\n650 OK\r\n", name(2))).unwrap();
    for service in [&mut one, &mut two] {
        assert_eq!(service.fetched(2).await.unwrap().as_ref(), "line\n");
    }

    // One service is also a backend of the other, so its upload and the fetch of its descriptor use
    // the same HSDir.
    assert!(orders[1].fetch(fetch(0)) && orders[0].upload(scene.upload()));
    scene.asked().await;
    scene.asked().await;
    scene.event(&format!("FAILED {} NO_AUTH {hsdir} x REASON=UPLOAD_REJECTED", name(0)));
    assert!(one.uploaded().await.is_err());
    scene.event(&format!("FAILED {} NO_AUTH {hsdir} x REASON=NOT_FOUND", name(0)));
    scene.say.send(format!("650+HS_DESC_CONTENT {} x {hsdir}\r\n\r\n.\r\n650 OK\r\n", name(0))).unwrap();
    assert_eq!(two.fetched(0).await, Err(FetchError::NotFound));
}

/// When all introduction points of a service fail, the tor that probes the service fetches its
/// descriptor again, from an HSDir to which an upload may be under way.
#[tokio::test]
async fn a_fetch_of_tor_itself_does_not_end_an_upload() {
    let mut scene = Scene::begin();
    let mut one = scene.register(0);
    let hsdir = format!("${}~x", "07".repeat(20));
    let orders = one.is_up().await;
    assert!(orders.upload(scene.upload()));
    scene.asked().await;
    for reason in ["NOT_FOUND", "BAD_DESC", "QUERY_REJECTED", "QUERY_NO_HSDIR", "QUERY_RATE_LIMITED"] {
        scene.event(&format!("FAILED {} NO_AUTH {hsdir} x REASON={reason}", name(0)));
    }
    scene.event(&format!("UPLOADED {} UNKNOWN {hsdir}", name(0)));
    assert_eq!(one.uploaded().await, Ok(()));
}

#[tokio::test]
async fn ends_when_no_service_is_left() {
    let mut scene = Scene::begin();
    let mut one = scene.register(0);
    let orders = one.is_up().await;
    scene.registry = None;
    drop(one);
    // The session notices this at the next event.
    assert!(orders.upload(scene.upload()));
    let lost = timeout(PATIENCE, scene.session).await.unwrap().unwrap();
    assert!(matches!(lost, Lost::Idle), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_stale_upload_is_not_sent() {
    let mut scene = Scene::begin();
    let mut one = scene.register(0);
    let orders = one.is_up().await;
    let upload = scene.upload();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(orders.upload(upload));
    assert_eq!(one.uploaded().await, Err(UploadError::Stale));
    assert!(scene.asked.try_recv().is_err());
    // A fetch that is never answered ends as well.
    assert!(orders.fetch(fetch(2)));
    scene.asked().await;
    assert_eq!(one.fetched(2).await, Err(FetchError::NoAnswer));
}

#[tokio::test(start_paused = true)]
async fn tor_is_kept_from_becoming_dormant() {
    let mut scene = Scene::begin();
    let _one = scene.register(0);
    // The shortest time after which tor can become dormant.
    let patience = Duration::from_secs(10 * 60);
    for _ in 0..3 {
        let signal = timeout(patience, scene.signals.recv()).await.unwrap();
        assert_eq!(signal.as_deref(), Some("SIGNAL ACTIVE"));
    }
}

#[tokio::test(start_paused = true)]
async fn services_hear_of_a_new_connection_one_after_the_other() {
    let generated = Plan { relays: 40, ..Plan::default() }.generate();
    let microdescriptors = generated.all_microdescriptors();
    let network = Network::parse(&generated.consensus, &microdescriptors, NetworkKind::Public).unwrap();
    let scene = Scene::begin_with(Some(Arc::new(network)));
    let mut services = [0, 1, 2].map(|index| scene.register(index));
    let mut heard = Vec::new();
    for service in &mut services {
        service.is_up().await;
        assert!(matches!(service.hears().await, TorNews::Network(_)));
        heard.push(Instant::now());
    }
    assert!(heard.is_sorted_by(|one, next| *next >= *one + turns::SPACING), "{heard:?}");
}
