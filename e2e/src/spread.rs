//! The distribution of fetches over the backends, compared with the backends' shares of the
//! introduction points.

use std::collections::BTreeMap;

/// The actual and expected number of fetches for each backend, and the number of failed fetches.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    backends: BTreeMap<String, BackendCount>,
    failed: usize,
}

/// The number of fetches that one backend served, and the number that it was expected to serve.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BackendCount {
    /// The number of the backend's introduction points in the descriptor when it was last read.
    pub points: u32,
    /// The number of fetches that the backend served.
    pub served: u32,
    /// The number of fetches that the backend should serve according to its share of the
    /// introduction points.
    pub expected: f64,
    variance: f64,
}

impl BackendCount {
    /// Returns the allowed deviation, which is three standard deviations of the count.
    pub fn tolerance(&self) -> f64 {
        3.0 * self.variance.sqrt()
    }

    /// Returns true if the count is within three standard deviations of the expected count.
    pub fn is_fair(&self) -> bool {
        (f64::from(self.served) - self.expected).abs() <= self.tolerance()
    }
}

impl Spread {
    /// Records that a fetch is about to start. `points` maps each backend to the number of its
    /// introduction points in the descriptor. The client picks each point with equal probability.
    pub fn expect(&mut self, points: &BTreeMap<String, u32>) {
        let all: u32 = points.values().sum();
        for (backend, &points) in points {
            let share = f64::from(points) / f64::from(all.max(1));
            let count = self.backends.entry(backend.clone()).or_default();
            count.points = points;
            count.expected += share;
            count.variance += share * (1.0 - share);
        }
    }

    /// Records that a backend served a fetch.
    pub fn served(&mut self, backend: &str) {
        self.backends.entry(backend.to_owned()).or_default().served += 1;
    }

    /// Records a fetch that failed.
    pub fn failed(&mut self) {
        self.failed += 1;
    }

    /// Returns the number of failed fetches.
    pub fn failures(&self) -> usize {
        self.failed
    }

    /// Returns the counts by backend name.
    pub fn backends(&self) -> &BTreeMap<String, BackendCount> {
        &self.backends
    }

    /// Returns true if no fetch failed and each backend's count is within three standard deviations
    /// of its expected count.
    pub fn is_fair(&self) -> bool {
        self.failed == 0 && self.backends.values().all(BackendCount::is_fair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(first: u32, second: u32) -> Spread {
        let points = BTreeMap::from([("first".to_owned(), 6), ("second".to_owned(), 3)]);
        let mut spread = Spread::default();
        for number in 0..first + second {
            spread.expect(&points);
            spread.served(if number < first { "first" } else { "second" });
        }
        spread
    }

    #[test]
    fn a_count_is_fair_within_three_standard_deviations() {
        // Binomial with n = 60, p = 2/3: mean 40, standard deviation 3.65.
        let fair = spread(50, 10);
        assert!((fair.backends()["first"].expected - 40.0).abs() < 1e-9);
        assert!((fair.backends()["first"].tolerance() - 10.954).abs() < 1e-3);
        assert!(fair.is_fair());
        assert!(!spread(51, 9).is_fair());
        assert!(!spread(29, 31).is_fair());
    }

    #[test]
    fn a_failed_fetch_or_an_unknown_backend_is_not_fair() {
        let mut failed = spread(40, 20);
        failed.failed();
        assert!(!failed.is_fair());
        let mut stranger = spread(40, 20);
        stranger.served("a pod that has no point");
        assert!(!stranger.is_fair());
    }
}
