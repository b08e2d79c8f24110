//! The time limits of a terminating backend. The agent drains within them, and the operator derives
//! the pod's termination grace period from them.

use std::time::Duration;

/// The longest time that the withdrawal of a backend's introduction points may take.
const WITHDRAWAL: Duration = Duration::from_secs(10);
/// The time between the end of the longest drain and SIGKILL. It leaves room for the `/drain`
/// response and tor's own shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Returns the longest time that a drain may take: the withdrawal, then `linger`, during which the
/// backend still accepts new streams, then `timeout`, during which open streams may continue.
pub fn longest_drain(linger: Duration, timeout: Duration) -> Duration {
    WITHDRAWAL + linger + timeout
}

/// Returns the termination grace period of a backend's pod, which covers the longest drain and the
/// shutdown.
pub fn grace_period(linger: Duration, timeout: Duration) -> Duration {
    longest_drain(linger, timeout) + SHUTDOWN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_period_is_15_seconds_longer_than_linger_and_timeout() {
        let (linger, timeout) = (Duration::from_secs(30), Duration::from_secs(120));
        assert_eq!(grace_period(linger, timeout), Duration::from_secs(165));
        assert!(longest_drain(linger, timeout) < grace_period(linger, timeout));
    }
}
