//! Measures the pauses during which the process did not run, and the steps of the wall clock.

use std::time::Duration;

use crate::merge::Now;

/// Returns the time that passed between two readings of the clocks. The time during which the
/// machine was suspended counts; a step of the wall clock does not.
pub(super) fn length(before: Now, after: Now) -> Duration {
    after.elapsed.saturating_sub(before.elapsed)
}

/// Returns how far the wall clock was set forward or back between two readings of the clocks.
pub(super) fn step(before: Now, after: Now) -> Duration {
    let passed = length(before, after);
    match after.wall.duration_since(before.wall) {
        Ok(forward) => forward.abs_diff(passed),
        Err(back) => back.duration().saturating_add(passed),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn at(wall: u64, elapsed: u64) -> Now {
        Now { wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall), elapsed: Duration::from_secs(elapsed) }
    }

    #[test]
    fn a_step_of_the_wall_clock_is_no_pause() {
        for (wall, elapsed, pause, step) in
            [(101, 6, 1, 0), (135, 40, 35, 0), (160, 6, 1, 59), (40, 6, 1, 61), (101, 40, 35, 34)]
        {
            let (before, after) = (at(100, 5), at(wall, elapsed));
            let measured = (length(before, after), super::step(before, after));
            assert_eq!(measured, (Duration::from_secs(pause), Duration::from_secs(step)), "{wall} {elapsed}");
        }
    }
}
