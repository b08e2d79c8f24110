//! Schedules the publishing of a time period's descriptors: soon after a change, again after one to
//! two hours, and never too often.

use std::time::Duration;

use rand::{Rng, RngExt};

/// The shortest time after which an unchanged descriptor is published again, as in C tor
/// (`HS_SERVICE_NEXT_UPLOAD_TIME_MIN`). The actual time is random.
const REPUBLISH_MIN: Duration = Duration::from_secs(60 * 60);
/// The longest time after which an unchanged descriptor is published again, as in C tor
/// (`HS_SERVICE_NEXT_UPLOAD_TIME_MAX`). A minute is left for the distance between the rounds of two
/// periods.
const REPUBLISH_MAX: Duration = Duration::from_secs(119 * 60);
/// The shortest time between two publishing rounds.
const MIN_GAP: Duration = Duration::from_secs(1);
/// The shortest average time between publishing rounds that the rate limit allows in the long run.
const REFILL: Duration = Duration::from_secs(15);
/// The number of publishing rounds that the rate limit allows in a row after a quiet time.
const BURST: u32 = 8;
/// The number of rounds in [`BURST`] that are reserved for urgent requests. Adding introduction
/// points is not urgent, so a flapping backend soon has to wait for its points to be added again.
/// Withdrawing the points of a lost backend is urgent and remains possible.
const RESERVE: u32 = 4;
/// The number of publishing rounds without an urgent request that are allowed in a row after a
/// quiet time.
const PATIENT_BURST: u32 = 6;
/// The time between publishing rounds without an urgent request after that, on the public network.
/// arti, too, publishes at most once in this time.
pub(super) const PATIENT_REFILL: Duration = Duration::from_secs(60);

/// The longest time for which the rounds of other periods delay a round, as a multiple of the
/// shortest time between rounds of two periods. Before that, the other periods leave their turn to
/// this one, unless they withdraw lost backends.
const LONGEST_WAIT: u32 = 3;

/// A request to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// The earliest time to publish.
    pub(super) at: Duration,
    /// True if clients can fail to connect until the request is carried out.
    pub(super) urgent: bool,
    /// True if the descriptor must be published even if its content has not changed.
    pub(super) forced: bool,
}

/// The publishing schedule of one time period. All times are monotonic.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    request: Option<Request>,
    republish_at: Option<Duration>,
    published: Option<Duration>,
    /// The theoretical arrival time of the generic cell rate algorithm. Each publishing round moves
    /// this time forward by [`REFILL`], starting from the current time if this time has already
    /// passed.
    paid_at: Duration,
    /// The same time for the rounds without an urgent request, with `patient_refill`.
    patient_paid_at: Duration,
    /// [`PATIENT_REFILL`], or a shorter time on a test network.
    patient_refill: Duration,
    /// The time until which only an urgent request is carried out, because another period published
    /// a moment ago.
    apart_until: Duration,
    /// The shortest time between rounds of two periods.
    apart: Duration,
}

impl Schedule {
    /// Creates a schedule on a network on which `patient_refill` corresponds to [`PATIENT_REFILL`].
    /// `apart` is the shortest time between rounds of two periods.
    pub(super) fn new(patient_refill: Duration, apart: Duration) -> Self {
        Self { patient_refill, apart, ..Self::default() }
    }

    /// Merges a request into the pending one.
    pub(super) fn request(&mut self, new: Request) {
        let open = self.request.unwrap_or(new);
        self.request = Some(Request {
            at: open.at.min(new.at),
            urgent: open.urgent || new.urgent,
            forced: open.forced || new.forced,
        });
    }

    /// Postpones the pending request until `at`.
    pub(super) fn put_off(&mut self, at: Duration) {
        if let Some(request) = &mut self.request {
            request.at = request.at.max(at);
        }
    }

    /// Delays all but urgent rounds until `until`, because another period has published.
    pub(super) fn keep_apart(&mut self, until: Duration) {
        self.apart_until = self.apart_until.max(until);
    }

    /// Drops the pending request and the scheduled republish. The rate limit keeps its state.
    pub(super) fn clear(&mut self) {
        self.request = None;
        self.republish_at = None;
    }

    /// Returns the time of the next publishing round, if one is scheduled.
    pub(super) fn ready_at(&self) -> Option<Duration> {
        let apart = |(at, urgent): (Duration, bool)| {
            let longest = at.saturating_add(self.apart.saturating_mul(LONGEST_WAIT));
            if urgent { at } else { at.max(self.apart_until.min(longest)) }
        };
        self.dues().map(apart).min()
    }

    /// Returns the time of the next publishing round if no other period publishes before.
    pub(super) fn due_at(&self) -> Option<Duration> {
        self.dues().map(|(at, _)| at).min()
    }

    /// Returns the time of the next publishing round if the rounds of other periods have delayed it
    /// for so long that they must now wait.
    pub(super) fn overdue_at(&self, now: Duration) -> Option<Duration> {
        let yielding = self.apart.saturating_mul(LONGEST_WAIT - 1);
        self.due_at().filter(|at| at.saturating_add(yielding) <= now)?;
        self.ready_at()
    }

    /// Returns the times at which the request and the republish are due, and whether each is
    /// urgent.
    fn dues(&self) -> impl Iterator<Item = (Duration, bool)> {
        let request = self.request.map(|request| (request.at, request.urgent));
        let republish = self.republish_at.map(|at| (at, false));
        let wishes = [request, republish].into_iter().flatten();
        wishes.map(|(at, urgent)| (at.max(self.allowed_at(urgent)), urgent))
    }

    /// Returns None if it is not yet time to publish. Otherwise, returns true if the descriptor
    /// must be published even if its content has not changed.
    pub(super) fn ready(&self, now: Duration) -> Option<bool> {
        self.ready_at().filter(|at| *at <= now)?;
        Some(self.request.is_some_and(|request| request.forced) || self.republish_at.is_some_and(|at| at <= now))
    }

    /// Records that publishing failed, and schedules another attempt at `at`.
    pub(super) fn failed(&mut self, at: Duration) {
        self.republish_at = None;
        self.request = Some(Request { at, urgent: true, forced: true });
    }

    /// Drops the pending request, because it would not change the descriptor.
    pub(super) fn satisfied(&mut self) {
        self.request = None;
    }

    /// Records that a descriptor is published at `now`, and schedules the next republish.
    pub(super) fn published(&mut self, now: Duration, rng: &mut impl Rng) {
        if self.request.take().is_some_and(|request| !request.urgent) {
            self.patient_paid_at = self.patient_paid_at.max(now).saturating_add(self.patient_refill);
        }
        self.published = Some(now);
        self.paid_at = self.paid_at.max(now).saturating_add(REFILL);
        self.republish_at = Some(now.saturating_add(rng.random_range(REPUBLISH_MIN..=REPUBLISH_MAX)));
    }

    /// Returns the earliest time at which the rate limit allows publishing.
    fn allowed_at(&self, urgent: bool) -> Duration {
        let ahead = if urgent { BURST - 1 } else { BURST - RESERVE - 1 };
        let gap_over = self.published.map_or(Duration::ZERO, |at| at.saturating_add(MIN_GAP));
        let allowed = self.paid_at.saturating_sub(REFILL * ahead).max(gap_over);
        if urgent {
            return allowed;
        }
        let patience = self.patient_paid_at.saturating_sub(self.patient_refill * (PATIENT_BURST - 1));
        allowed.max(patience)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wish(at: u64, urgent: bool) -> Request {
        Request { at: seconds(at), urgent, forced: false }
    }

    /// Returns the times, in seconds, at which a descriptor is published within `duration` if a
    /// request is always pending.
    fn publishes(urgent: bool, duration: u64) -> Vec<u64> {
        let mut rng = StdRng::from_seed([0; 32]);
        let mut schedule = Schedule::new(PATIENT_REFILL, seconds(60));
        let mut at = Vec::new();
        loop {
            schedule.request(wish(0, urgent));
            let ready = schedule.ready_at().unwrap();
            if ready > seconds(duration) {
                return at;
            }
            assert_eq!(schedule.ready(ready), Some(false));
            schedule.published(ready, &mut rng);
            at.push(ready.as_secs());
        }
    }

    #[test]
    fn the_rate_limit_allows_bursts_but_no_steady_stream() {
        assert_eq!(publishes(true, 40), [0, 1, 2, 3, 4, 5, 6, 7, 15, 30]);
        assert_eq!(publishes(false, 40), [0, 1, 2, 3, 15, 30]);
        assert_eq!(publishes(false, 200), [0, 1, 2, 3, 15, 30, 60, 120, 180]);
    }

    #[test]
    fn only_urgent_rounds_follow_another_periods_round_at_once() {
        let mut schedule = Schedule::new(PATIENT_REFILL, seconds(60));
        schedule.keep_apart(seconds(60));
        schedule.request(wish(3, false));
        assert_eq!(schedule.ready_at(), Some(seconds(60)));
        schedule.request(wish(4, true));
        assert_eq!(schedule.ready_at(), Some(seconds(3)));
    }

    #[test]
    fn other_periods_delay_a_round_by_at_most_three_minutes_and_leave_it_its_turn_after_two() {
        let mut schedule = Schedule::new(PATIENT_REFILL, seconds(60));
        schedule.request(wish(10, false));
        schedule.keep_apart(seconds(100));
        assert_eq!((schedule.due_at(), schedule.ready_at()), (Some(seconds(10)), Some(seconds(100))));
        schedule.keep_apart(seconds(1000));
        assert_eq!((schedule.due_at(), schedule.ready_at()), (Some(seconds(10)), Some(seconds(190))));
        assert_eq!(schedule.overdue_at(seconds(129)), None);
        assert_eq!(schedule.overdue_at(seconds(130)), Some(seconds(190)));
    }

    #[test]
    fn urgent_requests_have_a_reserve() {
        let mut rng = StdRng::from_seed([0; 32]);
        let mut schedule = Schedule::default();
        for at in 0..4 {
            schedule.published(seconds(at), &mut rng);
        }
        schedule.request(wish(4, false));
        assert_eq!(schedule.ready_at(), Some(seconds(15)));
        schedule.request(wish(5, true));
        assert_eq!(schedule.ready_at(), Some(seconds(4)));
    }

    #[test]
    fn pending_requests_are_merged() {
        let mut schedule = Schedule::default();
        schedule.request(Request { at: seconds(7), urgent: false, forced: true });
        schedule.request(wish(3, false));
        assert_eq!(schedule.ready(seconds(2)), None);
        assert_eq!(schedule.ready(seconds(3)), Some(true));
        schedule.put_off(seconds(9));
        assert_eq!(schedule.ready_at(), Some(seconds(9)));
        schedule.satisfied();
        assert_eq!(schedule.ready_at(), None);
    }

    #[test]
    fn a_cleared_schedule_has_nothing_to_publish_and_keeps_the_rate_limit() {
        let mut rng = StdRng::from_seed([0; 32]);
        let mut schedule = Schedule::default();
        (0..8).for_each(|at| schedule.published(seconds(at), &mut rng));
        schedule.request(wish(8, true));
        schedule.clear();
        assert_eq!(schedule.ready_at(), None);
        schedule.request(wish(8, true));
        assert_eq!(schedule.ready_at(), Some(seconds(15)));
    }

    #[test]
    fn a_failed_round_is_tried_again_at_the_given_time() {
        let mut rng = StdRng::from_seed([0; 32]);
        let mut schedule = Schedule::default();
        schedule.published(seconds(0), &mut rng);
        schedule.failed(seconds(60));
        assert_eq!((schedule.ready_at(), schedule.ready(seconds(60))), (Some(seconds(60)), Some(true)));
    }

    #[test]
    fn a_descriptor_is_published_again_after_one_to_two_hours() {
        let mut rng = StdRng::from_seed([0; 32]);
        let mut times = Vec::new();
        for _ in 0..200 {
            let mut schedule = Schedule::default();
            schedule.published(seconds(100), &mut rng);
            let again = schedule.ready_at().unwrap().abs_diff(seconds(100));
            assert!((seconds(60 * 60)..=seconds(120 * 60)).contains(&again), "{again:?}");
            assert_eq!(schedule.ready(seconds(100) + again), Some(true));
            times.push(again);
        }
        times.sort_unstable();
        assert!(times[0] < seconds(65 * 60) && times[199] > seconds(115 * 60), "the times are spread over the hour");
    }
}
