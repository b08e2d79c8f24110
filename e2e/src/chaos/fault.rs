//! What a fault is, and what is seen of a run in which it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use super::figure::{Figure, Limit};
use super::judge::{Seen, Sighting, held, settled};
use super::request::{Client, Whose};
use super::stage::Stage;
use super::tally::Requests;
use super::traffic::EVERY;

/// Something that goes wrong.
pub trait Fault {
    /// What its figures' names begin with.
    fn name(&self) -> &'static str;

    /// One line for `--list`.
    fn about(&self) -> &'static str;

    /// What must be there before it.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Does it, under load.
    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck<'a>>>;

    /// What is told of the run beside the counts of requests, which are told of all.
    fn figures(&self, seen: &Observed) -> Vec<Figure>;
}

/// What a fault begins from.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Backends that are published.
    pub backends: usize,
    /// Frontends that are Ready.
    pub frontends: usize,
    /// Whether some requests are for streams of up to a minute.
    pub streams: bool,
    /// How often a request begins (to each of the two services).
    pub every: Duration,
    /// Whether the time period may change meanwhile. Otherwise it begins when no change is due for as long as a run takes, and for so
    /// much longer.
    pub quiet: Option<Duration>,
    /// How many HSDirs do not answer the judge.
    pub silent_hsdirs: u8,
}

impl Default for Needs {
    fn default() -> Self {
        Self { backends: 3, frontends: 1, streams: false, every: EVERY, quiet: Some(Duration::ZERO), silent_hsdirs: 0 }
    }
}

/// A fault that has come.
pub struct Struck<'a> {
    /// When.
    pub at: Instant,
    /// The names of the points that lead nowhere since.
    pub dead: BTreeSet<String>,
    /// How long it lasts.
    pub lasts: Duration,
    /// What ends it, or what it takes to end by itself; gives what was seen on the way.
    pub end: LocalBoxFuture<'a, Result<Told>>,
}

/// What a fault itself saw.
#[derive(Debug, Default)]
pub struct Told {
    /// What it measured.
    pub figures: Vec<Figure>,
    /// Moments that count apart.
    pub moments: Vec<Moment>,
}

/// A moment of a run at which introduction points came or went.
#[derive(Debug, Clone)]
pub struct Moment {
    /// When.
    pub at: Instant,
    /// The points' names.
    pub points: BTreeSet<String>,
}

impl fmt::Debug for Struck<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Struck").field("dead", &self.dead).field("lasts", &self.lasts).finish_non_exhaustive()
    }
}

impl<'a> Struck<'a> {
    /// One that needs no end.
    pub fn at(at: Instant, dead: BTreeSet<String>) -> Self {
        Self { at, dead, lasts: Duration::ZERO, end: Box::pin(async { Ok(Told::default()) }) }
    }

    /// One that lasts so long, and is then ended so.
    pub fn ending(self, lasts: Duration, end: impl Future<Output = Result<()>> + 'a) -> Self {
        let end = async {
            end.await?;
            Ok(Told::default())
        };
        Self { lasts, end: Box::pin(end), ..self }
    }

    /// One that sees something before it is over.
    pub fn telling(self, end: impl Future<Output = Result<Told>> + 'a) -> Self {
        Self { end: Box::pin(end), ..self }
    }
}

/// What was seen of a run.
#[derive(Debug)]
pub struct Observed {
    /// The fault's name.
    pub name: &'static str,
    /// When the fault came.
    pub at: Instant,
    /// When it had ended.
    pub ended: Instant,
    /// Points that led nowhere from then on.
    pub dead: BTreeSet<String>,
    /// What the HSDirs held before.
    pub before: BTreeMap<String, Seen>,
    /// What those that are responsible answered since the fault.
    pub sightings: Vec<Sighting>,
    /// The moments that count apart.
    pub moments: Vec<Moment>,
    /// What became of the requests.
    pub requests: Requests,
}

/// Of a measured figure that never came.
const NEVER: f64 = f64::INFINITY;
/// In a time period, of a network that has as many (rend-spec-v3, section 2.2.3: two replicas, four each).
const RESPONSIBLE: f64 = 8.0;

impl Observed {
    /// How many HSDirs the figures on descriptors are of; so many do not answer.
    pub fn hsdirs(&self, silent: u8) -> Figure {
        let hold = self.sightings.iter().filter(|sighting| sighting.descriptor.is_some());
        let hsdirs: BTreeSet<_> = hold.map(|sighting| &sighting.hsdir).collect();
        Figure::count(self.name("hsdirs"), hsdirs.len(), "HSDirs").with(Limit::AtLeast(RESPONSIBLE - f64::from(silent)))
    }

    /// `<fault>_<what>`
    pub fn name(&self, what: &str) -> String {
        format!("{}_{what}", self.name)
    }

    /// From the fault until no HSDir held a dead point any more.
    pub fn gone(&self) -> Figure {
        Figure::told(self.name("gone_s"), self.gone_of(&self.sightings), "s")
    }

    /// The same of a fault that ends: only until then, since the points come back.
    pub fn gone_while_it_lasts(&self) -> Figure {
        let lasting: Vec<_> = self.sightings.iter().filter(|sighting| sighting.at < self.ended).cloned().collect();
        Figure::told(self.name("gone_s"), self.gone_of(&lasting), "s")
    }

    fn gone_of(&self, sightings: &[Sighting]) -> f64 {
        let gone = settled(sightings, self.at, |seen| seen.is_none_or(|seen| seen.points.is_disjoint(&self.dead)));
        gone.map_or(NEVER, |gone| gone.as_secs_f64())
    }

    /// From the fault until every HSDir held a newer descriptor than any of before. One of another time period, when clients move on to
    /// that in the meantime, is newer.
    pub fn republished(&self) -> Figure {
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        for seen in self.before.values() {
            let counter = newest.entry(&seen.blinded_key).or_default();
            *counter = seen.revision_counter.max(*counter);
        }
        let is_newer = |seen: &Seen| newest.get(&*seen.blinded_key).is_none_or(|known| seen.revision_counter > *known);
        let newer = settled(&self.sightings, self.at, |seen| seen.is_none_or(is_newer));
        let newer = newer.filter(|_| !held(&self.sightings).is_empty());
        Figure::told(self.name("republished_s"), newer.map_or(NEVER, |newer| newer.as_secs_f64()), "s")
    }

    /// The fewest points that the HSDirs held together at any moment of the run.
    pub fn fewest_points(&self) -> Figure {
        let mut holds = self.before.clone();
        let count =
            |held: &BTreeMap<String, Seen>| held.values().flat_map(|seen| &seen.points).collect::<BTreeSet<_>>().len();
        let mut fewest = count(&holds);
        for sighting in self.sightings.iter().filter(|sighting| sighting.at >= self.at) {
            match &sighting.descriptor {
                Some(seen) => holds.insert(sighting.hsdir.clone(), seen.clone()),
                None => holds.remove(&sighting.hsdir),
            };
            fewest = fewest.min(count(&holds));
        }
        Figure::count(self.name("fewest_points"), fewest, "points")
    }

    /// Failed requests less the plain service's: those whose answer never began.
    pub fn failed(&self) -> Figure {
        let less = self.requests.of(Whose::Ours).failed.saturating_sub(self.requests.of(Whose::Plain).failed);
        Figure::count(self.name("failed"), less, "requests")
    }

    /// Answers that broke off, less the plain service's.
    pub fn cut(&self) -> Figure {
        let less = self.requests.of(Whose::Ours).cut.saturating_sub(self.requests.of(Whose::Plain).cut);
        Figure::count(self.name("cut"), less, "requests")
    }

    /// At most half a percent of the requests.
    #[allow(clippy::cast_precision_loss, reason = "counts of some hundreds")]
    pub fn half_a_percent(&self) -> Limit {
        Limit::AtMost(self.requests.of(Whose::Ours).requests as f64 * 0.005)
    }

    /// Of the requests by fresh clients in the minute after the fault those that were slow, in percent, and how many of those that began
    /// more than 20 s after it were slow, less the plain service's.
    pub fn slow_fresh(&self) -> [Figure; 2] {
        const MINUTE: Duration = Duration::from_secs(60);
        const LATE: Duration = Duration::from_secs(20);
        let minute = self.requests.within(Whose::Ours, Client::Fresh, Duration::ZERO, MINUTE);
        let late = |whose| self.requests.within(whose, Client::Fresh, LATE, MINUTE).slow;
        [
            Figure::told(self.name("slow_percent"), minute.slow_percent(), "%"),
            Figure::count(self.name("slow_late"), late(Whose::Ours).saturating_sub(late(Whose::Plain)), "requests"),
        ]
    }

    /// Told of every run: how many requests there were, and how they fared by kind of client. `least` is how many there must be, `silent` how
    /// many HSDirs do not answer.
    #[allow(clippy::cast_precision_loss, reason = "counts of some hundreds")]
    pub fn counts(&self, least: usize, silent: u8) -> Vec<Figure> {
        let (ours, plain) = (self.requests.of(Whose::Ours), self.requests.of(Whose::Plain));
        let mut figures = vec![
            Figure::count(self.name("requests"), ours.requests, "requests").with(Limit::AtLeast(least as f64)),
            Figure::count(self.name("plain_failed"), plain.failed, "requests"),
            self.hsdirs(silent),
        ];
        if ours.streams > 0 {
            figures.push(Figure::count(self.name("streams"), ours.streams, "streams"));
        }
        for (client, word) in [(Client::Fresh, "fresh"), (Client::Cached, "cached")] {
            let mine = self.requests.by(Whose::Ours, client);
            let name = |what: &str| self.name(&format!("{word}_{what}"));
            figures.push(Figure::count(name("requests"), mine.requests, "requests"));
            figures.push(Figure::count(name("failed"), mine.failed + mine.cut, "requests"));
            figures.push(Figure::count(name("slow"), mine.slow, "requests"));
            for percent in [50, 99] {
                let waited = self.requests.percentile(Whose::Ours, client, percent);
                figures.push(Figure::told(name(&format!("p{percent}_s")), waited.as_secs_f64(), "s"));
            }
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: Instant, sightings: impl IntoIterator<Item = (u64, &'static str, u64, &'static str)>) -> Observed {
        let seconds = Duration::from_secs;
        let sightings = sightings.into_iter().map(|(after, key, revision_counter, point)| {
            let seen = Seen { blinded_key: key.to_owned(), revision_counter, points: [point.to_owned()].into() };
            Sighting { hsdir: "a".to_owned(), at: at + seconds(after), descriptor: Some(seen) }
        });
        let sightings: Vec<_> = sightings.collect();
        Observed {
            name: "cut",
            at,
            ended: at + seconds(60),
            dead: ["dead".to_owned()].into(),
            before: held(&sightings[..1]),
            sightings,
            moments: Vec::new(),
            requests: Requests::new(Vec::new(), at),
        }
    }

    #[test]
    fn of_a_fault_that_ends_points_that_come_back_are_no_relapse() {
        let at = Instant::now();
        let seen = seen(at, [(0, "k", 1, "dead"), (1, "k", 1, "dead"), (7, "k", 2, "alive"), (61, "k", 3, "dead")]);
        assert_eq!(seen.gone_while_it_lasts().to_string(), "figure cut_gone_s 7 s");
        assert_eq!(seen.gone().to_string(), "figure cut_gone_s inf s");
    }

    #[test]
    fn the_next_time_periods_descriptor_is_newer_whatever_its_counter() {
        let at = Instant::now();
        let republished = |sightings: &[_]| seen(at, sightings.iter().copied()).republished().to_string();
        let both = [(0, "k", 5, "alive"), (1, "k", 5, "alive"), (7, "k", 6, "alive"), (40, "next", 1, "alive")];
        assert_eq!(republished(&both), "figure cut_republished_s 7 s");
        assert_eq!(republished(&both[..2]), "figure cut_republished_s inf s");
    }
}
