//! How long the signing kits of a service last.

use std::time::{Duration, SystemTime};

use super::Kits;

const SECONDS_PER_DAY: u64 = 24 * 3600;
/// The remaining time below which the kits expire soon.
const SOON: Duration = Duration::from_secs(14 * SECONDS_PER_DAY);

/// How long the signing kits of a service last, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverage {
    /// The time until which clients can reach the service, or None if no kit covers the present
    /// time period.
    pub until: Option<SystemTime>,
    /// The number of time periods, of the two that should be published now, that no kit covers.
    pub missing: usize,
    /// The number of full days until `until`, or 0.
    pub days_left: u64,
    /// The result of the comparison with the limits.
    pub state: CoverageState,
}

/// Whether the signing kits of a service last long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoverageState {
    /// The kits last for at least 14 days.
    Enough,
    /// The kits end within 14 days.
    Expiring,
    /// A time period that should be published now is not covered.
    Missing,
}

impl Coverage {
    /// Determines the coverage at this time.
    pub fn of(kits: &Kits, now: SystemTime) -> Self {
        let until = kits.covered_until(now);
        let missing = kits.missing(now).len();
        let left = until.and_then(|until| until.duration_since(now).ok()).unwrap_or_default();
        let state = match missing {
            0 if left >= SOON => CoverageState::Enough,
            0 => CoverageState::Expiring,
            _ => CoverageState::Missing,
        };
        Self { until, missing, days_left: left.as_secs() / SECONDS_PER_DAY, state }
    }
}
