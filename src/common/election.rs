//! Who leads, by a Lease: a pure function of what was seen of it, and when. Publishers elect so, and operators.
//!
//! As client-go's leader election does it, a Lease has expired when it was *not seen to change* for as long as its holder
//! promised to renew it in, by our own clock: the times that a holder writes into it are compared with each other only.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

/// How long a holder's silence is waited out.
pub const DURATION: Duration = Duration::from_secs(15);

/// What a Lease says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Empty when it was released.
    pub holder: String,
    /// By its own clock.
    pub renewed: Option<Timestamp>,
    /// How long the holder's silence is to be waited out.
    pub duration: Duration,
}

impl Record {
    /// What this Lease says.
    pub fn of(lease: &Lease) -> Self {
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
pub enum Decision {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's, or its holder fell silent: take it.
    Acquire,
    /// It is another's.
    StandBy,
}

/// One candidate's view.
#[derive(Debug)]
pub struct Election {
    identity: String,
    /// Another holder's record, and when (monotonic clock) it was first seen so.
    seen: Option<(Record, Duration)>,
}

impl Election {
    /// Of the candidate of this name.
    pub fn new(identity: String) -> Self {
        Self { identity, seen: None }
    }

    /// Its name.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Takes in what was just read (None: there is no Lease).
    pub fn decide(&mut self, record: Option<Record>, elapsed: Duration) -> Decision {
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

    /// Writes the candidate into a Lease that it takes or renews.
    pub fn claim(&self, spec: &mut LeaseSpec, decision: Decision, now: Timestamp) {
        let now = Some(MicroTime(now));
        if decision == Decision::Acquire {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.acquire_time.clone_from(&now);
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = now;
    }
}

/// Gives a Lease back: the next candidate need not wait.
pub fn vacate(spec: &mut LeaseSpec, now: Timestamp) {
    spec.holder_identity = Some(String::new());
    spec.renew_time = Some(MicroTime(now));
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
    fn what_is_written_is_what_is_read() {
        let election = Election::new(US.into());
        let now = Timestamp::from_second(7).unwrap();
        let mut lease = Lease::default();
        let spec = lease.spec.get_or_insert_default();
        election.claim(spec, Decision::Acquire, now);
        assert_eq!((spec.lease_transitions, spec.acquire_time.clone()), (Some(0), Some(MicroTime(now))));
        election.claim(spec, Decision::Renew, Timestamp::from_second(9).unwrap());
        assert_eq!((spec.lease_transitions, spec.acquire_time.clone()), (Some(0), Some(MicroTime(now))));
        assert_eq!(Record::of(&lease), held_by(US, 9));
        vacate(lease.spec.get_or_insert_default(), now);
        assert_eq!(Election::new("b".into()).decide(Some(Record::of(&lease)), at(0)), Decision::Acquire);
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
