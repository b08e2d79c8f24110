//! Tests of the publisher's main loop. Channels take the place of Kubernetes, the agents and tor.
//! The tests run in paused time, which tokio advances to the next timer when every task is waiting.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::UNIX_EPOCH;

use k8s_openapi::api::coordination::v1::Lease;
use onionbalance_testnet::Plan;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{advance, timeout};

use super::*;
use crate::consensus::{Network, NetworkKind};
use crate::crd::{AddressProbe, ProbeResult};
use crate::frontend::agents::AgentReport;
use crate::frontend::external::ExternalBackends;
use crate::frontend::pods::Pod;
use crate::frontend::probe;
use crate::frontend::tor::FetchError;
use crate::frontend::tor::testing::TestTor;
use crate::merge::tests::network::backend;
use crate::merge::{MergeEngine, PointLimits};
use crate::onion::MasterKey;
use crate::onion::descriptor::DescriptorKeys;

/// A leading publisher, and the other ends of its channels.
struct Bench {
    pods: watch::Sender<Arc<Pods>>,
    object: watch::Sender<Option<Arc<Object>>>,
    reports: mpsc::Sender<(BackendId, AgentNews)>,
    agents: watch::Receiver<AgentOrders>,
    health: watch::Receiver<Health>,
    news: mpsc::Sender<TorNews>,
    tor: TestTor,
    calls: mpsc::UnboundedReceiver<(CallId, LeaseRequest)>,
    answers: mpsc::Sender<(CallId, Result<LeaseAnswer, CallError>)>,
    lease: Option<Box<Lease>>,
    clock: Clock,
    network: Arc<Network>,
}

impl Bench {
    /// Starts a publisher with two pods, and waits until it has published these backends.
    async fn publishing(backends: &[u8]) -> Self {
        let key = Arc::new(MasterKey::generate(&mut StdRng::from_seed([9; 32])));
        let (address, clock) = (key.address(), Clock::start());
        let keys = watch::channel(key.clone().into()).1;
        let (probe, prober) = probe::new(&key.clone().into(), "/nonexistent".into(), clock);
        tokio::spawn(prober.run());
        let engine = MergeEngine::new(key, None, [1; 32], clock.now());
        let driver = Driver::new(engine, ExternalBackends::new(address, [2; 32]));
        let conduct = Conduct::new("web", "a".to_owned(), clock.now());

        let ((news, tor_in), (reports, reports_in)) = (mpsc::channel(64), mpsc::channel(64));
        let ((calls_out, calls), (answers, answers_in)) = (mpsc::unbounded_channel(), mpsc::channel(64));
        let (pods, pods_in) = watch::channel(pods(&[]));
        let (object, object_in) = watch::channel(Some(Arc::default()));
        let (agents_out, agents) = watch::channel(AgentOrders::default());
        let (health_out, health) = watch::channel(Health::default());
        let inlets = Inlets {
            guards: watch::channel(None).1,
            vanguards: watch::channel(VanguardFigures::default()).1,
            pods: pods_in,
            object: object_in,
            clients: watch::channel(None).1,
            keys,
            answers: answers_in,
            tor: tor_in,
            reports: reports_in,
        };
        let status = watch::channel(Facts::default()).0;
        let outlets = Outlets { agents: agents_out, calls: calls_out, status, health: health_out };
        tokio::spawn(Publisher::new(driver, conduct, clock, inlets, outlets, probe).run(pending()));

        let (tor, orders) = TestTor::new(address);
        news.send(TorNews::Up(orders)).await.unwrap();
        let network = network(clock);
        news.send(TorNews::Network(network.clone())).await.unwrap();
        let lease = None;
        let mut bench =
            Self { pods, object, reports, agents, health, news, tor, calls, answers, lease, clock, network };
        for number in backends {
            bench.report(*number).await;
        }
        bench.until_published(3 * backends.len()).await;
        bench
    }

    /// Reports the three introduction points of a backend.
    async fn report(&self, number: u8) {
        let address = MasterKey::generate(&mut StdRng::from_seed([number; 32])).address();
        let (id, content) = backend(number, 0);
        let report = AgentReport::Points(address, content);
        self.reports.send((id, AgentNews::Backend(report))).await.unwrap();
    }

    /// Executes a call to the API server.
    async fn answer(&mut self, (id, request): (CallId, LeaseRequest)) {
        let answer = match request {
            LeaseRequest::ReadLease => LeaseAnswer::Read(self.lease.clone()),
            LeaseRequest::WriteLease(lease) => LeaseAnswer::Written(self.lease.insert(lease).clone()),
            LeaseRequest::ListReady => LeaseAnswer::Ready(BTreeSet::new()),
        };
        self.answers.send((id, Ok(answer))).await.unwrap();
    }

    /// Executes all calls and accepts all uploads until every HSDir has a descriptor with this
    /// number of introduction points.
    async fn until_published(&mut self, points: usize) {
        let published = async {
            while !self.has_published(points) {
                tokio::select! {
                    hsdir = self.tor.upload() => self.news.send(TorNews::Uploaded(hsdir, Ok(()))).await.unwrap(),
                    Some(call) = self.calls.recv() => self.answer(call).await,
                    changed = self.health.changed() => changed.unwrap(),
                }
            }
        };
        // The period that clients do not use follows after up to 6 minutes. The clock is paused, so
        // that this takes no time.
        timeout(Duration::from_secs(600), published).await.expect("published within ten minutes");
    }

    /// Executes all calls, and answers for every HSDir that it has no descriptor, until a probe of
    /// port 80 has ended. Returns its result.
    async fn until_probed(&mut self) -> ProbeResult {
        let address = MasterKey::generate(&mut StdRng::from_seed([9; 32])).address();
        let probed = async {
            loop {
                if let Some(report) = self.health.borrow().figures.probes.get(&80) {
                    return report.result;
                }
                tokio::select! {
                    hsdir = self.tor.fetch() => {
                        let news = TorNews::Fetched { address, hsdir, result: Err(FetchError::NotFound) };
                        self.news.send(news).await.unwrap();
                    }
                    Some(call) = self.calls.recv() => self.answer(call).await,
                    changed = self.health.changed() => changed.unwrap(),
                }
            }
        };
        timeout(Duration::from_secs(120), probed).await.expect("probed within two minutes")
    }

    /// Executes all calls until the engine asks for the descriptor that an HSDir holds. Answers
    /// that the HSDir holds a descriptor with a greater revision counter.
    async fn until_a_foreign_descriptor_is_found(&mut self) {
        let looked = async {
            loop {
                tokio::select! {
                    hsdir = self.tor.fetch() => return hsdir,
                    Some(call) = self.calls.recv() => self.answer(call).await,
                }
            }
        };
        let hsdir = timeout(Duration::from_secs(2 * 3600), looked).await.expect("looked within two hours");
        let key = MasterKey::generate(&mut StdRng::from_seed([9; 32]));
        let (address, period) = (key.address(), self.network.client_period().period);
        let counter = {
            let periods = &self.health.borrow().figures.periods;
            periods.iter().find(|published| published.period == period).unwrap().revision_counter + 1
        };
        let mut rng = StdRng::from_seed([3; 32]);
        let (content, now) = (backend(1, 0).1, self.clock.now().wall);
        let keys = DescriptorKeys::generate(&mut rng);
        let descriptor = keys.build(&key.blind(period), &address, &content, counter, now, &mut rng).unwrap();
        self.news.send(TorNews::Fetched { address, hsdir, result: Ok(descriptor.into()) }).await.unwrap();
    }

    fn has_published(&self, points: usize) -> bool {
        let periods = &self.health.borrow().figures.periods;
        periods.len() == 2
            && periods
                .iter()
                .all(|period| period.introduction_points == points && period.hsdirs_accepted == period.hsdirs_total)
    }
}

/// Returns the pods of two backends, of which these are terminating.
fn pods(terminating: &[u8]) -> Arc<Pods> {
    let pod = |number: u8| {
        let (id, terminating) = (backend(number, 0).0, terminating.contains(&number));
        (id.clone(), Pod { name: id.0, agent: None, ready: true, terminating })
    };
    Arc::new([0, 1].map(pod).into())
}

/// Returns a network whose consensus has just become valid.
fn network(clock: Clock) -> Arc<Network> {
    let valid_after = clock.now().wall.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let generated = Plan { relays: 40, valid_after, ..Plan::default() }.generate();
    Arc::new(Network::parse(&generated.consensus, &generated.all_microdescriptors(), NetworkKind::Public).unwrap())
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_nothing_is_uploaded_until_the_lease_has_been_read() {
    let mut bench = Bench::publishing(&[0, 1]).await;
    // The pause begins between a change and its publication, so an upload is due when it ends. The
    // Lease has not expired by then.
    bench.health.mark_unchanged();
    bench.pods.send_replace(pods(&[1]));
    bench.health.changed().await.unwrap();
    while bench.calls.try_recv().is_ok() {}
    assert!(!bench.tor.has_order());
    advance(Duration::from_secs(8)).await;
    let call = bench.calls.recv().await.unwrap();
    assert!(matches!(call, (_, LeaseRequest::ReadLease)), "{call:?}");
    assert!(timeout(Duration::from_secs(3), bench.tor.upload()).await.is_err());
    bench.answer(call).await;
    timeout(Duration::from_secs(5), bench.until_published(3)).await.expect("an upload was due");
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_reported_as_withdrawn_when_the_hsdirs_have_a_descriptor_without_it() {
    let mut bench = Bench::publishing(&[0, 1]).await;
    let (lost, _) = backend(1, 0);
    bench.pods.send_replace(pods(&[1]));
    let known = bench.agents.wait_for(|orders| orders.pods.get(&lost).is_some_and(|pod| pod.terminating));
    assert_eq!(known.await.unwrap().withdrawn, BTreeSet::new(), "no HSDir has a newer descriptor yet");
    bench.until_published(3).await;
    assert_eq!(bench.agents.borrow().withdrawn, BTreeSet::from([lost]));
}

#[tokio::test(start_paused = true)]
async fn a_new_limit_in_the_spec_takes_effect_at_once() {
    let mut bench = Bench::publishing(&[0, 1]).await;
    for (usual, points) in [(2, 4), (1, 2), (3, 6)] {
        let limits = PointLimits { usual, ..PointLimits::default() };
        bench.object.send_replace(Some(Arc::new(Object { limits, ..Object::default() })));
        bench.until_published(points).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_published_service_is_probed_and_the_fetches_are_not_those_of_an_external_backend() {
    let mut bench = Bench::publishing(&[0, 1]).await;
    let object = Object { probe: Some(AddressProbe::default()), ports: vec![80], ..Object::default() };
    bench.object.send_replace(Some(Arc::new(object)));
    assert_eq!(bench.until_probed().await, ProbeResult::DescriptorFailed);
    let fetches = bench.health.borrow().figures.counts.fetches;
    assert_eq!((fetches.found, fetches.failed), (0, 0));
    bench.object.send_replace(Some(Arc::default()));
    timeout(Duration::from_secs(10), async {
        while !bench.health.borrow().figures.probes.is_empty() {
            bench.health.changed().await.unwrap();
        }
    })
    .await
    .expect("the metrics of a probe that is switched off disappear");
}

#[tokio::test(start_paused = true)]
async fn the_engine_gets_the_descriptor_that_it_asked_for_although_the_prober_fetches_it_too() {
    let mut bench = Bench::publishing(&[0]).await;
    bench.until_a_foreign_descriptor_is_found().await;
    let noticed = bench.health.wait_for(|health| health.figures.periods.iter().any(|period| period.foreign.is_some()));
    let noticed = timeout(Duration::from_secs(10), noticed).await;
    assert!(noticed.expect("the foreign publisher is noticed").is_ok());
}
