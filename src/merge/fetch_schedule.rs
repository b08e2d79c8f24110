//! Schedules the fetches of the descriptors that external backends publish themselves, and decides
//! how long a fetched descriptor is trusted.
//!
//! **HSDirs.** Clients fetch a backend's descriptor from any of six HSDirs. Each round queries the
//! two that were queried least recently about this backend, and then further ones until two have
//! returned the descriptor. An HSDir may have missed an upload or may still hold an old descriptor,
//! so the descriptor with the greatest revision counter is used. Three rounds cover all six HSDirs.
//! Querying all six in every round would triple the number of circuits for little benefit, because
//! a stock tor uploads a change to all of them within seconds.
//!
//! **Times.** A time period has about 144 rounds (one every 10 minutes on the Tor network), with a
//! jitter of one fifth of the interval. Rounds become five times as frequent when the descriptor is
//! about to expire. A round begins immediately when clients move to the next time period, because
//! the descriptor of that period has different introduction points. If no HSDir has the descriptor,
//! the next round begins soon, and the pauses grow. Only a few fetches run at a time, and the
//! backend that has waited longest is served first.
//!
//! **Trust.** If an HSDir returns the same descriptor again, that proves nothing, because HSDirs
//! serve the descriptor of a dead backend for hours. The only proof of life is a greater revision
//! counter from an HSDir that, when last queried in the same time period, had a lower counter or no
//! descriptor: the descriptor must have been uploaded in between. The backend is then trusted for
//! the descriptor's lifetime (3 hours); a living tor uploads a new descriptor after one to two
//! hours. If an HSDir is queried for the first time in a time period, the upload time of its
//! descriptor is unknown. Even if the descriptor belongs to a new period or has a greater counter
//! than the known descriptor, the backend may have uploaded it before the known descriptor was
//! fetched. Such a descriptor extends the trust by at most [`RENEWAL`] and does not bring back a
//! backend that has aged out. When a time period has ended for services as well, every living tor
//! has closed the introduction points of that period, so the descriptor is no longer trusted.
//!
//! **Visibility.** A service maintains one descriptor for each of two time periods, each with its
//! own introduction points, and HSFETCH returns only the descriptor that clients currently use. The
//! publisher puts the introduction points of that descriptor into both merged descriptors. These
//! points stay open for half a period after clients have moved on to the other descriptor. The
//! publisher fetches the points of the other descriptor long before that half period ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Now;
use crate::consensus::{Fingerprint, Network};
use crate::onion::{OnionAddress, ServiceContent, TimePeriod};

/// The maximum number of concurrent descriptor fetches.
pub const FETCHES_AT_A_TIME: usize = 8;
/// The number of HSDirs that must return the descriptor for a round to end early.
const ANSWERS: usize = 2;
/// The number of fetch rounds in a time period.
const ROUNDS_PER_PERIOD: u32 = 144;
/// The shortest and the longest interval between two fetch rounds. The shortest applies to testing
/// networks, whose time periods last only a few minutes, and the longest to the Tor network.
const INTERVALS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(600)];
/// The factor by which fetch rounds become more frequent shortly before a descriptor expires. The
/// faster pace begins this many normal intervals before the expiry.
const HURRY: u32 = 5;
/// The pause after the first fetch round in which no HSDir had the descriptor. The pause doubles
/// with each further failed round, up to the normal interval.
const RETRY: Duration = Duration::from_secs(5);
/// The time span over which the fetch rounds of all backends are spread when clients move to
/// another time period.
const SPREAD: Duration = Duration::from_secs(10);
/// How long a new descriptor that is no proof of life keeps its backend trusted after the fetch. C
/// tor uploads each descriptor again after 60 to 120 minutes, and a few more minutes pass until the
/// next descriptor is fetched.
pub const RENEWAL: Duration = Duration::from_secs(135 * 60);

/// An input of the fetch schedule.
#[derive(Debug, Clone)]
pub enum FetchInput {
    /// The complete set of external backends.
    Backends(BTreeSet<OnionAddress>),
    /// A new consensus.
    Network(Arc<Network>),
    /// True if a bootstrapped tor is connected. Fetches that were started through an earlier
    /// connection never finish.
    Tor(bool),
    /// True if descriptors are to be fetched, which is the default. False while the service is
    /// suspended.
    Active(bool),
    /// The end of a fetch.
    Fetched {
        /// The backend whose descriptor was fetched.
        address: OnionAddress,
        /// The HSDir that was queried.
        hsdir: Fingerprint,
        /// The result of the fetch.
        answer: FetchAnswer,
    },
    /// No event. Only time has passed.
    Tick,
}

/// The result of asking an HSDir for a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchAnswer {
    /// The HSDir returned this descriptor, which the IO layer has checked.
    Has(FetchedDescriptor),
    /// The HSDir has no descriptor.
    HasNone,
    /// The HSDir did not answer or returned an invalid descriptor.
    Useless,
}

/// A descriptor that was fetched from an HSDir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedDescriptor {
    /// The time period whose blinded key signed the descriptor.
    pub period: TimePeriod,
    /// The descriptor's `revision-counter`, which rises within a time period. Counters of different
    /// periods are not comparable.
    pub revision_counter: u64,
    /// The descriptor's `descriptor-lifetime`.
    pub lifetime: Duration,
    /// The decrypted content of the descriptor's second layer.
    pub content: Arc<ServiceContent>,
}

/// An instruction of the fetch schedule to the IO layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchOutput {
    /// Fetch the descriptor of this address from this HSDir, then report the result as
    /// [`FetchInput::Fetched`].
    Fetch(OnionAddress, Fingerprint),
    /// Use these introduction points of the backend.
    Backend(OnionAddress, Arc<ServiceContent>),
    /// Stop using the backend.
    Lost(OnionAddress),
}

/// The state of an external backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalState {
    /// No descriptor of the backend has been found yet.
    Unseen,
    /// The backend's descriptor is trusted.
    Counts,
    /// The backend has aged out: its descriptor is no longer trusted.
    Lost,
}

/// The fetch schedule for the external backends of one service. It is sans-io, like the merge
/// engine.
#[derive(Debug)]
pub struct FetchSchedule {
    rng: StdRng,
    backends: BTreeMap<OnionAddress, ExternalBackend>,
    network: Option<Arc<Network>>,
    tor: bool,
    active: bool,
    /// All running fetches, including fetches for removed backends and from rounds that have ended.
    under_way: BTreeSet<(OnionAddress, Fingerprint)>,
    outputs: VecDeque<FetchOutput>,
}

#[derive(Debug)]
struct ExternalBackend {
    /// The newest descriptor of the backend. It is kept after the backend is lost, so that the same
    /// descriptor does not bring the backend back.
    newest: Option<FetchedDescriptor>,
    /// The time until which the backend is trusted. None if it is not trusted.
    until: Option<Duration>,
    /// The start of the next fetch round, or the planned start of the current one.
    due: Duration,
    /// The number of consecutive fetch rounds that found no descriptor.
    failures: u32,
    counters: KnownCounters,
    round: Option<FetchRound>,
    /// The time of the latest request to each HSDir.
    asked: BTreeMap<Fingerprint, Duration>,
}

/// The revision counters that the HSDirs have returned for the newest time period.
#[derive(Debug, Default)]
struct KnownCounters {
    period: u64,
    /// The greatest revision counter that each HSDir has returned. None for an HSDir that had no
    /// descriptor.
    by_hsdir: BTreeMap<Fingerprint, Option<u64>>,
}

#[derive(Debug)]
struct FetchRound {
    /// The time period whose descriptor this round fetches.
    period: TimePeriod,
    /// The HSDirs that can still be queried in this round. The next one is at the end of the list.
    waiting: Vec<Fingerprint>,
    under_way: BTreeSet<Fingerprint>,
    answers: usize,
}

impl FetchSchedule {
    /// Creates a schedule without backends. `seed` initializes the random number generator that
    /// determines the jitter and the choice of HSDirs.
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

    /// Processes an input of the fetch schedule.
    pub fn handle(&mut self, input: FetchInput, now: Now) {
        let at = now.elapsed;
        match input {
            FetchInput::Backends(addresses) => self.set_backends(&addresses, at),
            FetchInput::Network(network) => self.set_network(network, at),
            FetchInput::Tor(up) => {
                self.tor = up;
                self.under_way.clear();
                self.backends.values_mut().for_each(|backend| backend.round = None);
            }
            FetchInput::Active(active) => self.active = active,
            FetchInput::Fetched { address, hsdir, answer } => self.fetched(address, hsdir, answer, at),
            FetchInput::Tick => {}
        }
        self.advance(at);
    }

    /// Returns the next instruction for the IO layer, or None if there are no more.
    pub fn poll_output(&mut self) -> Option<FetchOutput> {
        self.outputs.pop_front()
    }

    /// Returns the monotonic time by which `handle(Tick)` must be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let ends = self.backends.values().filter_map(|backend| backend.until);
        // At the limit of concurrent fetches, nothing more can start until a fetch ends.
        let room = self.can_fetch() && self.under_way.len() < FETCHES_AT_A_TIME;
        let rounds = self.backends.values().filter(|backend| room && backend.round.is_none());
        ends.chain(rounds.map(|backend| backend.due)).min()
    }

    /// Returns the states of all external backends, ordered by address.
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
                outputs.push_back(FetchOutput::Lost(*address));
            }
            stays
        });
        for address in addresses {
            self.backends.entry(*address).or_insert_with(|| ExternalBackend::new(now));
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
            // The current round fetches a descriptor that is no longer needed.
            backend.round = None;
        }
    }

    fn fetched(&mut self, address: OnionAddress, hsdir: Fingerprint, answer: FetchAnswer, now: Duration) {
        self.under_way.remove(&(address, hsdir));
        let Some(backend) = self.backends.get_mut(&address) else { return };
        let (answered, has_none) = (matches!(answer, FetchAnswer::Has(_)), answer == FetchAnswer::HasNone);
        if let FetchAnswer::Has(sighting) = answer
            && let Some(content) = backend.see(sighting, hsdir, now)
        {
            self.outputs.push_back(FetchOutput::Backend(address, content));
        }
        // The round that started this fetch may have ended, and a later round may fetch the
        // descriptor of another time period.
        let Some(round) = &mut backend.round else { return };
        if !round.under_way.remove(&hsdir) {
            return;
        }
        if has_none {
            backend.counters.record(hsdir, round.period, None);
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

    /// Performs all work that is due. A second call at the same time has no effect.
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
            let ExternalBackend { round: Some(round), asked, .. } = backend else { continue };
            while self.under_way.len() < FETCHES_AT_A_TIME && round.answers + round.under_way.len() < ANSWERS {
                let Some(hsdir) = round.waiting.pop() else { break };
                round.under_way.insert(hsdir);
                asked.insert(hsdir, now);
                self.under_way.insert((*address, hsdir));
                self.outputs.push_back(FetchOutput::Fetch(*address, hsdir));
            }
            if round.under_way.is_empty() {
                // The consensus has no HSDirs, or an older round is still fetching from all of
                // them.
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
                self.outputs.push_back(FetchOutput::Lost(*address));
            }
        }
    }
}

impl ExternalBackend {
    fn new(now: Duration) -> Self {
        Self {
            newest: None,
            until: None,
            due: now,
            failures: 0,
            counters: KnownCounters::default(),
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

    /// Records a fetched descriptor. Returns its content if the service must now use it.
    fn see(&mut self, sighting: FetchedDescriptor, hsdir: Fingerprint, now: Duration) -> Option<Arc<ServiceContent>> {
        let was_uploaded_since = self.counters.record(hsdir, sighting.period, Some(sighting.revision_counter));
        let age = |sighting: &FetchedDescriptor| (sighting.period.number, sighting.revision_counter);
        let whole = now.saturating_add(sighting.lifetime);
        // The time until which the backend is now trusted. None if the backend had aged out and
        // this descriptor is no proof of life.
        let until = match &self.newest {
            None => Some(whole),
            Some(newest) if age(&sighting) <= age(newest) => return None,
            Some(_) if was_uploaded_since => Some(whole),
            // The backend may have created this descriptor and died before the known one was first
            // seen.
            Some(_) => self.until.map(|until| until.max(now.saturating_add(RENEWAL)).min(whole)),
        };
        let counted = self.until.is_some();
        self.until = until;
        let before = self.newest.replace(sighting);
        until?;
        let content = self.newest.as_ref().map(|newest| Arc::clone(&newest.content));
        content.filter(|content| !counted || before.is_none_or(|before| before.content != *content))
    }

    /// Returns the pause before the backend's next fetch round.
    fn pause(&self, interval: Duration, now: Duration) -> Duration {
        if self.failures > 0 {
            return RETRY.saturating_mul(1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX)).min(interval);
        }
        let near = self.until.is_some_and(|until| until.saturating_sub(now) <= HURRY * interval);
        if near { interval / HURRY } else { interval }
    }

    /// Begins a fetch round. The round can query all HSDirs from which clients fetch the
    /// descriptor, except those that are already being queried about this backend.
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
        self.round = Some(FetchRound { period: service.period, waiting, under_way: BTreeSet::new(), answers: 0 });
    }
}

impl KnownCounters {
    /// Records the revision counter that an HSDir returned, or None if it has no descriptor.
    /// Returns true if this shows that the descriptor was uploaded after the HSDir's previous
    /// answer.
    fn record(&mut self, hsdir: Fingerprint, period: TimePeriod, has: Option<u64>) -> bool {
        if period.number > self.period {
            *self = Self { period: period.number, by_hsdir: BTreeMap::new() };
        }
        if period.number < self.period {
            return false;
        }
        let had = self.by_hsdir.get(&hsdir).copied();
        self.by_hsdir.insert(hsdir, had.flatten().max(has));
        had.is_some_and(|had| had < has)
    }
}

/// Returns the normal interval between two fetch rounds of a backend.
pub fn interval(network: Option<&Network>) -> Duration {
    let [least, most] = INTERVALS;
    let Some(network) = network else { return most };
    let period = Duration::from_secs(network.client_period().period.length_minutes.saturating_mul(60));
    (period / ROUNDS_PER_PERIOD).clamp(least, most)
}
