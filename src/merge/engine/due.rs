//! The work of the merge engine that is due: publishing rounds, uploads, and looks at the
//! descriptors that HSDirs hold.

use std::time::Duration;

use rand::RngExt;

use super::MergeEngine;
use crate::consensus::Fingerprint;
use crate::merge::Output;
use crate::merge::pace::{self, DEBOUNCE};
use crate::merge::period::Period;
use crate::merge::schedule::Request;
use crate::merge::subsets::Policy;
use crate::merge::turns::take_turns;

/// The time for which a consensus is used before its validity period begins and after it ends, as
/// in C tor (`REASONABLY_LIVE_TIME`).
const REASONABLY_LIVE: Duration = Duration::from_secs(24 * 3600);
/// The interval at which the engine tries again while something prevents it from publishing.
const RETRY: Duration = Duration::from_secs(60);

impl MergeEngine {
    /// Returns the monotonic time by which `handle(Tick)` must be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if !self.leading || self.discovery.is_none() {
            return None;
        }
        let ready_at = |period: &Period| Some(period.schedule.ready_at()?.max(self.waits_until().unwrap_or_default()));
        let publish = self.periods.iter().filter_map(ready_at).min();
        let mut work = [publish.filter(|_| !self.backends.is_empty()), self.uploads.next_start(), self.watch.next()];
        if !self.network_is_usable() {
            let later = self.now.elapsed.saturating_add(RETRY);
            work.iter_mut().flatten().for_each(|at| *at = later.max(*at));
        }
        let ends = self.periods.iter().filter_map(Period::expires_at).min();
        work.into_iter().chain([self.uploads.next_deadline(), ends]).flatten().min()
    }

    /// Performs all work that is due. A second call at the same time has no effect.
    pub(super) fn advance(&mut self) {
        self.uploads.expire(self.now.elapsed, &mut self.rng);
        self.drop_expired();
        if !self.leading || !self.network_is_usable() {
            return;
        }
        if self.waits_until().is_some() {
            return;
        }
        let mut periods = std::mem::take(&mut self.periods);
        for period in &mut periods {
            if period.is_misdated(self.now) {
                self.watch.acquit(period.service.period);
                period.schedule.request(Request { at: self.now.elapsed, urgent: false, forced: true });
            }
            self.raise_if_rejected(period);
        }
        for index in take_turns(&mut periods, self.now.elapsed) {
            if let Some(period) = periods.get_mut(index)
                && self.publish_if_due(period)
            {
                let name = period.service.period;
                let until = self.now.elapsed.saturating_add(pace::apart(name));
                let others = periods.iter_mut().filter(|other| other.service.period != name);
                others.for_each(|other| other.schedule.keep_apart(until));
            }
        }
        self.periods = periods;
        self.start_uploads();
        self.look();
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

    /// Returns the time until which this publisher waits for further backends before it publishes
    /// for the first time. Returns None if it need not wait, because no publisher before it has
    /// published or because it has published itself.
    fn waits_until(&self) -> Option<Duration> {
        let first = self.periods.iter().all(|period| period.round.is_none());
        self.patience.waits_until(&self.backends, self.now.elapsed).filter(|_| first && !self.floors.is_empty())
    }

    fn drop_expired(&mut self) {
        for period in &mut self.periods {
            if period.expires_at().is_some_and(|at| at <= self.now.elapsed) {
                period.round = None;
                self.uploads.forget(period.service.period);
            }
        }
    }

    /// Asks for a look at the descriptor that an HSDir holds, from time to time.
    fn look(&mut self) {
        if !self.watch.is_due(self.now.elapsed, &mut self.rng) {
            return;
        }
        let used = self.periods.iter().find(|period| self.used == Some(period.service.period));
        let hsdirs: Vec<Fingerprint> = used.into_iter().flat_map(|period| period.hsdirs.iter().copied()).collect();
        if !hsdirs.is_empty() {
            let any = self.rng.random_range(0..hsdirs.len());
            self.outputs.extend(hsdirs.get(any).map(|hsdir| Output::Look(*hsdir)));
        }
    }

    /// Requests a round with a greater revision counter if HSDirs have rejected the newest one.
    fn raise_if_rejected(&mut self, period: &mut Period) {
        let Some(counter) = period.round.as_ref().map(|round| round.counter) else { return };
        let answers = self.uploads.answers(period.service.period, counter);
        if answers.show_another_publisher() {
            self.watch.suspect(period.service.period, counter);
        } else if answers.accepted > answers.rejected.saturating_add(answers.open) {
            self.watch.confirm(period.service.period, self.now.wall);
        }
        if period.rises.consider(answers) {
            // The responses of the other HSDirs arrive at about the same time.
            let at = self.now.elapsed.saturating_add(DEBOUNCE);
            period.schedule.request(Request { at, urgent: true, forced: true });
        }
    }

    /// Publishes the period's descriptors if a round is due. Returns true if they were published.
    fn publish_if_due(&mut self, period: &mut Period) -> bool {
        let Some(forced) = period.schedule.ready(self.now.elapsed) else { return false };
        let Some(discovery) = self.discovery.clone() else { return false };
        let policy = Policy { distinct: self.distinct, discovery, subsets: period.layout.subsets() };
        let Some(merged) = period.subsets.merge(&self.backends, &policy, self.now.elapsed, &mut self.rng) else {
            return false;
        };
        // The waiting backends are updated even if clients see no change, because a new backend may
        // have to wait for a slot.
        let usable = self.backends.usable().map(|(id, _)| id);
        period.waiting = usable.filter(|id| !merged.points.contains_key(*id)).cloned().collect();
        if !forced && period.round.as_ref().is_some_and(|round| round.merged == merged) {
            period.schedule.satisfied();
            return false;
        }
        let name = period.service.period;
        let floor = self.floors.get(&name).copied().unwrap_or_default();
        let counter = period.next_counter(self.counters, floor, self.now);
        let scribe = &*self.scribe;
        let Ok(descriptors) = period.build(scribe, &self.address, &merged, counter, self.now, &mut self.rng) else {
            // The size limits on the backends' descriptors prevent this in practice.
            period.schedule.failed(self.now.elapsed.saturating_add(RETRY));
            return false;
        };
        let rose = period.published((counter, descriptors), merged, self.now, &mut self.rng);
        self.counter_rises += u64::from(rose);
        self.floors.insert(name, counter);
        self.outputs.push_back(Output::StoreCounter(name, counter));
        self.uploads.publish(name, counter, &period.hsdirs, self.now.elapsed);
        self.watch.begin(self.now.elapsed, &mut self.rng);
        true
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
