//! Samples and bindings to other implementations, shared by the differential tests in `tests/`.
//!
//! [`proptest`] generates the samples with a fixed seed, so that each run tests the same cases.
//! `PROPTEST_RNG_SEED` sets another seed and `PROPTEST_CASES` the number of cases. proptest shrinks
//! and prints a case that fails.

pub mod arti;
pub mod sample;
pub mod stem;

use proptest::test_runner::{Config, RngSeed};

/// Returns proptest's settings with this number of cases and a fixed seed, unless the environment
/// overrides them.
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
