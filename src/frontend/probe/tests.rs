//! Tests of the prober with a simulated tor. The private-network tests use a real one.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use onionbalance_testnet::Plan;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::*;
use crate::consensus::NetworkKind;
use crate::crd::HttpProbe;
use crate::frontend::tor::FetchError;
use crate::frontend::tor::testing::TestTor;
use crate::onion::descriptor::MAX_AUTHORIZED_CLIENTS;
use crate::onion::{ClientPublicKey, Discovery, MasterKey};

/// The code with which tor's SOCKS port answers, and the data that follows.
type Answer = (u8, &'static str);

/// The answer of a tor that gives up a stream (`TTL expired`), after 30 s.
const GIVEN_UP: Answer = (0x06, "");
const GOOD: Answer = (0, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");

fn key() -> ServiceKey {
    generated(3)
}

fn generated(seed: u8) -> ServiceKey {
    MasterKey::generate(&mut StdRng::from_seed([seed; 32])).into()
}

fn network() -> Arc<Network> {
    let generated = Plan { relays: 40, ..Plan::default() }.generate();
    Arc::new(Network::parse(&generated.consensus, &generated.all_microdescriptors(), NetworkKind::Public).unwrap())
}

fn settings() -> AddressProbe {
    AddressProbe { http: Some(HttpProbe::default()), ..AddressProbe::default() }
}

/// A prober, the publisher's side, and a simulated tor.
struct Scene {
    link: ProbeLink,
    prober: Prober,
    tor: TestTor,
    assignment: Assignment,
    folder: tempfile::TempDir,
    /// The number of streams that tor gives up before it connects one.
    given_up: usize,
}

impl Scene {
    fn new() -> Self {
        let (folder, key, clock) = (tempfile::tempdir().unwrap(), key(), Clock::start());
        let (link, prober) = new(&key, folder.path().join("socks"), clock);
        let (tor, orders) = TestTor::new(key.address());
        let assignment = Assignment {
            probe: Some(settings()),
            ports: vec![80],
            tor: Some(orders),
            network: Some(network()),
            access: Access::Open,
        };
        Self { link, prober, tor, assignment, folder, given_up: 0 }
    }

    /// Probes port 80. Every HSDir gives the same answer, and so does tor's SOCKS port. Also
    /// returns the SOCKS passwords.
    async fn probe(
        &mut self,
        descriptor: &Result<Arc<str>, FetchError>,
        socks: Answer,
    ) -> (Result<(), Failure>, Measured, Vec<Vec<u8>>) {
        let listener = UnixListener::bind(self.folder.path().join("socks")).unwrap();
        let job = Job::of(&self.assignment).unwrap();
        let Self { link, prober, tor, given_up, .. } = self;
        // More than any probe needs.
        let hsdirs = async {
            for _ in 0..1000 {
                link.fetched(tor.fetch().await, descriptor.clone());
            }
        };
        let mut passwords = Vec::new();
        let port = async {
            for _ in 0..1000 {
                let (stream, _) = listener.accept().await.unwrap();
                let is_given_up = passwords.len() < *given_up;
                passwords.push(serve(stream, if is_given_up { GIVEN_UP } else { socks }).await);
            }
        };
        let (outcome, measured) = tokio::select! {
            made = timeout(Duration::from_secs(130), prober.attempts.make(&job, 80)) => made.expect("the probe ends"),
            () = hsdirs => unreachable!(),
            () = port => unreachable!(),
        };
        (outcome, measured, passwords)
    }
}

/// Plays tor's SOCKS port for one connection. Returns the password, after its length.
async fn serve(mut stream: UnixStream, (code, data): Answer) -> Vec<u8> {
    let mut greeting = [0; 3];
    stream.read_exact(&mut greeting).await.unwrap();
    stream.write_all(&[5, 2]).await.unwrap();
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    let length = usize::from(head[1]);
    let mut login = vec![0; 2 * length + 1];
    stream.read_exact(&mut login).await.unwrap();
    stream.write_all(&[1, 0]).await.unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.unwrap();
    let mut rest = vec![0; usize::from(head[4]) + 2];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest, [key().address().to_string().as_bytes(), &[0, 80]].concat());
    if code == GIVEN_UP.0 {
        sleep(Duration::from_secs(30)).await;
    }
    // The prober may have stopped to wait.
    _ = stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    if code == 0 {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(data.as_bytes()).await.unwrap();
    }
    login.split_off(length)
}

/// Returns the descriptor that the HSDirs return.
fn found() -> Arc<str> {
    "hs-descriptor 3\n".into()
}

#[tokio::test]
async fn an_answer_is_measured() {
    let (outcome, measured, passwords) = Scene::new().probe(&Ok(found()), GOOD).await;
    assert_eq!(outcome, Ok(()));
    assert_eq!((measured.attempts, measured.fetches, measured.http_status), (1, 1, Some(200)));
    assert!(measured.descriptor.is_some() && measured.connection.is_some());
    assert!(passwords.len() <= 1, "one connection is enough");
}

#[tokio::test]
async fn each_part_of_a_connection_fails_with_its_own_result() {
    for (socks, expected) in [
        ((0xf1, ""), ProbeResult::DescriptorFailed),
        ((0xf2, ""), ProbeResult::IntroductionFailed),
        ((0xf7, ""), ProbeResult::IntroductionFailed),
        ((0xf3, ""), ProbeResult::RendezvousFailed),
        ((0x05, ""), ProbeResult::TargetFailed),
        ((0, "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"), ProbeResult::TargetFailed),
        ((0, ""), ProbeResult::TargetFailed),
    ] {
        let (outcome, measured, _) = Scene::new().probe(&Ok(found()), socks).await;
        assert_eq!(outcome.unwrap_err().result, expected, "{socks:?}");
        assert_eq!((measured.attempts, measured.connection), (2, None), "{socks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_outlasts_the_streams_that_tor_gives_up() {
    let mut scene = Scene { given_up: 1, ..Scene::new() };
    let (outcome, measured, passwords) = scene.probe(&Ok(found()), GOOD).await;
    assert_eq!((outcome, measured.attempts), (Ok(()), 1));
    assert_eq!(passwords.iter().collect::<BTreeSet<_>>().len(), 1, "the streams of an attempt share circuits");
    let mut scene = Scene { given_up: usize::MAX, ..Scene::new() };
    let (outcome, measured, passwords) = scene.probe(&Ok(found()), GOOD).await;
    assert!(outcome.unwrap_err().message.contains("within 60 s"));
    assert_eq!(measured.attempts, 2);
    assert_eq!(passwords.iter().collect::<BTreeSet<_>>().len(), 2);
}

#[tokio::test]
async fn a_missing_descriptor_is_looked_for_on_all_hsdirs_that_clients_ask() {
    let (outcome, measured, passwords) = Scene::new().probe(&Err(FetchError::NotFound), GOOD).await;
    assert_eq!(outcome.unwrap_err().result, ProbeResult::DescriptorFailed);
    assert_eq!((measured.attempts, measured.fetches), (2, 12));
    assert!(passwords.is_empty(), "a descriptor in tor's cache proves nothing");
    let (outcome, ..) = Scene::new().probe(&Err(FetchError::NoAnswer), GOOD).await;
    assert_eq!(outcome.unwrap_err().result, ProbeResult::NotMade, "this frontend may be cut off");
}

#[tokio::test]
async fn each_attempt_has_circuits_of_its_own() {
    let (_, measured, passwords) = Scene::new().probe(&Ok(found()), (0xf2, "")).await;
    assert_eq!(measured.attempts, 2);
    let different: BTreeSet<_> = passwords.iter().collect();
    assert!(!passwords.is_empty());
    assert_eq!(different.len(), passwords.len());
    assert!(passwords.iter().all(|password| password.len() == 33), "a length and 32 digits: {passwords:?}");
}

#[tokio::test]
async fn without_a_place_for_its_client_the_probe_is_not_made() {
    let mut scene = Scene::new();
    scene.assignment.access = Access::Full;
    let (outcome, measured, _) = scene.probe(&Ok(found()), GOOD).await;
    assert_eq!((outcome.unwrap_err().result, measured.fetches), (ProbeResult::NotMade, 0));
    let mut scene = Scene::new();
    scene.assignment.access = Access::Key;
    assert_eq!(scene.probe(&Ok(found()), GOOD).await.0, Ok(()));
}

#[test]
fn the_probes_client_is_authorized_if_discovery_is_restricted_and_there_is_room() {
    let client = |number: u8| ClientSecretKey::from_bytes([number; 32]).public();
    let restricted = |count: usize| -> BTreeSet<ClientPublicKey> {
        (1..=count).map(|number| client(u8::try_from(number).unwrap())).collect()
    };
    let mut link = Scene::new().link;
    assert_eq!((link.admit(None, true), link.own_clients()), (None, 0), "the clients are unknown");
    assert_eq!((link.admit(Some(Discovery::Open), true), link.own_clients()), (Some(Discovery::Open), 0));
    for (count, is_on, expected) in
        [(0, true, 1), (2, true, 1), (MAX_AUTHORIZED_CLIENTS, true, 0), (0, false, 0), (2, false, 0)]
    {
        let clients = restricted(count);
        let Some(Discovery::Restricted(admitted)) = link.admit(Some(Discovery::Restricted(clients.clone())), is_on)
        else {
            panic!("discovery is open")
        };
        assert!(admitted.is_superset(&clients));
        assert_eq!((admitted.len() - count, link.own_clients()), (expected, expected), "{count} {is_on}");
    }
}

#[test]
fn the_probes_key_is_derived_from_the_master_key_alone() {
    let secret = |key: &ServiceKey| ClientSecretKey::from_bytes(*key.derive(KEY_LABEL)).public();
    assert_eq!(secret(&key()), secret(&key()));
    assert_ne!(secret(&key()), secret(&generated(4)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_probed_until_something_is_published_or_after_another_publisher_leads() {
    let Scene { link, prober, mut tor, assignment, folder, .. } = Scene::new();
    tokio::spawn(prober.run());
    link.assign(Assignment { probe: None, ..assignment.clone() });
    sleep(Duration::from_secs(3600)).await;
    assert!(!tor.has_order());

    link.assign(assignment.clone());
    let began = Duration::from_secs(29)..=Duration::from_secs(31);
    let before = tokio::time::Instant::now();
    let hsdir = tor.fetch().await;
    assert!(began.contains(&before.elapsed()), "{:?}", before.elapsed());
    // The answer comes when another publisher leads.
    link.assign(Assignment { probe: None, ..assignment });
    link.fetched(hsdir, Err(FetchError::NotFound));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(link.report(), ProbeReport::default());
    drop(folder);
}

#[tokio::test(start_paused = true)]
async fn a_report_follows_each_probe() {
    let Scene { mut link, prober, tor, assignment, folder, .. } = Scene::new();
    tokio::spawn(prober.run());
    link.assign(assignment);
    // No HSDir answers, because the orders are not read.
    timeout(Duration::from_secs(200), link.changed()).await.expect("a report within 30 s and the timeout of 120 s");
    let reports = link.report();
    let report = &reports.0[&80];
    assert_eq!(report.result, ProbeResult::NotMade);
    assert!(report.ended > UNIX_EPOCH);
    drop((tor, folder));
}
