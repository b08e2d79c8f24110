//! Computes which share of the introduction points that HSDirs hold is alive.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::chaos::judge::HsDirAnswer;

/// When each introduction point last passed an introduction on, by the point's name, or `None` if
/// it never did. A point that does not answer so may be dead or, with `introDosDefense`, at its
/// limit: tor's relay gives the same answer.
#[derive(Debug, Clone, Default)]
pub struct PointAnswers(BTreeMap<String, Option<Instant>>);

impl PointAnswers {
    /// Adds an answer, which must be later than all others of the point.
    pub fn add(&mut self, point: &str, at: Instant, passed_on: bool) {
        let last = self.0.entry(point.to_owned()).or_default();
        if passed_on {
            *last = Some(at);
        }
    }

    /// Returns true if a point was alive, which an introduction that it passed on at that time or
    /// later proves. Returns `None` if the point has never answered.
    fn was_alive(&self, point: &str, at: Instant) -> Option<bool> {
        self.0.get(point).map(|last| last.is_some_and(|last| last >= at))
    }
}

/// Returns the percentage of points that were alive, for each HSDir: of all points in all its
/// answers. Points that have never answered do not count, and neither do HSDirs without points.
pub fn live_percent<'a>(answers: &'a [HsDirAnswer], points: &PointAnswers) -> BTreeMap<&'a str, f64> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for answer in answers {
        let held = answer.descriptor.iter().flat_map(|held| &held.points);
        for is_alive in held.filter_map(|point| points.was_alive(point, answer.at)) {
            let (alive, all) = counts.entry(&answer.place.hsdir).or_default();
            *alive += usize::from(is_alive);
            *all += 1;
        }
    }
    counts.into_iter().map(|(hsdir, (alive, all))| (hsdir, percent(alive, all))).collect()
}

/// Returns a part as a percentage of the whole. The whole must not be 0.
#[allow(clippy::cast_precision_loss, reason = "the numbers are a few thousand")]
pub fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chaos::judge::{HeldDescriptor, Place};

    fn answer(at: Instant, hsdir: &str, points: &[&str]) -> HsDirAnswer {
        let points = points.iter().map(ToString::to_string).collect();
        let place = Place { hsdir: hsdir.to_owned(), blinded_key: "key".to_owned() };
        HsDirAnswer { place, of_clients: true, at, descriptor: Some(HeldDescriptor { revision_counter: 1, points }) }
    }

    #[test]
    fn a_point_was_alive_until_it_last_passed_an_introduction_on() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut points = PointAnswers::default();
        for (second, passed_on) in [(10, true), (20, false), (30, true), (40, false)] {
            points.add("limited", at(second), passed_on);
        }
        points.add("dead", at(10), false);
        let alive: Vec<_> = [5, 20, 30, 31].map(|second| points.was_alive("limited", at(second))).into();
        assert_eq!(alive, [Some(true), Some(true), Some(true), Some(false)]);
        assert_eq!(points.was_alive("dead", start), Some(false));
        assert_eq!(points.was_alive("stranger", start), None);
    }

    #[test]
    fn each_hsdir_has_its_own_percentage_over_all_its_answers() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut points = PointAnswers::default();
        points.add("alive", later, true);
        points.add("dying", start, true);
        points.add("dying", later, false);
        let answers = [
            answer(start, "prompt", &["alive", "dying", "never answered"]),
            answer(later, "prompt", &["alive"]),
            answer(start, "late", &["alive", "dying"]),
            answer(later, "late", &["alive", "dying"]),
            HsDirAnswer { descriptor: None, ..answer(later, "none", &[]) },
        ];
        assert_eq!(live_percent(&answers, &points), BTreeMap::from([("prompt", 100.0), ("late", 75.0)]));
    }
}
