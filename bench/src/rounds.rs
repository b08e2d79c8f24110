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

/// Returns the median of the rounds' ratios of `one` to `other`. The load of the machine affects
/// both halves of a round, so this median varies less than the ratio of the two medians.
pub fn median_ratio<T: Copy>(one: &[T], other: &[T], ratio: impl Fn(T, T) -> f64) -> f64 {
    median(one.iter().zip(other).map(|(one, other)| ratio(*one, *other)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ratio_compares_values_of_the_same_round() {
        // The machine is ten times slower in the second round.
        let (ours, theirs) = ([1.0, 10.0, 1.2], [2.0, 20.0, 2.0]);
        assert!((median_ratio(&ours, &theirs, std::ops::Div::div) - 0.5).abs() < 1e-9);
        assert!((median(ours.to_vec()) - 1.2_f64).abs() < 1e-9);
    }
}
