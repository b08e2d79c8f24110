//! Remembers the problem with the Secret of the shared guards, for the status. This module is pure.

use std::time::{Duration, SystemTime};

use crate::crd::GuardsProblemKind;
use crate::frontend::guard_view::GuardProblem;

/// The time for which the status names a problem that the publisher has solved.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);
/// The number of consecutive failures after which the status names them. An API server that has
/// just started refuses some requests that it accepts a moment later.
const PERSISTENT: u8 = 3;

/// The problem that was noticed last.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// The content of the Secret that was replaced last, with the monotonic time until which this
    /// is reported.
    replaced: Option<(GuardProblem, Duration)>,
    /// The reason why the Secret cannot be read or written, and the number of failures in a row.
    failing: Option<(GuardProblem, u8)>,
}

impl Problems {
    /// Records that the content of the Secret could not be used, at a wall-clock and a monotonic
    /// time.
    pub(super) fn replaced(&mut self, message: String, wall: SystemTime, elapsed: Duration) {
        let problem = GuardProblem { kind: GuardsProblemKind::Replaced, message, noticed: wall };
        self.replaced = Some((problem, elapsed + REMEMBERED));
    }

    /// Records that the Secret could not be read or written.
    pub(super) fn failed(&mut self, message: String, wall: SystemTime) {
        let (noticed, before) = self.failing.take().map_or((wall, 0), |(known, count)| (known.noticed, count));
        let problem = GuardProblem { kind: GuardsProblemKind::NotKept, message, noticed };
        self.failing = Some((problem, before.saturating_add(1)));
    }

    /// Records that the Secret was read or written.
    pub(super) fn succeeded(&mut self) {
        self.failing = None;
    }

    /// Returns the problem to report at a monotonic time.
    pub(super) fn current(&self, elapsed: Duration) -> Option<GuardProblem> {
        let failing = self.failing.as_ref().filter(|(_, count)| *count >= PERSISTENT).map(|(problem, _)| problem);
        let replaced = || self.replaced.as_ref().filter(|(_, until)| elapsed < *until).map(|(problem, _)| problem);
        failing.or_else(replaced).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn seen(problems: &Problems, seconds: u64) -> Option<(GuardsProblemKind, String, SystemTime)> {
        problems.current(Duration::from_secs(seconds)).map(|it| (it.kind, it.message, it.noticed))
    }

    #[test]
    fn replaced_content_is_reported_for_an_hour() {
        let mut problems = Problems::default();
        problems.replaced("why".to_owned(), at(1000), Duration::from_secs(10));
        let expected = Some((GuardsProblemKind::Replaced, "why".to_owned(), at(1000)));
        problems.succeeded();
        assert_eq!((seen(&problems, 10), seen(&problems, 3609)), (expected.clone(), expected));
        assert_eq!(seen(&problems, 3610), None);
    }

    #[test]
    fn a_failure_is_reported_only_while_it_persists() {
        let mut problems = Problems::default();
        problems.failed("first".to_owned(), at(1));
        problems.failed("second".to_owned(), at(2));
        assert_eq!(seen(&problems, 0), None);
        problems.failed("third".to_owned(), at(3));
        assert_eq!(seen(&problems, 0), Some((GuardsProblemKind::NotKept, "third".to_owned(), at(1))));
        problems.succeeded();
        assert_eq!(seen(&problems, 0), None);
    }
}
