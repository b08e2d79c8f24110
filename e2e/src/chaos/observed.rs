//! The observations made during a run, and the figures that are computed from them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::figure::{Figure, Limit};
use super::judge::{HeldDescriptor, HsDirAnswer, held, settled};
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
    /// The fault's name.
    pub name: &'static str,
    /// The time at which the fault occurred.
    pub at: Instant,
    /// The time at which the fault had ended.
    pub ended: Instant,
    /// The names of the introduction points that have been dead since the fault.
    pub dead: BTreeSet<String>,
    /// The descriptors that the HSDirs held before the fault, by fingerprint.
    pub before: BTreeMap<String, HeldDescriptor>,
    /// The answers of the responsible HSDirs since the fault.
    pub answers: Vec<HsDirAnswer>,
    /// The moments at which introduction points were added or removed. The fault's figures evaluate
    /// the requests or descriptors around each moment.
    pub moments: Vec<Moment>,
    /// The requests made during the run, and their outcomes.
    pub requests: Requests,
}

/// The value of a figure if the event that it measures never occurred.
const NEVER: f64 = f64::INFINITY;
/// The number of responsible HSDirs in one time period if the network is large enough
/// (rend-spec-v3, section 2.2.3: two replicas with four HSDirs each).
const RESPONSIBLE: f64 = 8.0;

impl Observed {
    /// Returns the number of HSDirs from which the judge got a descriptor. This number must be at
    /// least that of the responsible HSDirs, minus the `silent` ones that do not answer during this
    /// fault.
    pub fn hsdirs(&self, silent: u8) -> Figure {
        let hold = self.answers.iter().filter(|answer| answer.descriptor.is_some());
        let hsdirs: BTreeSet<_> = hold.map(|answer| &answer.hsdir).collect();
        Figure::count(self.name("hsdirs"), hsdirs.len(), "HSDirs").with(Limit::AtLeast(RESPONSIBLE - f64::from(silent)))
    }

    /// Returns the name of a figure in the form `<fault>_<what>`.
    pub fn name(&self, what: &str) -> String {
        format!("{}_{what}", self.name)
    }

    /// Returns the time from the fault until no HSDir held a dead introduction point any longer.
    pub fn gone(&self) -> Figure {
        Figure::new(self.name("gone_s"), self.gone_of(&self.answers), "s")
    }

    /// Returns the time from the fault until no HSDir held a dead introduction point any longer.
    /// Considers only answers from before the fault ended, because the points are valid again
    /// afterwards.
    pub fn gone_while_it_lasts(&self) -> Figure {
        let lasting: Vec<_> = self.answers.iter().filter(|answer| answer.at < self.ended).cloned().collect();
        Figure::new(self.name("gone_s"), self.gone_of(&lasting), "s")
    }

    fn gone_of(&self, answers: &[HsDirAnswer]) -> f64 {
        let gone = settled(answers, self.at, |seen| seen.is_none_or(|seen| seen.points.is_disjoint(&self.dead)));
        gone.map_or(NEVER, |gone| gone.as_secs_f64())
    }

    /// Returns the time from the fault until every HSDir held a newer descriptor than any before
    /// the fault. If clients move to another time period in the meantime, every descriptor of that
    /// period is considered newer.
    pub fn republished(&self) -> Figure {
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        for seen in self.before.values() {
            let counter = newest.entry(&seen.blinded_key).or_default();
            *counter = seen.revision_counter.max(*counter);
        }
        let is_newer =
            |seen: &HeldDescriptor| newest.get(&*seen.blinded_key).is_none_or(|known| seen.revision_counter > *known);
        let newer = settled(&self.answers, self.at, |seen| seen.is_none_or(is_newer));
        let newer = newer.filter(|_| !held(&self.answers).is_empty());
        Figure::new(self.name("republished_s"), newer.map_or(NEVER, |newer| newer.as_secs_f64()), "s")
    }

    /// Returns the smallest number of introduction points that all HSDirs together held at any
    /// moment of the run.
    pub fn fewest_points(&self) -> Figure {
        let mut holds = self.before.clone();
        let count = |held: &BTreeMap<String, HeldDescriptor>| {
            held.values().flat_map(|seen| &seen.points).collect::<BTreeSet<_>>().len()
        };
        let mut fewest = count(&holds);
        for answer in self.answers.iter().filter(|answer| answer.at >= self.at) {
            match &answer.descriptor {
                Some(seen) => holds.insert(answer.hsdir.clone(), seen.clone()),
                None => holds.remove(&answer.hsdir),
            };
            fewest = fewest.min(count(&holds));
        }
        Figure::count(self.name("fewest_points"), fewest, "points")
    }

    /// Returns how many more requests failed at our service than at the plain onion service. Never
    /// negative.
    pub fn failed(&self) -> Figure {
        let less =
            self.requests.of(ServiceKind::Ours).failed.saturating_sub(self.requests.of(ServiceKind::Plain).failed);
        Figure::count(self.name("failed"), less, "requests")
    }

    /// Returns the number of our service's responses that were cut off, minus the same number for
    /// the plain onion service.
    pub fn cut(&self) -> Figure {
        let less = self.requests.of(ServiceKind::Ours).cut.saturating_sub(self.requests.of(ServiceKind::Plain).cut);
        Figure::count(self.name("cut"), less, "requests")
    }

    /// Returns a limit of half a percent of the number of requests to our service.
    #[allow(clippy::cast_precision_loss, reason = "the counts are a few hundred")]
    pub fn half_a_percent(&self) -> Limit {
        Limit::AtMost(self.requests.of(ServiceKind::Ours).requests as f64 * 0.005)
    }

    /// Returns two figures about the fresh clients' requests in the minute after the fault. The
    /// first is the percentage of slow requests to our service. The second considers only slow
    /// requests that began more than 20 s after the fault. It says how many more of them went to
    /// our service than to the plain onion service.
    pub fn slow_fresh(&self) -> [Figure; 2] {
        const MINUTE: Duration = Duration::from_secs(60);
        const LATE: Duration = Duration::from_secs(20);
        let minute = self.requests.within(ServiceKind::Ours, ClientKind::Fresh, Duration::ZERO, MINUTE);
        let late = |service| self.requests.within(service, ClientKind::Fresh, LATE, MINUTE).slow;
        [
            Figure::new(self.name("slow_percent"), minute.slow_percent(), "%"),
            Figure::count(
                self.name("slow_late"),
                late(ServiceKind::Ours).saturating_sub(late(ServiceKind::Plain)),
                "requests",
            ),
        ]
    }

    /// Returns the figures that every run reports: the number of requests, which must be at least
    /// `least`, and their outcomes by kind of client. `silent` is the number of HSDirs that do not
    /// answer during this fault.
    #[allow(clippy::cast_precision_loss, reason = "the counts are a few hundred")]
    pub fn counts(&self, least: usize, silent: u8) -> Vec<Figure> {
        let (ours, plain) = (self.requests.of(ServiceKind::Ours), self.requests.of(ServiceKind::Plain));
        let mut figures = vec![
            Figure::count(self.name("requests"), ours.requests, "requests").with(Limit::AtLeast(least as f64)),
            Figure::count(self.name("plain_failed"), plain.failed, "requests"),
            self.hsdirs(silent),
        ];
        if ours.streams > 0 {
            figures.push(Figure::count(self.name("streams"), ours.streams, "streams"));
        }
        for (client, word) in [(ClientKind::Fresh, "fresh"), (ClientKind::Cached, "cached")] {
            let mine = self.requests.by(ServiceKind::Ours, client);
            let name = |what: &str| self.name(&format!("{word}_{what}"));
            figures.push(Figure::count(name("requests"), mine.requests, "requests"));
            figures.push(Figure::count(name("failed"), mine.failed + mine.cut, "requests"));
            figures.push(Figure::count(name("slow"), mine.slow, "requests"));
            for percent in [50, 99] {
                let waited = self.requests.percentile(ServiceKind::Ours, client, percent);
                figures.push(Figure::new(name(&format!("p{percent}_s")), waited.as_secs_f64(), "s"));
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
            let seen =
                HeldDescriptor { blinded_key: key.to_owned(), revision_counter, points: [point.to_owned()].into() };
            HsDirAnswer { hsdir: "a".to_owned(), at: at + seconds(after), descriptor: Some(seen) }
        });
        let answers: Vec<_> = answers.collect();
        Observed {
            name: "cut",
            at,
            ended: at + seconds(60),
            dead: ["dead".to_owned()].into(),
            before: held(&answers[..1]),
            answers,
            moments: Vec::new(),
            requests: Requests::new(Vec::new(), at),
        }
    }

    #[test]
    fn dead_points_that_return_after_the_fault_has_ended_do_not_count() {
        let at = Instant::now();
        let seen = seen(at, [(0, "k", 1, "dead"), (1, "k", 1, "dead"), (7, "k", 2, "alive"), (61, "k", 3, "dead")]);
        assert_eq!(seen.gone_while_it_lasts().to_string(), "figure cut_gone_s 7 s");
        assert_eq!(seen.gone().to_string(), "figure cut_gone_s inf s");
    }

    #[test]
    fn a_descriptor_of_the_next_time_period_is_newer_with_any_counter() {
        let at = Instant::now();
        let republished = |answers: &[_]| seen(at, answers.iter().copied()).republished().to_string();
        let both = [(0, "k", 5, "alive"), (1, "k", 5, "alive"), (7, "k", 6, "alive"), (40, "next", 1, "alive")];
        assert_eq!(republished(&both), "figure cut_republished_s 7 s");
        assert_eq!(republished(&both[..2]), "figure cut_republished_s inf s");
    }
}
