//! Who leads: a pure function of what was seen of the Lease, and when.
//!
//! As client-go's leader election does it, a Lease has expired when it was *not seen to change* for as long as its holder
//! promised to renew it in, by our own clock: the times that a holder writes into it are compared with each other only.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;

use super::Fitness;

/// How long a holder's silence is waited out.
pub(super) const DURATION: Duration = Duration::from_secs(15);

/// What a Lease says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Empty when it was released.
    pub(super) holder: String,
    pub(super) renewed: Option<Timestamp>,
    /// How long the holder's silence is to be waited out.
    pub(super) duration: Duration,
}

impl Record {
    pub(super) fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
            renewed: spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0),
            duration: seconds.map_or(DURATION, Duration::from_secs),
        }
    }
}

/// What to do about the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's, or its holder fell silent: take it.
    Acquire,
    /// It is another's.
    StandBy,
}

impl Decision {
    /// A publisher of this fitness leaves it to a fitter one, where there is one.
    pub(super) fn is_for_the_fit(self, fitness: Fitness) -> bool {
        match self {
            Self::Renew => fitness == Fitness::Unfit,
            Self::Acquire => fitness != Fitness::Fit,
            Self::StandBy => false,
        }
    }
}

/// One candidate's view.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    /// Another holder's record, and when (monotonic clock) it was first seen so.
    seen: Option<(Record, Duration)>,
}

impl Election {
    pub(super) fn new(identity: String) -> Self {
        Self { identity, seen: None }
    }

    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Takes in what was just read (None: there is no Lease).
    pub(super) fn decide(&mut self, record: Option<Record>, elapsed: Duration) -> Decision {
        let Some(record) = record.filter(|record| !record.holder.is_empty()) else {
            self.seen = None;
            return Decision::Acquire;
        };
        if record.holder == self.identity {
            self.seen = None;
            return Decision::Renew;
        }
        match &self.seen {
            Some((known, since)) if *known == record => {
                if elapsed.saturating_sub(*since) > record.duration {
                    Decision::Acquire
                } else {
                    Decision::StandBy
                }
            }
            _ => {
                self.seen = Some((record, elapsed));
                Decision::StandBy
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &str = "web-frontend-a_1";

    fn held_by(holder: &str, renewed: i64) -> Record {
        let renewed = Some(Timestamp::from_second(renewed).unwrap());
        Record { holder: holder.into(), renewed, duration: DURATION }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_free_lease_is_taken_at_once() {
        let mut election = Election::new(US.into());
        assert_eq!(election.decide(None, at(0)), Decision::Acquire);
        assert_eq!(election.decide(Some(held_by("", 5)), at(0)), Decision::Acquire, "released");
    }

    #[test]
    fn who_has_no_tor_leaves_a_free_lease_at_once_and_its_own_in_time() {
        use Decision::{Acquire, Renew, StandBy};
        let left = |fitness| [Renew, Acquire, StandBy].map(|decision: Decision| decision.is_for_the_fit(fitness));
        assert_eq!(left(Fitness::Fit), [false, false, false]);
        assert_eq!(left(Fitness::Waiting), [false, true, false]);
        assert_eq!(left(Fitness::Unfit), [true, true, false]);
    }

    #[test]
    fn ours_is_renewed_however_old() {
        let mut election = Election::new(US.into());
        assert_eq!(election.decide(Some(held_by(US, 5)), at(0)), Decision::Renew);
        assert_eq!(election.decide(Some(held_by(US, 5)), at(1000)), Decision::Renew);
    }

    #[test]
    fn anothers_is_left_alone_while_it_is_renewed_whatever_its_clock_says() {
        let mut election = Election::new(US.into());
        for (seconds, remote) in [(0, 500), (10, 400), (20, 4_000_000), (30, 1)] {
            assert_eq!(election.decide(Some(held_by("b", remote)), at(seconds)), Decision::StandBy);
        }
    }

    #[test]
    fn a_silent_holder_is_waited_out_from_our_first_sight_of_its_last_word() {
        let mut election = Election::new(US.into());
        assert_eq!(election.decide(Some(held_by("b", 0)), at(100)), Decision::StandBy);
        assert_eq!(election.decide(Some(held_by("b", 0)), at(115)), Decision::StandBy);
        assert_eq!(
            election.decide(Some(held_by("b", 1)), at(116)),
            Decision::StandBy,
            "it spoke: the wait starts anew"
        );
        assert_eq!(election.decide(Some(held_by("b", 1)), at(131)), Decision::StandBy);
        assert_eq!(election.decide(Some(held_by("b", 1)), at(132)), Decision::Acquire);
    }

    #[test]
    fn a_new_holder_is_waited_out_anew() {
        let mut election = Election::new(US.into());
        election.decide(Some(held_by("b", 0)), at(0));
        assert_eq!(election.decide(Some(held_by("c", 0)), at(60)), Decision::StandBy);
    }

    #[test]
    fn a_lost_lease_is_not_taken_back_without_waiting() {
        let mut election = Election::new(US.into());
        assert_eq!(election.decide(Some(held_by("b", 7)), at(0)), Decision::StandBy);
        assert_eq!(election.decide(Some(held_by(US, 8)), at(20)), Decision::Renew);
        assert_eq!(election.decide(Some(held_by("b", 7)), at(40)), Decision::StandBy);
    }

    #[test]
    fn the_holder_says_how_long_it_may_be_silent() {
        let mut election = Election::new(US.into());
        let long = |renewed| Some(Record { duration: at(60), ..held_by("b", renewed) });
        election.decide(long(0), at(0));
        assert_eq!(election.decide(long(0), at(59)), Decision::StandBy);
        assert_eq!(election.decide(long(0), at(61)), Decision::Acquire);
    }
}
