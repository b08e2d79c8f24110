//! The agent's only sources of wall-clock time and randomness.

use std::time::SystemTime;

use rand::{CryptoRng, Rng as _};

/// Returns the current wall-clock time.
#[allow(clippy::disallowed_methods, reason = "the agent is an IO shell; this is its one clock")]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Returns a cryptographic random number generator.
#[allow(clippy::disallowed_methods, reason = "the agent is an IO shell; this is its one generator")]
pub fn rng() -> impl CryptoRng {
    rand::rng()
}

/// Returns a random number.
pub fn random() -> u64 {
    rng().next_u64()
}
