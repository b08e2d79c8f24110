//! What each HSDir holds and is being sent.
//!
//! A descriptor is named by its period and its revision counter. Fates come by HSDir alone, so there is at most one upload in
//! flight per HSDir, over all periods; a dead HSDir gives no fate at all, so each upload has its own deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, RngExt};

use crate::consensus::Fingerprint;
use crate::onion::TimePeriod;

/// An upload without a fate has failed after this time. With `BACKOFF_SILENT_MAX`: an HSDir that comes back is caught up
/// within 30 s.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Between two tries at an HSDir that does not answer; its deadlines space them already.
const BACKOFF_SILENT_MAX: Duration = Duration::from_secs(8);
/// Between two tries at an HSDir that answers, and refuses.
const BACKOFF_REFUSED_MAX: Duration = Duration::from_secs(60);
/// When the fate that came may belong to an earlier upload, the upload is repeated after this time.
const CONFIRM_AFTER: Duration = Duration::from_secs(2);
/// So many rejections in a row by one HSDir make the counter rise. Enough to get past any clock; then the HSDir is at fault.
const MAX_RISES: u32 = 12;

/// A descriptor: its period and its revision counter.
type Name = (TimePeriod, u64);

/// The reason why an HSDir did not accept a descriptor.
///
/// An upload that gets no answer has no such reason: the engine gives it up after its deadline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// The HSDir holds a descriptor with an equal or greater revision counter, or the descriptor is
    /// malformed. A rejection makes the revision counter rise.
    #[error("UPLOAD_REJECTED")]
    Rejected,
    /// The HSDir sent an answer that tor does not know.
    #[error("UNEXPECTED")]
    Unexpected,
    /// Tor did not reach the HSDir, for this reason.
    #[error("{0}")]
    Other(String),
    /// Tor refused the command, with this code and message.
    #[error("{0}")]
    Refused(String),
    /// The upload waited for so long that another publisher may lead by now; it was not sent.
    #[error("the order is stale")]
    Stale,
}

/// All HSDirs that are responsible in some period.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    hsdirs: BTreeMap<Fingerprint, Hsdir>,
}

#[derive(Debug, Default)]
struct Hsdir {
    in_flight: Option<InFlight>,
    /// Uploads that were given up and whose fate may still come.
    strays: BTreeSet<Name>,
    jobs: BTreeMap<TimePeriod, Job>,
}

#[derive(Debug)]
struct InFlight {
    name: Name,
    deadline: Duration,
}

/// What an HSDir is to hold for a period. Counters are 0 for none.
#[derive(Debug, Default)]
struct Job {
    newest: u64,
    accepted: u64,
    failed: u64,
    /// The newest may have arrived unseen: a rejection then means that it has.
    may_have_arrived: bool,
    not_before: Duration,
    /// Failures since it last accepted something.
    failures: u32,
    /// Rejections since it last accepted something.
    rejections: u32,
}

/// The newest descriptor of a period was rejected: an HSDir holds one with an equal or greater counter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) period: TimePeriod,
    /// How often in a row that HSDir did so, from 1.
    pub(super) times: u32,
}

/// How an HSDir failed.
#[derive(Clone, Copy)]
enum Failure {
    Silent,
    Refused,
    /// The same descriptor will not do any better.
    Rejected,
}

impl Uploads {
    /// A new descriptor for all these HSDirs, which are the responsible ones. What waits of older ones is dropped; what is in flight comes to its end first.
    pub(super) fn publish(&mut self, period: TimePeriod, counter: u64, hsdirs: &BTreeSet<Fingerprint>, now: Duration) {
        for hsdir in hsdirs {
            let job = self.hsdirs.entry(*hsdir).or_default().jobs.entry(period).or_default();
            job.newest = counter;
            job.may_have_arrived = false;
            job.not_before = now;
        }
    }

    /// Only these HSDirs are responsible in the period any more.
    pub(super) fn retain(&mut self, period: TimePeriod, hsdirs: &BTreeSet<Fingerprint>) {
        for (fingerprint, hsdir) in &mut self.hsdirs {
            if !hsdirs.contains(fingerprint) {
                hsdir.jobs.remove(&period);
            }
        }
        self.hsdirs.retain(|_, hsdir| hsdir.in_flight.is_some() || !hsdir.jobs.is_empty());
    }

    /// The period is over, or its descriptor is.
    pub(super) fn forget(&mut self, period: TimePeriod) {
        self.retain(period, &BTreeSet::new());
    }

    /// Nothing is to be uploaded any more, and what HSDirs hold is no longer ours to know.
    pub(super) fn stop(&mut self) {
        self.lose_sight();
        self.hsdirs.values_mut().for_each(|hsdir| hsdir.jobs.clear());
    }

    /// What is in flight may arrive or not: nobody will tell. Nor was it the HSDirs' fault if something failed before.
    pub(super) fn lose_sight(&mut self) {
        for hsdir in self.hsdirs.values_mut() {
            if let Some(upload) = hsdir.in_flight.take() {
                hsdir.give_up(upload.name);
            }
            hsdir.jobs.values_mut().for_each(|job| job.failed = 0);
        }
    }

    /// Ends the uploads whose deadline is over.
    pub(super) fn expire(&mut self, now: Duration, rng: &mut impl Rng) {
        for hsdir in self.hsdirs.values_mut() {
            if let Some(upload) = hsdir.in_flight.take_if(|upload| upload.deadline <= now) {
                hsdir.give_up(upload.name);
                hsdir.fail(upload.name, Failure::Silent, now, rng);
                // An HSDir that does not answer fails what waits, too.
                hsdir.jobs.values_mut().for_each(|job| job.failed = job.newest);
            }
        }
    }

    /// An upload's fate. Returns what the counter must rise for.
    pub(super) fn fate(
        &mut self,
        fingerprint: &Fingerprint,
        result: &Result<(), UploadError>,
        now: Duration,
        rng: &mut impl Rng,
    ) -> Option<Rejected> {
        let hsdir = self.hsdirs.get_mut(fingerprint)?;
        let name = hsdir.in_flight.take()?.name;
        match result {
            Ok(()) => hsdir.accept(name, now),
            Err(UploadError::Rejected) if hsdir.may_hold(name) => hsdir.hold(name),
            Err(UploadError::Rejected) => return hsdir.reject(name, now, rng),
            Err(_) => hsdir.fail(name, Failure::Refused, now, rng),
        }
        None
    }

    /// What to send now, and to whom; it is then in flight.
    pub(super) fn start(&mut self, now: Duration) -> Vec<(Fingerprint, TimePeriod)> {
        let mut started = Vec::new();
        for (fingerprint, hsdir) in &mut self.hsdirs {
            let Some((at, period)) = hsdir.next() else { continue };
            let Some(job) = hsdir.jobs.get(&period).filter(|_| at <= now) else { continue };
            hsdir.in_flight = Some(InFlight { name: (period, job.newest), deadline: now.saturating_add(DEADLINE) });
            started.push((*fingerprint, period));
        }
        started
    }

    /// When the next deadline is over.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.hsdirs.values().filter_map(|hsdir| hsdir.in_flight.as_ref()).map(|upload| upload.deadline).min()
    }

    /// When there is something to send next.
    pub(super) fn next_start(&self) -> Option<Duration> {
        self.hsdirs.values().filter_map(Hsdir::next).map(|(at, _)| at).min()
    }

    /// How many HSDirs accepted the newest descriptor of a period.
    pub(super) fn accepted(&self, period: TimePeriod) -> usize {
        let jobs = self.hsdirs.values().filter_map(|hsdir| hsdir.jobs.get(&period));
        jobs.filter(|job| job.accepted == job.newest).count()
    }

    /// The counter of the newest descriptor that an HSDir accepted, or failed to.
    pub(super) fn tried(&self, fingerprint: &Fingerprint, period: TimePeriod) -> u64 {
        let job = self.hsdirs.get(fingerprint).and_then(|hsdir| hsdir.jobs.get(&period));
        job.map_or(0, |job| job.accepted.max(job.failed))
    }
}

impl Hsdir {
    /// The next job: which may start when, unless something is in flight.
    fn next(&self) -> Option<(Duration, TimePeriod)> {
        let open = self.jobs.iter().filter(|(_, job)| self.in_flight.is_none() && job.accepted < job.newest);
        open.map(|(period, job)| (job.not_before, *period)).min()
    }

    fn accept(&mut self, name: Name, now: Duration) {
        if self.strays.iter().all(|stray| *stray == name) {
            return self.hold(name);
        }
        // It may be a stray's late fate. Send it again: then an acceptance, or a rejection, tells.
        self.strays.clear();
        if let Some(job) = self.newest(name) {
            job.may_have_arrived = true;
            job.not_before = now.saturating_add(CONFIRM_AFTER);
        }
    }

    fn hold(&mut self, (period, counter): Name) {
        self.strays.clear();
        if let Some(job) = self.jobs.get_mut(&period) {
            job.accepted = counter;
            job.failures = 0;
            job.rejections = 0;
        }
    }

    fn give_up(&mut self, name: Name) {
        self.strays.insert(name);
        if let Some(job) = self.newest(name) {
            job.may_have_arrived = true;
        }
    }

    fn may_hold(&mut self, name: Name) -> bool {
        self.newest(name).is_some_and(|job| job.may_have_arrived)
    }

    /// The job of a descriptor that is still the newest.
    fn newest(&mut self, (period, counter): Name) -> Option<&mut Job> {
        self.jobs.get_mut(&period).filter(|job| job.newest == counter)
    }

    fn reject(&mut self, name: Name, now: Duration, rng: &mut impl Rng) -> Option<Rejected> {
        self.fail(name, Failure::Rejected, now, rng);
        let (period, counter) = name;
        let job = self.jobs.get_mut(&period)?;
        if counter < job.newest {
            // The newer one has a greater counter already.
            job.not_before = now;
            return None;
        }
        job.rejections = job.rejections.saturating_add(1);
        (job.rejections <= MAX_RISES).then_some(Rejected { period, times: job.rejections })
    }

    fn fail(&mut self, (period, counter): Name, failure: Failure, now: Duration, rng: &mut impl Rng) {
        let Some(job) = self.jobs.get_mut(&period) else { return };
        job.failed = job.failed.max(counter);
        job.failures = job.failures.saturating_add(1);
        let doubled = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(job.failures));
        let longest = match failure {
            Failure::Silent => doubled.min(BACKOFF_SILENT_MAX),
            Failure::Refused => doubled.min(BACKOFF_REFUSED_MAX),
            Failure::Rejected => BACKOFF_REFUSED_MAX,
        };
        job.not_before = now.saturating_add(longest.mul_f64(rng.random_range(0.5..=1.0)));
    }
}

#[cfg(test)]
mod tests;
