//! Decides when the revision counter of a time period rises because HSDirs have rejected its newest
//! descriptors.
//!
//! An HSDir that rejects a descriptor may hold a greater counter, or merely claim to. If a single
//! HSDir could make the counter rise at will, the counter would soon exceed what any clock reaches,
//! and another publisher with the same key could never publish again in this period.

use super::upload::Answers;

/// The number of rises in a row, that is, without a descriptor that was published for another
/// reason, if most HSDirs reject. After so many rises, the counter is far ahead of any plausible
/// clock.
const MOST_IN_ROW: u32 = 12;
/// The number of rises in a row if only a few HSDirs reject. It suffices for the uploads of two
/// publishers that overlap.
const FEW_IN_ROW: u32 = 2;
/// The number of rises in the whole time period because most HSDirs rejected.
const MOST_IN_PERIOD: u32 = 36;
/// The number of rises in the whole time period because a few HSDirs rejected.
const FEW_IN_PERIOD: u32 = 12;

/// The rises of a time period's revision counter.
#[derive(Debug, Default)]
pub(super) struct Rises {
    /// The number of rises since a descriptor was last published for another reason.
    in_row: u32,
    /// The number of rises because most HSDirs rejected.
    most: u32,
    /// The number of rises because a few HSDirs rejected.
    few: u32,
    /// True if the next descriptor has a greater counter because of rejections.
    due: bool,
}

impl Rises {
    /// Considers the answers to the newest descriptor. Returns true if the counter must now rise.
    pub(super) fn consider(&mut self, answers: Answers) -> bool {
        if self.due || answers.rejected == 0 {
            return false;
        }
        let (in_row, used, in_period) = if answers.rejected > answers.accepted + answers.open {
            (MOST_IN_ROW, &mut self.most, MOST_IN_PERIOD)
        } else {
            (FEW_IN_ROW, &mut self.few, FEW_IN_PERIOD)
        };
        if self.in_row < in_row && *used < in_period {
            *used += 1;
            self.due = true;
        }
        self.due
    }

    /// Returns the number of rises in a row, including the one that is due. Returns 0 if none is
    /// due.
    pub(super) fn times(&self) -> u32 {
        if self.due { self.in_row.saturating_add(1) } else { 0 }
    }

    /// Records that a descriptor is published. Returns true if its counter rose.
    pub(super) fn published(&mut self) -> bool {
        self.in_row = self.times();
        std::mem::take(&mut self.due)
    }

    /// Forgets the rises in a row, because another publisher may lead now.
    pub(super) fn stop(&mut self) {
        self.in_row = 0;
        self.due = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of rises that these answers cause in a row.
    fn in_row(rises: &mut Rises, answers: Answers) -> u32 {
        let mut times = 0;
        while rises.consider(answers) {
            times += 1;
            assert_eq!(rises.times(), times);
            assert!(!rises.consider(answers), "one rise is due already");
            assert!(rises.published());
        }
        times
    }

    #[test]
    fn the_counter_rises_twice_for_a_few_hsdirs_and_twelve_times_for_most() {
        for (accepted, rejected, open, times) in
            [(8, 0, 0, 0), (7, 1, 0, 2), (0, 1, 7, 2), (4, 4, 0, 2), (3, 5, 0, 12), (0, 8, 0, 12), (0, 1, 0, 12)]
        {
            let answers = Answers { accepted, rejected, open, lost: 0 };
            assert_eq!(in_row(&mut Rises::default(), answers), times, "{answers:?}");
        }
    }

    #[test]
    fn a_period_has_a_limited_number_of_rises() {
        for (rejected, limit) in [(1, FEW_IN_PERIOD), (8, MOST_IN_PERIOD)] {
            let mut rises = Rises::default();
            let mut all = 0;
            for _ in 0..100 {
                all += in_row(&mut rises, Answers { accepted: 8 - rejected, rejected, open: 0, lost: 0 });
                assert!(!rises.published(), "a change is published");
            }
            assert_eq!(all, limit);
        }
    }

    #[test]
    fn a_few_hsdirs_cannot_use_up_the_rises_for_most() {
        let mut rises = Rises::default();
        for _ in 0..100 {
            in_row(&mut rises, Answers { accepted: 7, rejected: 1, open: 0, lost: 0 });
            rises.published();
        }
        assert_eq!(in_row(&mut rises, Answers { accepted: 0, rejected: 8, open: 0, lost: 0 }), MOST_IN_ROW);
    }

    #[test]
    fn a_new_lead_starts_a_new_row_but_no_new_period() {
        let mut rises = Rises::default();
        let most = Answers { accepted: 0, rejected: 8, open: 0, lost: 0 };
        for _ in 0..3 {
            assert_eq!(in_row(&mut rises, most), MOST_IN_ROW);
            rises.stop();
        }
        assert_eq!(in_row(&mut rises, most), 0);
    }
}
