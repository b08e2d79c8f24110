//! The merge engine, which turns the inputs of one onion service into descriptor uploads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::backends::{BackendChange, Backends};
use super::period::Period;
use super::schedule::Request;
use super::subsets::Policy;
use super::upload::{HsdirUploads, Rejected};
use super::{BackendId, Distinct, Input, Now, Output, Status};
use crate::consensus::Network;
use crate::onion::{Discovery, OnionAddress, ServiceKey, TimePeriod};

/// The time that the engine waits for further changes after the first one.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// The time that the engine waits for further changes after the loss of a backend. A scale-down
/// removes several backends at once, in separate events.
const DEBOUNCE_GONE: Duration = Duration::from_millis(50);
/// The time for which a consensus is used before its validity period begins and after it ends, as
/// in C tor (`REASONABLY_LIVE_TIME`).
const REASONABLY_LIVE: Duration = Duration::from_secs(24 * 3600);
/// The greatest revision counter that the engine accepts from another publisher. No clock and no
/// series of rejections can produce a greater counter. If the engine accepted one, few values would
/// remain for its own counters, which must be greater still.
const MAX_FLOOR: u64 = 1 << 62;
/// The interval at which the engine tries again while something prevents it from publishing.
const RETRY: Duration = Duration::from_secs(60);

/// The merge engine of one onion service.
///
/// The engine publishes while it is the leader, knows the authorized clients, has at least one
/// introduction point, and has a consensus that C tor would still consider reasonably live (up to
/// 24 h after its validity ends). When the last backend is lost, the HSDirs keep their descriptors
/// until they expire, and the engine publishes nothing to new HSDirs or for new time periods.
pub struct MergeEngine {
    key: ServiceKey,
    address: OnionAddress,
    rng: StdRng,
    now: Now,
    leading: bool,
    /// The start and end of the consensus's validity period.
    validity: Option<(SystemTime, SystemTime)>,
    backends: Backends,
    distinct: Distinct,
    /// The clients that are authorized to read the introduction points. None until they are known.
    discovery: Option<Arc<Discovery>>,
    /// For each time period, the greatest revision counter that any publisher has used.
    floors: BTreeMap<TimePeriod, u64>,
    /// The network's time periods, starting with the current one.
    periods: Vec<Period>,
    uploads: HsdirUploads,
    outputs: VecDeque<Output>,
}

impl MergeEngine {
    /// Creates an engine that has no network and no backends yet. If `discovery` is None, the
    /// engine publishes nothing until it receives [`Input::Discovery`]. `seed` initializes the
    /// random number generator from which keys, padding and jitter are drawn.
    pub fn new(key: impl Into<ServiceKey>, discovery: Option<Discovery>, seed: [u8; 32], now: Now) -> Self {
        let key = key.into();
        Self {
            address: key.address(),
            key,
            rng: StdRng::from_seed(seed),
            now,
            leading: false,
            validity: None,
            backends: Backends::default(),
            distinct: Distinct::default(),
            discovery: discovery.map(Arc::new),
            floors: BTreeMap::new(),
            periods: Vec::new(),
            uploads: HsdirUploads::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Processes an input.
    pub fn handle(&mut self, input: Input, now: Now) {
        self.now = now;
        match input {
            Input::Network(network) => self.set_network(&network),
            Input::Backend(id, content) => {
                let first = self.backends.is_empty();
                let change = self.backends.set(id, &content);
                self.backends_changed(change);
                if first {
                    // The other backends usually follow within moments, so a pending request waits
                    // for them too.
                    let at = now.elapsed.saturating_add(DEBOUNCE);
                    self.periods.iter_mut().for_each(|period| period.schedule.put_off(at));
                }
            }
            Input::BackendLost(id) => {
                let change = self.backends.remove(&id);
                self.backends_changed(change);
            }
            Input::Limits(limits) => {
                let change = self.backends.set_limits(limits);
                self.backends_changed(change);
            }
            Input::Discovery(discovery) => self.set_discovery(discovery),
            Input::Key(key) => self.set_key(key),
            Input::Distinct(distinct) => {
                self.distinct = distinct;
                self.request_all(Request { at: now.elapsed.saturating_add(DEBOUNCE), urgent: false, forced: false });
            }
            Input::Leading(leading) => self.set_leading(leading),
            Input::CounterFloor(period, counter) => self.raise_floor(period, counter),
            Input::Uploaded { hsdir, result } => {
                if let Some(rejected) = self.uploads.fate(&hsdir, &result, now.elapsed, &mut self.rng) {
                    self.rejected(&rejected);
                }
            }
            Input::TorRestarted => {
                self.uploads.lose_sight();
                self.request_all(Request { at: now.elapsed, urgent: true, forced: true });
            }
            Input::Tick => {}
        }
        self.advance();
    }

    /// Returns the next instruction for the IO layer, or None if there are no more.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns the monotonic time by which `handle(Tick)` must be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if !self.leading || self.discovery.is_none() {
            return None;
        }
        let publish = self.periods.iter().filter_map(|period| period.schedule.ready_at()).min();
        let mut work = [publish.filter(|_| !self.backends.is_empty()), self.uploads.next_start()];
        if !self.network_is_usable() {
            let later = self.now.elapsed.saturating_add(RETRY);
            work.iter_mut().flatten().for_each(|at| *at = later.max(*at));
        }
        let ends = self.periods.iter().filter_map(Period::expires_at).min();
        work.into_iter().chain([self.uploads.next_deadline(), ends]).flatten().min()
    }

    /// Returns the state of the engine, which the object's status and the metrics report.
    pub fn status(&self) -> Status {
        let current = self.periods.first().and_then(|period| Some((period, period.round.as_ref()?)));
        let share =
            |id: &BackendId| current.and_then(|(_, round)| round.merged.points.get(id)).copied().unwrap_or_default();
        let waits = |id: &&BackendId| share(id) == 0 && current.is_some_and(|(period, _)| period.waiting.contains(*id));
        Status {
            periods: self.periods.iter().filter_map(|period| period.status(&self.uploads)).collect(),
            points: self.backends.ids().map(|id| (id.clone(), share(id))).collect(),
            waiting: self.backends.ids().filter(waits).cloned().collect(),
            outvoted: self.backends.outvoted(),
            no_backends: self.backends.is_empty(),
        }
    }

    /// Returns true if clients can no longer obtain any introduction point of this backend.
    ///
    /// For that, every responsible HSDir of every time period must have accepted a descriptor newer
    /// than the last one that contained the backend, or must have failed at least once to accept
    /// one. The result is always false for a usable backend, for the last backend that was lost
    /// (its points stay published), and while this publisher is not the leader.
    pub fn withdrawn(&self, id: &BackendId) -> bool {
        self.leading
            && !self.backends.contains(id)
            && !self.periods.is_empty()
            && self.periods.iter().all(|period| period.is_withdrawn(id, &self.uploads))
    }

    fn set_network(&mut self, network: &Network) {
        let [valid_after, _, valid_until] = network.validity();
        self.validity = Some((valid_after, valid_until));
        let mut old = std::mem::take(&mut self.periods);
        for service in network.service_periods() {
            let known = old.iter().position(|period| period.service.period == service.period);
            let mut period = match known {
                Some(index) => old.swap_remove(index),
                // A period without a signing kit is not published.
                None => match self.key.period_key(service.period) {
                    Some(key) => Period::new(service.clone(), key, &mut self.rng),
                    None => continue,
                },
            };
            let new_hsdirs = period.set_network(service, network);
            if period.hsdirs.is_empty() {
                old.push(period);
                continue;
            }
            self.uploads.retain(period.service.period, &period.hsdirs);
            if new_hsdirs && self.leading {
                // The new descriptor is sent to all HSDirs. If two descriptors had equal counters,
                // a client could not tell which one is newer.
                period.schedule.request(Request { at: self.now.elapsed, urgent: false, forced: true });
            }
            self.periods.push(period);
        }
        for period in old {
            self.uploads.forget(period.service.period);
        }
        if let Some(current) = self.periods.first().map(|period| period.service.period.number) {
            self.floors.retain(|period, _| period.number.saturating_add(1) >= current);
        }
    }

    fn backends_changed(&mut self, change: BackendChange) {
        let (wait, urgent) = match change {
            BackendChange::Nothing => return,
            BackendChange::More => (DEBOUNCE, false),
            BackendChange::PointsGone => (DEBOUNCE, true),
            BackendChange::BackendGone => (DEBOUNCE_GONE, true),
        };
        self.request_all(Request { at: self.now.elapsed.saturating_add(wait), urgent, forced: false });
    }

    fn set_discovery(&mut self, discovery: Arc<Discovery>) {
        if self.discovery.as_ref() != Some(&discovery) {
            self.discovery = Some(discovery);
            self.request_all(Request { at: self.now.elapsed, urgent: true, forced: true });
        }
    }

    /// Adopts another key of the same service. Known periods keep the key that they have, so that
    /// HSDirs do not see a new descriptor signing key in the middle of a period.
    fn set_key(&mut self, key: ServiceKey) {
        if key.address() == self.address {
            self.key = key;
        }
    }

    fn set_leading(&mut self, leading: bool) {
        if self.leading == leading {
            return;
        }
        self.leading = leading;
        if leading {
            self.request_all(Request { at: self.now.elapsed, urgent: true, forced: true });
        } else {
            self.outputs.clear();
            self.uploads.stop();
            self.periods.iter_mut().for_each(Period::stop);
        }
    }

    fn raise_floor(&mut self, period: TimePeriod, counter: u64) {
        if counter > MAX_FLOOR {
            return;
        }
        let floor = self.floors.entry(period).or_default();
        *floor = counter.max(*floor);
        let overtaken = |own: &Period| own.round.as_ref().is_some_and(|round| round.counter < counter);
        let own = self.periods.iter_mut().find(|own| own.service.period == period);
        if let Some(own) = own.filter(|own| overtaken(own)) {
            own.schedule.request(Request { at: self.now.elapsed, urgent: true, forced: true });
        }
    }

    fn rejected(&mut self, rejected: &Rejected) {
        let period = self.periods.iter_mut().find(|period| period.service.period == rejected.period);
        if let Some(period) = period {
            period.rejections = period.rejections.max(rejected.times);
            // The responses of the other HSDirs arrive at about the same time.
            let at = self.now.elapsed.saturating_add(DEBOUNCE);
            period.schedule.request(Request { at, urgent: true, forced: true });
        }
    }

    fn request_all(&mut self, request: Request) {
        if self.leading {
            self.periods.iter_mut().for_each(|period| period.schedule.request(request));
        }
    }

    /// Performs all work that is due. A second call at the same time has no effect.
    fn advance(&mut self) {
        self.uploads.expire(self.now.elapsed, &mut self.rng);
        self.drop_expired();
        if !self.leading || !self.network_is_usable() {
            return;
        }
        let mut periods = std::mem::take(&mut self.periods);
        for period in &mut periods {
            if period.is_misdated(self.now) {
                period.schedule.request(Request { at: self.now.elapsed, urgent: false, forced: true });
            }
            self.publish_if_due(period);
        }
        self.periods = periods;
        self.start_uploads();
    }

    /// Returns true if the current time is close enough to the consensus's validity period for C
    /// tor to use the consensus.
    fn network_is_usable(&self) -> bool {
        self.validity.is_some_and(|(valid_after, valid_until)| {
            let early = valid_after.duration_since(self.now.wall).unwrap_or_default();
            let late = self.now.wall.duration_since(valid_until).unwrap_or_default();
            early.max(late) <= REASONABLY_LIVE
        })
    }

    fn drop_expired(&mut self) {
        for period in &mut self.periods {
            if period.expires_at().is_some_and(|at| at <= self.now.elapsed) {
                period.round = None;
                self.uploads.forget(period.service.period);
            }
        }
    }

    fn publish_if_due(&mut self, period: &mut Period) {
        let Some(forced) = period.schedule.ready(self.now.elapsed) else { return };
        let Some(discovery) = self.discovery.clone() else { return };
        let policy = Policy { distinct: self.distinct, discovery, subsets: period.layout.subsets() };
        let Some(merged) = period.subsets.merge(&self.backends, &policy, self.now.elapsed, &mut self.rng) else {
            return;
        };
        // The waiting backends are updated even if clients see no change, because a new backend may
        // have to wait for a slot.
        let usable = self.backends.usable().map(|(id, _)| id);
        period.waiting = usable.filter(|id| !merged.points.contains_key(*id)).cloned().collect();
        if !forced && period.round.as_ref().is_some_and(|round| round.merged == merged) {
            period.schedule.satisfied();
            return;
        }
        let name = period.service.period;
        let floor = self.floors.get(&name).copied().unwrap_or_default();
        let counter = period.next_counter(floor, self.now);
        let Ok(descriptors) = period.build(&self.address, &merged, counter, self.now, &mut self.rng) else {
            // The size limits on the backends' descriptors prevent this in practice.
            period.schedule.failed(self.now.elapsed.saturating_add(RETRY));
            return;
        };
        period.published((counter, descriptors), merged, self.now, &mut self.rng);
        self.floors.insert(name, counter);
        self.outputs.push_back(Output::StoreCounter(name, counter));
        self.uploads.publish(name, counter, &period.hsdirs, self.now.elapsed);
    }

    fn start_uploads(&mut self) {
        for (hsdir, name) in self.uploads.start(self.now.elapsed) {
            let period = self.periods.iter().find(|period| period.service.period == name);
            let round = period.and_then(|period| period.round.as_ref());
            if let Some(descriptor) = round.and_then(|round| round.descriptor(&hsdir)) {
                self.outputs.push_back(Output::Upload { hsdir, period: name, descriptor });
            }
        }
    }
}
