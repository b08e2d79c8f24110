//! Timing on a shared machine. For a fair comparison, the contenders alternate, and the median of
//! the rounds is reported.

use std::cmp::Ordering;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Runs `work` and returns the time that `work` took.
pub fn time<T>(work: impl FnOnce() -> T) -> Duration {
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

/// Returns the median, or the default value if there are no values.
pub fn median<T: Copy + Default + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_unstable_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal));
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Prints the line `figure <name> <value> <unit>`.
pub fn figure(name: &str, value: f64, unit: &str) {
    println!("figure {name} {value:.3} {unit}");
}

/// Prints a figure line with a duration in milliseconds.
pub fn figure_ms(name: &str, value: Duration) {
    figure(name, value.as_secs_f64() * 1000.0, "ms");
}
