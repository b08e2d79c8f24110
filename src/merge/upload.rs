//! Tracks the state of the uploads to each HSDir.
//!
//! A descriptor is identified by its time period and its revision counter. Upload results name only
//! the HSDir, so at most one upload per HSDir is in flight across all periods. If an HSDir is dead,
//! no result arrives, so each upload has its own deadline. `retry` decides when a failed upload is
//! repeated.

mod retry;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;

use self::retry::UploadFailure;
use crate::consensus::Fingerprint;
use crate::onion::TimePeriod;

/// The time after which an upload without a result has failed, and the next one may start. Our
/// frontends' tor gives up an upload after 30 s (`SocksTimeout`) without reporting it, so that tor
/// never works on two uploads to one HSDir.
pub(super) const DEADLINE: Duration = Duration::from_secs(32);
/// The time after which the withdrawal of a backend no longer waits for the result of an upload.
const OVERDUE: Duration = Duration::from_secs(15);
/// The delay after which an upload is repeated if its result may belong to an earlier upload.
const CONFIRM_AFTER: Duration = Duration::from_secs(2);

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
    /// The time at which an HSDir last answered.
    answered: Option<Duration>,
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
    started: Duration,
    /// True if the upload has had no result for [`OVERDUE`].
    overdue: bool,
}

impl InFlight {
    fn deadline(&self) -> Duration {
        self.started.saturating_add(DEADLINE)
    }

    /// Returns the time at which [`HsdirUploads::expire`] must be called.
    fn wakes_at(&self) -> Duration {
        if self.overdue { self.deadline() } else { self.started.saturating_add(OVERDUE) }
    }
}

/// The upload state of one HSDir in one time period. A revision counter of 0 means that there is no
/// descriptor.
#[derive(Debug, Default, Clone, Copy)]
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
    /// The time of the first of these failures.
    failing_since: Option<Duration>,
    /// The start of the HSDir's [round](retry::ROUND) of attempts. None while nothing has failed,
    /// or while the fault may lie with this publisher's network.
    round: Option<Duration>,
    /// True if the HSDir rejected the newest descriptor.
    rejected: bool,
    /// True if the HSDir gets its next upload only after a rest, because a whole
    /// [round](retry::ROUND) of attempts has failed. A new descriptor does not end the rest.
    rests: bool,
}

impl Job {
    /// Returns true if the HSDir lacks the newest descriptor.
    fn is_open(&self) -> bool {
        self.accepted < self.newest
    }
}

/// The evidence that the uploads give about the publisher's own network.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// The time at which an HSDir last answered.
    answered: Option<Duration>,
    /// True if at least half of the HSDirs hold the newest descriptors.
    most_hold: bool,
}

impl Reach {
    /// Returns true if the failure of an upload that started at this time is the HSDir's own fault:
    /// another HSDir has answered since, or most HSDirs hold the newest descriptors anyway.
    fn blames_hsdir(self, started: Duration) -> bool {
        self.most_hold || self.answered.is_some_and(|answered| answered >= started)
    }
}

/// The answers of a period's HSDirs to its newest descriptor.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answers {
    /// The number of HSDirs that accepted the descriptor.
    pub(super) accepted: usize,
    /// The number of HSDirs that rejected the descriptor, because they hold one with an equal or
    /// greater revision counter, or claim to.
    pub(super) rejected: usize,
    /// The number of HSDirs whose first answer is due.
    pub(super) open: usize,
    /// The number of the rejecting HSDirs that accepted an earlier descriptor. They must have got a
    /// descriptor from another publisher since then.
    pub(super) lost: usize,
}

impl Answers {
    /// Returns true if another publisher has replaced our descriptors on most HSDirs.
    pub(super) fn show_another_publisher(self) -> bool {
        self.lost > self.accepted.saturating_add(self.open)
    }
}

impl HsdirUploads {
    /// Queues a new descriptor for `hsdirs`, the responsible HSDirs of the period. It replaces
    /// older descriptors that are still waiting. An upload in flight is finished first.
    pub(super) fn publish(&mut self, period: TimePeriod, counter: u64, hsdirs: &BTreeSet<Fingerprint>, now: Duration) {
        for fingerprint in hsdirs {
            let hsdir = self.hsdirs.entry(*fingerprint).or_default();
            let overdue = hsdir.in_flight.as_ref().is_some_and(|upload| upload.overdue);
            let silence = hsdir.silence();
            let job = hsdir.jobs.entry(period).or_default();
            if let Some(silence) = silence.filter(|_| !job.is_open()) {
                job.share(silence);
            }
            job.newest = counter;
            job.may_have_arrived = false;
            if std::mem::take(&mut job.rejected) {
                // The HSDir answers, and the new counter may satisfy it.
                job.round = None;
                job.rests = false;
            }
            if !job.rests {
                job.not_before = now;
            }
            if job.rests || overdue {
                // The HSDir does not answer, so that no withdrawal can wait for it.
                job.failed = counter;
            }
        }
    }

    /// Returns the time periods in which an HSDir has yet to answer for the first time.
    pub(super) fn unanswered(&self) -> BTreeSet<TimePeriod> {
        let jobs = self.hsdirs.values().flat_map(|hsdir| &hsdir.jobs);
        jobs.filter(|(_, job)| job.is_open() && job.failed < job.newest).map(|(period, _)| *period).collect()
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
        self.answered = None;
        for hsdir in self.hsdirs.values_mut() {
            if let Some(upload) = hsdir.in_flight.take() {
                hsdir.give_up(upload.name);
            }
            for job in hsdir.jobs.values_mut() {
                job.failed = 0;
                job.forgive();
            }
        }
    }

    /// Fails the uploads whose deadline has passed.
    pub(super) fn expire(&mut self, now: Duration, rng: &mut impl Rng) {
        let reach = self.reach();
        for hsdir in self.hsdirs.values_mut() {
            let Some(upload) = hsdir.in_flight.as_mut().filter(|upload| upload.wakes_at() <= now) else { continue };
            upload.overdue = true;
            // If an HSDir does not answer, the uploads that are waiting for it fail as well.
            hsdir.jobs.values_mut().for_each(|job| job.failed = job.newest);
            if let Some(upload) = hsdir.in_flight.take_if(|upload| upload.deadline() <= now) {
                hsdir.give_up(upload.name);
                hsdir.fall_silent(&upload, reach, now, rng);
            }
        }
    }

    /// Processes the result of an upload.
    pub(super) fn fate(
        &mut self,
        fingerprint: &Fingerprint,
        result: &Result<(), UploadError>,
        now: Duration,
        rng: &mut impl Rng,
    ) {
        if is_answer(result) {
            self.hear(now);
        }
        let reach = self.reach();
        let Some(hsdir) = self.hsdirs.get_mut(fingerprint) else { return };
        let Some(upload) = hsdir.in_flight.take() else { return hsdir.late(result, now) };
        match result {
            Ok(()) => hsdir.accept(upload.name, now),
            Err(UploadError::Rejected) if hsdir.may_hold(upload.name) => hsdir.hold(upload.name),
            Err(UploadError::Rejected) => hsdir.reject(&upload, reach, now, rng),
            Err(_) => hsdir.fail(&upload, UploadFailure::Refused, reach, now, rng),
        }
    }

    /// Returns the evidence about the publisher's own network.
    fn reach(&self) -> Reach {
        let lack = self.hsdirs.values().filter(|hsdir| hsdir.jobs.values().any(Job::is_open)).count();
        Reach { answered: self.answered, most_hold: lack <= self.hsdirs.len() / 2 }
    }

    /// Records that an HSDir answered. The HSDirs whose attempts failed while nobody answered start
    /// their round of attempts now.
    fn hear(&mut self, now: Duration) {
        self.answered = Some(now);
        let jobs = self.hsdirs.values_mut().flat_map(|hsdir| hsdir.jobs.values_mut());
        jobs.filter(|job| job.failures > 0 && job.round.is_none()).for_each(|job| job.round = Some(now));
    }

    /// Starts the uploads that are due, and returns their HSDirs and time periods.
    pub(super) fn start(&mut self, now: Duration) -> Vec<(Fingerprint, TimePeriod)> {
        let mut started = Vec::new();
        for (fingerprint, hsdir) in &mut self.hsdirs {
            let Some((at, period)) = hsdir.next() else { continue };
            let Some(job) = hsdir.jobs.get(&period).filter(|_| at <= now) else { continue };
            hsdir.in_flight = Some(InFlight { name: (period, job.newest), started: now, overdue: false });
            started.push((*fingerprint, period));
        }
        started
    }

    /// Returns the time at which [`Self::expire`] must be called.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.hsdirs.values().filter_map(|hsdir| hsdir.in_flight.as_ref()).map(InFlight::wakes_at).min()
    }

    /// Returns the time at which the next upload can start.
    pub(super) fn next_start(&self) -> Option<Duration> {
        self.hsdirs.values().filter_map(Hsdir::next).map(|(at, _)| at).min()
    }

    /// Returns the number of HSDirs, descriptors and abandoned uploads that are remembered.
    pub(super) fn entries(&self) -> usize {
        self.hsdirs.values().map(|hsdir| 1 + hsdir.jobs.len() + hsdir.strays.len()).sum()
    }

    /// Returns the number of HSDirs that accepted the newest descriptor of a period.
    pub(super) fn accepted(&self, period: TimePeriod) -> usize {
        let jobs = self.hsdirs.values().filter_map(|hsdir| hsdir.jobs.get(&period));
        jobs.filter(|job| job.accepted == job.newest).count()
    }

    /// Returns the answers of a period's HSDirs to the descriptor with this revision counter, which
    /// must be the newest one.
    pub(super) fn answers(&self, period: TimePeriod, counter: u64) -> Answers {
        let mut answers = Answers::default();
        let jobs = self.hsdirs.values().filter_map(|hsdir| hsdir.jobs.get(&period));
        for job in jobs.filter(|job| job.newest == counter) {
            if job.rejected {
                answers.rejected += 1;
                answers.lost += usize::from(job.accepted > 0);
            } else if job.accepted == counter {
                answers.accepted += 1;
            } else if job.failed < counter {
                answers.open += 1;
            }
        }
        answers
    }

    /// Returns, for each HSDir that lacks a descriptor because its uploads fail, the time since
    /// which they fail.
    pub(super) fn failing(&self) -> impl Iterator<Item = Duration> {
        self.hsdirs.values().filter_map(|hsdir| {
            let open = hsdir.jobs.values().filter(|job| job.is_open());
            open.filter_map(|job| job.failing_since).min()
        })
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
        let open = self.jobs.iter().filter(|(_, job)| self.in_flight.is_none() && job.is_open());
        open.map(|(period, job)| (job.not_before, *period)).min()
    }

    /// Returns the state of a time period in which the HSDir does not answer, if there is one. A
    /// rejection is no silence, and concerns one time period only.
    fn silence(&self) -> Option<Job> {
        let silent = |job: &&Job| job.is_open() && job.round.is_some() && !job.rejected;
        self.jobs.values().find(silent).copied()
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
            job.forgive();
        }
    }

    /// Processes a result that arrived after its upload was abandoned. The result settles nothing
    /// if several descriptors were abandoned.
    fn late(&mut self, result: &Result<(), UploadError>, now: Duration) {
        let Some(name) = self.strays.first().copied().filter(|_| self.strays.len() == 1) else { return };
        match result {
            Err(UploadError::Rejected) if self.may_hold(name) => self.hold(name),
            Ok(()) => {
                if let Some(job) = self.newest(name) {
                    job.not_before = job.not_before.min(now.saturating_add(CONFIRM_AFTER));
                }
            }
            Err(_) => {}
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
}

/// Returns true if the HSDir itself answered.
fn is_answer(result: &Result<(), UploadError>) -> bool {
    matches!(result, Ok(()) | Err(UploadError::Rejected | UploadError::Unexpected))
}

#[cfg(test)]
mod tests;
