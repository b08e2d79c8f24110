//! The merge engine, which turns the inputs of one onion service into descriptor uploads.
//!
//! This file holds the state and processes the inputs; `due` does the work that is due.

mod due;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::backends::{BackendChange, Backends};
use super::counters::Counters;
use super::pace::{self, Change, DEBOUNCE, Loss};
use super::patience::Patience;
use super::period::Period;
use super::schedule::Request;
use super::scribe::{Scribe, Signer};
use super::upload::HsdirUploads;
use super::watch::Watch;
use super::{BackendId, Distinct, Input, Now, Output, PeriodStatus, Status};
use crate::consensus::Network;
use crate::onion::{Discovery, OnionAddress, ServiceContent, ServiceKey, TimePeriod};

/// The time that the engine waits for further changes after the loss of a backend. A scale-down
/// removes several backends at once, in separate events.
const DEBOUNCE_GONE: Duration = Duration::from_millis(50);

/// The merge engine of one onion service.
///
/// The engine publishes while it is the leader, knows the authorized clients, has at least one
/// introduction point, and has a consensus that C tor would still consider reasonably live (up to
/// 24 h after its validity ends). When the last backend is lost, the HSDirs keep their descriptors
/// until they expire, and the engine publishes nothing to new HSDirs or for new time periods.
pub struct MergeEngine {
    key: ServiceKey,
    address: OnionAddress,
    counters: Counters,
    rng: StdRng,
    scribe: Box<dyn Scribe>,
    now: Now,
    leading: bool,
    /// The start and end of the consensus's validity period.
    validity: Option<(SystemTime, SystemTime)>,
    backends: Backends,
    patience: Patience,
    distinct: Distinct,
    /// The clients that are authorized to read the introduction points. None until they are known.
    discovery: Option<Arc<Discovery>>,
    /// For each time period, the greatest revision counter that any publisher has used.
    floors: BTreeMap<TimePeriod, u64>,
    /// The network's time periods, starting with the current one.
    periods: Vec<Period>,
    /// The time period whose descriptors clients fetch. None until the network is known.
    used: Option<TimePeriod>,
    uploads: HsdirUploads,
    watch: Watch,
    /// The backends that wait until they are withdrawn.
    ending: BTreeSet<BackendId>,
    /// The number of rounds whose revision counter rose because of rejections.
    counter_rises: u64,
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
            counters: Counters::Clock,
            rng: StdRng::from_seed(seed),
            scribe: Box::new(Signer),
            now,
            leading: false,
            validity: None,
            backends: Backends::default(),
            patience: Patience::default(),
            distinct: Distinct::default(),
            discovery: discovery.map(Arc::new),
            floors: BTreeMap::new(),
            periods: Vec::new(),
            used: None,
            uploads: HsdirUploads::default(),
            watch: Watch::default(),
            ending: BTreeSet::new(),
            counter_rises: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Takes all revision counters from this range. The default is [`Counters::Clock`].
    pub fn with_counters(mut self, counters: Counters) -> Self {
        self.counters = counters;
        self.watch = Watch::of(counters);
        self
    }

    /// Lets `scribe` write the descriptors. By default, they are real descriptors.
    pub fn with_scribe(mut self, scribe: impl Scribe + 'static) -> Self {
        self.scribe = Box::new(scribe);
        self
    }

    /// Returns the address of the service.
    pub fn address(&self) -> OnionAddress {
        self.address
    }

    /// Processes an input.
    pub fn handle(&mut self, input: Input, now: Now) {
        self.now = now;
        match input {
            Input::Network(network) => self.set_network(&network),
            Input::Backend(id, content) => self.set_backend(id, &content),
            Input::BackendLost(id) => {
                let change = self.backends.remove(&id);
                self.backends_changed(change);
            }
            Input::Expected(backends) => self.patience.set_expected(backends),
            Input::Ending(backends) => self.set_ending(backends),
            Input::Limits(limits) => {
                let change = self.backends.set_limits(limits);
                self.backends_changed(change);
            }
            Input::Discovery(discovery) => self.set_discovery(discovery),
            Input::Key(key) => self.set_key(key),
            Input::Distinct(distinct) => {
                self.distinct = distinct;
                self.request_each(Change::More);
            }
            Input::Leading(leading) => self.set_leading(leading),
            Input::CounterFloor(period, counter) => self.raise_floor(period, counter),
            Input::Found(period, counter) => self.compare(period, counter),
            Input::Uploaded { hsdir, result } => {
                self.uploads.fate(&hsdir, &result, now.elapsed, &mut self.rng);
            }
            Input::TorRestarted => {
                let unanswered = self.uploads.unanswered();
                self.uploads.lose_sight();
                self.begin(&unanswered);
            }
            Input::Tick => {}
        }
        self.advance();
    }

    /// Returns the next instruction for the IO layer, or None if there are no more.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns the state of the engine, which the object's status and the metrics report.
    pub fn status(&self) -> Status {
        let current = self.periods.first().and_then(|period| Some((period, period.round.as_ref()?)));
        let share =
            |id: &BackendId| current.and_then(|(_, round)| round.merged.points.get(id)).copied().unwrap_or_default();
        let waits = |id: &&BackendId| share(id) == 0 && current.is_some_and(|(period, _)| period.waiting.contains(*id));
        Status {
            periods: self.progress(),
            points: self.backends.ids().map(|id| (id.clone(), share(id))).collect(),
            waiting: self.backends.ids().filter(waits).cloned().collect(),
            outvoted: self.backends.outvoted(),
            no_backends: self.backends.is_empty(),
            hsdirs_failing: self.uploads.failing().count(),
            longest_failing: self
                .uploads
                .failing()
                .map(|since| self.now.elapsed.saturating_sub(since))
                .max()
                .unwrap_or_default(),
            counter_rises: self.counter_rises,
        }
    }

    /// Returns the states of all time periods that have a published descriptor.
    pub fn progress(&self) -> Vec<PeriodStatus> {
        self.periods.iter().filter_map(|period| self.period_status(period)).collect()
    }

    /// Returns the number of entries in all of the engine's collections. It must not grow over
    /// months.
    pub fn entries(&self) -> usize {
        let periods: usize = self.periods.iter().map(Period::entries).sum();
        periods
            + self.uploads.entries()
            + self.watch.entries()
            + self.backends.entries()
            + self.floors.len()
            + self.outputs.len()
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

    fn period_status(&self, period: &Period) -> Option<PeriodStatus> {
        let foreign = self.watch.noticed(period.service.period, self.now.wall);
        period.status(&self.uploads).map(|status| PeriodStatus { foreign, ..status })
    }

    fn set_network(&mut self, network: &Network) {
        let [valid_after, _, valid_until] = network.validity();
        self.validity = Some((valid_after, valid_until));
        let used = network.client_period().period;
        self.used = Some(used);
        self.patience.begin(self.now.elapsed, &mut self.rng);
        let mut old = std::mem::take(&mut self.periods);
        let nothing_published = old.iter().all(|period| period.round.is_none());
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
                let at_once = period.service.period == used || !self.ending.is_empty();
                let lag = pace::lag_unless(at_once, period.service.period, &mut self.rng);
                let at = self.now.elapsed.saturating_add(lag);
                period.schedule.request(Request { at, urgent: nothing_published && at_once, forced: true });
            }
            self.periods.push(period);
        }
        for period in old {
            self.uploads.forget(period.service.period);
        }
        if let Some(current) = self.periods.first().map(|period| period.service.period.number) {
            self.floors.retain(|period, _| period.number.saturating_add(1) >= current);
            self.watch.retain_from(current);
        }
    }

    fn set_backend(&mut self, id: BackendId, content: &Arc<ServiceContent>) {
        let first = self.backends.is_empty();
        let change = self.backends.set(id, content);
        self.backends_changed(change);
        if first {
            // The other backends usually follow within moments, so a pending request waits for them
            // too.
            let at = self.now.elapsed.saturating_add(DEBOUNCE);
            for period in &mut self.periods {
                let name = period.service.period;
                let at_once = period.round.is_some() || self.used == Some(name);
                let lag = pace::lag_unless(at_once, name, &mut self.rng);
                period.schedule.put_off(at.saturating_add(lag));
            }
        }
    }

    /// Withdraws the backends that are about to end, if an earlier publisher may have published
    /// them. Backends of this publisher have been lost by now, so that they are withdrawn anyway.
    fn set_ending(&mut self, backends: BTreeSet<BackendId>) {
        let before = std::mem::replace(&mut self.ending, backends);
        let unpublished = self.periods.iter().any(|period| period.round.is_none());
        if unpublished && !self.ending.is_subset(&before) {
            self.request_all(Request { at: self.now.elapsed, urgent: true, forced: false });
        }
    }

    fn backends_changed(&mut self, change: BackendChange) {
        match change {
            BackendChange::Nothing => {}
            BackendChange::More => self.request_each(Change::More),
            BackendChange::PointsGone => self.request_each(Change::PointsGone),
            BackendChange::PointsBack(points) => self.request_each(Change::PointsBack(points)),
            BackendChange::BackendGone => {
                let at = self.now.elapsed.saturating_add(DEBOUNCE_GONE);
                self.request_all(Request { at, urgent: true, forced: false });
            }
        }
    }

    fn set_discovery(&mut self, discovery: Arc<Discovery>) {
        let changed = self.discovery.as_ref() != Some(&discovery);
        match self.discovery.replace(discovery) {
            None => self.begin(&BTreeSet::new()),
            Some(_) if !changed => {}
            Some(_) => self.request_all(Request { at: self.now.elapsed, urgent: true, forced: true }),
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
            self.begin(&BTreeSet::new());
        } else {
            self.outputs.clear();
            self.uploads.stop();
            self.watch.stop();
            self.periods.iter_mut().for_each(Period::stop);
        }
    }

    fn raise_floor(&mut self, period: TimePeriod, counter: u64) {
        if !self.counters.exceed(counter) {
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

    /// Compares a descriptor that an HSDir holds with the newest round.
    fn compare(&mut self, name: TimePeriod, counter: u64) {
        let period = self.periods.iter().find(|period| period.service.period == name);
        let own = period.and_then(|period| Some(period.round.as_ref()?.counter));
        if let Some(own) = own.filter(|own| *own < counter) {
            self.watch.notice(name, own, self.now.wall);
            self.raise_floor(name, counter);
        }
    }

    /// Requests a round of each period, as soon as the state of its descriptors demands.
    fn request_each(&mut self, change: Change) {
        if !self.leading {
            return;
        }
        let live = self.backends.live();
        for period in &mut self.periods {
            let name = period.service.period;
            let used = self.used == Some(name);
            // Clients do not miss the descriptor of a period that they do not use yet.
            let is_new = !used && period.round.is_none();
            let (loss, all) = period.loss(&live);
            let loss = if is_new { Loss::Few } else { loss };
            let change = change.among(all);
            let request = pace::request(change, loss, name, used, self.now.elapsed, &mut self.rng);
            period.schedule.request(request);
        }
    }

    /// Publishes everything again: at once in the period that clients use, in those of
    /// `unanswered`, and while a backend waits until it is withdrawn. Other periods follow minutes
    /// later, so that HSDirs cannot link them.
    fn begin(&mut self, unanswered: &BTreeSet<TimePeriod>) {
        if !self.leading {
            return;
        }
        for period in &mut self.periods {
            let name = period.service.period;
            let at_once = self.used == Some(name) || unanswered.contains(&name) || !self.ending.is_empty();
            let lag = pace::lag_unless(at_once, name, &mut self.rng);
            let at = self.now.elapsed.saturating_add(lag);
            period.schedule.request(Request { at, urgent: at_once, forced: true });
        }
    }

    fn request_all(&mut self, request: Request) {
        if self.leading {
            self.periods.iter_mut().for_each(|period| period.schedule.request(request));
        }
    }
}
