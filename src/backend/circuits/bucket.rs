//! Token buckets, as virtual clocks: a bucket stores only the time at which it will be full again.
//! All times are nanoseconds after a common start.

use std::time::Duration;

const SECOND: u128 = 1_000_000_000;

/// The rate at which a bucket is refilled, and the number of tokens that a full bucket holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    /// Creates a rate. Zero counts as one.
    pub(super) const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second };
        Self { per_second, burst: if burst == 0 { 1 } else { burst } }
    }

    /// Returns the nanoseconds in which so many tokens are refilled.
    fn time_of(self, tokens: u64) -> u64 {
        u64::try_from(u128::from(tokens) * SECOND / u128::from(self.per_second)).unwrap_or(u64::MAX)
    }
}

/// A bucket of tokens, which is full at first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes a token. Returns false, and takes nothing, if the bucket is empty.
    pub(super) fn take(&mut self, rate: Rate, now: u64) -> bool {
        let full_at = self.full_at.max(now).saturating_add(rate.time_of(1));
        let is_filled = full_at - now <= rate.time_of(rate.burst.into());
        if is_filled {
            self.full_at = full_at;
        }
        is_filled
    }

    /// Takes tokens even if the bucket holds fewer. Returns the time in which the missing tokens
    /// are refilled, for which the caller must pause.
    pub(super) fn owe(&mut self, rate: Rate, tokens: u64, now: u64) -> Duration {
        self.full_at = self.full_at.max(now).saturating_add(rate.time_of(tokens));
        Duration::from_nanos((self.full_at - now).saturating_sub(rate.time_of(rate.burst.into())))
    }

    /// Returns true if the bucket is full. A full bucket equals a new one.
    pub(super) fn is_full(self, now: u64) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the nanoseconds in so many milliseconds.
    fn ms(milliseconds: u64) -> u64 {
        milliseconds * 1_000_000
    }

    #[test]
    fn a_full_bucket_holds_its_burst_and_is_refilled_at_its_rate() {
        let (rate, mut bucket) = (Rate::new(2, 3), Bucket::default());
        let mut taken = |now| (0..9).filter(|_| bucket.take(rate, now)).count();
        assert_eq!(taken(ms(5000)), 3);
        assert_eq!(taken(ms(5499)), 0);
        assert_eq!(taken(ms(5500)), 1);
        assert_eq!(taken(ms(60_000)), 3, "no more than the burst is saved");
    }

    #[test]
    fn a_debt_is_paid_at_the_rate() {
        let (rate, mut bucket) = (Rate::new(1000, 500), Bucket::default());
        assert_eq!(bucket.owe(rate, 500, ms(7)), Duration::ZERO);
        assert_eq!(bucket.owe(rate, 250, ms(7)), Duration::from_millis(250));
        assert_eq!(bucket.owe(rate, 250, ms(7)), Duration::from_millis(500), "debts add up");
        assert!(!bucket.is_full(ms(1006)));
        assert!(bucket.is_full(ms(1007)));
        assert_eq!(bucket.owe(rate, 500, ms(1007)), Duration::ZERO);
    }

    #[test]
    fn the_largest_values_do_not_overflow() {
        let (rate, mut bucket) = (Rate::new(0, u32::MAX), Bucket::default());
        assert!(bucket.take(rate, u64::MAX / 2));
        bucket.owe(rate, u64::MAX, u64::MAX);
        assert!(bucket.is_full(u64::MAX));
    }

    proptest! {
        #[test]
        fn no_interval_grants_more_than_the_burst_and_the_rate(
            per_second in 1_u32..2000,
            burst in 1_u32..50,
            steps in prop::collection::vec(0_u64..3_000_000_000, 1..200),
        ) {
            let (rate, mut bucket, mut now) = (Rate::new(per_second, burst), Bucket::default(), 0);
            let mut granted = Vec::new();
            for step in steps {
                // Short and long pauses are both frequent.
                now += if step.is_multiple_of(3) { step } else { step % 5_000_000 };
                if bucket.take(rate, now) {
                    granted.push(now);
                }
            }
            for (index, first) in granted.iter().enumerate() {
                for (more, last) in granted[index..].iter().enumerate() {
                    let refilled = u128::from(last - first) * u128::from(per_second) / SECOND;
                    let most = u128::from(burst) + refilled + 1;
                    prop_assert!((more as u128) < most, "{} in {} ns", more + 1, last - first);
                }
            }
        }

        #[test]
        fn a_rested_bucket_is_like_a_new_one(
            per_second in 1_u32..2000, burst in 1_u32..50, taken in 0_u32..100, now in 0_u64..1_000_000_000_000,
        ) {
            let (rate, mut bucket) = (Rate::new(per_second, burst), Bucket::default());
            for _ in 0..taken {
                bucket.take(rate, now);
            }
            let later = now + rate.time_of(burst.into());
            prop_assert!(bucket.is_full(later));
            prop_assert_eq!((0..burst + 5).filter(|_| bucket.take(rate, later)).count(), burst as usize);
        }

        #[test]
        fn a_sender_that_pauses_as_told_keeps_to_the_rate(
            per_second in 1000_u32..1_000_000, sizes in prop::collection::vec(1_u64..8192, 1..100),
        ) {
            let (rate, mut bucket, mut now, mut sent) = (Rate::new(per_second, per_second), Bucket::default(), 0, 0);
            for size in sizes {
                sent += size;
                now += u64::try_from(bucket.owe(rate, size, now).as_nanos()).unwrap();
                let most = u128::from(per_second) + u128::from(now) * u128::from(per_second) / SECOND;
                // The rounding loses less than a nanosecond for each read.
                prop_assert!(u128::from(sent) <= most + 1, "{sent} bytes in {now} ns");
            }
        }
    }
}
