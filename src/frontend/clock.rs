//! The one place of the publisher that reads the clock and draws randomness.

use std::time::{Duration, Instant, SystemTime};

use rand::Rng as _;

use crate::merge::Now;

/// Reads both clocks; monotonic time counts from its making.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: read().1 }
    }

    pub(super) fn now(self) -> Now {
        let (wall, monotonic) = read();
        Now { wall, elapsed: monotonic.saturating_duration_since(self.start) }
    }
}

#[allow(clippy::disallowed_methods, reason = "the shell reads the clock, here alone")]
fn read() -> (SystemTime, Instant) {
    (SystemTime::now(), Instant::now())
}

/// Bytes of the system's generator: seeds and nonces.
#[allow(clippy::disallowed_methods, reason = "the shell makes the generator, here alone")]
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// How long a process slept between two readings: the longer of what its two clocks say. The monotonic clock stands still
/// while the machine is suspended, the wall clock can be set back.
pub(super) fn gap(before: Now, after: Now) -> Duration {
    let wall = after.wall.duration_since(before.wall).unwrap_or_default();
    after.elapsed.saturating_sub(before.elapsed).max(wall)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: u64, elapsed: u64) -> Now {
        Now { wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall), elapsed: Duration::from_secs(elapsed) }
    }

    #[test]
    fn a_gap_is_what_either_clock_saw() {
        assert_eq!(gap(at(100, 5), at(101, 6)), Duration::from_secs(1));
        assert_eq!(gap(at(100, 5), at(160, 6)), Duration::from_secs(60), "suspended");
        assert_eq!(gap(at(100, 5), at(101, 40)), Duration::from_secs(35), "stopped, and the wall clock set back");
        assert_eq!(gap(at(100, 5), at(40, 6)), Duration::from_secs(1), "set back");
    }
}
