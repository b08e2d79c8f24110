//! A simulated world: publishers with their own clocks, an API server with their Lease, and HSDirs.
//! Every publisher has a leadership state machine and a real merge engine.
//!
//! The world checks the invariants of the design at every step:
//!
//! - A publisher uploads nothing while the service is suspended, before it knows the service's
//!   object, after it has begun to stop, or after a pause until it has read the Lease again.
//! - Two publishers that can both reach the API server never publish at the same time for longer
//!   than [`SETTLED`]. A publisher that cannot reach it continues to publish by design.
//! - Revision counters always rise, both those that a publisher uses and those in the Lease.
//! - If any publisher could lead, one does so within [`LEADERLESS`].

mod faults;
mod invariants;
mod server;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

pub(super) use self::invariants::{LEADERLESS, SETTLED};
use super::*;
use crate::common::election::Record;
use crate::consensus::Fingerprint;
use crate::merge::tests::network::start;
use crate::merge::{BackendId, MergeEngine, Output as EngineOutput, UploadError};
use crate::onion::{MasterKey, ServiceContent, TimePeriod};

/// The length of a pause after which a publisher must read the Lease before it publishes anything.
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// The response time of a simulated HSDir.
const HSDIR_ANSWERS: Duration = Duration::from_millis(800);

/// A call to the API server that is in progress, even if the publisher no longer waits for it.
struct UnderWay {
    publisher: usize,
    call: CallId,
    request: LeaseRequest,
    ordered: Duration,
    arrives: Duration,
    /// The answer and the time at which it arrives. None until the API server has carried out the
    /// call.
    answer: Option<(Duration, Result<LeaseAnswer, CallError>)>,
}

/// An upload in transit to an HSDir.
struct Upload {
    arrives: Duration,
    publisher: usize,
    process: u64,
    hsdir: Fingerprint,
    period: TimePeriod,
    counter: u64,
}

/// A message that a process has not received yet.
enum Message {
    Conduct(Event),
    Engine(Input),
    /// The answer to a call, and the time at which the call was made.
    Answer(CallId, Duration, Result<LeaseAnswer, CallError>),
}

#[allow(clippy::struct_excessive_bools, reason = "each one is an independent fault")]
pub(super) struct Publisher {
    pub(super) conduct: Conduct,
    pub(super) engine: MergeEngine,
    /// The number of the publisher's process. A restart creates a new process.
    process: u64,
    started: Duration,
    /// The time by which the publisher's wall clock is ahead.
    skew: Duration,
    link: bool,
    /// The time at which the publisher's link to the API server was last established.
    linked: Duration,
    paused_until: Duration,
    /// The time at which the publisher's last long pause ended.
    resumed: Duration,
    running: Duration,
    tor: bool,
    inbox: VecDeque<Message>,
    last_call: Option<CallId>,
    /// The time at which the publisher requested the newest Lease that it has read.
    read: Option<Duration>,
    suspended: bool,
    knows_object: bool,
    stopping: bool,
    eligible: Option<Duration>,
    counters: BTreeMap<TimePeriod, u64>,
    /// The greatest revision counters that the publisher has read from the Lease.
    floors: Counters,
    /// False if the publisher's tor has lost the network, so that it never hears of its uploads.
    online: bool,
    /// The times of all uploads of the publisher.
    pub(super) uploads: Vec<Duration>,
}

pub(super) struct World {
    pub(super) elapsed: Duration,
    key: Arc<MasterKey>,
    network: Arc<Network>,
    rng: StdRng,
    pub(super) publishers: Vec<Publisher>,
    processes: u64,
    lease: Option<Lease>,
    version: u64,
    server: bool,
    server_since: Duration,
    calls: Vec<UnderWay>,
    uploads: Vec<Upload>,
    /// The greatest revision counter that each HSDir holds.
    held: BTreeMap<(Fingerprint, TimePeriod), u64>,
    rejecting: BTreeSet<Fingerprint>,
    backends: BTreeMap<BackendId, Arc<ServiceContent>>,
    suspended: bool,
    without_leader: Duration,
}

impl World {
    /// Creates a world with one publisher for each entry of `skews`. The entry is the time by which
    /// the publisher's wall clock is ahead.
    pub(super) fn new(skews: &[Duration], network: Arc<Network>, seed: u64) -> Self {
        let mut world = Self {
            elapsed: Duration::ZERO,
            key: Arc::new(MasterKey::generate(&mut StdRng::from_seed([9; 32]))),
            network,
            rng: StdRng::seed_from_u64(seed),
            publishers: Vec::new(),
            processes: 0,
            lease: None,
            version: 0,
            server: true,
            server_since: Duration::ZERO,
            calls: Vec::new(),
            uploads: Vec::new(),
            held: BTreeMap::new(),
            rejecting: BTreeSet::new(),
            backends: BTreeMap::new(),
            suspended: false,
            without_leader: Duration::ZERO,
        };
        for (index, skew) in skews.iter().enumerate() {
            let publisher = world.process(*skew);
            world.publishers.push(publisher);
            world.boot(index);
        }
        world
    }

    fn process(&mut self, skew: Duration) -> Publisher {
        self.processes += 1;
        let now = Now { wall: start() + self.elapsed + skew, elapsed: Duration::ZERO };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.processes.to_be_bytes());
        Publisher {
            conduct: Conduct::new("web", format!("process-{}", self.processes), now),
            engine: MergeEngine::new(self.key.clone(), None, seed, now),
            process: self.processes,
            started: self.elapsed,
            skew,
            link: true,
            linked: self.elapsed,
            paused_until: self.elapsed,
            resumed: self.elapsed,
            running: self.elapsed,
            tor: true,
            inbox: VecDeque::new(),
            last_call: None,
            read: None,
            suspended: false,
            knows_object: false,
            stopping: false,
            eligible: None,
            counters: BTreeMap::new(),
            floors: Counters::default(),
            online: true,
            uploads: Vec::new(),
        }
    }

    /// Starts a publisher's process, which connects to tor, sees the object, and polls its
    /// backends.
    fn boot(&mut self, index: usize) {
        self.send(index, Message::Conduct(Event::Tor(true)));
        let network = self.network.clone();
        self.send(index, Message::Conduct(Event::Network(network.clone())));
        self.send(index, Message::Engine(Input::Network(network)));
        self.show_object(index);
        for (id, content) in self.backends.clone() {
            self.send(index, Message::Engine(Input::Backend(id, content)));
        }
    }

    fn now(&self, index: usize) -> Now {
        let publisher = &self.publishers[index];
        Now { wall: start() + self.elapsed + publisher.skew, elapsed: self.elapsed.saturating_sub(publisher.started) }
    }

    pub(super) fn is_running(&self, index: usize) -> bool {
        self.publishers[index].paused_until <= self.elapsed
    }

    fn reaches_server(&self, index: usize) -> bool {
        self.server && self.publishers[index].link
    }

    /// Returns the running publishers that lead.
    pub(super) fn leaders(&self) -> Vec<usize> {
        let leads = |index: &usize| self.is_running(*index) && self.publishers[*index].conduct.is_leading();
        (0..self.publishers.len()).filter(leads).collect()
    }

    pub(super) fn holder(&self) -> String {
        self.lease.as_ref().map(|lease| Record::of(lease).holder).unwrap_or_default()
    }
}

/// The simulation of time.
impl World {
    /// Lets this much simulated time pass.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.elapsed + duration;
        while let Some(next) = self.next_step().filter(|next| *next <= end) {
            self.elapsed = next.max(self.elapsed);
            self.serve();
            self.deliver_uploads();
            for index in 0..self.publishers.len() {
                self.turn(index);
            }
            self.check_leader();
        }
        self.elapsed = end;
    }

    fn next_step(&self) -> Option<Duration> {
        let calls = self.calls.iter().map(|call| call.answer.as_ref().map_or(call.arrives, |(at, _)| *at));
        let uploads = self.uploads.iter().map(|upload| upload.arrives);
        let publishers = self.publishers.iter().map(|publisher| {
            if publisher.paused_until > self.elapsed {
                return publisher.paused_until;
            }
            let engine = publisher.engine.poll_timeout();
            publisher.started + engine.into_iter().fold(publisher.conduct.poll_timeout(), Duration::min)
        });
        calls.chain(uploads).chain(publishers).min()
    }

    /// Wakes a publisher's process if it is running and has work that is due.
    fn turn(&mut self, index: usize) {
        if !self.is_running(index) {
            return;
        }
        let now = self.now(index);
        let publisher = &self.publishers[index];
        let due = publisher.engine.poll_timeout().into_iter().fold(publisher.conduct.poll_timeout(), Duration::min);
        if due <= now.elapsed || publisher.paused_until > publisher.running {
            self.wake(index);
            self.engine(index, Input::Tick);
        }
        while let Some(message) = self.publishers[index].inbox.pop_front() {
            self.take(index, message);
        }
        let periods = self.publishers[index].engine.status().periods;
        self.conduct(index, Event::Progress(periods));
        if self.publishers[index].conduct.has_ended() {
            self.kill(index);
        }
    }

    /// Sends a message to a publisher's process. A paused process receives it when it resumes.
    fn send(&mut self, index: usize, message: Message) {
        self.publishers[index].inbox.push_back(message);
        self.turn(index);
    }

    /// Passes the time to the leadership state machine before anything else, as the publisher's
    /// loop does.
    fn wake(&mut self, index: usize) {
        let elapsed = self.elapsed;
        let publisher = &mut self.publishers[index];
        if publisher.paused_until > publisher.running {
            let before = publisher.conduct.now.elapsed + publisher.started;
            if elapsed.saturating_sub(before) > LONG_PAUSE {
                publisher.resumed = elapsed;
            }
            publisher.running = elapsed;
        }
        self.conduct(index, Event::Tick);
    }

    fn take(&mut self, index: usize, message: Message) {
        self.wake(index);
        match message {
            Message::Engine(input) => self.engine(index, input),
            Message::Answer(call, ordered, answer) => {
                let publisher = &mut self.publishers[index];
                if let Ok(LeaseAnswer::Read(lease)) = &answer
                    && publisher.last_call == Some(call)
                {
                    publisher.read = Some(ordered);
                    let stored = lease.as_deref().map(lease_object::counters).unwrap_or_default();
                    publisher.floors.merge(&stored);
                }
                self.conduct(index, Event::Answered(call, answer));
            }
            Message::Conduct(event) => {
                match &event {
                    Event::Object { suspended, .. } => {
                        self.publishers[index].suspended = *suspended;
                        self.publishers[index].knows_object = true;
                    }
                    Event::Stop => self.publishers[index].stopping = true,
                    _ => {}
                }
                self.conduct(index, event);
            }
        }
    }

    fn conduct(&mut self, index: usize, event: Event) {
        let now = self.now(index);
        self.publishers[index].conduct.handle(event, now);
        while let Some(output) = self.publishers[index].conduct.poll_output() {
            match output {
                Output::Engine(input) => self.engine(index, input),
                Output::Call(call, request) => self.call(index, call, request),
            }
        }
    }

    fn engine(&mut self, index: usize, input: Input) {
        let now = self.now(index);
        self.publishers[index].engine.handle(input, now);
        while let Some(output) = self.publishers[index].engine.poll_output() {
            match output {
                EngineOutput::StoreCounter(period, counter) => {
                    let before = self.publishers[index].counters.insert(period, counter);
                    assert!(
                        before.is_none_or(|before| before < counter),
                        "the counter {counter} was used after {before:?}"
                    );
                    let floor = self.publishers[index].floors.get(period.number);
                    assert!(floor < Some(counter), "the counter {counter} was used, but the Lease has {floor:?}");
                    self.conduct(index, Event::CounterUsed(period, counter));
                }
                EngineOutput::Look(_) => {}
                EngineOutput::Upload { hsdir, period, descriptor } => {
                    self.check_upload(index);
                    self.publishers[index].uploads.push(self.elapsed);
                    if self.publishers[index].tor && self.publishers[index].online {
                        let counter = revision_counter(&descriptor);
                        let (arrives, process) = (self.elapsed + HSDIR_ANSWERS, self.publishers[index].process);
                        self.uploads.push(Upload { arrives, publisher: index, process, hsdir, period, counter });
                    }
                }
            }
        }
    }
}

/// Returns the revision counter from the unencrypted part of a descriptor.
fn revision_counter(descriptor: &str) -> u64 {
    let line = descriptor.lines().find_map(|line| line.strip_prefix("revision-counter "));
    line.and_then(|counter| counter.parse().ok()).expect("the descriptor has a revision counter")
}
