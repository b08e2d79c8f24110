//! Reads the clocks and the random number generator. No other part of the publisher does so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rand::Rng as _;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::merge::Now;

/// The longest time for which the machine is known to have been suspended since its start, in
/// milliseconds. Keeping the longest ensures that monotonic time never runs backwards.
static SUSPENDED: AtomicU64 = AtomicU64::new(0);

/// The two clocks of this process. Monotonic time is measured from [`Clock::start`] with tokio's
/// clock, which tests can pause. While the machine is suspended, tokio's clock stands still, so
/// this time is added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    suspended: Duration,
}

impl Clock {
    /// Starts the monotonic clock at zero.
    pub(super) fn start() -> Self {
        Self { suspended: suspended(), start: read().1 }
    }

    /// Reads both clocks.
    pub(super) fn now(self) -> Now {
        let (wall, monotonic) = read();
        let suspended = suspended().saturating_sub(self.suspended);
        Now { wall, elapsed: monotonic.saturating_duration_since(self.start).saturating_add(suspended) }
    }
}

#[allow(clippy::disallowed_methods, reason = "the IO shell reads the clocks only here")]
fn read() -> (SystemTime, Instant) {
    (SystemTime::now(), Instant::now())
}

/// Returns the time for which the machine has been suspended since its start. Unlike a step of the
/// wall clock, a suspension is a pause of this process.
fn suspended() -> Duration {
    let since_start = uptime(ClockId::Boottime);
    // The monotonic clock is read later, so that the difference is never too long.
    let awake = uptime(ClockId::Monotonic);
    let milliseconds = u64::try_from(since_start.saturating_sub(awake).as_millis()).unwrap_or_default();
    Duration::from_millis(SUSPENDED.fetch_max(milliseconds, Ordering::Relaxed).max(milliseconds))
}

fn uptime(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// Returns random bytes for seeds and nonces.
#[allow(clippy::disallowed_methods, reason = "the IO shell creates the generator only here")]
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
