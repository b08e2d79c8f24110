use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const A: Fingerprint = Fingerprint([0xAA; 20]);
const B: Fingerprint = Fingerprint([0xBB; 20]);
const CURRENT: TimePeriod = TimePeriod { number: 7, length_minutes: 1440 };
const NEXT: TimePeriod = TimePeriod { number: 8, length_minutes: 1440 };

struct Bench {
    uploads: HsdirUploads,
    rng: StdRng,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Bench {
    fn new() -> Self {
        Self { uploads: HsdirUploads::default(), rng: StdRng::from_seed([1; 32]) }
    }
    fn publish(&mut self, period: TimePeriod, counter: u64, hsdirs: &[Fingerprint], at: u64) {
        self.uploads.publish(period, counter, &hsdirs.iter().copied().collect(), ms(at));
    }
    fn start(&mut self, at: u64) -> Vec<(Fingerprint, TimePeriod)> {
        self.uploads.start(ms(at))
    }
    fn accept(&mut self, hsdir: Fingerprint, at: u64) {
        assert_eq!(self.uploads.fate(&hsdir, &Ok(()), ms(at), &mut self.rng), None);
    }
    fn fail(&mut self, hsdir: Fingerprint, error: UploadError, at: u64) -> Option<Rejected> {
        self.uploads.fate(&hsdir, &Err(error), ms(at), &mut self.rng)
    }
    /// Lets the upload in flight time out and starts the retry. Returns the pause before the retry.
    fn time_out(&mut self) -> Duration {
        let deadline = self.uploads.next_deadline().unwrap();
        self.uploads.expire(deadline, &mut self.rng);
        let again = self.uploads.next_start().unwrap();
        assert_eq!(self.uploads.start(again.saturating_sub(ms(1))), []);
        assert_eq!(self.uploads.start(again).len(), 1);
        again.abs_diff(deadline)
    }
}

#[test]
fn an_hsdir_gets_one_upload_at_a_time_across_all_periods() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A, B], 0);
    bench.publish(NEXT, 1, &[A], 0);
    assert_eq!(bench.start(0), [(A, CURRENT), (B, CURRENT)]);
    assert_eq!(bench.start(1), []);
    bench.accept(A, 2);
    assert_eq!(bench.start(2), [(A, NEXT)]);
    bench.accept(A, 3);
    assert_eq!(bench.start(3), []);
    assert_eq!((bench.uploads.accepted(CURRENT), bench.uploads.accepted(NEXT)), (1, 1));
    bench.accept(B, 4);
    assert_eq!(bench.uploads.accepted(CURRENT), 2);
    assert_eq!((bench.uploads.next_start(), bench.uploads.next_deadline()), (None, None));
}

#[test]
fn a_newer_descriptor_replaces_waiting_ones_and_follows_the_upload_in_flight() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.publish(CURRENT, 2, &[A], 1);
    bench.publish(CURRENT, 3, &[A], 2);
    assert_eq!(bench.start(2), []);
    bench.accept(A, 3);
    assert_eq!((bench.uploads.accepted(CURRENT), bench.uploads.tried(&A, CURRENT)), (0, 1));
    assert_eq!(bench.start(3), [(A, CURRENT)]);
    bench.accept(A, 4);
    assert_eq!((bench.uploads.accepted(CURRENT), bench.uploads.tried(&A, CURRENT)), (1, 3));
}

#[test]
fn a_silent_hsdir_is_retried_often_enough_to_be_up_to_date_soon_after_its_return() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A, B], 0);
    bench.start(0);
    bench.accept(B, 1);
    let waits: Vec<Duration> = (0..50).map(|_| bench.time_out()).collect();
    assert!(waits[0] <= ms(2_000) && waits.iter().all(|wait| *wait >= ms(1_000) && *wait <= BACKOFF_SILENT_MAX));
    assert!(DEADLINE + BACKOFF_SILENT_MAX < Duration::from_secs(25));
    assert_eq!(bench.uploads.tried(&A, CURRENT), 1);
    bench.accept(A, 2_000_000);
    assert_eq!(bench.uploads.accepted(CURRENT), 2);
}

#[test]
fn a_refusing_hsdir_is_retried_with_growing_pauses() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    let mut now = Duration::ZERO;
    let mut wait = Duration::ZERO;
    for _ in 0..20 {
        assert_eq!(bench.uploads.start(now), [(A, CURRENT)]);
        assert_eq!(bench.uploads.fate(&A, &Err(UploadError::Unexpected), now, &mut bench.rng), None);
        let next = bench.uploads.next_start().unwrap();
        wait = next.abs_diff(now);
        now = next;
    }
    assert!(wait >= BACKOFF_REFUSED_MAX / 2 && wait <= BACKOFF_REFUSED_MAX, "{wait:?}");
}

#[test]
fn rejections_of_the_newest_descriptor_raise_the_counter_a_limited_number_of_times() {
    let mut bench = Bench::new();
    for counter in 1..=MAX_RISES {
        bench.publish(CURRENT, counter.into(), &[A], 0);
        bench.start(0);
        let rejected = bench.fail(A, UploadError::Rejected, 1);
        assert_eq!(rejected, Some(Rejected { period: CURRENT, times: counter }));
    }
    bench.publish(CURRENT, 90, &[A], 0);
    bench.start(0);
    assert_eq!(bench.fail(A, UploadError::Rejected, 1), None);
    assert!(bench.uploads.next_start() > Some(ms(1)));
}

#[test]
fn the_newest_descriptor_follows_at_once_after_the_rejection_of_an_older_one() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.publish(CURRENT, 2, &[A], 1);
    assert_eq!(bench.fail(A, UploadError::Rejected, 2), None);
    assert_eq!(bench.start(2), [(A, CURRENT)]);
}

#[test]
fn a_rejected_retry_means_that_the_first_upload_arrived() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.time_out();
    assert_eq!(bench.fail(A, UploadError::Rejected, 30_000), None);
    assert_eq!(bench.uploads.accepted(CURRENT), 1);
    // If the first upload of a descriptor is rejected, the HSDir does not hold this descriptor, so
    // the revision counter must be raised.
    bench.publish(CURRENT, 2, &[A], 30_000);
    bench.start(30_000);
    assert_eq!(bench.fail(A, UploadError::Rejected, 30_001), Some(Rejected { period: CURRENT, times: 1 }));
}

#[test]
fn a_late_result_of_an_earlier_upload_is_not_trusted() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.publish(CURRENT, 2, &[A], 1);
    bench.time_out();
    // This result actually belongs to the first upload.
    bench.accept(A, 20_000);
    assert_eq!(bench.uploads.accepted(CURRENT), 0);
    let again = bench.uploads.next_start().unwrap();
    assert_eq!(bench.uploads.start(again), [(A, CURRENT)]);
    assert_eq!(bench.fail(A, UploadError::Rejected, 23_000), None, "the second upload had arrived");
    assert_eq!(bench.uploads.accepted(CURRENT), 1);
}

#[test]
fn a_doubtful_acceptance_in_one_period_does_not_affect_the_other() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.publish(CURRENT, 2, &[A], 1);
    bench.time_out();
    bench.publish(NEXT, 1, &[A], 19_000);
    bench.accept(A, 20_000);
    assert_eq!(bench.start(20_000), [(A, NEXT)]);
    bench.accept(A, 21_000);
    assert_eq!((bench.uploads.accepted(NEXT), bench.uploads.accepted(CURRENT)), (1, 0));
    assert_eq!(bench.start(22_000), [(A, CURRENT)]);
    assert_eq!(bench.fail(A, UploadError::Rejected, 23_000), None, "the second upload had arrived");
    assert_eq!(bench.uploads.accepted(CURRENT), 1);
}

#[test]
fn hsdirs_that_are_no_longer_responsible_are_forgotten() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A, B], 0);
    bench.publish(NEXT, 1, &[A], 0);
    bench.start(0);
    bench.uploads.retain(CURRENT, &BTreeSet::from([B]));
    bench.publish(CURRENT, 2, &[B], 1);
    bench.accept(A, 2);
    assert_eq!((bench.uploads.tried(&A, CURRENT), bench.start(2)), (0, vec![(A, NEXT)]));
    bench.uploads.forget(NEXT);
    bench.accept(A, 3);
    assert_eq!(bench.uploads.next_start(), None);
    bench.uploads.stop();
    bench.accept(B, 4);
    assert_eq!((bench.start(4), bench.uploads.accepted(CURRENT)), (vec![], 0));
}

#[test]
fn the_descriptor_of_a_forgotten_period_is_not_uploaded() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.publish(NEXT, 1, &[A], 0);
    bench.uploads.forget(CURRENT);
    assert_eq!(bench.start(0), [(A, NEXT)]);
    bench.accept(A, 1);
    assert_eq!(bench.start(1), []);
}
