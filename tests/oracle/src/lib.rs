//! What the differential tests in `tests/` share: our samples, and the ways to the other implementations.
//!
//! Samples come from [`proptest`] with a fixed seed: each run tests the same. `PROPTEST_RNG_SEED` sets another,
//! `PROPTEST_CASES` how many there are; what fails is made smaller and printed.

pub mod arti;
pub mod sample;
pub mod stem;

use proptest::test_runner::{Config, RngSeed};

/// A test's settings: so many cases, unless the environment says otherwise.
pub fn config(cases: u32) -> Config {
    let default = Config::default();
    let seeded = matches!(default.rng_seed, RngSeed::Fixed(_));
    Config {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases },
        rng_seed: if seeded { default.rng_seed } else { RngSeed::Fixed(1) },
        failure_persistence: None,
        ..default
    }
}
