//! The times at which clients and services of a private network move to another time period. The
//! backends' tors then replace all their introduction points, so requests may take longer or fail.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::torrc::PERIOD_MINUTES;

/// The length of one half of a time period, in seconds. Every half period, either the time period
/// or the shared random value changes, because a period begins half a period after the shared
/// random value that it uses (rend-spec-v3, section 2.2.1).
const HALF_SECONDS: u64 = 30 * PERIOD_MINUTES as u64;
const HALF: Duration = Duration::from_secs(HALF_SECONDS);
/// The time after a change until all clients and services have followed: they learn of it from a
/// later consensus, which tor fetches after 2 to 36 seconds.
pub const LEARNT: Duration = Duration::from_secs(45);

/// Returns the time since the Unix epoch, which determines the network's time period.
#[allow(clippy::disallowed_methods, reason = "periods of the Tor network follow the wall clock")]
pub fn wall_clock() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn phase(now: Duration) -> Duration {
    Duration::from_secs(now.as_secs() % HALF_SECONDS)
}

/// Returns the time that a run must wait before it starts, so that neither clients nor services
/// move to another time period during the run. `now` is the time since the Unix epoch, and `run` is
/// the length of the run. A run that is longer than the quiet time starts at its beginning.
pub fn until_quiet(now: Duration, run: Duration) -> Duration {
    let phase = phase(now);
    let latest = HALF.saturating_sub(run).max(LEARNT);
    if (LEARNT..=latest).contains(&phase) {
        return Duration::ZERO;
    }
    let next = if phase < LEARNT { LEARNT } else { HALF + LEARNT };
    next.saturating_sub(phase)
}

/// Returns true if neither clients nor services moved to another time period during a run. `begun`
/// and `ended` are times since the Unix epoch.
pub fn was_quiet(begun: Duration, ended: Duration) -> bool {
    let phase = phase(begun);
    phase >= LEARNT && phase + ended.saturating_sub(begun) < HALF
}

/// Returns the time since the shared random value changed, when services begin to publish for a
/// new time period. `now` is the time since the Unix epoch.
pub fn since_new_period(now: Duration) -> Duration {
    Duration::from_secs(now.as_secs() % (2 * HALF_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIODS: u64 = 240 * 1000;

    #[test]
    fn a_run_starts_when_no_change_of_the_time_period_is_due() {
        let wait = |phase: u64, run: u64| {
            until_quiet(Duration::from_secs(PERIODS + phase), Duration::from_secs(run)).as_secs()
        };
        assert_eq!([0, 44, 45, 165].map(|phase| wait(phase, 75)), [45, 1, 0, 0]);
        assert_eq!(wait(166, 75), 240 - 166 + 45);
        assert_eq!(wait(45, 900), 0, "a run that is longer than the quiet time starts at its beginning");
        assert_eq!(wait(46, 900), 239);
    }

    #[test]
    fn a_run_is_quiet_if_no_change_of_the_time_period_affected_it() {
        let was_quiet = |begun: u64, ended: u64| {
            was_quiet(Duration::from_secs(PERIODS + begun), Duration::from_secs(PERIODS + ended))
        };
        assert!(was_quiet(45, 239));
        assert!(!was_quiet(44, 100), "some clients do not know the new period yet");
        assert!(!was_quiet(45, 240), "the period changed");
        assert!(!was_quiet(100, 500), "the period changed and became quiet again");
    }
}
