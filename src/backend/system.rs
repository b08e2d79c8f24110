//! The agent's only sources of time of day and randomness.

use std::time::SystemTime;

use rand::{CryptoRng, Rng as _};

#[allow(clippy::disallowed_methods, reason = "the agent is an IO shell; this is its one clock")]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[allow(clippy::disallowed_methods, reason = "the agent is an IO shell; this is its one generator")]
pub fn rng() -> impl CryptoRng {
    rand::rng()
}

pub fn random() -> u64 {
    rng().next_u64()
}
