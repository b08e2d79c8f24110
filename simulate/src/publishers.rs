//! The publishers: the engine and the leadership state machine, connected as in
//! `src/frontend/publisher.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use onionbalance_operator::consensus::Fingerprint;
use onionbalance_operator::frontend::conduct::{self, CallError, CallId, Conduct, LeaseAnswer};
use onionbalance_operator::merge::scribe::{Draft, Scribe};
use onionbalance_operator::merge::{Input, MergeEngine, Now, Output, PeriodStatus, UploadError};
use onionbalance_operator::onion::descriptor::DescriptorError;
use onionbalance_operator::onion::{Discovery, TimePeriod};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

use crate::hsdirs::Upload;
use crate::relays::{Follower, View};
use crate::time::between;
use crate::world::{Event, Tor, World};

/// The time after which the next upload to an HSDir may start although there was no answer.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(32);
/// The number of descriptors whose text a publisher's tor remembers.
const REMEMBERED_TEXTS: usize = 16;

/// Writes descriptors that only the simulation can read.
struct PlainScribe;

impl Scribe for PlainScribe {
    fn write(&self, draft: &Draft<'_>, _: &mut StdRng) -> Result<String, DescriptorError> {
        let id = |key: &[u8; 32]| key.first_chunk().map_or(0, |id| u64::from_be_bytes(*id));
        let points = draft.content.introduction_points.iter().map(|point| id(&point.auth_key).to_string());
        Ok(format!("{}\n{}", draft.counter, points.collect::<Vec<_>>().join("\n")))
    }
}

/// A message to a publisher's process.
#[derive(Debug)]
pub(crate) enum Message {
    /// Time has passed.
    Wake,
    /// An event for the leadership state machine.
    Conduct(conduct::Event),
    /// An input of the engine.
    Engine(Input),
    /// The result of an upload.
    Uploaded(Fingerprint, Result<(), UploadError>),
    /// The connection to tor was established or lost.
    Tor(bool),
    /// Tor has a new consensus.
    Consensus(Arc<View>),
}

/// The newest descriptors of a time period.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) counter: u64,
    pub(crate) at: Duration,
    /// The introduction points that were uploaded so far.
    pub(crate) points: Vec<u64>,
}

/// A publisher.
pub struct Publisher {
    /// The number of the publisher's process.
    pub(crate) process: u64,
    pub(crate) identity: String,
    started: Duration,
    /// The number of seconds by which the wall clock is ahead.
    pub(crate) skew: i64,
    pub(crate) conduct: Conduct,
    pub(crate) engine: MergeEngine,
    pub(crate) running: bool,
    pub(crate) tor: bool,
    /// The number of the connection to tor.
    pub(crate) session: u64,
    pub(crate) follower: Follower,
    pub(crate) view: Option<Arc<View>>,
    /// The time at which the publisher got its consensus.
    pub(crate) adopted: Duration,
    /// The time at which the publisher learnt that clients use the period that they use now.
    pub(crate) used_since: Duration,
    /// The time at which the process has something to do.
    pub(crate) wake: Duration,
    /// The monotonic time at which the engine has something to do. It changes only when the engine
    /// handles an input.
    engine_due: Option<Duration>,
    in_flight: BTreeMap<Fingerprint, Duration>,
    pub(crate) counters: BTreeMap<TimePeriod, u64>,
    pub(crate) rounds: BTreeMap<TimePeriod, Round>,
    texts: Vec<(Arc<str>, u64, Arc<[u64]>)>,
    /// The states of the periods that the engine reported last.
    pub(crate) progress: Vec<PeriodStatus>,
    was_leading: bool,
}

impl World {
    pub(crate) fn add_publisher(&mut self) {
        let index = self.publishers.len();
        let follower = Follower::new(0, &mut self.rng);
        let publisher = self.process(index, follower);
        self.after(publisher.follower.next, Event::Fetch(Tor::Publisher(index)));
        self.publishers.push(publisher);
        self.boot(index);
    }

    fn process(&mut self, index: usize, follower: Follower) -> Publisher {
        self.processes += 1;
        let now = Now { wall: UNIX_EPOCH + Duration::from_secs(self.start()) + self.now, elapsed: Duration::ZERO };
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let identity = format!("frontend-{index}-{}", self.processes);
        let engine = MergeEngine::new(Arc::clone(&self.key), Some(Discovery::Open), seed, now);
        Publisher {
            process: self.processes,
            conduct: Conduct::new("web", identity.clone(), now),
            identity,
            started: self.now,
            skew: 0,
            engine: engine.with_scribe(PlainScribe),
            running: true,
            tor: false,
            session: 0,
            follower,
            view: None,
            adopted: self.now,
            used_since: self.now,
            wake: self.now,
            engine_due: None,
            in_flight: BTreeMap::new(),
            counters: BTreeMap::new(),
            rounds: BTreeMap::new(),
            texts: Vec::new(),
            progress: Vec::new(),
            was_leading: false,
        }
    }

    /// Starts a new process of a publisher. Its tor has kept its consensus.
    pub(crate) fn restart(&mut self, index: usize) {
        let Some(follower) = self.publishers.get(index).map(|publisher| publisher.follower) else { return };
        let process = self.process(index, follower);
        if let Some(publisher) = self.publishers.get_mut(index) {
            *publisher = process;
        }
        self.boot(index);
    }

    fn boot(&mut self, index: usize) {
        let expected = (0..self.plan.backends).map(|backend| self.backend_id(backend)).collect();
        self.turn(index, Message::Engine(Input::Expected(expected)));
        let object =
            conduct::Event::Object { uid: "uid".to_owned(), suspended: false, discovery: Some(Discovery::Open) };
        self.turn(index, Message::Conduct(object));
        self.turn(index, Message::Tor(true));
        self.show_consensus(index);
        let process = self.processes;
        for backend in 0..self.plan.backends {
            let delay = between(Duration::from_millis(100), Duration::from_secs(4), &mut self.rng);
            self.after(delay, Event::Poll { publisher: index, process, backend });
        }
    }

    /// Passes the consensus of its tor to a publisher.
    pub(crate) fn show_consensus(&mut self, index: usize) {
        let Some(publisher) = self.publishers.get(index).filter(|publisher| publisher.tor) else { return };
        let view = self.relays.at(publisher.follower.hour).or(self.relays.newest()).cloned();
        if let Some(view) = view {
            self.turn(index, Message::Consensus(view));
        }
    }

    pub(crate) fn publisher_fetches(&mut self, index: usize) {
        let (now, rng) = (self.now, &mut self.rng);
        let Some(publisher) = self.publishers.get_mut(index) else { return };
        publisher.follower.fetch(now, rng);
        let delay = publisher.follower.next.saturating_sub(now);
        self.after(delay, Event::Fetch(Tor::Publisher(index)));
        self.show_consensus(index);
    }

    /// Reads the clocks of a publisher's process.
    fn clocks(&self, index: usize) -> Now {
        let (started, skew) = self.publishers.get(index).map_or((Duration::ZERO, 0), |own| (own.started, own.skew));
        let wall = UNIX_EPOCH + Duration::from_secs(self.start()) + self.now;
        let ahead = Duration::from_secs(skew.unsigned_abs());
        Now { wall: if skew < 0 { wall - ahead } else { wall + ahead }, elapsed: self.now.saturating_sub(started) }
    }

    pub(crate) fn wake(&mut self, index: usize) {
        self.turn(index, Message::Wake);
    }

    /// Lets a publisher's process handle a message.
    pub(crate) fn turn(&mut self, index: usize, message: Message) {
        let Some(publisher) = self.publishers.get(index).filter(|publisher| publisher.running) else { return };
        let engine_due = publisher.engine_due;
        let mut busy = true;
        self.conduct(index, conduct::Event::Tick);
        match message {
            Message::Wake if engine_due.is_some_and(|due| due <= self.clocks(index).elapsed) => {
                self.engine(index, Input::Tick);
            }
            Message::Wake => busy = false,
            Message::Conduct(event) => self.conduct(index, event),
            Message::Engine(input) => self.engine(index, input),
            Message::Uploaded(hsdir, result) => {
                self.conduct(index, conduct::Event::Uploaded(result.clone()));
                self.engine(index, Input::Uploaded { hsdir, result });
            }
            Message::Tor(up) => self.set_tor(index, up),
            Message::Consensus(view) => {
                self.conduct(index, conduct::Event::Network(Arc::clone(&view.network)));
                let network = Arc::clone(&view.network);
                if let Some(publisher) = self.publishers.get_mut(index) {
                    if publisher.view.as_ref().is_none_or(|before| before.used != view.used) {
                        publisher.used_since = self.now;
                    }
                    publisher.view = Some(view);
                    publisher.adopted = self.now;
                }
                self.engine(index, Input::Network(network));
            }
        }
        self.carry_out(index);
        if busy && let Some(publisher) = self.publishers.get_mut(index) {
            publisher.progress = publisher.engine.progress();
            let progress = publisher.progress.clone();
            self.conduct(index, conduct::Event::Progress(progress));
        }
        if let Some(publisher) = self.publishers.get_mut(index) {
            let due = publisher.engine_due.into_iter().fold(publisher.conduct.poll_timeout(), Duration::min);
            publisher.wake = publisher.started + due;
        }
    }

    fn set_tor(&mut self, index: usize, up: bool) {
        let Some(publisher) = self.publishers.get_mut(index) else { return };
        publisher.tor = up;
        publisher.session += 1;
        self.conduct(index, conduct::Event::Tor(up));
        if up {
            if let Some(publisher) = self.publishers.get_mut(index) {
                publisher.in_flight.clear();
            }
            self.engine(index, Input::TorRestarted);
        }
    }

    fn notice_lead(&mut self, index: usize) {
        let Some(publisher) = self.publishers.get_mut(index) else { return };
        let leading = publisher.conduct.is_leading();
        if std::mem::replace(&mut publisher.was_leading, leading) != leading {
            publisher.rounds.clear();
            publisher.in_flight.clear();
            self.steady_since = self.now;
            self.figures.leads += u64::from(leading);
        }
    }

    fn conduct(&mut self, index: usize, event: conduct::Event) {
        let now = self.clocks(index);
        if let Some(publisher) = self.publishers.get_mut(index) {
            publisher.conduct.handle(event, now);
        }
        self.notice_lead(index);
        while let Some(output) = self.publishers.get_mut(index).and_then(|own| own.conduct.poll_output()) {
            match output {
                conduct::Output::Engine(input) => self.engine(index, input),
                conduct::Output::Call(call, request) => self.call(index, call, request),
            }
        }
    }

    fn engine(&mut self, index: usize, input: Input) {
        let now = self.clocks(index);
        if let Some(publisher) = self.publishers.get_mut(index) {
            publisher.engine.handle(input, now);
            publisher.engine_due = publisher.engine.poll_timeout();
        }
    }

    /// Carries out the engine's instructions, which come after all decisions of the leadership
    /// state machine.
    fn carry_out(&mut self, index: usize) {
        let mut counters = Vec::new();
        while let Some(output) = self.publishers.get_mut(index).and_then(|own| own.engine.poll_output()) {
            match output {
                Output::StoreCounter(period, counter) => {
                    self.begin_round(index, period, counter);
                    counters.push((period, counter));
                }
                Output::Upload { hsdir, period, descriptor } => self.upload(index, hsdir, period, &descriptor),
                Output::Look(hsdir) => {
                    let process = self.publishers.get(index).map_or(0, |publisher| publisher.process);
                    self.after(Duration::from_secs(3), Event::Looked { publisher: index, process, hsdir });
                }
            }
        }
        for (period, counter) in counters {
            self.conduct(index, conduct::Event::CounterUsed(period, counter));
        }
    }

    fn begin_round(&mut self, index: usize, period: TimePeriod, counter: u64) {
        let Some(publisher) = self.publishers.get_mut(index) else { return };
        let before = publisher.counters.insert(period, counter);
        publisher.counters.retain(|old, _| old.number + 4 > period.number);
        publisher.rounds.retain(|old, _| old.number + 4 > period.number);
        publisher.rounds.insert(period, Round { counter, at: self.now, points: Vec::new() });
        let (wrong, leading) = (before.is_some_and(|before| before >= counter), publisher.conduct.is_leading());
        self.figures.rounds.push((self.now, period, index));
        self.require(!wrong, || format!("the counter {counter} was used after {before:?}"));
        self.require(leading, || format!("publisher {index} published without leading"));
    }

    fn upload(&mut self, index: usize, hsdir: Fingerprint, period: TimePeriod, text: &Arc<str>) {
        let now = self.now;
        let Some(publisher) = self.publishers.get_mut(index) else { return };
        let (counter, points) = publisher.read(text);
        let before = publisher.in_flight.insert(hsdir, now);
        let alone = before.is_none_or(|sent| sent + UPLOAD_DEADLINE <= now);
        let newest = publisher.rounds.get_mut(&period);
        let is_newest = newest.as_ref().is_some_and(|round| round.counter == counter);
        if let Some(round) = newest {
            round.points.extend(points.iter().copied());
            round.points.sort_unstable();
            round.points.dedup();
        }
        let from = (index, publisher.process, publisher.session);
        let tor = publisher.tor;
        self.figures.uploads += 1;
        self.require(alone, || format!("two uploads to {hsdir} at a time"));
        self.require(is_newest, || format!("an upload of the counter {counter}, which is not the newest"));
        let count = points.len();
        self.require((1..=20).contains(&count), || format!("a descriptor with {count} introduction points"));
        if tor {
            let delay = between(Duration::from_millis(300), Duration::from_secs(4), &mut self.rng);
            self.after(delay, Event::Arrive(Upload { from, hsdir, period, counter, points }));
        }
    }

    pub(crate) fn hsdir_answers(
        &mut self,
        (index, process, session): (usize, u64, u64),
        hsdir: Fingerprint,
        result: Result<(), UploadError>,
    ) {
        let Some(publisher) = self.publishers.get_mut(index) else { return };
        if publisher.process == process && publisher.session == session && publisher.tor {
            publisher.in_flight.remove(&hsdir);
            self.turn(index, Message::Uploaded(hsdir, result));
        }
    }

    pub(crate) fn server_answers(
        &mut self,
        index: usize,
        process: u64,
        call: CallId,
        answer: Result<LeaseAnswer, CallError>,
    ) {
        if self.publishers.get(index).is_some_and(|publisher| publisher.process == process) {
            self.turn(index, Message::Conduct(conduct::Event::Answered(call, answer)));
        }
    }

    /// Tells a publisher what an HSDir holds for the period that clients use.
    pub(crate) fn looked(&mut self, index: usize, process: u64, hsdir: Fingerprint) {
        let Some(publisher) = self.publishers.get(index).filter(|own| own.process == process && own.tor) else {
            return;
        };
        let Some(used) = publisher.view.as_ref().map(|view| view.used) else { return };
        let held = self.hsdirs.fetch(&hsdir, used, self.now).filter(|_| self.relays.runs(&hsdir));
        if let Some(counter) = held.map(|held| held.counter) {
            self.turn(index, Message::Engine(Input::Found(used, counter)));
        }
    }

    /// Returns a random number below `below`, or 0.
    pub(crate) fn any(&mut self, below: usize) -> usize {
        if below == 0 { 0 } else { self.rng.random_range(0..below) }
    }
}

impl Publisher {
    /// Reads a descriptor that [`PlainScribe`] has written.
    fn read(&mut self, text: &Arc<str>) -> (u64, Arc<[u64]>) {
        if let Some((_, counter, points)) = self.texts.iter().find(|(known, _, _)| Arc::ptr_eq(known, text)) {
            return (*counter, Arc::clone(points));
        }
        let mut numbers = text.lines().filter_map(|line| line.parse().ok());
        let counter = numbers.next().unwrap_or_default();
        let points: Arc<[u64]> = numbers.collect();
        self.texts.insert(0, (Arc::clone(text), counter, Arc::clone(&points)));
        self.texts.truncate(REMEMBERED_TEXTS);
        (counter, points)
    }
}

/// Methods with which tests look at the world.
impl World {
    /// Returns the number of rounds whose counter rose because HSDirs rejected the one before.
    pub fn counter_rises(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.engine.status().counter_rises).sum()
    }

    /// Returns the HSDirs from which clients fetch, by the newest consensus.
    pub fn asked(&self) -> Vec<Fingerprint> {
        self.relays.newest().map(|view| view.asked.clone()).unwrap_or_default()
    }

    /// Returns the newest revision counter of each publisher and time period, and the counter that
    /// the clock reaches while services publish for this period.
    pub fn counters(&self) -> Vec<(TimePeriod, u64, u64)> {
        let used = self.publishers.iter().flat_map(|publisher| &publisher.counters);
        let latest = |period: TimePeriod| self.key.blind(period).revision_counter(2 * 24 * 3600);
        used.map(|(period, counter)| (*period, *counter, latest(*period))).collect()
    }
}
