//! Parses and formats the revision counters in the Lease's annotation: `<period number>=<counter>`,
//! comma-separated.

use std::collections::BTreeMap;
use std::fmt;

/// The name of the Lease's annotation that holds the revision counters.
pub(super) const ANNOTATION: &str = "onionbalance.dev/revision-counters";

/// The number of time periods whose counters are kept. A publisher publishes for two periods at a
/// time. One more period on each side covers publishers with different clocks or consensuses.
const KEPT: usize = 4;

/// The greatest known revision counter of each of the newest time periods, by period number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counters(BTreeMap<u64, u64>);

impl Counters {
    /// Parses the annotation. Malformed entries are ignored, because users can edit annotations.
    pub(super) fn parse(text: &str) -> Self {
        let mut counters = Self::default();
        for entry in text.split(',') {
            let numbers =
                entry.split_once('=').map(|(period, counter)| (period.trim().parse(), counter.trim().parse()));
            if let Some((Ok(period), Ok(counter))) = numbers {
                counters.raise(period, counter);
            }
        }
        counters
    }

    /// Returns the revision counter of a time period.
    pub(super) fn get(&self, period: u64) -> Option<u64> {
        self.0.get(&period).copied()
    }

    /// Raises the revision counter of a time period. A counter that is not greater than the known
    /// one has no effect.
    pub(super) fn raise(&mut self, period: u64, counter: u64) {
        let known = self.0.entry(period).or_default();
        *known = counter.max(*known);
        while self.0.len() > KEPT {
            self.0.pop_first();
        }
    }

    /// Raises each revision counter to the one in `other`, if that one is greater.
    pub(super) fn merge(&mut self, other: &Self) {
        for (&period, &counter) in &other.0 {
            self.raise(period, counter);
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (period, counter)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{period}={counter}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_what_it_writes() {
        let counters = Counters::parse("20500=17,20501=4294967296123");
        assert_eq!(counters.get(20501), Some(4_294_967_296_123));
        assert_eq!(counters.to_string(), "20500=17,20501=4294967296123");
        assert_eq!(Counters::parse(""), Counters::default());
        assert_eq!(Counters::default().to_string(), "");
    }

    #[test]
    fn ignores_malformed_entries() {
        let text = "x,1=2=3,7, 8 = 9 ,-1=5,5=99999999999999999999999,,=,6=";
        assert_eq!(Counters::parse(text).to_string(), "8=9");
    }

    #[test]
    fn counters_only_rise_and_the_newest_periods_are_kept() {
        let mut counters = Counters::parse("1=10,2=20");
        counters.raise(2, 5);
        counters.merge(&Counters::parse("1=11,3=30,4=40,5=50"));
        assert_eq!(counters.to_string(), "2=20,3=30,4=40,5=50");
        counters.raise(1, 99);
        assert_eq!(counters.get(1), None);
    }

    proptest! {
        #[test]
        fn round_trip(entries in prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..=KEPT)) {
            let counters = Counters(entries);
            prop_assert_eq!(Counters::parse(&counters.to_string()), counters);
        }

        #[test]
        fn accepts_any_text(text in ".{0,200}") {
            let counters = Counters::parse(&text);
            prop_assert_eq!(Counters::parse(&counters.to_string()), counters);
        }
    }
}
