//! The limits of the figures. A limit refers to the figures of one run with one fault.

use std::fmt;

use super::effort::Effort;
use super::figure::Results;
use crate::chance::{most_beside, most_failures};

/// The percentage of the requests of a short run that may fail or be cut in addition to the limit.
const UNLUCKY: f64 = 1.0;

/// The figure that counts the streams that were open when the fault occurred (`HeldStreams`).
pub const HELD_STREAMS: &str = "held_streams";
/// The figure that counts those of these streams that were cut off.
pub const HELD_CUT: &str = "held_cut";

/// The values that a figure may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// At most this value.
    AtMost(f64),
    /// Less than this value.
    Below(f64),
    /// At least this value.
    AtLeast(f64),
    /// At most this percentage of the requests to our service. If the run has fewer requests than a
    /// full run ([`Effort::FULL`]), the percentage refers to a full run, because a fault affects as
    /// many requests in a short run as in a long one.
    Share(f64),
    /// At most as many as the plain onion service had in the same run, plus this percentage, as for
    /// [`Self::Share`]. Only for faults that break the Tor network itself, which both services use.
    AbovePlain(f64),
    /// Like [`Self::AbovePlain`], plus what chance explains ([`most_beside`]). For requests that
    /// the fault affects in both services alike.
    AbovePlainByChance(f64),
    /// At most this multiple of what the plain onion service had in the same run, or this number if
    /// the multiple is smaller.
    TimesPlain(f64, f64),
}

/// A limit that a figure of a run must meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// The figure's name, without the fault's name.
    pub what: &'static str,
    /// The values that the figure may have.
    pub bound: Bound,
}

impl Limit {
    /// Creates a limit for the figure `what`.
    pub fn new(what: &'static str, bound: Bound) -> Self {
        Self { what, bound }
    }

    /// Returns the limit for a short run, in which chance decides more. A service at which requests
    /// fail as often as this limit permits, plus one percent of all, exceeds the returned limit in
    /// fewer than one run in 100,000. Only limits that refer to no other service change.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the numbers are counts of a few hundred"
    )]
    pub fn of_short_run(self, results: &Results) -> Self {
        let requests = results.get(self.counted_of()).map_or(0.0, |figure| figure.value);
        let permitted = match self.bound {
            Bound::AtMost(most) => most,
            Bound::Share(percent) => requests.max(Effort::FULL.requests as f64) * percent / 100.0,
            _ => return self,
        };
        let proportion = (permitted / requests.max(1.0) + UNLUCKY / 100.0).min(1.0);
        Self { bound: Bound::AtMost(most_failures(requests as usize, proportion) as f64), ..self }
    }

    /// Returns the name of the figure that counts all requests or streams of which this limit's
    /// figure counts some.
    fn counted_of(&self) -> &'static str {
        if self.what == HELD_CUT { HELD_STREAMS } else { "requests" }
    }

    /// Returns true if the results contain the figure and its value is within the limit.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the numbers are counts of a few hundred"
    )]
    pub fn holds(&self, results: &Results) -> bool {
        let value = |what: &str| results.get(what).map(|figure| figure.value);
        let full = Effort::FULL.requests as f64;
        let allowed = |percent: f64| value("requests").map(|requests| requests.max(full) * percent / 100.0);
        let holds = |value: f64| {
            let plain = || Some(results.get(&format!("plain_{}", self.what))?.value);
            Some(match self.bound {
                Bound::AtMost(most) => value <= most,
                Bound::Below(bound) => value < bound,
                Bound::AtLeast(least) => value >= least,
                Bound::Share(percent) => value <= allowed(percent)?,
                Bound::AbovePlain(percent) => value <= plain()? + allowed(percent)?,
                Bound::AbovePlainByChance(percent) => {
                    value <= most_beside(plain()? as usize) as f64 + allowed(percent)?
                }
                Bound::TimesPlain(factor, least) => value <= least.max(plain()? * factor),
            })
        };
        value(self.what).and_then(holds).unwrap_or(false)
    }
}

/// Formats the bound as in `at most 10`.
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::Below(bound) => write!(f, "less than {bound}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::Share(percent) => write!(f, "at most {percent}%"),
            Self::AbovePlain(percent) => write!(f, "at most plain + {percent}%"),
            Self::AbovePlainByChance(percent) => write!(f, "at most plain + {percent}% + chance"),
            Self::TimesPlain(factor, least) => write!(f, "at most {factor} × plain, or {least}"),
        }
    }
}

/// Returns the limits of a fault that must not affect any request. A few requests may be slow,
/// because clients sometimes wait for a circuit without any fault.
pub fn harmless() -> [Limit; 3] {
    [
        Limit::new("failed", Bound::AtMost(0.0)),
        Limit::new("cut", Bound::AtMost(0.0)),
        Limit::new("slow", Bound::Share(1.0)),
    ]
}

/// Returns the limits of a fault that breaks the requests which are in progress at one backend.
/// `failed` and `slow` are percentages of all requests. Failed requests also count as slow.
pub fn shares(failed: f64, slow: f64) -> [Limit; 3] {
    [
        Limit::new("failed", Bound::Share(failed)),
        Limit::new("cut", Bound::AtMost(0.0)),
        Limit::new("slow", Bound::Share(slow)),
    ]
}

/// Returns the limits of a fault that removes backends and must not cut off the streams that are
/// open. Nearly all of the 40 streams must have begun before the fault.
pub fn spares_streams() -> [Limit; 2] {
    [Limit::new(HELD_STREAMS, Bound::AtLeast(30.0)), Limit::new(HELD_CUT, Bound::AtMost(0.0))]
}

/// Returns the limits of a fault of the Tor network itself, relative to the plain onion service.
/// `slow` is a percentage of all requests. Slow requests allow for chance: every client waits for
/// new circuits in a broken network.
pub fn like_plain(slow: f64) -> [Limit; 3] {
    [
        Limit::new("failed", Bound::AbovePlain(0.5)),
        Limit::new("cut", Bound::AbovePlain(0.5)),
        Limit::new("slow", Bound::AbovePlainByChance(slow)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::figure::Figure;

    fn results(failed: usize, plain_failed: usize) -> Results {
        let figures = vec![
            Figure::count("requests", 300, "requests"),
            Figure::count("failed", failed, "requests"),
            Figure::count("plain_failed", plain_failed, "requests"),
            Figure::seconds("gone_s", f64::INFINITY),
        ];
        Results { fault: "fault".to_owned(), figures }
    }

    fn holds(bound: Bound, failed: usize, plain_failed: usize) -> bool {
        Limit::new("failed", bound).holds(&results(failed, plain_failed))
    }

    #[test]
    fn failures_of_the_plain_service_excuse_nothing_under_an_absolute_limit() {
        assert!(!holds(Bound::AtMost(0.0), 1, 1));
        assert!(holds(Bound::AtMost(0.0), 0, 5));
        assert!(!holds(Bound::Share(0.5), 2, 9));
        assert!(holds(Bound::Share(0.5), 1, 0));
    }

    #[test]
    fn a_relative_limit_is_the_plain_services_count_with_a_share_of_the_requests() {
        assert!(holds(Bound::AbovePlain(0.5), 21, 20));
        assert!(!holds(Bound::AbovePlain(0.5), 22, 20));
    }

    /// If the plain service has 20 failures, chance explains 57 ([`most_beside`]).
    #[test]
    fn a_relative_limit_may_allow_for_chance() {
        assert!(holds(Bound::AbovePlainByChance(0.5), 58, 20));
        assert!(!holds(Bound::AbovePlainByChance(0.5), 59, 20));
    }

    #[test]
    fn a_multiple_of_a_small_number_may_be_exceeded_a_little() {
        let bound = Bound::TimesPlain(1.5, 10.0);
        assert!(holds(bound, 30, 20) && !holds(bound, 31, 20));
        assert!(holds(bound, 10, 0) && !holds(bound, 11, 0));
    }

    #[test]
    fn a_short_run_may_have_as_many_failures_as_a_full_one_but_a_long_run_may_have_more() {
        let holds = |requests, failed| {
            let mut results = results(failed, 0);
            results.figures[0] = Figure::count("requests", requests, "requests");
            Limit::new("failed", Bound::Share(5.0)).holds(&results)
        };
        assert!(holds(100, 15) && !holds(100, 16));
        assert!(holds(400, 20) && !holds(400, 21));
    }

    /// The probabilities of more failures are 0.82e-5 (more than 7 of 100 at 1%) and 0.78e-5 (more
    /// than 33 of 100 at 15% + 1%), computed with the fractions of Python's standard library.
    #[test]
    fn a_short_run_may_have_bad_luck_but_most_requests_must_succeed() {
        let of_short_run = |bound| {
            let mut results = results(0, 0);
            results.figures[0] = Figure::count("requests", 100, "requests");
            Limit::new("failed", bound).of_short_run(&results).bound
        };
        assert_eq!(of_short_run(Bound::AtMost(0.0)), Bound::AtMost(7.0));
        assert_eq!(of_short_run(Bound::Share(5.0)), Bound::AtMost(33.0));
        assert_eq!(of_short_run(Bound::AbovePlain(0.5)), Bound::AbovePlain(0.5));
    }

    /// The probability of more than 5 of 40 at 1% is 0.28e-5, computed like the others.
    #[test]
    fn the_cut_streams_of_a_short_run_are_compared_with_the_open_ones() {
        let mut results = results(0, 0);
        results.figures.push(Figure::count(HELD_STREAMS, 40, "streams"));
        let limit = Limit::new(HELD_CUT, Bound::AtMost(0.0)).of_short_run(&results);
        assert_eq!(limit.bound, Bound::AtMost(5.0));
    }

    #[test]
    fn an_event_that_never_occurred_and_a_missing_figure_miss_their_limits() {
        assert!(!Limit::new("gone_s", Bound::AtMost(10.0)).holds(&results(0, 0)));
        assert!(!Limit::new("republished_s", Bound::AtMost(10.0)).holds(&results(0, 0)));
        assert!(!Limit::new("gone_s", Bound::AbovePlain(1.0)).holds(&results(0, 0)));
    }

    #[test]
    fn the_other_bounds_are_inclusive_except_below() {
        let holds = |bound| holds(bound, 5, 0);
        assert!(holds(Bound::AtLeast(5.0)) && !holds(Bound::AtLeast(6.0)));
        assert!(holds(Bound::Below(6.0)) && !holds(Bound::Below(5.0)));
    }
}
