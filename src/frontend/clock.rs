//! Reads the clocks and the random number generator. No other part of the publisher does so.

use std::time::SystemTime;

use rand::Rng as _;
use tokio::time::Instant;

use crate::merge::Now;

/// The two clocks of this process. Monotonic time is measured from [`Clock::start`] with tokio's
/// clock, which tests can pause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts the monotonic clock at zero.
    pub(super) fn start() -> Self {
        Self { start: read().1 }
    }

    /// Reads both clocks.
    pub(super) fn now(self) -> Now {
        let (wall, monotonic) = read();
        Now { wall, elapsed: monotonic.saturating_duration_since(self.start) }
    }
}

#[allow(clippy::disallowed_methods, reason = "the IO shell reads the clocks only here")]
fn read() -> (SystemTime, Instant) {
    (SystemTime::now(), Instant::now())
}

/// Returns random bytes for seeds and nonces.
#[allow(clippy::disallowed_methods, reason = "the IO shell creates the generator only here")]
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
