//! Tracks the state of the uploads to each HSDir.
//!
//! A descriptor is identified by its time period and its revision counter. Upload results name only
//! the HSDir, so at most one upload per HSDir is in flight across all periods. If an HSDir is dead,
//! no result arrives, so each upload has its own deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, RngExt};

use crate::consensus::Fingerprint;
use crate::onion::TimePeriod;

/// The time after which an upload without a result is considered failed. Together with
/// [`BACKOFF_SILENT_MAX`], this limit ensures that an HSDir that comes back receives the newest
/// descriptor within 30 s.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);
/// The minimum pause after the first failed upload to an HSDir. Each further failure doubles the
/// pause.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The maximum backoff for an HSDir that does not answer, not counting the deadlines of the
/// uploads.
const BACKOFF_SILENT_MAX: Duration = Duration::from_secs(8);
/// The maximum backoff for an HSDir that refuses uploads.
const BACKOFF_REFUSED_MAX: Duration = Duration::from_secs(60);
/// The delay after which an upload is repeated if its result may belong to an earlier upload.
const CONFIRM_AFTER: Duration = Duration::from_secs(2);
/// The maximum number of consecutive rejections by one HSDir that raise the revision counter. After
/// so many increases, the counter is far ahead of any plausible clock, so a further rejection is
/// the HSDir's fault.
const MAX_RISES: u32 = 12;

/// The identity of a descriptor: its time period and its revision counter.
type DescriptorName = (TimePeriod, u64);

/// The reason why an HSDir did not accept a descriptor.
///
/// An upload that gets no answer produces no such error: the engine abandons it after its deadline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// The HSDir already holds a descriptor with an equal or greater revision counter, or considers
    /// the descriptor malformed. A rejection raises the revision counter.
    #[error("UPLOAD_REJECTED")]
    Rejected,
    /// The HSDir sent a response that tor does not recognise.
    #[error("UNEXPECTED")]
    Unexpected,
    /// Tor could not reach the HSDir. The text is the reason that tor reported.
    #[error("{0}")]
    Other(String),
    /// Tor refused the upload command with this code and message.
    #[error("{0}")]
    Refused(String),
    /// The upload waited so long that another publisher may be the leader by now, so it was not
    /// sent.
    #[error("the upload waited too long and was not sent")]
    Stale,
}

/// The upload state of every HSDir that is responsible for the service in at least one time period.
#[derive(Debug, Default)]
pub(super) struct HsdirUploads {
    hsdirs: BTreeMap<Fingerprint, Hsdir>,
}

#[derive(Debug, Default)]
struct Hsdir {
    in_flight: Option<InFlight>,
    /// The abandoned uploads whose results may still arrive.
    strays: BTreeSet<DescriptorName>,
    jobs: BTreeMap<TimePeriod, Job>,
}

#[derive(Debug)]
struct InFlight {
    name: DescriptorName,
    deadline: Duration,
}

/// The upload state of one HSDir in one time period. A revision counter of 0 means that there is no
/// descriptor.
#[derive(Debug, Default)]
struct Job {
    /// The revision counter of the newest descriptor, which the HSDir should hold.
    newest: u64,
    /// The revision counter of the last descriptor that the HSDir accepted.
    accepted: u64,
    /// The greatest revision counter of a failed upload.
    failed: u64,
    /// True if the HSDir may hold the newest descriptor although the result of its upload is
    /// unknown. A rejection then means that the HSDir does hold it.
    may_have_arrived: bool,
    /// The earliest time of the next attempt.
    not_before: Duration,
    /// The number of failures since the HSDir last accepted a descriptor.
    failures: u32,
    /// The number of rejections since the HSDir last accepted a descriptor.
    rejections: u32,
}

/// The rejection of a period's newest descriptor by an HSDir that holds a descriptor with an equal
/// or greater revision counter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    /// The time period of the descriptor.
    pub(super) period: TimePeriod,
    /// The number of consecutive rejections by this HSDir, including this one.
    pub(super) times: u32,
}

/// How an upload failed.
#[derive(Clone, Copy)]
enum UploadFailure {
    /// The HSDir did not answer before the deadline.
    Silent,
    /// The HSDir answered with an error.
    Refused,
    /// The HSDir rejected the descriptor, and would reject it again.
    Rejected,
}

impl HsdirUploads {
    /// Queues a new descriptor for `hsdirs`, the responsible HSDirs of the period. It replaces
    /// older descriptors that are still waiting. An upload in flight is finished first.
    pub(super) fn publish(&mut self, period: TimePeriod, counter: u64, hsdirs: &BTreeSet<Fingerprint>, now: Duration) {
        for hsdir in hsdirs {
            let job = self.hsdirs.entry(*hsdir).or_default().jobs.entry(period).or_default();
            job.newest = counter;
            job.may_have_arrived = false;
            job.not_before = now;
        }
    }

    /// Forgets the HSDirs that are no longer responsible in the period.
    pub(super) fn retain(&mut self, period: TimePeriod, hsdirs: &BTreeSet<Fingerprint>) {
        for (fingerprint, hsdir) in &mut self.hsdirs {
            if !hsdirs.contains(fingerprint) {
                hsdir.jobs.remove(&period);
            }
        }
        self.hsdirs.retain(|_, hsdir| hsdir.in_flight.is_some() || !hsdir.jobs.is_empty());
    }

    /// Forgets a time period that has ended or whose descriptor has expired.
    pub(super) fn forget(&mut self, period: TimePeriod) {
        self.retain(period, &BTreeSet::new());
    }

    /// Stops all uploads and forgets the descriptors that the HSDirs hold.
    pub(super) fn stop(&mut self) {
        self.lose_sight();
        self.hsdirs.values_mut().for_each(|hsdir| hsdir.jobs.clear());
    }

    /// Abandons the uploads in flight, whose results will never arrive. Earlier failures are
    /// forgotten as well, because the HSDirs may not have caused them.
    pub(super) fn lose_sight(&mut self) {
        for hsdir in self.hsdirs.values_mut() {
            if let Some(upload) = hsdir.in_flight.take() {
                hsdir.give_up(upload.name);
            }
            hsdir.jobs.values_mut().for_each(|job| job.failed = 0);
        }
    }

    /// Fails the uploads whose deadline has passed.
    pub(super) fn expire(&mut self, now: Duration, rng: &mut impl Rng) {
        for hsdir in self.hsdirs.values_mut() {
            if let Some(upload) = hsdir.in_flight.take_if(|upload| upload.deadline <= now) {
                hsdir.give_up(upload.name);
                hsdir.fail(upload.name, UploadFailure::Silent, now, rng);
                // If an HSDir does not answer, the uploads that are waiting for it fail as well.
                hsdir.jobs.values_mut().for_each(|job| job.failed = job.newest);
            }
        }
    }

    /// Processes the result of an upload. Returns the rejection if the revision counter must be
    /// raised.
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
            Err(_) => hsdir.fail(name, UploadFailure::Refused, now, rng),
        }
        None
    }

    /// Starts the uploads that are due, and returns their HSDirs and time periods.
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

    /// Returns the earliest deadline of the uploads in flight.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.hsdirs.values().filter_map(|hsdir| hsdir.in_flight.as_ref()).map(|upload| upload.deadline).min()
    }

    /// Returns the time at which the next upload can start.
    pub(super) fn next_start(&self) -> Option<Duration> {
        self.hsdirs.values().filter_map(Hsdir::next).map(|(at, _)| at).min()
    }

    /// Returns the number of HSDirs that accepted the newest descriptor of a period.
    pub(super) fn accepted(&self, period: TimePeriod) -> usize {
        let jobs = self.hsdirs.values().filter_map(|hsdir| hsdir.jobs.get(&period));
        jobs.filter(|job| job.accepted == job.newest).count()
    }

    /// Returns the greatest revision counter among the descriptors that an HSDir has accepted or
    /// failed to accept.
    pub(super) fn tried(&self, fingerprint: &Fingerprint, period: TimePeriod) -> u64 {
        let job = self.hsdirs.get(fingerprint).and_then(|hsdir| hsdir.jobs.get(&period));
        job.map_or(0, |job| job.accepted.max(job.failed))
    }
}

impl Hsdir {
    /// Returns the start time and the time period of the next upload. Returns None while an upload
    /// is in flight, or if no upload is necessary.
    fn next(&self) -> Option<(Duration, TimePeriod)> {
        let open = self.jobs.iter().filter(|(_, job)| self.in_flight.is_none() && job.accepted < job.newest);
        open.map(|(period, job)| (job.not_before, *period)).min()
    }

    fn accept(&mut self, name: DescriptorName, now: Duration) {
        if self.strays.iter().all(|stray| *stray == name) {
            return self.hold(name);
        }
        // This may be the late result of an abandoned upload. The next attempt settles the
        // question, because both an acceptance and a rejection prove that the HSDir holds the
        // descriptor.
        self.strays.clear();
        if let Some(job) = self.newest(name) {
            job.may_have_arrived = true;
            job.not_before = now.saturating_add(CONFIRM_AFTER);
        }
    }

    fn hold(&mut self, (period, counter): DescriptorName) {
        self.strays.clear();
        if let Some(job) = self.jobs.get_mut(&period) {
            job.accepted = counter;
            job.failures = 0;
            job.rejections = 0;
        }
    }

    fn give_up(&mut self, name: DescriptorName) {
        self.strays.insert(name);
        if let Some(job) = self.newest(name) {
            job.may_have_arrived = true;
        }
    }

    fn may_hold(&mut self, name: DescriptorName) -> bool {
        self.newest(name).is_some_and(|job| job.may_have_arrived)
    }

    /// Returns the upload state of the descriptor's period if the descriptor is still the newest of
    /// that period.
    fn newest(&mut self, (period, counter): DescriptorName) -> Option<&mut Job> {
        self.jobs.get_mut(&period).filter(|job| job.newest == counter)
    }

    fn reject(&mut self, name: DescriptorName, now: Duration, rng: &mut impl Rng) -> Option<Rejected> {
        self.fail(name, UploadFailure::Rejected, now, rng);
        let (period, counter) = name;
        let job = self.jobs.get_mut(&period)?;
        if counter < job.newest {
            // The newest descriptor already has a greater counter.
            job.not_before = now;
            return None;
        }
        job.rejections = job.rejections.saturating_add(1);
        (job.rejections <= MAX_RISES).then_some(Rejected { period, times: job.rejections })
    }

    fn fail(&mut self, (period, counter): DescriptorName, failure: UploadFailure, now: Duration, rng: &mut impl Rng) {
        let Some(job) = self.jobs.get_mut(&period) else { return };
        job.failed = job.failed.max(counter);
        job.failures = job.failures.saturating_add(1);
        let doubled = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(job.failures));
        let longest = match failure {
            UploadFailure::Silent => doubled.min(BACKOFF_SILENT_MAX),
            UploadFailure::Refused => doubled.min(BACKOFF_REFUSED_MAX),
            UploadFailure::Rejected => BACKOFF_REFUSED_MAX,
        };
        job.not_before = now.saturating_add(longest.mul_f64(rng.random_range(0.5..=1.0)));
    }
}

#[cfg(test)]
mod tests;
