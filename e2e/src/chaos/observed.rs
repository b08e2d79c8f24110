//! The observations made during a run, and the figures that are computed from them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::figure::Figure;
use super::judge::{HeldDescriptor, HsDirAnswer, Place, held, newest, settled};
use super::request::{ClientKind, ServiceKind};
use super::tally::Requests;

/// A moment of a run at which introduction points were added or removed.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The time of the change.
    pub at: Instant,
    /// The names of the introduction points that were added or removed.
    pub points: BTreeSet<String>,
}

/// The observations made during a run, from which its figures are computed.
#[derive(Debug)]
pub struct Observed {
    /// The time at which the fault occurred.
    pub at: Instant,
    /// The time at which the fault had ended.
    pub ended: Instant,
    /// The names of the introduction points that have been dead since the fault.
    pub dead: BTreeSet<String>,
    /// The fingerprints of the HSDirs that could not answer while the fault lasted.
    pub silent: BTreeSet<String>,
    /// The descriptors that the HSDirs held before the fault, for both time periods.
    pub before: BTreeMap<Place, HeldDescriptor>,
    /// The answers of the responsible HSDirs since the fault.
    pub answers: Vec<HsDirAnswer>,
    /// The moments at which introduction points were added or removed. The fault's figures evaluate
    /// the requests or descriptors around each moment.
    pub moments: Vec<Moment>,
    /// The requests made during the run, and their outcomes.
    pub requests: Requests,
    /// The machine's load average over one minute when the run ended.
    pub load: f64,
}

/// The value of a figure if the event that it measures never occurred.
const NEVER: f64 = f64::INFINITY;

impl Observed {
    /// Returns the number of HSDirs from which the judge got a descriptor after the fault: first of
    /// a period that clients used, then of another period. A run that spans several periods counts
    /// the one with the most HSDirs, because the judge may see the last one only for a moment.
    fn hsdirs(&self) -> [Figure; 2] {
        [("hsdirs", true), ("other_hsdirs", false)].map(|(what, of_clients)| {
            let hold = self.answers.iter().filter(|answer| answer.of_clients == of_clients);
            let mut hsdirs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for place in hold.filter(|answer| answer.descriptor.is_some()).map(|answer| &answer.place) {
                hsdirs.entry(&place.blinded_key).or_default().insert(&place.hsdir);
            }
            Figure::count(what, hsdirs.values().map(BTreeSet::len).max().unwrap_or_default(), "HSDirs")
        })
    }

    /// Returns the time from the fault until no HSDir held a dead introduction point any longer.
    pub fn gone(&self) -> Figure {
        Figure::seconds("gone_s", self.gone_of(&self.answers))
    }

    /// Returns the time from the fault until no HSDir held a dead introduction point any longer.
    /// Considers only answers from before the fault ended, because the points are valid again
    /// afterwards, and only HSDirs that could answer: one that the fault silences may still have
    /// answered a request that was under way.
    pub fn gone_while_it_lasts(&self) -> Figure {
        let lasting = |answer: &&HsDirAnswer| answer.at < self.ended && !self.silent.contains(&answer.place.hsdir);
        let lasting: Vec<_> = self.answers.iter().filter(lasting).cloned().collect();
        Figure::seconds("gone_s", self.gone_of(&lasting))
    }

    /// Returns the time from the fault until the last answer in which each HSDir returned a dead
    /// introduction point, and whether clients used the answer's period.
    pub fn last_dead(&self) -> BTreeMap<&Place, (Duration, bool)> {
        let dead =
            |answer: &&HsDirAnswer| answer.descriptor.as_ref().is_some_and(|seen| !seen.points.is_disjoint(&self.dead));
        let dead = self.answers.iter().filter(dead);
        dead.map(|answer| (&answer.place, (answer.at.saturating_duration_since(self.at), answer.of_clients))).collect()
    }

    fn gone_of(&self, answers: &[HsDirAnswer]) -> f64 {
        let gone = settled(&self.before, answers, self.at, |answer| {
            answer.descriptor.as_ref().is_none_or(|seen| seen.points.is_disjoint(&self.dead))
        });
        gone.map_or(NEVER, |gone| gone.as_secs_f64())
    }

    /// Returns the time from the fault until every HSDir held a newer descriptor than any before
    /// the fault. If clients move to another time period in the meantime, every descriptor of that
    /// period is considered newer.
    pub fn republished(&self) -> Figure {
        let newest = newest(&self.before);
        let is_newer = |answer: &HsDirAnswer| {
            let known = newest.get(&answer.place.blinded_key);
            let descriptor = answer.descriptor.as_ref();
            descriptor.is_none_or(|seen| known.is_none_or(|known| seen.revision_counter > *known))
        };
        let newer = settled(&self.before, &self.answers, self.at, is_newer);
        let newer = newer.filter(|_| !held(&self.answers).is_empty());
        Figure::seconds("republished_s", newer.map_or(NEVER, |newer| newer.as_secs_f64()))
    }

    /// Returns the smallest number of introduction points that all HSDirs together held at any
    /// moment of the run, for the period that clients used at that moment.
    pub fn fewest_points(&self) -> Figure {
        let later = self.answers.iter().filter(|answer| answer.of_clients && answer.at >= self.at);
        let first = later.clone().next().map(|answer| answer.place.blinded_key.clone());
        let before = self.before.iter().filter(|(place, _)| Some(&place.blinded_key) == first.as_ref());
        let mut holds: BTreeMap<&str, &HeldDescriptor> = before.map(|(place, seen)| (&*place.hsdir, seen)).collect();
        let count = |held: &BTreeMap<&str, &HeldDescriptor>| {
            held.values().flat_map(|seen| &seen.points).collect::<BTreeSet<_>>().len()
        };
        let mut fewest = count(&holds);
        for answer in later {
            match &answer.descriptor {
                Some(seen) => holds.insert(&answer.place.hsdir, seen),
                None => holds.remove(&*answer.place.hsdir),
            };
            fewest = fewest.min(count(&holds));
        }
        Figure::count("fewest_points", fewest, "points")
    }

    /// Returns two figures about the requests of fresh clients in the minute after the fault: the
    /// number of slow ones, and the number of slow ones that began more than 20 s after the fault.
    /// If the fault ended within this minute, later requests do not count as late.
    pub fn slow_fresh(&self) -> [Figure; 2] {
        const MINUTE: Duration = Duration::from_secs(60);
        const LATE: Duration = Duration::from_secs(20);
        let lasted = self.ended - self.at;
        let last = if lasted > LATE { MINUTE.min(lasted) } else { MINUTE };
        let slow = |from, to| self.requests.within(ServiceKind::Ours, ClientKind::Fresh, from, to).slow;
        [
            Figure::count("slow_minute", slow(Duration::ZERO, MINUTE), "requests"),
            Figure::count("slow_late", slow(LATE, last), "requests"),
        ]
    }

    /// Returns the number of failed requests of all clients to our service that began more than
    /// 30 s after the fault.
    pub fn late_failed(&self) -> Figure {
        const LATE: Duration = Duration::from_secs(30);
        // No run lasts that long.
        const END: Duration = Duration::from_secs(24 * 3600);
        let late = self.requests.began(ServiceKind::Ours, self.at + LATE, self.at + END);
        Figure::count("late_failed", late.failed, "requests")
    }

    /// Returns the figures that every run reports: the number of requests and their outcomes, for
    /// each service and for each kind of client.
    pub fn counts(&self) -> Vec<Figure> {
        let (ours, plain) = (self.requests.of(ServiceKind::Ours), self.requests.of(ServiceKind::Plain));
        let count = |what: &str, value| Figure::count(what, value, "requests");
        let mut figures = vec![
            count("requests", ours.requests),
            count("failed", ours.failed),
            count("cut", ours.cut),
            count("slow", ours.slow),
            count("plain_failed", plain.failed),
            count("plain_cut", plain.cut),
            count("plain_slow", plain.slow),
            Figure::new("load", self.load, ""),
        ];
        figures.extend(self.hsdirs());
        if ours.streams > 0 {
            figures.push(Figure::count("streams", ours.streams, "streams"));
        }
        for (client, word) in [(ClientKind::Fresh, "fresh"), (ClientKind::Cached, "cached")] {
            let mine = self.requests.by(ServiceKind::Ours, client);
            figures.push(count(&format!("{word}_requests"), mine.requests));
            figures.push(count(&format!("{word}_failed"), mine.failed));
            figures.push(count(&format!("{word}_cut"), mine.cut));
            figures.push(count(&format!("{word}_slow"), mine.slow));
            for percent in [50, 99] {
                let waited = self.requests.percentile(ServiceKind::Ours, client, percent);
                figures.push(Figure::seconds(format!("{word}_p{percent}_s"), waited.as_secs_f64()));
            }
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: Instant, answers: impl IntoIterator<Item = (u64, &'static str, u64, &'static str)>) -> Observed {
        let seconds = Duration::from_secs;
        let answers = answers.into_iter().map(|(after, key, revision_counter, point)| {
            let seen = HeldDescriptor { revision_counter, points: [point.to_owned()].into() };
            let place = Place { hsdir: "a".to_owned(), blinded_key: key.to_owned() };
            HsDirAnswer { place, of_clients: true, at: at + seconds(after), descriptor: Some(seen) }
        });
        let answers: Vec<_> = answers.collect();
        Observed {
            at,
            ended: at + seconds(60),
            dead: ["dead".to_owned()].into(),
            silent: BTreeSet::new(),
            before: held(&answers[..1]),
            answers,
            moments: Vec::new(),
            requests: Requests::new(Vec::new(), at),
            load: 0.0,
        }
    }

    #[test]
    fn the_hsdirs_of_each_period_are_counted_apart() {
        let at = Instant::now();
        let mut seen = seen(at, [(1, "k", 1, "p"), (2, "k", 1, "p"), (3, "next", 1, "p")]);
        seen.answers[1].place.hsdir = "b".to_owned();
        assert_eq!(seen.hsdirs().map(|figure| figure.shown()), ["2", "0"]);
    }

    #[test]
    fn dead_points_that_return_after_the_fault_has_ended_do_not_count() {
        let at = Instant::now();
        let seen = seen(at, [(0, "k", 1, "dead"), (1, "k", 1, "dead"), (7, "k", 2, "alive"), (61, "k", 3, "dead")]);
        assert_eq!(seen.gone_while_it_lasts(), Figure::seconds("gone_s", 7.0));
        assert_eq!(seen.gone(), Figure::seconds("gone_s", f64::INFINITY));
    }

    #[test]
    fn an_hsdir_that_the_fault_silences_does_not_count_until_it_returns() {
        let at = Instant::now();
        let mut seen = seen(at, [(0, "k", 1, "dead"), (0, "other", 1, "dead"), (7, "other", 2, "alive")]);
        seen.answers[0].place.hsdir = "silent".to_owned();
        seen.before = held(&seen.answers[..2]);
        assert_eq!(seen.gone_while_it_lasts(), Figure::seconds("gone_s", f64::INFINITY));
        seen.silent = ["silent".to_owned()].into();
        assert_eq!(seen.gone_while_it_lasts(), Figure::seconds("gone_s", 7.0));
        assert_eq!(seen.gone(), Figure::seconds("gone_s", f64::INFINITY));
    }

    #[test]
    fn a_descriptor_of_the_next_time_period_is_newer_with_any_counter() {
        let at = Instant::now();
        let republished = |answers: &[_]| seen(at, answers.iter().copied()).republished();
        let both = [(0, "k", 5, "alive"), (1, "k", 5, "alive"), (7, "k", 6, "alive"), (40, "next", 1, "alive")];
        assert_eq!(republished(&both), Figure::seconds("republished_s", 7.0));
        assert_eq!(republished(&both[..2]), Figure::seconds("republished_s", f64::INFINITY));
    }
}
