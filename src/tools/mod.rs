//! The commands for people: `key` and `config`. They run beside nothing and end.

pub mod config;
pub mod key;

use std::error::Error;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

type Failure = Box<dyn Error + Send + Sync>;

/// A generator seeded by the system's.
#[allow(clippy::disallowed_methods, reason = "the commands' shell makes the generator, here alone")]
fn generator() -> StdRng {
    StdRng::from_rng(&mut rand::rng())
}
