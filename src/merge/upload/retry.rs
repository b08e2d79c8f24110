//! Records the failed uploads to an HSDir, and decides when they are repeated.

use std::time::Duration;

use rand::{Rng, RngExt};

use super::{DEADLINE, Hsdir, InFlight, Job, Reach};

/// The time for which failed uploads to an HSDir are repeated at short intervals, as in arti. The
/// last of them ends within this time. Every attempt costs circuits next to the master key, so that
/// an HSDir that never answers must not be able to cause a steady stream of them.
pub(super) const ROUND: Duration = Duration::from_secs(5 * 60);
/// The number of attempts that a round has at least, even if the process was paused in the
/// meantime.
const MIN_ATTEMPTS: u32 = 4;
/// The shortest pause between two attempts after [`ROUND`]. The actual pause is random.
pub(super) const REST_MIN: Duration = Duration::from_secs(10 * 60);
/// The longest pause between two attempts after [`ROUND`].
pub(super) const REST_MAX: Duration = Duration::from_secs(30 * 60);
/// The minimum pause after the first failed upload to an HSDir. Each further failure doubles the
/// pause.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The maximum pause within [`ROUND`] for an HSDir that does not answer, not counting the deadlines
/// of the uploads.
pub(super) const BACKOFF_SILENT_MAX: Duration = Duration::from_secs(8);
/// The maximum pause within [`ROUND`] for an HSDir that refuses uploads.
pub(super) const BACKOFF_REFUSED_MAX: Duration = Duration::from_secs(60);

/// The kinds of failures of an upload.
#[derive(Clone, Copy)]
pub(super) enum UploadFailure {
    /// The HSDir did not answer before the deadline.
    Silent,
    /// The HSDir answered with an error.
    Refused,
    /// The HSDir rejected the descriptor, and would reject it again.
    Rejected,
}

impl Hsdir {
    /// Records that the HSDir rejected the descriptor.
    pub(super) fn reject(&mut self, upload: &InFlight, reach: Reach, now: Duration, rng: &mut impl Rng) {
        self.fail(upload, UploadFailure::Rejected, reach, now, rng);
        let (period, counter) = upload.name;
        let Some(job) = self.jobs.get_mut(&period) else { return };
        if counter < job.newest {
            // The newest descriptor already has a greater counter.
            job.not_before = now;
            job.rests = false;
        } else {
            job.rejected = true;
        }
    }

    /// Records the failure of an upload that got no answer. The descriptors of other periods would
    /// get none either, so that they wait for the same time.
    pub(super) fn fall_silent(&mut self, upload: &InFlight, reach: Reach, now: Duration, rng: &mut impl Rng) {
        self.fail(upload, UploadFailure::Silent, reach, now, rng);
        let Some(failed) = self.jobs.get(&upload.name.0) else { return };
        let (not_before, round, rests) = (failed.not_before, failed.round, failed.rests);
        for job in self.jobs.values_mut().filter(|job| job.is_open()) {
            job.not_before = not_before.max(job.not_before);
            job.round = job.round.or(round);
            job.rests |= rests;
            job.failing_since.get_or_insert(upload.started);
        }
    }

    /// Records a failure and schedules the next attempt.
    pub(super) fn fail(
        &mut self,
        upload: &InFlight,
        failure: UploadFailure,
        reach: Reach,
        now: Duration,
        rng: &mut impl Rng,
    ) {
        let (period, counter) = upload.name;
        let Some(job) = self.jobs.get_mut(&period) else { return };
        job.failed = job.failed.max(counter);
        job.failures = job.failures.saturating_add(1);
        job.failing_since.get_or_insert(upload.started);
        if reach.blames_hsdir(upload.started) {
            job.round.get_or_insert(upload.started);
        }
        let doubled = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(job.failures));
        let longest = match failure {
            UploadFailure::Silent => doubled.min(BACKOFF_SILENT_MAX),
            UploadFailure::Refused => doubled.min(BACKOFF_REFUSED_MAX),
            UploadFailure::Rejected => BACKOFF_REFUSED_MAX,
        };
        let pause = longest.mul_f64(rng.random_range(0.5..=1.0));
        // The next attempt may last until its deadline.
        let end = now.saturating_add(pause).saturating_add(DEADLINE);
        let round_over = job.round.is_some_and(|began| end.saturating_sub(began) > ROUND);
        job.rests = round_over && job.failures >= MIN_ATTEMPTS;
        let pause = if job.rests { rng.random_range(REST_MIN..=REST_MAX) } else { pause };
        job.not_before = now.saturating_add(pause);
    }
}

impl Job {
    /// Takes over the failures in another time period, in which the HSDir does not answer.
    pub(super) fn share(&mut self, silent: Job) {
        self.not_before = silent.not_before;
        self.failures = silent.failures;
        self.failing_since = silent.failing_since;
        self.round = silent.round;
        self.rests = silent.rests;
    }

    /// Forgets all failures.
    pub(super) fn forgive(&mut self) {
        self.failures = 0;
        self.failing_since = None;
        self.round = None;
        self.rejected = false;
        self.rests = false;
    }
}
