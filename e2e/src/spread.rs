//! The distribution of fetches over the backends, compared with the backends' shares of the
//! introduction points.
//!
//! The comparison is a sequential probability ratio test (Wald, Sequential Analysis, 1947). For
//! each backend, there are two suspicions: the backend serves too few fetches, or too many. Each
//! fetch changes the likelihood of a suspicion relative to the expected distribution. If the
//! suspicion becomes very likely, the spread is unfair; if it becomes unlikely, it is dropped. The
//! spread is fair once all suspicions are dropped. The limits bound both kinds of errors, however
//! many fetches the decision takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::chance::FALSE_ALARM;

/// The factor by which a suspicion changes a backend's odds. A backend with a third of the points
/// (odds of 1 to 2) is suspected of serving a ninth of the fetches (1 to 8) or two thirds (2 to 1).
const FACTOR: f64 = 4.0;
/// The maximum probability that a backend is considered fair although a suspicion is true.
const OVERLOOKED: f64 = 0.01;
/// The number of fetches after which a decision is overdue. Fair shares need more fetches with a
/// probability of less than one in ten million.
pub const MOST_FETCHES: usize = 600;

/// The result of a comparison so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verdict {
    /// The fetches so far permit no decision.
    #[default]
    Open,
    /// The counts agree with the shares.
    Fair,
    /// A backend's count does not agree with its share, or a fetch failed.
    Unfair,
}

/// The actual and expected number of fetches for each backend, and the number of failed fetches.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    backends: BTreeMap<String, BackendCount>,
    failed: usize,
    stale: Duration,
}

/// The number of fetches that one backend served, and the number that it was expected to serve.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BackendCount {
    /// The number of the backend's introduction points in the descriptor when it was last read.
    pub points: u32,
    /// The number of fetches that the backend served.
    pub served: usize,
    /// The number of fetches that the backend should have served according to its share of the
    /// introduction points.
    pub expected: f64,
    /// The backend's share of the introduction points when the descriptor was last read.
    share: f64,
    few: Suspicion,
    many: Suspicion,
}

/// The suspicion that a backend's odds of serving a fetch differ from the expected odds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Suspicion {
    /// The logarithm of the likelihood ratio: the probability of the fetches so far if the
    /// suspicion is true, divided by their probability if the share is right.
    evidence: f64,
    verdict: Verdict,
}

impl Suspicion {
    /// Adds a fetch. `factor` is the factor by which the suspicion changes the backend's odds.
    fn observe(&mut self, factor: f64, share: f64, served: bool, alarm: f64) {
        if self.verdict != Verdict::Open {
            return;
        }
        let ratio_if_not_served = 1.0 / (1.0 - share + factor * share);
        self.evidence += if served { factor * ratio_if_not_served } else { ratio_if_not_served }.ln();
        if self.evidence >= alarm {
            self.verdict = Verdict::Unfair;
        } else if self.evidence <= OVERLOOKED.ln() {
            self.verdict = Verdict::Fair;
        }
    }
}

impl BackendCount {
    /// Adds a fetch that some backend served. `alarm` is the evidence that makes a suspicion very
    /// likely.
    fn observe(&mut self, points: u32, all: u32, served: bool, alarm: f64) {
        (self.points, self.share) = (points, f64::from(points) / f64::from(all.max(1)));
        self.expected += self.share;
        self.served += usize::from(served);
        self.few.observe(1.0 / FACTOR, self.share, served, alarm);
        self.many.observe(FACTOR, self.share, served, alarm);
        if served && points == 0 {
            self.many.verdict = Verdict::Unfair;
        }
    }

    /// Compares the backend's count with its share.
    pub fn verdict(&self) -> Verdict {
        let both = [self.few.verdict, self.many.verdict];
        // A backend that has all points or none cannot serve too few or too many.
        let is_certain = self.points == 0 || self.share >= 1.0;
        if both.contains(&Verdict::Unfair) {
            Verdict::Unfair
        } else if is_certain || both == [Verdict::Fair; 2] {
            Verdict::Fair
        } else {
            Verdict::Open
        }
    }
}

impl Spread {
    /// Records that a backend served a fetch. `points` maps each backend to the number of its
    /// introduction points in the client's descriptor. The client picks each point with equal
    /// probability.
    pub fn served(&mut self, points: &BTreeMap<String, u32>, backend: &str) {
        // There are two suspicions for each backend. If all are wrong, the probability that any of
        // them ever becomes this likely is at most FALSE_ALARM.
        let alarm = (points.values().map(|_| 2.0).sum::<f64>() / FALSE_ALARM).ln();
        let all = points.values().sum();
        for name in points.keys().map(String::as_str).chain([backend]).collect::<BTreeSet<_>>() {
            let of_backend = points.get(name).copied().unwrap_or_default();
            self.backends.entry(name.to_owned()).or_default().observe(of_backend, all, name == backend, alarm);
        }
    }

    /// Records a fetch that failed.
    pub fn failed(&mut self) {
        self.failed += 1;
    }

    /// Returns the number of fetches.
    pub fn fetches(&self) -> usize {
        self.failed + self.backends.values().map(|count| count.served).sum::<usize>()
    }

    /// Returns the number of failed fetches.
    pub fn failures(&self) -> usize {
        self.failed
    }

    /// Records how long the descriptor named points that no backend had any more.
    pub fn was_stale(&mut self, time: Duration) {
        self.stale = self.stale.max(time);
    }

    /// Returns the longest time for which the descriptor named points that no backend had any more.
    pub fn longest_stale(&self) -> Duration {
        self.stale
    }

    /// Returns the counts by backend name.
    pub fn backends(&self) -> &BTreeMap<String, BackendCount> {
        &self.backends
    }

    /// Compares the counts of all backends with their shares. A single failed fetch is unfair.
    pub fn verdict(&self) -> Verdict {
        let mut verdicts = self.backends.values().map(BackendCount::verdict);
        if self.failed > 0 || verdicts.clone().any(|verdict| verdict == Verdict::Unfair) {
            Verdict::Unfair
        } else if !self.backends.is_empty() && verdicts.all(|verdict| verdict == Verdict::Fair) {
            Verdict::Fair
        } else {
            Verdict::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probabilities of the verdicts on one backend, and the expected number of fetches.
    #[derive(Debug, Default)]
    struct Outcome {
        fair: f64,
        unfair: f64,
        open: f64,
        fetches: f64,
    }

    /// Computes the exact outcome of the comparison for a backend with `points` of `all` points,
    /// one of several backends, if the backend really serves each fetch with probability `real`.
    /// The evidence depends only on the number of fetches and on how many of them the backend
    /// served, so the computation follows these numbers instead of all sequences.
    fn outcome(start: BackendCount, (points, all, backends): (u32, u32, u32), real: f64) -> Outcome {
        let alarm = (2.0 * f64::from(backends) / FALSE_ALARM).ln();
        let mut outcome = Outcome::default();
        let mut open = vec![(1.0, start)];
        for fetches in 1..=MOST_FETCHES {
            let mut next: BTreeMap<_, (f64, BackendCount)> = BTreeMap::new();
            for ((probability, count), served) in open.iter().flat_map(|state| [(*state, true), (*state, false)]) {
                let (mut probability, mut count) = (probability, count);
                probability *= if served { real } else { 1.0 - real };
                count.observe(points, all, served, alarm);
                match count.verdict() {
                    Verdict::Open => {
                        let dropped = [count.few, count.many].map(|suspicion| suspicion.verdict == Verdict::Fair);
                        next.entry((count.served, dropped)).or_insert((0.0, count)).0 += probability;
                        continue;
                    }
                    Verdict::Fair => outcome.fair += probability,
                    Verdict::Unfair => outcome.unfair += probability,
                }
                outcome.fetches += probability * f64::from(u32::try_from(fetches).unwrap());
            }
            open = next.into_values().collect();
        }
        outcome.open = open.iter().map(|(probability, _)| probability).sum();
        outcome
    }

    fn times_odds(share: f64, factor: f64) -> f64 {
        let odds = factor * share / (1.0 - share);
        odds / (1.0 + odds)
    }

    /// A third of the points makes the suspicion of too many fetches a random walk with equal
    /// steps: up by ln 2 for each fetch that the backend serves, otherwise down by ln 2. With three
    /// backends, the walk ends 20 steps up or 7 steps down. The expected values are those of the
    /// gambler's ruin (Feller, An Introduction to Probability Theory and Its Applications,
    /// volume 1, sections XIV.2 and XIV.3).
    #[test]
    fn the_errors_agree_with_the_gamblers_ruin() {
        let dropped = Suspicion { evidence: 0.0, verdict: Verdict::Fair };
        let only_many = BackendCount { few: dropped, ..BackendCount::default() };
        let fair = outcome(only_many, (3, 9, 3), 1.0 / 3.0);
        let wins = (f64::from(1 << 7) - 1.0) / (f64::from(1 << 27) - 1.0);
        assert!((fair.unfair / wins - 1.0).abs() < 1e-9, "{fair:?}");
        assert!((fair.fetches / (21.0 - 81.0 * wins) - 1.0).abs() < 1e-9, "{fair:?}");
        let unfair = outcome(only_many, (3, 9, 3), 2.0 / 3.0);
        let ruin = (0.5_f64.powi(7) - 0.5_f64.powi(27)) / (1.0 - 0.5_f64.powi(27));
        assert!((unfair.fair / ruin - 1.0).abs() < 1e-9, "{unfair:?}");
    }

    /// With three equal shares, a backend that serves a ninth or two thirds of the fetches is
    /// caught with a probability of more than 99%, and so is any greater difference.
    #[test]
    fn fair_shares_pass_and_odds_that_differ_fourfold_are_caught() {
        for shape in [(3, 9, 3), (2, 7, 3), (3, 7, 3), (1, 4, 3), (3, 6, 2), (1, 3, 2), (2, 3, 2), (3, 15, 5)] {
            let (points, all, backends) = shape;
            let share = f64::from(points) / f64::from(all);
            let judge = |real| outcome(BackendCount::default(), shape, real);
            let fair = judge(share);
            assert!(f64::from(backends) * (fair.unfair + fair.open) < FALSE_ALARM, "{shape:?}: {fair:?}");
            assert!(fair.fetches < 60.0, "{shape:?}: {fair:?}");
            for factor in [1.0 / FACTOR, FACTOR, 1.0 / 10.0, 10.0] {
                let skewed = judge(times_odds(share, factor));
                assert!(skewed.unfair > 1.0 - OVERLOOKED, "{shape:?} {factor}: {skewed:?}");
            }
            // A backend that serves nothing is always caught.
            let dead = judge(0.0);
            assert!(dead.fair == 0.0 && dead.open == 0.0, "{shape:?}: {dead:?}");
        }
    }

    fn points() -> BTreeMap<String, u32> {
        BTreeMap::from([("first".to_owned(), 6), ("second".to_owned(), 3)])
    }

    /// Lets the backends serve in turn until there is a verdict.
    fn served_in_turn(turns: &[&str]) -> Spread {
        let mut spread = Spread::default();
        for backend in turns.iter().cycle().take(MOST_FETCHES) {
            if spread.verdict() != Verdict::Open {
                break;
            }
            spread.served(&points(), backend);
        }
        spread
    }

    #[test]
    fn the_verdict_follows_from_all_backends() {
        let fair = served_in_turn(&["first", "second", "first"]);
        assert_eq!(fair.verdict(), Verdict::Fair);
        let served = fair.backends().values().map(|count| count.served).sum::<usize>();
        assert!(fair.fetches() == served && served < 60, "{fair:?}");
        let expected = fair.backends().values().map(|count| count.expected).sum::<f64>();
        assert!((expected - f64::from(u32::try_from(served).unwrap())).abs() < 1e-9, "{fair:?}");
        for turns in [&["first"][..], &["second"], &["first", "second", "second", "second"]] {
            assert_eq!(served_in_turn(turns).verdict(), Verdict::Unfair, "{turns:?}");
        }
    }

    #[test]
    fn a_failed_fetch_or_an_unknown_backend_is_unfair() {
        let mut failed = served_in_turn(&["first", "second", "first"]);
        failed.failed();
        assert_eq!(failed.verdict(), Verdict::Unfair);
        let mut stranger = served_in_turn(&["first", "second", "first"]);
        stranger.served(&points(), "a pod that has no point");
        assert_eq!(stranger.verdict(), Verdict::Unfair);
        assert_eq!(Spread::default().verdict(), Verdict::Open);
    }

    #[test]
    fn a_backend_that_has_all_points_is_fair() {
        let mut spread = Spread::default();
        spread.served(&BTreeMap::from([("only".to_owned(), 3), ("new".to_owned(), 0)]), "only");
        assert_eq!(spread.verdict(), Verdict::Fair);
    }
}
