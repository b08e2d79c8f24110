//! Time periods (rend-spec-v3, section 2.2.1). Which period is current is the consensus's matter: see `consensus`.

/// A time period: its number since the epoch, and how long one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimePeriod {
    /// Periods since the Unix epoch, counted from the rotation offset.
    pub number: u64,
    /// Minutes in a period: 1440 on the public network.
    pub length_minutes: u64,
}
