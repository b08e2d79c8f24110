//! The range from which a publisher takes its revision counters.

/// The greatest revision counter that a publisher accepts from another one, unless it outruns
/// others. No clock and no series of rejections can produce a greater counter. If a publisher
/// accepted one, few values would remain for its own counters, which must be greater still.
const MAX_FLOOR: u64 = 1 << 62;
/// The lowest counter of a publisher that outruns others. The distance from [`MAX_FLOOR`] is
/// greater than all rises in a time period together.
const LOWEST_OUTRUNNING: u64 = MAX_FLOOR + (1 << 40);

/// The range from which a publisher takes its revision counters. HSDirs keep the descriptor with
/// the greatest counter, and compare nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Counters {
    /// Counters that the clock produces, as C tor does.
    #[default]
    Clock,
    /// Counters that exceed those of any publisher that does not outrun others, whatever key it
    /// has. It never publishes in the same time period again, until the HSDirs have dropped the
    /// descriptors.
    Outrun,
}

impl Counters {
    /// Returns true if the publisher exceeds this counter of another publisher.
    pub(super) fn exceed(self, counter: u64) -> bool {
        match self {
            Self::Clock => counter <= MAX_FLOOR,
            Self::Outrun => counter < u64::MAX,
        }
    }

    /// Returns the counter for a value that was derived from the clock.
    pub(super) fn by_time(self, value: u64) -> u64 {
        match self {
            Self::Clock => value,
            Self::Outrun => LOWEST_OUTRUNNING.saturating_add(value),
        }
    }

    /// Returns a counter greater than `floor`. `step` is the distance if the counter must rise
    /// because HSDirs rejected the last one, and None otherwise. A publisher that outruns others
    /// halves the distance to the greatest counter of all instead, so that few rejections are
    /// needed to exceed any counter but this one.
    pub(super) fn above(self, floor: u64, step: Option<u64>) -> u64 {
        let step = match (self, step) {
            (_, None) => 1,
            (Self::Clock, Some(step)) => step,
            (Self::Outrun, Some(_)) => u64::MAX.abs_diff(floor).div_ceil(2),
        };
        floor.saturating_add(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_publisher_that_follows_the_clock_is_outrun() {
        // The greatest counters of the clock have less than 34 bits.
        for floor in [0, 1 << 34, MAX_FLOOR] {
            assert!(Counters::Clock.exceed(floor));
            let rises = (0..100).fold(floor, |counter, _| Counters::Clock.above(counter, Some(1 << 22)));
            assert!(rises < Counters::Outrun.by_time(0), "{floor}");
        }
        assert!(!Counters::Clock.exceed(lowest()), "a publisher that follows the clock does not continue from there");
        assert!(Counters::Outrun.exceed(lowest()));
        assert_eq!(Counters::Outrun.by_time(7), lowest() + 7);
        assert_eq!(Counters::Clock.by_time(7), 7);
    }

    #[test]
    fn few_rejections_suffice_to_exceed_any_counter_but_the_greatest() {
        for foreign in [lowest() + 1, 1 << 63, u64::MAX - (1 << 52)] {
            let (mut own, mut rises) = (lowest(), 0);
            while own <= foreign {
                own = Counters::Outrun.above(own, Some(1));
                rises += 1;
            }
            assert!((1..=12).contains(&rises), "{foreign}: {rises}");
        }
        assert!(Counters::Outrun.exceed(u64::MAX - 1));
        assert!(!Counters::Outrun.exceed(u64::MAX));
        assert_eq!(Counters::Outrun.above(u64::MAX - 1, Some(1)), u64::MAX);
        assert_eq!(Counters::Outrun.above(u64::MAX, None), u64::MAX);
    }

    fn lowest() -> u64 {
        Counters::Outrun.by_time(0)
    }
}
