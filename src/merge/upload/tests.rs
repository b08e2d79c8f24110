use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const A: Fingerprint = Fingerprint([0xAA; 20]);
const B: Fingerprint = Fingerprint([0xBB; 20]);
const CURRENT: TimePeriod = TimePeriod { number: 7, length_minutes: 1440 };
const NEXT: TimePeriod = TimePeriod { number: 8, length_minutes: 1440 };

struct Bench {
    uploads: Uploads,
    rng: StdRng,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Bench {
    fn new() -> Self {
        Self { uploads: Uploads::default(), rng: StdRng::from_seed([1; 32]) }
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
    /// Lets the upload in flight run out, and waits for the retry. Returns how long that took.
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
fn one_upload_at_a_time_over_all_periods() {
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
fn a_newer_descriptor_waits_for_the_upload_in_flight_only() {
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
fn a_silent_hsdir_is_tried_again_alone_and_caught_up_soon_after_its_return() {
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
fn a_refusing_hsdir_is_tried_less_and_less() {
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
fn rejections_of_the_newest_count_and_end() {
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
fn a_rejected_old_descriptor_makes_way_for_the_newer() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.publish(CURRENT, 2, &[A], 1);
    assert_eq!(bench.fail(A, UploadError::Rejected, 2), None);
    assert_eq!(bench.start(2), [(A, CURRENT)]);
}

#[test]
fn a_rejected_repetition_has_arrived_before() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.time_out();
    assert_eq!(bench.fail(A, UploadError::Rejected, 30_000), None);
    assert_eq!(bench.uploads.accepted(CURRENT), 1);
    // Not so when something else was in flight then.
    bench.publish(CURRENT, 2, &[A], 30_000);
    bench.start(30_000);
    assert_eq!(bench.fail(A, UploadError::Rejected, 30_001), Some(Rejected { period: CURRENT, times: 1 }));
}

#[test]
fn a_late_fate_of_another_upload_is_not_believed() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.publish(CURRENT, 2, &[A], 1);
    bench.time_out();
    // Whose is this? The first one's, in truth.
    bench.accept(A, 20_000);
    assert_eq!(bench.uploads.accepted(CURRENT), 0);
    let again = bench.uploads.next_start().unwrap();
    assert_eq!(bench.uploads.start(again), [(A, CURRENT)]);
    assert_eq!(bench.fail(A, UploadError::Rejected, 23_000), None, "the second had arrived");
    assert_eq!(bench.uploads.accepted(CURRENT), 1);
}

#[test]
fn a_doubted_acceptance_does_not_make_the_other_period_doubtful() {
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
    assert_eq!(bench.fail(A, UploadError::Rejected, 23_000), None, "the second had arrived");
    assert_eq!(bench.uploads.accepted(CURRENT), 1);
}

#[test]
fn what_is_no_longer_responsible_is_forgotten() {
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
