//! The times of a consensus as `GETINFO consensus/…` returns them. These times are enough to
//! determine the time period without reading the whole consensus.

use std::time::SystemTime;

use super::ConsensusError;
use super::document::{Params, time};
use super::schedule::PeriodSchedule;
use super::types::NetworkKind;
use crate::onion::TimePeriod;

/// Parses `YYYY-MM-DD HH:MM:SS` in UTC.
pub fn parse_time(keyword: &'static str, text: &str) -> Result<SystemTime, ConsensusError> {
    time(text.split_ascii_whitespace()).ok_or(ConsensusError::Malformed(keyword))
}

/// Returns the time period that C tor calls a service's current one. On the public network, this
/// function assumes the default of `hsdir_interval`, which has never been changed.
pub fn service_period(
    valid_after: SystemTime,
    fresh_until: SystemTime,
    kind: NetworkKind,
) -> Result<TimePeriod, ConsensusError> {
    Ok(PeriodSchedule::new(valid_after, fresh_until, Params::default().interval, kind)?.older_service_period())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        parse_time("valid-after", text).unwrap()
    }

    /// The example of rend-spec-v3, section 2.2.4, in which a service's period changes together
    /// with the shared random value.
    #[test]
    fn a_services_period_changes_at_midnight_on_the_public_network() {
        for (valid_after, fresh_until, number) in [
            ("2016-04-13 11:00:00", "2016-04-13 12:00:00", 16903),
            ("2016-04-13 12:00:00", "2016-04-13 13:00:00", 16903),
            ("2016-04-13 23:00:00", "2016-04-14 00:00:00", 16903),
            ("2016-04-14 00:00:00", "2016-04-14 01:00:00", 16904),
        ] {
            let period = service_period(at(valid_after), at(fresh_until), NetworkKind::Public).unwrap();
            assert_eq!(period, TimePeriod { number, length_minutes: 1440 }, "{valid_after}");
        }
    }

    #[test]
    fn periods_of_a_testing_network_last_24_voting_rounds() {
        let period = service_period(at("2026-03-04 10:04:00"), at("2026-03-04 10:04:20"), NetworkKind::Testing);
        assert_eq!(period.unwrap().length_minutes, 8);
    }

    #[test]
    fn rejects_malformed_times() {
        for text in ["", "2026-03-04", "2026-03-04T10:04:00", "2026-13-04 10:04:00", "2026-03-04 10:04"] {
            assert_eq!(parse_time("valid-after", text), Err(ConsensusError::Malformed("valid-after")), "{text:?}");
        }
    }
}
