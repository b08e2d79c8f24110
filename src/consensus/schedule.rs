//! Time periods and runs of the shared random protocol (rend-spec-v3, sections 2.2.1 and 2.2.4;
//! srv-spec, section 3).
//!
//! ```text
//! 00:00      12:00      00:00      12:00      00:00      public network, UTC
//! SRV#1      TP#1       SRV#2      TP#2       SRV#3
//!  |----------|==========|----------|==========|
//!             ==== from the start of a period to the next shared random value
//! ```
//!
//! A run of the shared random protocol has 24 voting rounds and ends with a new value. A time
//! period begins 12 rounds after a run does. All times are computed from the consensus's
//! `valid-after`, so two parties with the same consensus agree even if their clocks differ.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::ConsensusError;
use super::types::NetworkKind;
use crate::onion::TimePeriod;

/// The number of voting rounds in each of the two phases (commit and reveal) of the shared random
/// protocol.
const PHASE_ROUNDS: u64 = 12;
/// The number of voting rounds in a run of the shared random protocol.
const RUN_ROUNDS: u64 = 2 * PHASE_ROUNDS;

/// The time period and the run of the shared random protocol to which a consensus belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeriodSchedule {
    /// The time period of the consensus. It always has a predecessor.
    pub(super) period: TimePeriod,
    /// True if the time period began after the current shared random value was published.
    pub(super) between_period_and_srv: bool,
    /// The time at which the previous shared random value was published and the previous run began.
    pub(super) previous_srv_start: SystemTime,
    /// The time at which the current shared random value was published and the current run began.
    pub(super) current_srv_start: SystemTime,
}

impl PeriodSchedule {
    /// Computes the schedule of a consensus. `hsdir_interval` is the consensus parameter, in
    /// minutes.
    pub(super) fn new(
        valid_after: SystemTime,
        fresh_until: SystemTime,
        hsdir_interval: u64,
        kind: NetworkKind,
    ) -> Result<Self, ConsensusError> {
        let (valid_after, fresh_until) = (unix_seconds(valid_after)?, unix_seconds(fresh_until)?);
        let round = fresh_until.checked_sub(valid_after).filter(|&round| round > 0).ok_or(ConsensusError::Schedule)?;
        let times = Self::compute(valid_after, round, hsdir_interval, kind);
        times.ok_or(ConsensusError::Schedule)
    }

    /// Returns the first of the two periods that a service publishes for, the one that C tor calls
    /// current. It changes when a shared random value is published, not when the time period itself
    /// changes (rend-spec-v3, section 2.2.4).
    pub(super) fn older_service_period(&self) -> TimePeriod {
        let number = self.period.number - u64::from(self.between_period_and_srv);
        TimePeriod { number, ..self.period }
    }

    fn compute(valid_after: u64, round: u64, hsdir_interval: u64, kind: NetworkKind) -> Option<Self> {
        let phase = round.checked_mul(PHASE_ROUNDS)?;
        let run = round.checked_mul(RUN_ROUNDS)?;
        let length_minutes = match kind {
            NetworkKind::Public => hsdir_interval,
            NetworkKind::Testing => run / 60,
        };
        let period_number = |time: u64| (time / 60).checked_sub(phase / 60)?.checked_div(length_minutes);

        let run_start = valid_after - valid_after / round % RUN_ROUNDS * round;
        let next_period = period_number(run_start)?.checked_add(1)?;
        let next_period_start = next_period.checked_mul(length_minutes)?.checked_mul(60)?.checked_add(phase)?;

        let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let number = period_number(valid_after).filter(|&number| number > 0)?;
        Some(Self {
            period: TimePeriod { number, length_minutes },
            between_period_and_srv: valid_after >= next_period_start,
            previous_srv_start: time(run_start.checked_sub(run)?)?,
            current_srv_start: time(run_start)?,
        })
    }
}

fn unix_seconds(time: SystemTime) -> Result<u64, ConsensusError> {
    Ok(time.duration_since(UNIX_EPOCH).map_err(|_| ConsensusError::Schedule)?.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(time: &str) -> SystemTime {
        time.parse::<jiff::Timestamp>().unwrap().into()
    }

    fn schedule(valid_after: &str, round: u64, kind: NetworkKind) -> PeriodSchedule {
        let valid_after = at(valid_after);
        PeriodSchedule::new(valid_after, valid_after + Duration::from_secs(round), 1440, kind).unwrap()
    }

    /// The example of rend-spec-v3, section 2.2.1, which C tor also uses in `test_time_period` of
    /// `test_hs_common.c`.
    #[test]
    fn time_period_16903_begins_on_2016_04_13_at_12_00() {
        for (time, number) in [
            ("2016-04-13T11:00:00Z", 16903),
            ("2016-04-13T11:59:59Z", 16903),
            ("2016-04-13T12:00:00Z", 16904),
            ("2016-04-14T11:59:00Z", 16904),
            ("2016-04-14T12:00:00Z", 16905),
        ] {
            let period = schedule(time, 3600, NetworkKind::Public).period;
            assert_eq!(period, TimePeriod { number, length_minutes: 1440 }, "{time}");
        }
    }

    /// The times of `test_time_between_tp_and_srv` in C tor's `test_hs_common.c`.
    #[test]
    fn matches_c_tor_between_a_period_and_the_next_shared_random_value() {
        for (time, between) in [
            ("1985-10-26T00:00:00Z", false),
            ("1985-10-26T11:00:00Z", false),
            ("1985-10-26T12:00:00Z", true),
            ("1985-10-26T23:00:00Z", true),
            ("1985-10-27T00:00:00Z", false),
        ] {
            assert_eq!(schedule(time, 3600, NetworkKind::Public).between_period_and_srv, between, "{time}");
        }
    }

    #[test]
    fn runs_begin_at_midnight_on_the_public_network() {
        for time in ["2026-03-04T00:00:00Z", "2026-03-04T12:00:00Z", "2026-03-04T23:00:00Z"] {
            let schedule = schedule(time, 3600, NetworkKind::Public);
            assert_eq!(schedule.current_srv_start, at("2026-03-04T00:00:00Z"), "{time}");
            assert_eq!(schedule.previous_srv_start, at("2026-03-03T00:00:00Z"), "{time}");
        }
    }

    #[test]
    fn testing_networks_derive_all_times_from_the_voting_interval() {
        let schedule = schedule("2026-03-04T10:04:00Z", 20, NetworkKind::Testing);
        assert_eq!(schedule.period.length_minutes, 8);
        assert_eq!(schedule.current_srv_start, at("2026-03-04T10:00:00Z"));
        assert_eq!(schedule.previous_srv_start, at("2026-03-04T09:52:00Z"));
        assert!(schedule.between_period_and_srv);
    }

    #[test]
    fn rejects_times_that_allow_no_schedule() {
        let day = Duration::from_secs(86400);
        for (valid_after, fresh_until, kind) in [
            (UNIX_EPOCH, UNIX_EPOCH + day, NetworkKind::Public),
            (UNIX_EPOCH - day, UNIX_EPOCH + day, NetworkKind::Public),
            (UNIX_EPOCH + day * 9, UNIX_EPOCH + day * 9, NetworkKind::Public),
            (UNIX_EPOCH + day * 9, UNIX_EPOCH + day * 8, NetworkKind::Public),
            // In the last case, a run takes less than a minute.
            (UNIX_EPOCH + day * 9, UNIX_EPOCH + day * 9 + Duration::from_secs(2), NetworkKind::Testing),
        ] {
            assert_eq!(PeriodSchedule::new(valid_after, fresh_until, 1440, kind), Err(ConsensusError::Schedule));
        }
    }

    proptest! {
        #[test]
        fn no_combination_of_times_panics(
            valid_after: u64, round in 1..u64::MAX, interval in 30..14400_u64, testing: bool,
        ) {
            let kind = if testing { NetworkKind::Testing } else { NetworkKind::Public };
            let _ = PeriodSchedule::compute(valid_after, round, interval, kind);
        }
    }
}
