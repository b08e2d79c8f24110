//! Leader election with a Lease, for publishers and operators. The decision is a pure function of
//! the observed records and the times at which they were observed.
//!
//! A Lease has expired if the candidate has not *observed a change* for the Lease's duration,
//! measured with its own clock. The times that a holder writes are compared only with each other,
//! never with the candidate's clock. client-go's leader election works the same way.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

/// The lease duration: a candidate takes over a Lease that its holder has not renewed for this
/// time.
pub const DURATION: Duration = Duration::from_secs(15);

/// The holder's record in a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The holder's identity, or an empty string if the Lease was released.
    pub holder: String,
    /// The time of the last renewal, by the holder's own clock.
    pub renewed: Option<Timestamp>,
    /// The time without a renewal after which other candidates may take over the Lease.
    pub duration: Duration,
}

impl Record {
    /// Reads the record of a Lease. The duration defaults to [`DURATION`].
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

/// A candidate's next action on the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Renew the Lease, which this candidate holds.
    Renew,
    /// Acquire the Lease, which is free or expired.
    Acquire,
    /// Wait, because another candidate holds the Lease.
    StandBy,
}

/// The state of a leader election as one candidate observes it.
#[derive(Debug)]
pub struct Election {
    identity: String,
    /// The record of another holder, and the time (monotonic clock) at which it was first observed.
    seen: Option<(Record, Duration)>,
}

impl Election {
    /// Creates the election state of the candidate with this identity.
    pub fn new(identity: String) -> Self {
        Self { identity, seen: None }
    }

    /// Returns the candidate's identity.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Decides on the candidate's next action. `record` is the record that was just read, or None
    /// if the Lease does not exist, and `elapsed` is the monotonic time.
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

    /// Records the candidate as the holder in the spec of a Lease that it acquires or renews.
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

/// Releases a Lease, so that the next candidate does not have to wait.
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
    fn a_free_lease_is_acquired_at_once() {
        let mut election = Election::new(US.into());
        assert_eq!(election.decide(None, at(0)), Decision::Acquire);
        assert_eq!(election.decide(Some(held_by("", 5)), at(0)), Decision::Acquire, "released");
    }

    #[test]
    fn a_claimed_lease_is_read_back_and_a_vacated_one_is_free() {
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
    fn the_candidates_own_lease_is_renewed_at_any_age() {
        let mut election = Election::new(US.into());
        assert_eq!(election.decide(Some(held_by(US, 5)), at(0)), Decision::Renew);
        assert_eq!(election.decide(Some(held_by(US, 5)), at(1000)), Decision::Renew);
    }

    #[test]
    fn a_lease_that_another_candidate_renews_is_left_alone_regardless_of_its_clock() {
        let mut election = Election::new(US.into());
        for (seconds, remote) in [(0, 500), (10, 400), (20, 4_000_000), (30, 1)] {
            assert_eq!(election.decide(Some(held_by("b", remote)), at(seconds)), Decision::StandBy);
        }
    }

    #[test]
    fn a_silent_holders_lease_expires_after_the_duration_since_the_last_observed_change() {
        let mut election = Election::new(US.into());
        assert_eq!(election.decide(Some(held_by("b", 0)), at(100)), Decision::StandBy);
        assert_eq!(election.decide(Some(held_by("b", 0)), at(115)), Decision::StandBy);
        assert_eq!(election.decide(Some(held_by("b", 1)), at(116)), Decision::StandBy, "a renewal restarts the wait");
        assert_eq!(election.decide(Some(held_by("b", 1)), at(131)), Decision::StandBy);
        assert_eq!(election.decide(Some(held_by("b", 1)), at(132)), Decision::Acquire);
    }

    #[test]
    fn a_new_holder_restarts_the_wait() {
        let mut election = Election::new(US.into());
        election.decide(Some(held_by("b", 0)), at(0));
        assert_eq!(election.decide(Some(held_by("c", 0)), at(60)), Decision::StandBy);
    }

    #[test]
    fn a_lost_lease_is_not_acquired_again_without_waiting() {
        let mut election = Election::new(US.into());
        assert_eq!(election.decide(Some(held_by("b", 7)), at(0)), Decision::StandBy);
        assert_eq!(election.decide(Some(held_by(US, 8)), at(20)), Decision::Renew);
        assert_eq!(election.decide(Some(held_by("b", 7)), at(40)), Decision::StandBy);
    }

    #[test]
    fn the_duration_in_the_lease_determines_the_wait() {
        let mut election = Election::new(US.into());
        let long = |renewed| Some(Record { duration: at(60), ..held_by("b", renewed) });
        election.decide(long(0), at(0));
        assert_eq!(election.decide(long(0), at(59)), Decision::StandBy);
        assert_eq!(election.decide(long(0), at(61)), Decision::Acquire);
    }
}
