//! Watches for a foreign publisher, which publishes descriptors with the same master key.
//!
//! Only the key's owner can sign a descriptor, so a foreign publisher has a copy of the key. It may
//! be a forgotten Onionbalance, a restored backup, or a thief. Two things reveal it: HSDirs that
//! accepted our descriptors reject the next one until its revision counter is greater, or an HSDir
//! holds a descriptor with a greater revision counter than ours.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use rand::{Rng, RngExt};

use super::counters::Counters;
use crate::onion::TimePeriod;

/// The limits of the random time, in seconds, from one look at an HSDir to the next.
const INTERVAL: RangeInclusive<u64> = 45 * 60..=75 * 60;
/// The same limits for a publisher that outruns others, which must notice a greater counter soon.
const SHORT_INTERVAL: RangeInclusive<u64> = 60..=180;
/// The time for which a foreign publisher is reported after it was last noticed. A stock publisher
/// publishes at least every two hours.
const REMEMBERED: Duration = Duration::from_secs(3 * 3600);

/// What is known about foreign publishers.
#[derive(Debug, Default)]
pub(super) struct Watch {
    next: Option<Duration>,
    /// The range of our own counters.
    counters: Counters,
    /// For each time period, our revision counter at which a foreign publisher was last noticed,
    /// and the wall-clock time.
    noticed: BTreeMap<TimePeriod, (u64, SystemTime)>,
    /// For each time period, our revision counter that most HSDirs rejected.
    suspected: BTreeMap<TimePeriod, u64>,
}

impl Watch {
    /// Creates a watch for a publisher whose counters are in this range.
    pub(super) fn of(counters: Counters) -> Self {
        Self { counters, ..Self::default() }
    }

    /// Schedules the first look at an HSDir, if it is not scheduled yet.
    pub(super) fn begin(&mut self, now: Duration, rng: &mut impl Rng) {
        let counters = self.counters;
        self.next.get_or_insert_with(|| later(counters, now, rng));
    }

    /// Stops the looks, because another publisher of the service may lead now.
    pub(super) fn stop(&mut self) {
        self.next = None;
        self.suspected.clear();
    }

    /// Returns the monotonic time of the next look.
    pub(super) fn next(&self) -> Option<Duration> {
        self.next
    }

    /// Returns true if a look is due, and schedules the one after it.
    pub(super) fn is_due(&mut self, now: Duration, rng: &mut impl Rng) -> bool {
        let due = self.next.is_some_and(|at| at <= now);
        if due {
            self.next = Some(later(self.counters, now, rng));
        }
        due
    }

    /// Records that most HSDirs rejected a descriptor although they accepted earlier ones.
    pub(super) fn suspect(&mut self, period: TimePeriod, counter: u64) {
        self.suspected.insert(period, counter);
    }

    /// Records that most HSDirs accepted a descriptor. If they rejected the last one, its counter
    /// was the reason.
    pub(super) fn confirm(&mut self, period: TimePeriod, now: SystemTime) {
        if let Some(counter) = self.suspected.remove(&period) {
            self.notice(period, counter, now);
        }
    }

    /// Forgets the rejections in a period, because the wall clock was wrong, so that the
    /// descriptors may have been invalid.
    pub(super) fn acquit(&mut self, period: TimePeriod) {
        self.suspected.remove(&period);
    }

    /// Records that a foreign publisher was noticed while `counter` was our newest revision counter
    /// of the period.
    pub(super) fn notice(&mut self, period: TimePeriod, counter: u64, now: SystemTime) {
        let noticed = self.noticed.entry(period).or_insert((counter, now));
        if noticed.0 != counter {
            *noticed = (counter, now);
        }
    }

    /// Returns the time at which a foreign publisher was last noticed in a time period. Returns
    /// None if this was long ago.
    pub(super) fn noticed(&self, period: TimePeriod, now: SystemTime) -> Option<SystemTime> {
        let (_, at) = self.noticed.get(&period)?;
        Some(*at).filter(|at| now.duration_since(*at).is_ok_and(|passed| passed < REMEMBERED))
    }

    /// Returns the number of time periods that are remembered.
    pub(super) fn entries(&self) -> usize {
        self.noticed.len() + self.suspected.len()
    }

    /// Forgets the time periods before this one.
    pub(super) fn retain_from(&mut self, number: u64) {
        self.noticed.retain(|period, _| period.number >= number);
        self.suspected.retain(|period, _| period.number >= number);
    }
}

fn later(counters: Counters, now: Duration, rng: &mut impl Rng) -> Duration {
    let interval = match counters {
        Counters::Clock => INTERVAL,
        Counters::Outrun => SHORT_INTERVAL,
    };
    now.saturating_add(Duration::from_secs(rng.random_range(interval)))
}
