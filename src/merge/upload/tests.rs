use rand::SeedableRng;
use rand::rngs::StdRng;

use super::retry::{BACKOFF_REFUSED_MAX, BACKOFF_SILENT_MAX, REST_MAX, REST_MIN, ROUND};
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
        self.uploads.fate(&hsdir, &Ok(()), ms(at), &mut self.rng);
    }
    fn reject(&mut self, hsdir: Fingerprint, at: u64) {
        self.uploads.fate(&hsdir, &Err(UploadError::Rejected), ms(at), &mut self.rng);
    }
    /// Returns how many HSDirs accepted and rejected a descriptor of the current period, and how
    /// many have not answered yet.
    fn answers(&self, counter: u64) -> (usize, usize, usize) {
        let Answers { accepted, rejected, open, .. } = self.uploads.answers(CURRENT, counter);
        (accepted, rejected, open)
    }
    /// Lets the upload in flight time out. Returns the time of its deadline.
    fn expire(&mut self) -> Duration {
        let overdue = self.uploads.next_deadline().unwrap();
        self.uploads.expire(overdue, &mut self.rng);
        let deadline = self.uploads.next_deadline().unwrap();
        assert_eq!(overdue + DEADLINE, deadline + OVERDUE);
        self.uploads.expire(deadline, &mut self.rng);
        deadline
    }
    /// Lets the upload in flight time out and starts the retry. Returns the pause before the retry.
    fn time_out(&mut self) -> Duration {
        let deadline = self.expire();
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

/// Asserts that an HSDir was tried for about five minutes and then every 10 to 30 minutes. `waits`
/// are the pauses after its uploads, each of which got no answer before its deadline.
fn assert_rests(waits: &[Duration]) {
    let rest = ms(10 * 60_000)..=ms(30 * 60_000);
    let attempts = waits.iter().position(|wait| rest.contains(wait)).unwrap();
    assert!((6..=10).contains(&attempts), "{waits:?}");
    assert!(waits[..attempts].iter().all(|wait| (ms(1_000)..=BACKOFF_SILENT_MAX).contains(wait)), "{waits:?}");
    assert!(waits[attempts..].iter().all(|wait| rest.contains(wait)), "{waits:?}");
}

/// Checks the times against literal ones, so that a change to the constants fails this test.
#[test]
fn a_silent_hsdir_is_tried_for_five_minutes_and_then_every_10_to_30_minutes() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A, B], 0);
    bench.start(0);
    bench.accept(B, 1);
    let waits: Vec<Duration> = (0..50).map(|_| bench.time_out()).collect();
    assert_rests(&waits);
    assert!((ms(30_000)..=ms(35_000)).contains(&DEADLINE));
    assert_eq!(bench.uploads.tried(&A, CURRENT), 1);

    let now = bench.expire();
    bench.uploads.publish(CURRENT, 2, &BTreeSet::from([A, B]), now);
    assert_eq!(bench.uploads.start(now), [(B, CURRENT)], "a new descriptor does not end the rest");
    assert_eq!(bench.uploads.tried(&A, CURRENT), 2, "no withdrawal waits for an HSDir that rests");
    assert_eq!(bench.uploads.failing().collect::<Vec<_>>(), [ms(0)]);
    bench.uploads.lose_sight();
    bench.uploads.publish(CURRENT, 3, &BTreeSet::from([A, B]), now);
    assert_eq!(bench.uploads.start(now), [(A, CURRENT), (B, CURRENT)], "tor may have caused the failures");
    assert_eq!(bench.uploads.failing().count(), 0);
}

#[test]
fn an_hsdir_that_is_silent_in_one_period_has_no_new_round_in_another() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A, B], 0);
    bench.start(0);
    bench.accept(B, 1);
    let mut again = Duration::ZERO;
    while again < ROUND {
        bench.expire();
        again = bench.uploads.next_start().unwrap();
        bench.uploads.start(again);
    }
    bench.expire();
    let rest = bench.uploads.next_start().unwrap();
    assert!(rest > again + REST_MIN, "{again:?} {rest:?}");
    let now = u64::try_from(again.as_millis()).unwrap() + 40_000;
    bench.publish(NEXT, 1, &[A, B], now);
    assert_eq!(bench.start(now), [(B, NEXT)]);
    bench.accept(B, now + 1);
    assert_eq!(bench.uploads.next_start(), Some(rest));
    assert_eq!(bench.uploads.failing().collect::<Vec<_>>(), [Duration::ZERO]);
}

#[test]
fn a_period_whose_descriptor_a_silent_hsdir_held_gets_no_round_of_its_own() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A, B], 0);
    bench.start(0);
    bench.accept(A, 1);
    bench.accept(B, 1);
    bench.publish(NEXT, 1, &[A, B], 2);
    bench.start(2);
    bench.accept(B, 3);
    let waits: Vec<Duration> = (0..4).map(|_| bench.time_out()).collect();
    // The fifth attempt has failed. A new descriptor ends the pause, but begins no new round.
    let now = bench.expire();
    bench.uploads.publish(CURRENT, 2, &BTreeSet::from([A, B]), now);
    assert_eq!(bench.uploads.start(now), [(A, CURRENT), (B, CURRENT)]);
    bench.uploads.fate(&B, &Ok(()), now, &mut bench.rng);
    let waits: Vec<Duration> = waits.into_iter().chain((0..20).map(|_| bench.time_out())).collect();
    assert_rests(&waits);
}

#[test]
fn an_hsdir_that_is_asked_alone_and_does_not_answer_rests_too() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A, B], 0);
    bench.start(0);
    bench.accept(A, 1);
    bench.accept(B, 1);
    let joins = Fingerprint([0xCC; 20]);
    bench.publish(CURRENT, 1, &[A, B, joins], 600_000);
    assert_eq!(bench.start(600_000), [(joins, CURRENT)]);
    let waits: Vec<Duration> = (0..20).map(|_| bench.time_out()).collect();
    assert_rests(&waits);
}

#[test]
fn no_hsdir_rests_while_none_answers() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    for _ in 0..50 {
        let wait = bench.time_out();
        assert!(wait <= BACKOFF_SILENT_MAX, "{wait:?}");
    }
    let now = bench.uploads.next_deadline().unwrap();
    bench.uploads.publish(NEXT, 1, &BTreeSet::from([B]), now);
    assert_eq!(bench.uploads.start(now), [(B, NEXT)]);
    bench.uploads.fate(&B, &Ok(()), now, &mut bench.rng);
    let waits: Vec<Duration> = (0..20).map(|_| bench.time_out()).collect();
    assert_rests(&waits);
}

#[test]
fn a_withdrawal_waits_15_s_for_an_answer() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.uploads.expire(ms(14_999), &mut bench.rng);
    assert_eq!(bench.uploads.tried(&A, CURRENT), 0);
    bench.uploads.expire(ms(15_000), &mut bench.rng);
    assert_eq!(bench.uploads.tried(&A, CURRENT), 1);
    assert_eq!(bench.start(15_000), [], "the upload may still succeed");
    bench.publish(CURRENT, 2, &[A], 15_001);
    assert_eq!(bench.uploads.tried(&A, CURRENT), 2, "the next descriptor would get no answer either");
    bench.accept(A, 16_000);
    assert_eq!(bench.start(16_000), [(A, CURRENT)]);
}

#[test]
fn a_refusing_hsdir_is_tried_with_growing_pauses_and_then_every_10_to_30_minutes() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    let mut now = Duration::ZERO;
    let mut waits = Vec::new();
    for _ in 0..20 {
        assert_eq!(bench.uploads.start(now), [(A, CURRENT)]);
        bench.uploads.fate(&A, &Err(UploadError::Unexpected), now, &mut bench.rng);
        let next = bench.uploads.next_start().unwrap();
        waits.push(next.abs_diff(now));
        now = next;
    }
    assert!(waits[0] <= ms(2_000), "{waits:?}");
    let attempts = waits.iter().position(|wait| *wait > BACKOFF_REFUSED_MAX).unwrap();
    assert!((7..=14).contains(&attempts), "{waits:?}");
    assert!(waits[attempts..].iter().all(|wait| (REST_MIN..=REST_MAX).contains(wait)), "{waits:?}");
}

#[test]
fn an_hsdir_that_rejected_gets_the_next_descriptor_at_once() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A, B], 0);
    bench.start(0);
    assert_eq!(bench.answers(1), (0, 0, 2));
    bench.reject(A, 1);
    assert_eq!(bench.answers(1), (0, 1, 1));
    bench.accept(B, 2);
    assert_eq!(bench.answers(1), (1, 1, 0));
    let mut now = Duration::ZERO;
    for _ in 0..20 {
        now = bench.uploads.next_start().unwrap();
        assert_eq!(bench.uploads.start(now), [(A, CURRENT)]);
        bench.uploads.fate(&A, &Err(UploadError::Rejected), now, &mut bench.rng);
    }
    assert!(bench.uploads.next_start().unwrap() >= now + REST_MIN);
    bench.uploads.publish(CURRENT, 2, &BTreeSet::from([A, B]), now);
    assert_eq!(bench.answers(2), (0, 0, 2));
    assert_eq!(bench.uploads.start(now), [(A, CURRENT), (B, CURRENT)]);
}

#[test]
fn a_late_result_counts_if_it_can_only_belong_to_one_upload() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.expire();
    bench.accept(A, 32_100);
    assert_eq!(bench.uploads.accepted(CURRENT), 0, "the next attempt must confirm it");
    bench.reject(A, 32_200);
    assert_eq!(bench.uploads.accepted(CURRENT), 1);
}

#[test]
fn the_newest_descriptor_follows_at_once_after_the_rejection_of_an_older_one() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.publish(CURRENT, 2, &[A], 1);
    bench.reject(A, 2);
    assert_eq!((bench.answers(2), bench.start(2)), ((0, 0, 1), vec![(A, CURRENT)]));
}

#[test]
fn a_rejected_retry_means_that_the_first_upload_arrived() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.time_out();
    bench.reject(A, 40_000);
    assert_eq!(bench.answers(1), (1, 0, 0));
    // If the first upload of a descriptor is rejected, the HSDir does not hold this descriptor, so
    // the revision counter must be raised.
    bench.publish(CURRENT, 2, &[A], 40_000);
    bench.start(40_000);
    bench.reject(A, 40_001);
    assert_eq!(bench.answers(2), (0, 1, 0));
}

#[test]
fn a_late_result_of_an_earlier_upload_is_not_trusted() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.publish(CURRENT, 2, &[A], 1);
    bench.time_out();
    // This result actually belongs to the first upload.
    bench.accept(A, 40_000);
    assert_eq!(bench.uploads.accepted(CURRENT), 0);
    let again = bench.uploads.next_start().unwrap();
    assert_eq!(bench.uploads.start(again), [(A, CURRENT)]);
    bench.reject(A, 43_000);
    assert_eq!(bench.answers(2), (1, 0, 0), "the second upload had arrived");
}

#[test]
fn a_doubtful_acceptance_in_one_period_does_not_affect_the_other() {
    let mut bench = Bench::new();
    bench.publish(CURRENT, 1, &[A], 0);
    bench.start(0);
    bench.publish(CURRENT, 2, &[A], 1);
    bench.time_out();
    bench.publish(NEXT, 1, &[A], 39_000);
    bench.accept(A, 40_000);
    assert_eq!(bench.start(40_000), [(A, NEXT)]);
    bench.accept(A, 41_000);
    assert_eq!((bench.uploads.accepted(NEXT), bench.uploads.accepted(CURRENT)), (1, 0));
    assert_eq!(bench.start(42_000), [(A, CURRENT)]);
    bench.reject(A, 43_000);
    assert_eq!(bench.answers(2), (1, 0, 0), "the second upload had arrived");
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
