//! Fair timings on a machine that others use too: whoever is compared runs in turn, and the median counts.

use std::cmp::Ordering;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long `work` takes.
pub fn time<T>(work: impl FnOnce() -> T) -> Duration {
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

/// The middle one.
pub fn median<T: Copy + Default + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_unstable_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal));
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Prints `figure <name> <value> <unit>`.
pub fn figure(name: &str, value: f64, unit: &str) {
    println!("figure {name} {value:.3} {unit}");
}

/// Prints a duration in milliseconds.
pub fn figure_ms(name: &str, value: Duration) {
    figure(name, value.as_secs_f64() * 1000.0, "ms");
}
