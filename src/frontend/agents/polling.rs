//! Decides when an agent is polled and when it is considered silent.
//!
//! This module is pure. `agents` sends the requests at the times that are decided here, and reports
//! their results.

use std::time::Duration;

use crate::frontend::sync::DEADLINE;

/// The normal interval at which an agent is polled.
const INTERVAL: Duration = Duration::from_secs(1);
/// The polling interval while the agent's pod or tor is starting. In this phase, the agent reports
/// no introduction points, or has never answered and is not considered silent yet. The same
/// interval applies while introduction points change.
const EAGER: Duration = Duration::from_millis(250);
/// The time for which an agent is polled eagerly after its introduction points have changed. Under
/// many introductions, a tor gives up one point after another, and clients find dead points until
/// the publisher knows.
const CHANGING: Duration = Duration::from_secs(30);

/// The result of one request to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The agent has the same introduction points as before.
    Points,
    /// The agent has other introduction points than before.
    Changed,
    /// The agent answered but has no introduction points.
    NoPoints,
    /// The agent sent no valid answer in time.
    NoAnswer,
}

/// The decisions that follow from the result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    /// True if the agent is considered silent.
    pub(super) silent: bool,
    /// The time from the start of this request to the start of the next one.
    pub(super) interval: Duration,
}

/// The polling state of one agent.
///
/// A pause of this process adds at most a few seconds to the agent's silence. Otherwise, the
/// process would consider all backends dead when it resumes.
#[derive(Debug)]
pub(super) struct Polling {
    /// How long the agent may leave requests unanswered before it is considered silent.
    threshold: Duration,
    /// The monotonic time at which `silence` was last updated.
    counted: Duration,
    /// How long the agent has left requests unanswered.
    silence: Duration,
    /// True once the agent has answered or has been considered silent.
    is_known: bool,
    /// The monotonic time until which the introduction points are likely to change again.
    changing_until: Duration,
}

impl Polling {
    /// Creates the polling state of an agent that is considered silent after `threshold`.
    pub(super) fn new(threshold: Duration, elapsed: Duration) -> Self {
        Self { threshold, counted: elapsed, silence: Duration::ZERO, is_known: false, changing_until: elapsed }
    }

    /// Returns the time to wait for the next answer. The wait ends no later than the moment at
    /// which the silence reaches the threshold.
    pub(super) fn patience(&self, elapsed: Duration) -> Duration {
        let left = self.threshold.saturating_sub(self.silence + elapsed.saturating_sub(self.counted));
        if left.is_zero() { DEADLINE } else { left.min(DEADLINE) }
    }

    /// Processes the result of a request that has just ended.
    pub(super) fn ended(&mut self, outcome: Outcome, elapsed: Duration) -> Next {
        if outcome == Outcome::NoAnswer {
            self.silence += elapsed.saturating_sub(self.counted).min(INTERVAL + DEADLINE);
        } else {
            self.silence = Duration::ZERO;
        }
        self.counted = elapsed;
        let silent = outcome == Outcome::NoAnswer && self.silence >= self.threshold;
        if outcome == Outcome::Changed {
            self.changing_until = elapsed + CHANGING;
        }
        let eager = match outcome {
            Outcome::Points | Outcome::Changed => elapsed < self.changing_until,
            Outcome::NoPoints => true,
            Outcome::NoAnswer => !self.is_known && !silent,
        };
        self.is_known |= silent || outcome != Outcome::NoAnswer;
        Next { silent, interval: if eager { EAGER } else { INTERVAL } }
    }
}

#[cfg(test)]
pub(in crate::frontend) mod tests {
    use super::*;

    /// The time that a simulated agent takes to answer.
    const ANSWERS_IN: Duration = Duration::from_millis(50);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Polls a simulated agent for two minutes. For each request, returns its start time, and true
    /// if the agent was considered silent afterwards.
    fn poll(threshold: Duration, answers_at: impl Fn(Duration) -> Outcome) -> Vec<(Duration, bool)> {
        let (mut now, mut polling) = (Duration::ZERO, Polling::new(threshold, Duration::ZERO));
        let mut questions = Vec::new();
        while now < seconds(120) {
            let outcome = answers_at(now);
            let takes = if outcome == Outcome::NoAnswer { polling.patience(now) } else { ANSWERS_IN };
            let next = polling.ended(outcome, now + takes);
            questions.push((now, next.silent));
            now += takes.max(next.interval);
        }
        questions
    }

    /// Returns the time from an agent's last answer to the moment when it is considered silent.
    pub(in crate::frontend) fn silent_after(threshold: Duration) -> Duration {
        let ends = seconds(30);
        let answers_at = |now| if now < ends { Outcome::Points } else { Outcome::NoAnswer };
        let questions = poll(threshold, answers_at);
        let silent = questions.iter().position(|(_, silent)| *silent).expect("silent within two minutes");
        // The agent is considered silent when the request ends, which is no later than the start of
        // the next one.
        questions[silent + 1].0.abs_diff(ends)
    }

    #[test]
    fn a_change_is_noticed_within_slightly_more_than_a_second() {
        for starts in [Outcome::Points, Outcome::NoPoints] {
            let questions = poll(seconds(8), |now| if now < seconds(10) { starts } else { Outcome::Points });
            for change in (0..100_000).step_by(70).map(Duration::from_millis) {
                let noticed =
                    questions.iter().find(|(at, _)| *at >= change).expect("the agent is asked after the change").0
                        + ANSWERS_IN;
                assert!(noticed.abs_diff(change) <= Duration::from_millis(1100), "{change:?} {noticed:?}");
            }
        }
    }

    #[test]
    fn an_agent_is_not_asked_more_than_once_a_second_in_the_long_run() {
        let minute = poll(seconds(8), |_| Outcome::Points);
        assert!(minute.len() <= 121, "{}", minute.len());
    }

    #[test]
    fn an_agent_whose_points_change_is_asked_more_often_for_a_while() {
        let change = seconds(10);
        let questions = poll(seconds(8), |now| match now {
            now if now >= change && now < change + seconds(1) => Outcome::Changed,
            _ => Outcome::Points,
        });
        let asked = |from: u64, to: u64| {
            let times = questions.iter().filter(|(at, _)| (seconds(from)..seconds(to)).contains(at));
            times.count()
        };
        assert!(asked(0, 10) <= 10, "before the change: {}", asked(0, 10));
        assert!(asked(11, 40) >= 4 * 29 - 2, "after the change: {}", asked(11, 40));
        assert!(asked(60, 110) <= 51, "long after the change: {}", asked(60, 110));
    }

    #[test]
    fn a_starting_agent_is_asked_more_often() {
        let asked = |outcome| {
            let questions = poll(seconds(8), move |now| if now < seconds(5) { outcome } else { Outcome::Points });
            questions.into_iter().filter(|(at, _)| *at < seconds(5)).count()
        };
        assert!(asked(Outcome::NoPoints) >= 15, "{}", asked(Outcome::NoPoints));
        assert!(asked(Outcome::Points) <= 5, "{}", asked(Outcome::Points));
    }

    #[test]
    fn an_agent_is_silent_as_soon_as_the_threshold_has_passed() {
        for threshold in [4, 8, 20].map(seconds) {
            let silent = silent_after(threshold);
            assert!(silent + seconds(2) >= threshold && silent <= threshold + seconds(1), "{threshold:?} {silent:?}");
        }
    }

    #[test]
    fn a_single_missing_answer_is_not_silence() {
        let misses = |now| if (seconds(30)..seconds(31)).contains(&now) { Outcome::NoAnswer } else { Outcome::Points };
        assert!(poll(seconds(8), misses).iter().all(|(_, silent)| !silent));
    }

    #[test]
    fn silence_does_not_count_while_this_process_is_paused() {
        let mut polling = Polling::new(seconds(12), seconds(100));
        assert!(!polling.ended(Outcome::NoAnswer, seconds(103)).silent);
        assert!(!polling.ended(Outcome::NoAnswer, seconds(107)).silent, "7 s");
        assert!(!polling.ended(Outcome::NoAnswer, seconds(500)).silent, "11 s of silence, plus a pause");
        assert!(polling.ended(Outcome::NoAnswer, seconds(501)).silent, "12 s");
    }

    #[test]
    fn waits_for_the_last_answer_until_the_threshold_has_passed() {
        let mut polling = Polling::new(seconds(8), seconds(100));
        assert_eq!(polling.patience(seconds(101)), DEADLINE);
        polling.ended(Outcome::NoAnswer, seconds(104));
        assert_eq!(polling.patience(seconds(104)), DEADLINE);
        polling.ended(Outcome::NoAnswer, seconds(107));
        assert_eq!(polling.patience(seconds(107)), seconds(1));
        assert!(polling.ended(Outcome::NoAnswer, seconds(108)).silent);
        assert_eq!(polling.patience(seconds(108)), DEADLINE, "polling continues after the threshold");
    }
}
