//! The command-line tools `key` and `config`, which only work on local files.

pub mod config;
pub mod key;

use std::error::Error;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

type Failure = Box<dyn Error + Send + Sync>;

/// Returns a random number generator seeded by the operating system.
#[allow(clippy::disallowed_methods, reason = "the only place where the commands create a generator")]
fn generator() -> StdRng {
    StdRng::from_rng(&mut rand::rng())
}
