//! Computes which share of the introduction points that HSDirs hold is alive.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::chaos::judge::HsDirAnswer;

/// What the relays of introduction points have answered to introductions, by the point's name.
#[derive(Debug, Clone, Default)]
pub struct PointAnswers(BTreeMap<String, Vec<(Instant, bool)>>);

impl PointAnswers {
    /// Adds an answer, which must be later than all others of the point. A point is alive if its
    /// relay knows it.
    pub fn add(&mut self, point: &str, at: Instant, is_alive: bool) {
        self.0.entry(point.to_owned()).or_default().push((at, is_alive));
    }

    /// Returns true if a point was alive. The first answer since that time decides, or else the last
    /// one before. Returns `None` if the point has never answered.
    fn was_alive(&self, point: &str, at: Instant) -> Option<bool> {
        let answers = self.0.get(point)?;
        let since = answers.partition_point(|(answered, _)| *answered < at);
        answers.get(since).or(answers.last()).map(|(_, is_alive)| *is_alive)
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
    fn the_next_answer_of_a_point_decides_or_else_the_last_one() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut points = PointAnswers::default();
        for (second, is_alive) in [(10, true), (20, false), (30, true)] {
            points.add("a", at(second), is_alive);
        }
        let alive: Vec<_> = [5, 10, 11, 20, 21, 40].map(|second| points.was_alive("a", at(second))).into();
        assert_eq!(alive, [Some(true), Some(true), Some(false), Some(false), Some(true), Some(true)]);
        assert_eq!(points.was_alive("b", start), None);
    }

    #[test]
    fn each_hsdir_has_its_own_percentage_over_all_its_answers() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut points = PointAnswers::default();
        points.add("alive", start, true);
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
