//! Whether tor reaches the network, as far as HSDirs' answers tell.
//!
//! A tor that was bootstrapped and is cut off from the network since still answers its control socket, and mostly says nothing
//! of its uploads: what tells is that no HSDir of a time period takes the newest descriptor, and that none answers at all.
//! While there is nothing to publish, nothing is noticed, and nothing is amiss.

use std::time::Duration;

use crate::merge::PeriodStatus;

/// HSDirs answer within seconds; each is tried about three times meanwhile.
const CUT_OFF: Duration = Duration::from_secs(60);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Since when (monotonic clock) answers are due and none came.
    unanswered: Option<Duration>,
    /// HSDirs have answered since this publisher leads.
    answered: bool,
}

impl Reach {
    /// This publisher begins to lead: what was true long ago need not be now.
    pub(super) fn leads(&mut self) {
        *self = Self::default();
    }

    /// Something came from the network.
    pub(super) fn shown(&mut self) {
        self.unanswered = None;
    }

    /// An upload's fate.
    pub(super) fn uploaded(&mut self, result: &Result<(), String>) {
        if is_answer(result) {
            *self = Self { unanswered: None, answered: true };
        }
    }

    /// How the publishing stands, while it leads.
    pub(super) fn publishes(&mut self, periods: &[PeriodStatus], now: Duration) {
        if periods.iter().any(|period| period.hsdirs_total > 0 && period.hsdirs_accepted == 0) {
            self.unanswered.get_or_insert(now);
        } else {
            self.unanswered = None;
        }
    }

    /// The process stood still: nobody could have answered.
    pub(super) fn stood_still(&mut self, now: Duration) {
        self.unanswered = self.unanswered.map(|_| now);
    }

    pub(super) fn is_cut_off(&self, now: Duration) -> bool {
        self.unanswered.is_some_and(|since| now.saturating_sub(since) >= CUT_OFF)
    }

    /// HSDirs have answered since this publisher leads, and still do.
    pub(super) fn is_proven(&self, now: Duration) -> bool {
        self.answered && !self.is_cut_off(now)
    }
}

/// Also a refusal comes from the network, if an HSDir says it: tor tells of these two. All else tor says of itself.
fn is_answer(result: &Result<(), String>) -> bool {
    result.as_ref().err().is_none_or(|reason| ["UPLOAD_REJECTED", "UNEXPECTED"].contains(&reason.as_str()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::onion::TimePeriod;

    fn period(hsdirs_accepted: usize) -> PeriodStatus {
        PeriodStatus {
            period: TimePeriod { number: 20_500, length_minutes: 1440 },
            revision_counter: 7,
            introduction_points: 6,
            descriptors: 1,
            hsdirs_accepted,
            hsdirs_total: 8,
            last_published: SystemTime::UNIX_EPOCH,
            authorized_clients: None,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Published at second 0 without any answer.
    fn unanswered() -> Reach {
        let mut reach = Reach::default();
        reach.publishes(&[period(8), period(0)], at(0));
        reach
    }

    #[test]
    fn a_minute_without_any_answer() {
        let mut reach = unanswered();
        assert!(!reach.is_cut_off(at(59)) && !reach.is_proven(at(59)));
        reach.publishes(&[period(8), period(0)], at(59));
        assert!(reach.is_cut_off(at(60)));
        reach.publishes(&[period(8), period(1)], at(61));
        assert!(!reach.is_cut_off(at(1000)), "one of them answered");
        reach.uploaded(&Ok(()));
        reach.publishes(&[period(0)], at(1000));
        assert!(reach.is_proven(at(1059)) && !reach.is_proven(at(1060)), "it did answer once");
    }

    #[test]
    fn nothing_is_due_while_nothing_is_published() {
        let mut reach = Reach::default();
        reach.publishes(&[], at(0));
        assert!(!reach.is_cut_off(at(1000)));
    }

    #[test]
    fn what_comes_from_the_network_and_what_does_not() {
        let refused = |reason: &str| Err(reason.to_owned());
        for (result, is_answer) in [
            (Ok(()), true),
            (refused("UPLOAD_REJECTED"), true),
            (refused("UNEXPECTED"), true),
            (refused("552 Unrecognized server"), false),
            (refused("the order is stale"), false),
        ] {
            let mut reach = unanswered();
            reach.uploaded(&result);
            assert_eq!((reach.is_cut_off(at(60)), reach.is_proven(at(60))), (!is_answer, is_answer), "{result:?}");
        }
        let mut reach = unanswered();
        reach.shown();
        assert!(!reach.is_cut_off(at(60)) && !reach.is_proven(at(60)));
    }

    #[test]
    fn a_pause_of_our_own_and_a_new_lead_begin_the_wait_anew() {
        let mut reach = unanswered();
        reach.stood_still(at(500));
        assert!(!reach.is_cut_off(at(559)) && reach.is_cut_off(at(560)));
        reach.leads();
        assert!(!reach.is_cut_off(at(1000)));
        reach.stood_still(at(1000));
        assert!(!reach.is_cut_off(at(2000)), "nothing was due");
    }
}
