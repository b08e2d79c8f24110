//! A histogram of times, for a metrics page.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, from a comparison without any request to several requests that
/// time out.
const BOUNDS: [Duration; 12] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// The times that were observed, counted by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The number of times in each bucket that are in no earlier bucket.
    buckets: [AtomicU64; BOUNDS.len()],
    /// The number of times above the last bound.
    longer: AtomicU64,
    /// The sum of all times in microseconds.
    microseconds: AtomicU64,
}

/// The content of a [`Histogram`] at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    /// The number of times up to each bound, including the bound itself.
    pub up_to: Vec<(Duration, u64)>,
    /// The number of all times.
    pub all: u64,
    /// The sum of all times.
    pub sum: Duration,
}

impl Histogram {
    /// Adds a time.
    pub fn observe(&self, time: Duration) {
        let found = BOUNDS.iter().zip(&self.buckets).find(|(bound, _)| time <= **bound);
        found.map_or(&self.longer, |(_, bucket)| bucket).fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    /// Returns the present content. The number of each bucket includes all shorter times, as
    /// Prometheus expects it.
    pub fn counts(&self) -> Counts {
        let mut all = 0;
        let mut up_to = Vec::new();
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            all += bucket.load(Ordering::Relaxed);
            up_to.push((*bound, all));
        }
        all += self.longer.load(Ordering::Relaxed);
        Counts { up_to, all, sum: Duration::from_micros(self.microseconds.load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_include_their_bounds() {
        let histogram = Histogram::default();
        for milliseconds in [1, 2, 5, 6, 30_000, 30_001] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let counts = histogram.counts();
        assert!(counts.up_to.is_sorted(), "{counts:?}");
        let numbers: Vec<_> = counts.up_to.iter().map(|(_, count)| *count).collect();
        assert_eq!(numbers, [1, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5]);
        assert_eq!((counts.all, counts.sum), (6, Duration::from_millis(60_015)));
    }
}
