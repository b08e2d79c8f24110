//! Backends that publish by themselves: when to fetch whose descriptor from which HSDir, and for how long to believe it.
//!
//! **Whom to ask.** Of the HSDirs that clients ask (six), the two that this backend's descriptor was asked of longest ago, and
//! the others in turn where these have none: one HSDir may have missed an upload, or keep an old descriptor, and the greatest
//! revision counter tells. All six come up within three rounds; asking all each time would be three times the circuits for
//! a change that a stock tor uploads to all of them within seconds.
//!
//! **When.** A round about every 144th of a time period (10 minutes on the Tor network), at random within a fifth of it; five
//! times as often once the descriptor is near its end; at once when clients move on to the next time period, whose
//! descriptor has other introduction points; soon, and then ever later, when no HSDir has it. Few fetches are under way at a
//! time; those who have waited longest come first.
//!
//! **For how long.** What an HSDir repeats proves nothing: a dead backend's descriptor is served for hours. Only a descriptor with
//! a greater revision counter does, from an HSDir that had a lesser one, or none, when it was asked before in this time period: that
//! was uploaded since. So a backend counts for the descriptor's own lifetime (3 hours) since then; a living tor uploads a greater
//! one after one to two hours. What an HSDir has that was not asked before may be older than what is known already, though it
//! is of a new time period, or another HSDir missed it: it adds at most [`RENEWAL`], and nothing for a backend that had aged out. And when a time period is over for services, too, its introduction points are
//! closed by any living tor: then a descriptor of it counts no more.
//!
//! **What can be seen.** A service keeps one descriptor for each of two time periods, each with introduction points of its own;
//! HSFETCH shows only the one that clients use now. Its points go into both merged descriptors: they stay open until half a
//! period after clients have moved on, and by then the other's have long been fetched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Now;
use crate::consensus::{Fingerprint, Network};
use crate::onion::{OnionAddress, ServiceContent, TimePeriod};

/// Fetches under way at a time.
pub const FETCHES_AT_A_TIME: usize = 8;
/// HSDirs that must answer in a round, if so many have it.
const ANSWERS: usize = 2;
/// Rounds in a time period,
const ROUNDS_PER_PERIOD: u32 = 144;
/// which on a testing network is some minutes: never more often than this, and never more rarely than on the Tor network.
const INTERVALS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(600)];
/// So many times as often, for the last so many intervals of a descriptor's time.
const HURRY: u32 = 5;
/// After a first round in which no HSDir had it; doubled with each further one, up to the interval.
const RETRY: Duration = Duration::from_secs(5);
/// Within this time all are asked when clients move on to another time period.
const SPREAD: Duration = Duration::from_secs(10);
/// C tor uploads each descriptor anew after 60 to 120 minutes; and we must see it.
pub const RENEWAL: Duration = Duration::from_secs(135 * 60);

/// What happened.
#[derive(Debug, Clone)]
pub enum ExternalInput {
    /// All external backends there are now.
    Backends(BTreeSet<OnionAddress>),
    /// A consensus came.
    Network(Arc<Network>),
    /// Whether there is a bootstrapped tor. Fetches that were under way before have no end.
    Tor(bool),
    /// Whether anything is to be fetched at all. A service that is suspended has no use for it. True at first.
    Active(bool),
    /// A fetch's end.
    Fetched {
        /// Whose.
        address: OnionAddress,
        /// From where.
        hsdir: Fingerprint,
        /// What came back.
        answer: Answer,
    },
    /// Time passed.
    Tick,
}

/// What an HSDir says when it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has this (checked by the shell).
    Has(Sighting),
    /// It has none.
    HasNone,
    /// Nothing, or nothing that can be used.
    Useless,
}

/// A descriptor as an HSDir has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The time period whose key signed it.
    pub period: TimePeriod,
    /// `revision-counter`. It rises within a period, and says nothing across periods.
    pub revision_counter: u64,
    /// `descriptor-lifetime`.
    pub lifetime: Duration,
    /// Layer 2.
    pub content: Arc<ServiceContent>,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalOutput {
    /// Fetch the descriptor of this address from this HSDir; then tell [`ExternalInput::Fetched`].
    Fetch(OnionAddress, Fingerprint),
    /// The backend's points are these.
    Backend(OnionAddress, Arc<ServiceContent>),
    /// The backend does not count any more.
    Lost(OnionAddress),
}

/// What is known of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalState {
    /// Nothing yet.
    Unseen,
    /// Its descriptor counts.
    Counts,
    /// It has aged out.
    Lost,
}

/// The external backends of one service.
#[derive(Debug)]
pub struct Externals {
    rng: StdRng,
    backends: BTreeMap<OnionAddress, External>,
    network: Option<Arc<Network>>,
    tor: bool,
    active: bool,
    /// Fetches under way, also those of backends and rounds that are no more.
    under_way: BTreeSet<(OnionAddress, Fingerprint)>,
    outputs: VecDeque<ExternalOutput>,
}

#[derive(Debug)]
struct External {
    /// The newest that was seen, also of one that is lost: it does not come back with what it had.
    newest: Option<Sighting>,
    /// Until when it counts. None: it does not.
    until: Option<Duration>,
    /// When the next round begins; during a round, when this one was to begin.
    due: Duration,
    /// Rounds in a row that found nothing.
    failures: u32,
    words: Words,
    round: Option<Round>,
    /// When each HSDir was asked last.
    asked: BTreeMap<Fingerprint, Duration>,
}

/// What HSDirs said in the newest time period.
#[derive(Debug, Default)]
struct Words {
    period: u64,
    /// The greatest revision counter that each has had; None: it had nothing.
    said: BTreeMap<Fingerprint, Option<u64>>,
}

#[derive(Debug)]
struct Round {
    /// The one that clients use.
    period: TimePeriod,
    /// Those that can still be asked, the next one last.
    waiting: Vec<Fingerprint>,
    under_way: BTreeSet<Fingerprint>,
    answers: usize,
}

impl Externals {
    /// Knows of no backend yet. `seed` feeds its generator (jitter, choice of HSDirs).
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            rng: StdRng::from_seed(seed),
            backends: BTreeMap::new(),
            network: None,
            tor: false,
            active: true,
            under_way: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes an input in.
    pub fn handle(&mut self, input: ExternalInput, now: Now) {
        let at = now.elapsed;
        match input {
            ExternalInput::Backends(addresses) => self.set_backends(&addresses, at),
            ExternalInput::Network(network) => self.set_network(network, at),
            ExternalInput::Tor(up) => {
                self.tor = up;
                self.under_way.clear();
                self.backends.values_mut().for_each(|backend| backend.round = None);
            }
            ExternalInput::Active(active) => self.active = active,
            ExternalInput::Fetched { address, hsdir, answer } => self.fetched(address, hsdir, answer, at),
            ExternalInput::Tick => {}
        }
        self.advance(at);
    }

    /// The next thing to do, until None.
    pub fn poll_output(&mut self) -> Option<ExternalOutput> {
        self.outputs.pop_front()
    }

    /// When (on the monotonic clock) to call `handle(Tick)` at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let ends = self.backends.values().filter_map(|backend| backend.until);
        // While as many fetches are under way as may be, it is their ends that go on.
        let room = self.can_fetch() && self.under_way.len() < FETCHES_AT_A_TIME;
        let rounds = self.backends.values().filter(|backend| room && backend.round.is_none());
        ends.chain(rounds.map(|backend| backend.due)).min()
    }

    /// All backends, by address.
    pub fn states(&self) -> impl Iterator<Item = (OnionAddress, ExternalState)> {
        self.backends.iter().map(|(address, backend)| (*address, backend.state()))
    }

    fn can_fetch(&self) -> bool {
        self.tor && self.active && self.network.is_some()
    }

    fn set_backends(&mut self, addresses: &BTreeSet<OnionAddress>, now: Duration) {
        let outputs = &mut self.outputs;
        self.backends.retain(|address, backend| {
            let stays = addresses.contains(address);
            if !stays && backend.until.is_some() {
                outputs.push_back(ExternalOutput::Lost(*address));
            }
            stays
        });
        for address in addresses {
            self.backends.entry(*address).or_insert_with(|| External::new(now));
        }
    }

    fn set_network(&mut self, network: Arc<Network>, now: Duration) {
        let period = network.client_period().period;
        let before = self.network.replace(network).map(|network| network.client_period().period);
        if before.is_none_or(|before| before == period) {
            return;
        }
        for backend in self.backends.values_mut() {
            let soon = now + SPREAD.mul_f64(self.rng.random());
            backend.due = backend.due.min(soon);
            backend.failures = 0;
            // It asks for what nobody needs any more.
            backend.round = None;
        }
    }

    fn fetched(&mut self, address: OnionAddress, hsdir: Fingerprint, answer: Answer, now: Duration) {
        self.under_way.remove(&(address, hsdir));
        let Some(backend) = self.backends.get_mut(&address) else { return };
        let (answered, has_none) = (matches!(answer, Answer::Has(_)), answer == Answer::HasNone);
        if let Answer::Has(sighting) = answer
            && let Some(content) = backend.see(sighting, hsdir, now)
        {
            self.outputs.push_back(ExternalOutput::Backend(address, content));
        }
        // Not every fetch belongs to a round still, nor is of the time period that it would be of now.
        let Some(round) = &mut backend.round else { return };
        if !round.under_way.remove(&hsdir) {
            return;
        }
        if has_none {
            backend.words.take(hsdir, round.period, None);
        }
        round.answers += usize::from(answered);
        let enough = round.answers >= ANSWERS || round.waiting.is_empty();
        if round.under_way.is_empty() && enough {
            if round.answers > 0 {
                backend.failures = 0;
            } else {
                backend.failures = backend.failures.saturating_add(1);
            }
            backend.round = None;
            let pause = backend.pause(interval(self.network.as_deref()), now);
            backend.due = now.saturating_add(pause.mul_f64(self.rng.random_range(0.8..=1.2)));
        }
    }

    /// Does all that is due. Doing it again at the same time changes nothing.
    fn advance(&mut self, now: Duration) {
        self.age(now);
        if !self.can_fetch() {
            return;
        }
        let Some(network) = self.network.clone() else { return };
        let mut waiting: Vec<_> = self.backends.iter_mut().filter(|(_, backend)| backend.due <= now).collect();
        waiting.sort_by_key(|(_, backend)| backend.due);
        for (address, backend) in waiting {
            if self.under_way.len() >= FETCHES_AT_A_TIME {
                return;
            }
            if backend.round.is_none() {
                backend.begin(address, &network, &self.under_way, &mut self.rng);
            }
            let External { round: Some(round), asked, .. } = backend else { continue };
            while self.under_way.len() < FETCHES_AT_A_TIME && round.answers + round.under_way.len() < ANSWERS {
                let Some(hsdir) = round.waiting.pop() else { break };
                round.under_way.insert(hsdir);
                asked.insert(hsdir, now);
                self.under_way.insert((*address, hsdir));
                self.outputs.push_back(ExternalOutput::Fetch(*address, hsdir));
            }
            if round.under_way.is_empty() {
                // The consensus has no HSDirs, or all of them are still being asked in an older round's name.
                backend.round = None;
                backend.due = now.saturating_add(RETRY);
            }
        }
    }

    fn age(&mut self, now: Duration) {
        let network = self.network.as_ref();
        let oldest = network
            .and_then(|network| network.service_periods().map(|service| service.period.number).into_iter().min());
        for (address, backend) in &mut self.backends {
            let newest = backend.newest.as_ref().map(|newest| newest.period.number);
            let is_over = newest.zip(oldest).is_some_and(|(newest, oldest)| newest < oldest);
            if backend.until.is_some_and(|until| until <= now || is_over) {
                backend.until = None;
                self.outputs.push_back(ExternalOutput::Lost(*address));
            }
        }
    }
}

impl External {
    fn new(now: Duration) -> Self {
        Self {
            newest: None,
            until: None,
            due: now,
            failures: 0,
            words: Words::default(),
            round: None,
            asked: BTreeMap::new(),
        }
    }

    fn state(&self) -> ExternalState {
        match (&self.newest, self.until) {
            (None, _) => ExternalState::Unseen,
            (Some(_), Some(_)) => ExternalState::Counts,
            (Some(_), None) => ExternalState::Lost,
        }
    }

    /// Takes in what was found; gives the content if it is news.
    fn see(&mut self, sighting: Sighting, hsdir: Fingerprint, now: Duration) -> Option<Arc<ServiceContent>> {
        let was_uploaded_since = self.words.take(hsdir, sighting.period, Some(sighting.revision_counter));
        let age = |sighting: &Sighting| (sighting.period.number, sighting.revision_counter);
        let whole = now.saturating_add(sighting.lifetime);
        // None: no sign of life.
        let until = match &self.newest {
            None => Some(whole),
            Some(newest) if age(&sighting) <= age(newest) => return None,
            Some(_) if was_uploaded_since => Some(whole),
            // It may have been made, and the backend have died, before what is known already was first seen.
            Some(_) => self.until.map(|until| until.max(now.saturating_add(RENEWAL)).min(whole)),
        };
        let counted = self.until.is_some();
        self.until = until;
        let before = self.newest.replace(sighting);
        until?;
        let content = self.newest.as_ref().map(|newest| Arc::clone(&newest.content));
        content.filter(|content| !counted || before.is_none_or(|before| before.content != *content))
    }

    /// Before the next round.
    fn pause(&self, interval: Duration, now: Duration) -> Duration {
        if self.failures > 0 {
            return RETRY.saturating_mul(1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX)).min(interval);
        }
        let near = self.until.is_some_and(|until| until.saturating_sub(now) <= HURRY * interval);
        if near { interval / HURRY } else { interval }
    }

    fn begin(
        &mut self,
        address: &OnionAddress,
        network: &Network,
        under_way: &BTreeSet<(OnionAddress, Fingerprint)>,
        rng: &mut StdRng,
    ) {
        let service = network.client_period();
        let hsdirs = network.fetch_hsdirs(&address.blind(service.period), &service);
        let hsdirs: BTreeSet<_> = hsdirs.into_iter().map(|placement| placement.relay).collect();
        self.asked.retain(|hsdir, _| hsdirs.contains(hsdir));
        let free = hsdirs.into_iter().filter(|hsdir| !under_way.contains(&(*address, *hsdir)));
        let mut waiting: Vec<_> =
            free.map(|hsdir| (self.asked.get(&hsdir).copied(), rng.random::<u64>(), hsdir)).collect();
        waiting.sort_unstable();
        let waiting = waiting.into_iter().rev().map(|(_, _, hsdir)| hsdir).collect();
        self.round = Some(Round { period: service.period, waiting, under_way: BTreeSet::new(), answers: 0 });
    }
}

impl Words {
    /// Takes in what an HSDir has (a revision counter, or None: nothing); gives whether it was uploaded after the HSDir's last word.
    fn take(&mut self, hsdir: Fingerprint, period: TimePeriod, has: Option<u64>) -> bool {
        if period.number > self.period {
            *self = Self { period: period.number, said: BTreeMap::new() };
        }
        if period.number < self.period {
            return false;
        }
        let had = self.said.get(&hsdir).copied();
        self.said.insert(hsdir, had.flatten().max(has));
        had.is_some_and(|had| had < has)
    }
}

/// Between two rounds of a backend.
pub fn interval(network: Option<&Network>) -> Duration {
    let [least, most] = INTERVALS;
    let Some(network) = network else { return most };
    let period = Duration::from_secs(network.client_period().period.length_minutes.saturating_mul(60));
    (period / ROUNDS_PER_PERIOD).clamp(least, most)
}
