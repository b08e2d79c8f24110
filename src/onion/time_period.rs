//! Time periods (rend-spec-v3, section 2.2.1). The `consensus` module determines which time period
//! is current.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_MINUTE: u64 = 60;

/// A time period, identified by its number and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimePeriod {
    /// The number of the time period, counted from the Unix epoch plus the rotation offset.
    pub number: u64,
    /// The length of the period in minutes, 1440 on the public network.
    pub length_minutes: u64,
}

/// The times of a network's time periods. Without a consensus, the calendar can only assume that
/// the network keeps its present intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodCalendar {
    /// The length of each period in minutes.
    pub length_minutes: u64,
    /// The rotation offset in minutes, by which period 0 begins after the Unix epoch.
    pub offset_minutes: u64,
}

impl PeriodCalendar {
    /// The calendar of the public network, whose periods begin at 12:00 UTC.
    pub const PUBLIC: Self = Self { length_minutes: 24 * 60, offset_minutes: 12 * 60 };

    /// Returns the calendar of a test network, whose rotation offset is half a period.
    pub fn testing(length_minutes: u64) -> Self {
        Self { length_minutes, offset_minutes: length_minutes / 2 }
    }

    /// Returns the period with this number.
    pub fn period(&self, number: u64) -> TimePeriod {
        TimePeriod { number, length_minutes: self.length_minutes }
    }

    /// Returns the period that contains this time, or None if the time is before period 0.
    pub fn period_at(&self, time: SystemTime) -> Option<TimePeriod> {
        let minutes = time.duration_since(UNIX_EPOCH).ok()?.as_secs() / SECONDS_PER_MINUTE;
        let number = minutes.checked_sub(self.offset_minutes)?.checked_div(self.length_minutes)?;
        Some(self.period(number))
    }

    /// Returns the start of the period with this number, or None if this time is out of range.
    pub fn start(&self, number: u64) -> Option<SystemTime> {
        Self::time(number.checked_mul(self.length_minutes)?.checked_add(self.offset_minutes)?)
    }

    /// Returns the first and the last moment at which a service publishes for the period with this
    /// number. A service publishes for two periods at a time. It changes them when a shared random
    /// value is published, which happens at the multiples of the period's length.
    pub fn publishing_times(&self, number: u64) -> Option<[SystemTime; 2]> {
        let first = number.checked_mul(self.length_minutes)?;
        let last = number.checked_add(2)?.checked_mul(self.length_minutes)?;
        Some([Self::time(first)?, Self::time(last)?])
    }

    /// Returns the two periods for which a service publishes at this time if its consensus is
    /// fresh.
    pub fn published_at(&self, time: SystemTime) -> [Option<TimePeriod>; 2] {
        let minutes = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / SECONDS_PER_MINUTE;
        let newer = minutes.checked_div(self.length_minutes);
        [newer.and_then(|newer| newer.checked_sub(1)), newer].map(|number| number.map(|number| self.period(number)))
    }

    fn time(minutes: u64) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(minutes.checked_mul(SECONDS_PER_MINUTE)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of rend-spec-v3, section 2.2.1: period 16903 begins on 2016-04-12 at 12:00 UTC.
    #[test]
    fn the_public_calendar_matches_the_example_of_the_specification() {
        let noon = UNIX_EPOCH + Duration::from_secs(1_460_462_400);
        let calendar = PeriodCalendar::PUBLIC;
        assert_eq!(calendar.start(16903), Some(noon));
        assert_eq!(calendar.period_at(noon), Some(TimePeriod { number: 16903, length_minutes: 1440 }));
        assert_eq!(calendar.period_at(noon - Duration::from_secs(1)), Some(calendar.period(16902)));
        assert_eq!(calendar.period_at(UNIX_EPOCH), None);
        let half_a_day = Duration::from_secs(12 * 3600);
        assert_eq!(calendar.publishing_times(16903), Some([noon - half_a_day, noon + 3 * half_a_day]));
        let published = |time| calendar.published_at(time).map(|period| period.unwrap().number);
        assert_eq!(published(noon - half_a_day), [16902, 16903]);
        assert_eq!(published(noon + half_a_day - Duration::from_secs(1)), [16902, 16903]);
        assert_eq!(published(noon + half_a_day), [16903, 16904]);
    }

    #[test]
    fn numbers_and_times_out_of_range_are_refused() {
        assert_eq!(PeriodCalendar::PUBLIC.start(u64::MAX), None);
        assert_eq!(PeriodCalendar::PUBLIC.publishing_times(u64::MAX - 1), None);
        assert_eq!(PeriodCalendar { length_minutes: 0, offset_minutes: 0 }.period_at(UNIX_EPOCH), None);
    }
}
