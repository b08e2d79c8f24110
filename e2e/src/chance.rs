//! The limits of tests whose outcome depends on chance. A test that uses these limits fails by
//! chance in fewer than one run in 100,000.

use std::iter::{repeat_n, successors};

/// The probability below which a correct service may fail a test by chance.
pub const FALSE_ALARM: f64 = 1e-5;

/// Returns the number of fetches that reach each of several backends at least once, except with a
/// probability below [`FALSE_ALARM`]. `points` is the number of introduction points of all backends
/// together. Each backend must have at least one of them.
pub fn fetches_to_reach_all(backends: u32, points: u32) -> usize {
    let missed = 1.0 - 1.0 / f64::from(points);
    // The probability that a backend is missed is at most the sum over all backends.
    successors(Some(f64::from(backends)), |sum| Some(sum * missed)).take_while(|sum| *sum >= FALSE_ALARM).count()
}

/// Returns the smallest number of backends that some fetches reach, except with a probability below
/// [`FALSE_ALARM`]. `chances` contains, for each backend, the probability that a fetch reaches it.
pub fn fewest_reached(chances: &[f64], fetches: u32) -> usize {
    // The probability that all backends of a set are missed is at most the product of their
    // probabilities. Therefore, the probability that n or more are missed is at most the sum of
    // these products over all sets of n backends. The sum is the coefficient of x^n in the product
    // of all (1 + probability x).
    let mut sums = vec![1.0];
    for chance in chances {
        let missed = (1.0 - chance).powf(f64::from(fetches));
        sums.push(0.0);
        for size in (1..sums.len()).rev() {
            sums[size] += missed * sums[size - 1];
        }
    }
    let too_many = sums.iter().position(|sum| *sum < FALSE_ALARM).unwrap_or(sums.len());
    sums.len() - too_many
}

/// Returns the largest number of failed fetches that can be explained by a service at which this
/// proportion of all fetches fails. More fetches fail with a probability below [`FALSE_ALARM`].
pub fn most_failures(fetches: usize, proportion: f64) -> usize {
    let counts = counts(repeat_n(proportion, fetches));
    (0..=fetches).find(|most| counts[most + 1..].iter().rev().sum::<f64>() < FALSE_ALARM).unwrap_or(fetches)
}

/// Returns the largest count of events that can be explained if there are `other` events of another
/// kind, and both kinds are equally frequent. A greater count has a probability below
/// [`FALSE_ALARM`] (a sign test).
pub fn most_beside(other: usize) -> usize {
    let mut most = other;
    while heads(most + 1 + other, other) >= FALSE_ALARM {
        most += 1;
    }
    most
}

/// Returns the probability that a fair coin shows heads at most `most` times in some throws.
#[allow(clippy::cast_precision_loss, reason = "the numbers are counts of a few thousand")]
fn heads(throws: usize, most: usize) -> f64 {
    // The probability of a single outcome is too small for a float, but its logarithm is not.
    let none = -(throws as f64) * std::f64::consts::LN_2;
    let more = |ln: f64, heads: usize| ln + ((throws - heads) as f64 / (heads + 1) as f64).ln();
    let exactly = successors(Some((none, 0)), |(ln, heads)| Some((more(*ln, *heads), heads + 1)));
    exactly.take(most + 1).map(|(ln, _)| ln.exp()).sum()
}

/// Returns the probability of each number of successes in independent trials, given the probability
/// of success in each trial.
pub fn counts(trials: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut counts = vec![1.0];
    for success in trials {
        counts.push(0.0);
        for number in (0..counts.len()).rev() {
            let one_less = number.checked_sub(1).map_or(0.0, |number| counts[number]);
            counts[number] = counts[number] * (1.0 - success) + one_less * success;
        }
    }
    counts
}

/// Returns the smallest whole percentage by which the values of the second sample must be reduced
/// until they are no longer larger than those of the first by more than chance explains. The result
/// is 0 unless the second sample is larger.
pub fn percent_larger(first: &[f64], second: &[f64]) -> u32 {
    const MOST: u32 = 1000;
    let is_explained = |percent: &u32| {
        let reduced: Vec<f64> = second.iter().map(|value| value / (1.0 + f64::from(*percent) / 100.0)).collect();
        !is_larger(first, &reduced)
    };
    (0..MOST).find(is_explained).unwrap_or(MOST)
}

/// Returns true if the values of the second sample are larger than those of the first by more than
/// chance explains. This is Mood's median test, which assumes nothing about the distribution: if
/// both samples have the same one, the number of values of the second sample in the upper half of
/// all values follows the hypergeometric distribution.
fn is_larger(first: &[f64], second: &[f64]) -> bool {
    let mut all: Vec<f64> = first.iter().chain(second).copied().collect();
    all.sort_by(f64::total_cmp);
    let Some(median) = all.get(all.len() / 2) else { return false };
    let above = |values: &[f64]| values.iter().filter(|value| *value >= median).count();
    let upper = above(&all);
    at_least(above(second), second.len(), upper, all.len()) < FALSE_ALARM
}

/// Returns the probability that a random sample contains at least `least` marked ones out of `all`
/// items, of which `marked` are marked.
fn at_least(least: usize, sample: usize, marked: usize, all: usize) -> f64 {
    let mut logarithms = vec![0.0];
    for number in successors(Some(1.0), |number| Some(number + 1.0)).take(all) {
        logarithms.push(logarithms.last().copied().unwrap_or_default() + f64::ln(number));
    }
    let choose = |n: usize, k: usize| logarithms[n] - logarithms[k] - logarithms[n - k];
    let possible = least.max((sample + marked).saturating_sub(all))..=sample.min(marked);
    let exactly = |hits: usize| choose(marked, hits) + choose(all - marked, sample - hits) - choose(all, sample);
    possible.map(|hits| exactly(hits).exp()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_close(found: f64, expected: f64) -> bool {
        (found / expected - 1.0).abs() < 1e-9
    }

    fn tail(trials: usize, success: f64, least: usize) -> f64 {
        counts(repeat_n(success, trials))[least..].iter().rev().sum()
    }

    /// The expected values are exact sums of binomial coefficients, computed with the fractions of
    /// Python's standard library and rounded to ten digits. The first one is 56/1024, from the row
    /// 10 of Pascal's triangle.
    #[test]
    fn binomial_tails_have_their_known_values() {
        assert!(is_close(tail(10, 0.5, 8), 56.0 / 1024.0));
        assert!(is_close(tail(60, 1.0 / 3.0, 38), 1.931_644_568e-6));
        assert!(is_close(tail(300, 0.005, 9), 2.549_716_898e-5));
        assert!(is_close(tail(300, 0.005, 10), 3.671_870_649_9e-6));
    }

    /// The expected values are computed by hand: 0.9 · 0.8 · 0.7 = 0.504, and so on.
    #[test]
    fn trials_may_have_different_probabilities() {
        let found = counts([0.1, 0.2, 0.3]);
        assert!(found.iter().zip([0.504, 0.398, 0.092, 0.006]).all(|(found, by_hand)| is_close(*found, by_hand)));
    }

    #[test]
    fn hypergeometric_tails_have_their_known_values() {
        // The probabilities of five hearts, and of at least four, in a hand of five cards.
        assert!((at_least(5, 5, 13, 52) / (1287.0 / 2_598_960.0) - 1.0).abs() < 1e-9);
        assert!((at_least(4, 5, 13, 52) / ((1287.0 + 715.0 * 39.0) / 2_598_960.0) - 1.0).abs() < 1e-9);
        assert!(is_close(at_least(0, 5, 13, 52), 1.0) && is_close(at_least(2, 5, 50, 52), 1.0));
    }

    #[test]
    fn a_sample_is_larger_only_by_what_chance_does_not_explain() {
        // Two interleaved samples from 1 to 2.
        let sample = |count: u32, offset: f64| -> Vec<f64> {
            (0..count).map(|number| 1.0 + (f64::from(number) + offset) / f64::from(count)).collect()
        };
        let (calm, same) = (sample(120, 0.0), sample(180, 0.5));
        assert_eq!((percent_larger(&calm, &same), percent_larger(&same, &calm)), (0, 0));
        let times = |factor: f64| same.iter().map(|value| value * factor).collect::<Vec<_>>();
        assert_eq!(percent_larger(&calm, &times(0.5)), 0, "smaller");
        assert_eq!(percent_larger(&calm, &times(1.08)), 0, "within what chance explains");
        let found = percent_larger(&calm, &times(1.5));
        assert!((22..=30).contains(&found), "{found}");
        assert_eq!((percent_larger(&[], &[]), percent_larger(&[], &same)), (0, 0));
    }

    #[test]
    fn a_failure_rate_within_the_limit_passes_and_one_of_7_percent_is_caught() {
        assert_eq!(most_failures(300, 0.005), 9);
        assert!(tail(300, 0.005, 10) < FALSE_ALARM);
        assert!(tail(300, 0.005, 9) >= FALSE_ALARM);
        assert!(tail(300, 0.07, 10) > 0.99);
        assert_eq!(most_failures(300, 0.0), 0);
        assert_eq!(most_failures(10, 1.0), 10);
    }

    /// The expected values are exact sums of binomial coefficients, computed with the fractions of
    /// Python's standard library. Most tails of the last one are too small for a float.
    #[test]
    fn a_count_may_exceed_an_equally_frequent_one_by_what_chance_explains() {
        assert_eq!([0, 1, 17, 219, 684].map(most_beside), [16, 20, 52, 318, 851]);
        assert!(is_close(heads(10, 2), 56.0 / 1024.0));
        assert!(is_close(heads(70, 17), 9.599_846_200_160_714e-6));
    }

    /// Returns the probability that `fetches` miss at least `least` of several equally likely
    /// backends. This is the classical occupancy problem (Feller, An Introduction to Probability
    /// Theory and Its Applications, volume 1, section IV.2).
    fn misses(backends: u32, fetches: i32, least: u32) -> f64 {
        let choose = |n: u32, k: u32| (0..k).map(|i| f64::from(n - i) / f64::from(k - i)).product::<f64>();
        let exactly = |missed: u32| {
            let left = backends - missed;
            let terms = (0..=left).map(|empty| {
                let sign = if empty % 2 == 0 { 1.0 } else { -1.0 };
                sign * choose(left, empty) * (f64::from(left - empty) / f64::from(backends)).powi(fetches)
            });
            choose(backends, missed) * terms.sum::<f64>()
        };
        (least..=backends.min(least + 20)).map(exactly).sum()
    }

    /// The expected values of the occupancy problem are a die's: ten throws show all six faces with
    /// probability 0.27181 (16,435,440 of the 60,466,176 sequences).
    #[test]
    fn enough_fetches_reach_all_backends() {
        assert!(is_close(misses(6, 10, 1), 1.0 - 16_435_440.0 / 60_466_176.0));
        for (backends, points) in [(2, 2), (3, 3), (3, 9), (5, 15)] {
            let fetches = i32::try_from(fetches_to_reach_all(backends, points)).unwrap();
            let missed = |fetches| f64::from(backends) * (1.0 - 1.0 / f64::from(points)).powi(fetches);
            assert!(missed(fetches) < FALSE_ALARM && missed(fetches - 1) >= FALSE_ALARM, "{fetches}");
        }
        let fetches = fetches_to_reach_all(3, 3);
        assert!(misses(3, i32::try_from(fetches).unwrap(), 1) < FALSE_ALARM, "{fetches}");
        assert_eq!((fetches_to_reach_all(2, 6), fetches_to_reach_all(3, 9)), (67, 108));
    }

    #[test]
    fn missing_six_of_sixty_backends_is_no_accident() {
        let equal = [1.0 / 60.0; 60];
        assert_eq!(fewest_reached(&equal, 300), 55);
        // The bound is a little higher than the exact probability, so it is on the safe side.
        assert!((misses(60, 300, 6) / 7.904_567_023e-7 - 1.0).abs() < 1e-4);
        assert!(misses(60, 300, 6) < FALSE_ALARM);
        // Six backends that no fetch reaches are always caught.
        assert!(60 - 6 < fewest_reached(&equal, 300));
        // With fewer fetches, or with backends that are less likely, fewer backends are reached.
        assert!(fewest_reached(&equal, 200) < 55);
        let unequal: Vec<f64> = [1.0 / 120.0; 30].into_iter().chain([1.0 / 40.0; 30]).collect();
        assert!(fewest_reached(&unequal, 300) < 55);
        assert_eq!((fewest_reached(&equal, 0), fewest_reached(&equal, 100_000)), (0, 60));
    }
}
