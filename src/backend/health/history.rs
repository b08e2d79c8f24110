//! The state of one target, as it follows from the results of its checks.

use std::time::Duration;

use tokio::time::Instant;

use crate::link::{TargetCheck, TargetState};

/// The shortest time between the starts of two checks of a target, whatever asks for them.
pub(super) const SPACING: Duration = Duration::from_secs(1);
/// The longest time between two checks of a failing target, so that a repair is noticed soon.
const FAILING_PERIOD: Duration = Duration::from_secs(5);
/// The shortest time for which a target must refuse every connection before it counts as failing. A
/// Service leads to a stopped pod for a moment while its app is replaced.
const STEADY: Duration = Duration::from_secs(4);

/// The results of a target's checks.
#[derive(Debug)]
pub(super) struct History {
    period: Duration,
    failures: u32,
    successes: u32,
    state: TargetState,
    /// The newest results, if they contradict the state.
    against: Option<Run>,
}

/// Consecutive equal results.
#[derive(Debug, Clone, Copy)]
struct Run {
    count: u32,
    /// The start of the first check.
    since: Instant,
}

impl History {
    /// Creates the history of a target that has not been checked yet.
    pub(super) fn new(check: &TargetCheck) -> Self {
        Self {
            period: Duration::from_secs(check.period_seconds.into()),
            failures: check.failure_threshold,
            successes: check.success_threshold,
            state: TargetState::Unknown,
            against: None,
        }
    }

    /// Returns the state of the target.
    pub(super) fn state(&self) -> TargetState {
        self.state
    }

    /// Records the result of a check. Returns true if the state has changed.
    pub(super) fn record(&mut self, passed: bool, began: Instant, ended: Instant) -> bool {
        let next = if passed { TargetState::Passing } else { TargetState::Failing };
        if next == self.state {
            self.against = None;
            return false;
        }
        let run = self.against.unwrap_or(Run { count: 0, since: began });
        let run = Run { count: run.count.saturating_add(1), ..run };
        let is_enough = match (self.state, passed) {
            // The first success is not a recovery.
            (TargetState::Unknown, true) => true,
            (_, true) => run.count >= self.successes,
            (_, false) => run.count >= self.failures && ended.duration_since(run.since) >= STEADY,
        };
        if is_enough {
            (self.state, self.against) = (next, None);
        } else {
            self.against = Some(run);
        }
        is_enough
    }

    /// Returns the time from the start of one check to the start of the next one. A result that
    /// contradicts the state is confirmed soon.
    pub(super) fn interval(&self) -> Duration {
        match (self.against, self.state) {
            (Some(_), _) => SPACING,
            (None, TargetState::Failing) => self.period.min(FAILING_PERIOD),
            (None, TargetState::Passing | TargetState::Unknown) => self.period,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Feeds results to a history, one a second. Returns the state after each result.
    fn states(history: &mut History, start: Instant, results: &[bool]) -> Vec<TargetState> {
        let record = |(second, passed): (u64, &bool)| {
            let at = start + seconds(second);
            history.record(*passed, at, at);
            history.state()
        };
        (0..).zip(results).map(record).collect()
    }

    #[test]
    fn a_target_fails_only_after_several_failures_over_four_seconds() {
        use TargetState::{Failing, Passing, Unknown};
        let start = Instant::now();
        let mut history = History::new(&TargetCheck::default());
        let seen = states(&mut history, start, &[true, false, false, false, false, false, true, false, true, true]);
        assert_eq!(
            seen,
            [Passing, Passing, Passing, Passing, Passing, Failing, Failing, Failing, Failing, Passing],
            "the second success in a row ends the failure"
        );
        let mut new = History::new(&TargetCheck::default());
        assert_eq!(states(&mut new, start, &[false; 5]), [Unknown, Unknown, Unknown, Unknown, Failing]);
    }

    #[test]
    fn one_success_starts_the_count_of_failures_again() {
        let mut history = History::new(&TargetCheck::default());
        let mostly = [false, false, false, true].repeat(20);
        assert!(!states(&mut history, Instant::now(), &mostly).contains(&TargetState::Failing));
    }

    #[test]
    fn a_contradiction_is_confirmed_soon_and_a_failing_target_is_checked_often() {
        let start = Instant::now();
        let mut history = History::new(&TargetCheck { period_seconds: 30, ..TargetCheck::default() });
        history.record(true, start, start);
        assert_eq!(history.interval(), seconds(30));
        history.record(false, start, start + seconds(2));
        assert_eq!(history.interval(), SPACING);
        assert!(history.record(false, start + seconds(2), start + seconds(4)));
        assert_eq!((history.state(), history.interval()), (TargetState::Failing, FAILING_PERIOD));
    }

    proptest! {
        #[test]
        fn the_state_changes_only_after_as_many_equal_results_as_the_threshold_says(
            results in prop::collection::vec(any::<bool>(), 1..60),
            failures in 1_u32..6,
            successes in 1_u32..6,
        ) {
            let check = TargetCheck { failure_threshold: failures, success_threshold: successes, ..TargetCheck::default() };
            let mut history = History::new(&check);
            let seen = states(&mut history, Instant::now(), &results);
            for (index, now) in seen.iter().enumerate().skip(1) {
                let needed = match (seen[index - 1], now) {
                    (before, now) if before == *now => continue,
                    (TargetState::Unknown, TargetState::Passing) => 1,
                    (_, TargetState::Passing) => successes,
                    _ => failures,
                };
                let passed = *now == TargetState::Passing;
                let equal = results[..=index].iter().rev().take_while(|result| **result == passed).count();
                prop_assert!(equal >= needed as usize, "{results:?} {seen:?}");
            }
        }
    }
}
