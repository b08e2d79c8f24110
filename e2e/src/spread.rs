//! How fetches spread over the backends, against their shares of the descriptor's points.

use std::collections::BTreeMap;

/// Counts and expectations per backend.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    backends: BTreeMap<String, Tally>,
    failed: usize,
}

/// One backend's.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Its points in the descriptor, when last looked at.
    pub points: u32,
    /// Fetches that it served.
    pub served: u32,
    /// Fetches that it should serve by its points' share.
    pub expected: f64,
    variance: f64,
}

impl Tally {
    /// Three standard deviations of the count.
    pub fn tolerance(&self) -> f64 {
        3.0 * self.variance.sqrt()
    }

    /// Whether the count is within them.
    pub fn is_fair(&self) -> bool {
        (f64::from(self.served) - self.expected).abs() <= self.tolerance()
    }
}

impl Spread {
    /// The next fetch goes out while the descriptor has these points (by backend): a fetch picks one of them, evenly.
    pub fn expect(&mut self, points: &BTreeMap<String, u32>) {
        let all: u32 = points.values().sum();
        for (backend, &points) in points {
            let share = f64::from(points) / f64::from(all.max(1));
            let tally = self.backends.entry(backend.clone()).or_default();
            tally.points = points;
            tally.expected += share;
            tally.variance += share * (1.0 - share);
        }
    }

    /// This backend served it.
    pub fn served(&mut self, backend: &str) {
        self.backends.entry(backend.to_owned()).or_default().served += 1;
    }

    /// It failed.
    pub fn failed(&mut self) {
        self.failed += 1;
    }

    /// How many failed.
    pub fn failures(&self) -> usize {
        self.failed
    }

    /// By backend.
    pub fn backends(&self) -> &BTreeMap<String, Tally> {
        &self.backends
    }

    /// Whether none failed, and each backend's count is within three standard deviations.
    pub fn is_fair(&self) -> bool {
        self.failed == 0 && self.backends.values().all(Tally::is_fair)
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
    fn a_count_is_compared_with_the_points_share() {
        // Binomial with n = 60, p = 2/3: mean 40, standard deviation 3.65.
        let fair = spread(50, 10);
        assert!((fair.backends()["first"].expected - 40.0).abs() < 1e-9);
        assert!((fair.backends()["first"].tolerance() - 10.954).abs() < 1e-3);
        assert!(fair.is_fair());
        assert!(!spread(51, 9).is_fair());
        assert!(!spread(29, 31).is_fair());
    }

    #[test]
    fn a_failure_or_a_stranger_is_not_fair() {
        let mut failed = spread(40, 20);
        failed.failed();
        assert!(!failed.is_fair());
        let mut stranger = spread(40, 20);
        stranger.served("a pod that has no point");
        assert!(!stranger.is_fair());
    }
}
