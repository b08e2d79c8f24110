//! Decides whether tor can reach the network, based on the responses of HSDirs.
//!
//! If tor loses the network after it has bootstrapped, it still answers on its control socket and
//! usually reports nothing about its uploads. The publisher infers the loss if, for a minute, no
//! HSDir of a time period has accepted or rejected the newest descriptor and no response at all has
//! arrived. While no upload is due, the loss goes unnoticed.
//!
//! If another publisher with the same key has used a counter that is too great, all HSDirs
//! reject, and the engine rarely tries again. Such a publisher keeps the Lease: no other one
//! would have more success, and it needs the time to notice the foreign publisher.

use std::time::Duration;

use crate::merge::{PeriodStatus, UploadError};

/// How long responses may be overdue before tor is considered cut off. HSDirs respond within
/// seconds, and tor tries to reach each HSDir during most of this time.
const CUT_OFF: Duration = Duration::from_secs(60);

/// The evidence that tor can reach the network.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The monotonic time since which responses have been due but none has arrived.
    unanswered: Option<Duration>,
    /// True if an HSDir has responded since this publisher started to lead.
    answered: bool,
}

impl Reach {
    /// Resets the evidence when this publisher starts to lead, because older responses prove
    /// nothing.
    pub(super) fn leads(&mut self) {
        *self = Self::default();
    }

    /// Records that something was received from the network.
    pub(super) fn shown(&mut self) {
        self.unanswered = None;
    }

    /// Records the result of an upload.
    pub(super) fn uploaded(&mut self, result: &Result<(), UploadError>) {
        if is_answer(result) {
            *self = Self { unanswered: None, answered: true };
        }
    }

    /// Records the progress of publishing while this publisher leads.
    pub(super) fn publishes(&mut self, periods: &[PeriodStatus], now: Duration) {
        let is_silent = |period: &PeriodStatus| period.hsdirs_accepted + period.hsdirs_rejected == 0;
        if periods.iter().any(|period| period.hsdirs_total > 0 && is_silent(period)) {
            self.unanswered.get_or_insert(now);
        } else {
            self.unanswered = None;
        }
    }

    /// Starts the wait for responses again after the process was paused, because no response could
    /// arrive during the pause.
    pub(super) fn stood_still(&mut self, now: Duration) {
        self.unanswered = self.unanswered.map(|_| now);
    }

    /// Returns true if no HSDir has responded for [`CUT_OFF`] although responses were due.
    pub(super) fn is_cut_off(&self, now: Duration) -> bool {
        self.unanswered.is_some_and(|since| now.saturating_sub(since) >= CUT_OFF)
    }

    /// Returns true if tor is not cut off now, and an HSDir has responded since this publisher
    /// started to lead.
    pub(super) fn is_proven(&self, now: Duration) -> bool {
        self.answered && !self.is_cut_off(now)
    }
}

/// Returns true if an HSDir responded to the upload. A rejection is also a response if tor reports
/// that an HSDir sent it. All other failures originate in tor itself.
fn is_answer(result: &Result<(), UploadError>) -> bool {
    matches!(result, Ok(()) | Err(UploadError::Rejected | UploadError::Unexpected))
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
            hsdirs_rejected: 0,
            hsdirs_total: 8,
            last_published: SystemTime::UNIX_EPOCH,
            authorized_clients: None,
            foreign: None,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Returns the evidence of a publisher that published at second 0 and received no response.
    fn unanswered() -> Reach {
        let mut reach = Reach::default();
        reach.publishes(&[period(8), period(0)], at(0));
        reach
    }

    #[test]
    fn a_minute_without_any_answer_means_that_tor_is_cut_off() {
        let mut reach = unanswered();
        assert!(!reach.is_cut_off(at(59)) && !reach.is_proven(at(59)));
        reach.publishes(&[period(8), period(0)], at(59));
        assert!(reach.is_cut_off(at(60)));
        reach.publishes(&[period(8), period(1)], at(61));
        assert!(!reach.is_cut_off(at(1000)), "one HSDir answered");
        reach.uploaded(&Ok(()));
        reach.publishes(&[period(0)], at(1000));
        assert!(reach.is_proven(at(1059)) && !reach.is_proven(at(1060)), "an HSDir answered earlier");
    }

    #[test]
    fn nothing_is_due_while_nothing_is_published() {
        let mut reach = Reach::default();
        reach.publishes(&[], at(0));
        reach.publishes(&[PeriodStatus { hsdirs_total: 0, ..period(0) }], at(0));
        assert!(!reach.is_cut_off(at(1000)));
    }

    #[test]
    fn a_publisher_whose_descriptors_are_rejected_is_not_cut_off() {
        let mut reach = Reach::default();
        reach.uploaded(&Err(UploadError::Rejected));
        reach.publishes(&[period(8), PeriodStatus { hsdirs_rejected: 8, ..period(0) }], at(0));
        assert!(!reach.is_cut_off(at(1000)) && reach.is_proven(at(1000)), "the HSDirs get no upload for half an hour");
    }

    #[test]
    fn only_answers_from_hsdirs_prove_that_the_network_is_reachable() {
        for (result, is_answer) in [
            (Ok(()), true),
            (Err(UploadError::Rejected), true),
            (Err(UploadError::Unexpected), true),
            (Err(UploadError::Other("CANT_CONNECT".to_owned())), false),
            (Err(UploadError::Refused("552 Unrecognized server".to_owned())), false),
            (Err(UploadError::Stale), false),
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
    fn a_pause_and_a_new_lead_restart_the_wait() {
        let mut reach = unanswered();
        reach.stood_still(at(500));
        assert!(!reach.is_cut_off(at(559)) && reach.is_cut_off(at(560)));
        reach.leads();
        assert!(!reach.is_cut_off(at(1000)));
        reach.stood_still(at(1000));
        assert!(!reach.is_cut_off(at(2000)), "nothing was due");
    }
}
