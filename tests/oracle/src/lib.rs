//! Sample generators and bindings to other implementations, shared by the differential tests in
//! `tests/`.
//!
//! [`proptest`] generates the samples from a fixed seed, so that each run tests the same cases.
//! `PROPTEST_RNG_SEED` sets a different seed, and `PROPTEST_CASES` sets the number of cases.
//! proptest shrinks and prints failing cases.

pub mod arti;
pub mod sample;
pub mod stem;

use proptest::test_runner::{Config, RngSeed};

/// Returns a proptest configuration with a fixed seed and the given number of cases, unless the
/// environment overrides them.
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
