//! Virtual time, and random times.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// 2026-01-01 00:00:00 UTC in seconds since the Unix epoch, the first day of the simulation.
pub const START: u64 = 1_767_225_600;
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
pub const HOUR: Duration = Duration::from_secs(3600);
/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// Returns a random time between two times.
pub fn between(shortest: Duration, longest: Duration, rng: &mut StdRng) -> Duration {
    shortest + longest.saturating_sub(shortest).mul_f64(rng.random_range(0.0..1.0))
}

/// Returns a random time between two times. Short times are as likely as long ones: the logarithm
/// is uniform.
pub fn log_between(shortest: Duration, longest: Duration, rng: &mut StdRng) -> Duration {
    let ratio = longest.as_secs_f64() / shortest.as_secs_f64();
    shortest.mul_f64(ratio.powf(rng.random_range(0.0..1.0)))
}

/// Returns the random time until the next event of a Poisson process with this average interval.
pub fn poisson(average: Duration, rng: &mut StdRng) -> Duration {
    average.mul_f64(-f64::ln(rng.random_range(1e-9..1.0)))
}

/// Returns true with this probability.
pub fn chance(probability: f64, rng: &mut StdRng) -> bool {
    rng.random_range(0.0..1.0) < probability
}
