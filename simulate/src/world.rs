//! The simulated world: its parts, and the queue of events that lets virtual time pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use onionbalance_operator::consensus::Fingerprint;
use onionbalance_operator::frontend::conduct::{CallError, CallId, LeaseAnswer};
use onionbalance_operator::merge::UploadError;
use onionbalance_operator::onion::{MasterKey, OnionAddress, ServiceContent, TimePeriod};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::backends::{Backend, Fate};
use crate::clients::Clients;
use crate::faults::Fault;
use crate::figures::Figures;
use crate::hsdirs::{Hsdirs, Upload};
use crate::publishers::Publisher;
use crate::relays::Relays;
use crate::server::Server;
use crate::stock::Stock;
use crate::time::{HOUR, MINUTE, START};

/// The settings of a simulation. The same plan always has the same course.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of all random values.
    pub seed: u64,
    /// The number of relays. Three quarters of them are HSDirs.
    pub relays: usize,
    /// The number of backends.
    pub backends: usize,
    /// The number of publishers.
    pub publishers: usize,
    /// The average number of visits by clients per hour.
    pub visits_per_hour: u32,
    /// True if faults occur at random times.
    pub faults: bool,
    /// The hour of the day (UTC) at which the simulation begins. At midnight, a new shared random
    /// value takes effect, and at noon, clients move on to the next time period.
    pub start_hour: u64,
}

impl Default for Plan {
    /// Returns the plan of `make simulate`: 9,000 relays, 60 backends and two publishers, with
    /// faults.
    fn default() -> Self {
        Self { seed: 0, relays: 9_000, backends: 60, publishers: 2, visits_per_hour: 120, faults: true, start_hour: 0 }
    }
}

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// The directory authorities publish the consensus of this hour.
    Vote(u64),
    /// A tor fetches a consensus.
    Fetch(Tor),
    /// A tor's introduction circuit ends.
    PointDies(u64),
    /// The tor of a backend has a new introduction circuit for its descriptor of this period.
    PointStands { backend: usize, pod: u64, period: TimePeriod },
    /// All publishers learn the content of a backend's descriptor. None if the backend is lost.
    Report { backend: usize, pod: u64, content: Option<Arc<ServiceContent>> },
    /// One publisher learns the content of a backend's descriptor for the first time.
    Poll { publisher: usize, process: u64, backend: usize },
    /// The API server's answer arrives.
    Answer { publisher: usize, process: u64, call: CallId, answer: Result<LeaseAnswer, CallError> },
    /// An upload arrives at an HSDir.
    Arrive(Upload),
    /// The answer of an HSDir arrives.
    Answered { publisher: usize, process: u64, session: u64, hsdir: Fingerprint, result: Result<(), UploadError> },
    /// A publisher's look at an HSDir ends.
    Looked { publisher: usize, process: u64, hsdir: Fingerprint },
    /// The stock service uploads its descriptor of this period, unless it has done so since.
    StockUpload(TimePeriod, Duration),
    /// A client visits the service.
    Visit,
    /// A fault begins.
    Fault(Fault),
    /// A fault ends.
    Mend(Fault),
    /// The invariants are checked.
    Check,
}

/// A tor that fetches consensuses.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tor {
    Publisher(usize),
    Backend(usize),
}

/// The simulated world.
pub struct World {
    pub(crate) plan: Plan,
    /// The time since the start.
    pub(crate) now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    queued: u64,
    pub(crate) rng: StdRng,
    pub(crate) key: Arc<MasterKey>,
    pub(crate) stock_address: OnionAddress,
    pub(crate) relays: Relays,
    pub(crate) hsdirs: Hsdirs,
    pub(crate) server: Server,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) processes: u64,
    /// Our backends, and then the stock service's tor.
    pub(crate) backends: Vec<Backend>,
    /// All introduction points that live or have died a short time ago.
    pub(crate) points: BTreeMap<u64, Fate>,
    pub(crate) last_point: u64,
    pub(crate) stock: Stock,
    pub(crate) clients: Clients,
    /// The time since which nothing has disturbed the publishers.
    pub(crate) steady_since: Duration,
    /// The figures so far.
    pub figures: Figures,
    /// The number of wakes of publishers since time passed.
    idle_wakes: u32,
    /// The first invariant that was broken.
    broken: Option<String>,
}

impl World {
    /// Creates a world at the time at which everything starts.
    pub fn new(plan: Plan) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let key = MasterKey::generate(&mut rng);
        let stock_address = MasterKey::generate(&mut rng).address();
        let mut relays = Relays::new(plan.relays, START + plan.start_hour * HOUR.as_secs(), &mut rng);
        relays.vote(0, [&key.address(), &stock_address], &mut rng)?;
        let mut world = Self {
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            queued: 0,
            clients: Clients::new(&mut rng),
            rng,
            key: Arc::new(key),
            stock_address,
            relays,
            hsdirs: Hsdirs::default(),
            server: Server::default(),
            publishers: Vec::new(),
            processes: 0,
            backends: Vec::new(),
            points: BTreeMap::new(),
            last_point: 0,
            stock: Stock::default(),
            steady_since: Duration::ZERO,
            figures: Figures::default(),
            idle_wakes: 0,
            broken: None,
            plan,
        };
        for index in 0..=world.plan.backends {
            let stock = index == world.plan.backends;
            world.add_backend(stock);
        }
        (0..world.plan.publishers).for_each(|_| world.add_publisher());
        world.after(HOUR, Event::Vote(1));
        world.after(MINUTE, Event::Check);
        world.after(HOUR, Event::Visit);
        if world.plan.faults {
            Fault::begin_all(&mut world);
        }
        Ok(world)
    }

    /// Returns the wall-clock time, in seconds since the Unix epoch, at which the simulation began.
    pub(crate) fn start(&self) -> u64 {
        START + self.plan.start_hour * HOUR.as_secs()
    }

    /// Returns the time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Schedules an event.
    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + delay, self.queued), event);
    }

    /// Records that an invariant does not hold.
    pub(crate) fn require(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(fault());
        }
    }

    /// Lets time pass until `end`. Fails when an invariant is broken.
    pub fn run_until(&mut self, end: Duration) -> Result<()> {
        while self.broken.is_none() {
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let woken = self.publishers.iter().enumerate().filter(|(_, publisher)| publisher.running);
            let woken = woken.map(|(index, publisher)| (publisher.wake, index)).min();
            match (event, woken) {
                (event, Some((at, index))) if at <= end && event.is_none_or(|event| at < event) => {
                    self.idle_wakes = if at > self.now { 0 } else { self.idle_wakes + 1 };
                    self.require_progress(index);
                    self.now = at.max(self.now);
                    self.wake(index);
                }
                (Some(at), _) if at <= end => {
                    self.now = at;
                    if let Some((_, event)) = self.queue.pop_first() {
                        self.happen(event)?;
                    }
                }
                _ => {
                    self.now = end;
                    return Ok(());
                }
            }
        }
        let broken = self.broken.take().unwrap_or_default();
        bail!("seed {}, {:.4} h after the start: {broken}", self.plan.seed, self.now.as_secs_f64() / 3600.0)
    }

    /// Requires that a publisher with nothing to do sleeps.
    fn require_progress(&mut self, publisher: usize) {
        let spins = self.idle_wakes > 1000;
        self.require(!spins, || format!("publisher {publisher} wakes again and again at the same time"));
    }

    fn happen(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Vote(hour) => {
                let left = self.relays.vote(hour, [&self.key.address(), &self.stock_address], &mut self.rng)?;
                self.lose_relays(&left);
                self.hsdirs.forget_expired(self.now);
                self.after(HOUR, Event::Vote(hour + 1));
            }
            Event::Fetch(Tor::Publisher(index)) => self.publisher_fetches(index),
            Event::Fetch(Tor::Backend(index)) => self.backend_fetches(index),
            Event::PointDies(point) => self.point_dies(point),
            Event::PointStands { backend, pod, period } => self.point_stands(backend, pod, period),
            Event::Report { backend, pod, content } => self.report(backend, pod, content.as_ref()),
            Event::Poll { publisher, process, backend } => self.poll(publisher, process, backend),
            Event::Answer { publisher, process, call, answer } => self.server_answers(publisher, process, call, answer),
            Event::Arrive(upload) => self.arrive(&upload),
            Event::Answered { publisher, process, session, hsdir, result } => {
                self.hsdir_answers((publisher, process, session), hsdir, result);
            }
            Event::Looked { publisher, process, hsdir } => self.looked(publisher, process, hsdir),
            Event::StockUpload(period, due) => self.stock_upload_due(period, due),
            Event::Visit => self.visit(),
            Event::Fault(fault) => self.begin(fault),
            Event::Mend(fault) => self.mend(fault),
            Event::Check => self.check(),
        }
        Ok(())
    }
}
