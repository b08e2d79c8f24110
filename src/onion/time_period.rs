//! Time periods (rend-spec-v3, section 2.2.1). The `consensus` module determines which time period
//! is current.

/// A time period, identified by its number and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimePeriod {
    /// The number of the time period, counted from the Unix epoch plus the rotation offset.
    pub number: u64,
    /// The length of the period in minutes, 1440 on the public network.
    pub length_minutes: u64,
}
