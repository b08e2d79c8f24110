//! Measures the pauses during which the process did not run.

use std::time::Duration;

use crate::merge::Now;

/// Returns the time that passed between two readings of the clocks.
///
/// The result is the longer of the times that the two clocks measured, because the monotonic clock
/// stops while the machine is suspended, and the wall clock can be set back.
pub(super) fn length(before: Now, after: Now) -> Duration {
    let wall = after.wall.duration_since(before.wall).unwrap_or_default();
    after.elapsed.saturating_sub(before.elapsed).max(wall)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn at(wall: u64, elapsed: u64) -> Now {
        Now { wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall), elapsed: Duration::from_secs(elapsed) }
    }

    #[test]
    fn the_longer_of_the_two_measured_times_is_returned() {
        assert_eq!(length(at(100, 5), at(101, 6)), Duration::from_secs(1));
        assert_eq!(length(at(100, 5), at(160, 6)), Duration::from_secs(60), "suspended");
        assert_eq!(
            length(at(100, 5), at(101, 40)),
            Duration::from_secs(35),
            "the process was stopped and the wall clock was set back"
        );
        assert_eq!(length(at(100, 5), at(40, 6)), Duration::from_secs(1), "the wall clock was set back");
    }
}
