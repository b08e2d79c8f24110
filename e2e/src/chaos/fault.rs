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
    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<Struck>>;

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
}

impl Default for Needs {
    fn default() -> Self {
        Self { backends: 3, frontends: 1, streams: false }
    }
}

/// A fault that has come.
pub struct Struck {
    /// When.
    pub at: Instant,
    /// The names of the points that lead nowhere since.
    pub dead: BTreeSet<String>,
    /// How long it lasts.
    pub lasts: Duration,
    /// What ends it, or what it takes to end by itself.
    pub end: LocalBoxFuture<'static, Result<()>>,
}

impl fmt::Debug for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Struck").field("dead", &self.dead).field("lasts", &self.lasts).finish_non_exhaustive()
    }
}

impl Struck {
    /// One that needs no end.
    pub fn at(at: Instant, dead: BTreeSet<String>) -> Self {
        Self { at, dead, lasts: Duration::ZERO, end: Box::pin(async { Ok(()) }) }
    }

    /// One that lasts so long, and is then ended so.
    pub fn ending(self, lasts: Duration, end: impl Future<Output = Result<()>> + 'static) -> Self {
        Self { lasts, end: Box::pin(end), ..self }
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
    /// What became of the requests.
    pub requests: Requests,
}

/// Of a measured figure that never came.
const NEVER: f64 = f64::INFINITY;
/// In a time period, of a network that has as many (rend-spec-v3, section 2.2.3: two replicas, four each).
const RESPONSIBLE: f64 = 8.0;

impl Observed {
    /// How many HSDirs the figures on descriptors are of.
    pub fn hsdirs(&self) -> Figure {
        let hold = self.sightings.iter().filter(|sighting| sighting.descriptor.is_some());
        let hsdirs: BTreeSet<_> = hold.map(|sighting| &sighting.hsdir).collect();
        Figure::count(self.name("hsdirs"), hsdirs.len(), "HSDirs").with(Limit::AtLeast(RESPONSIBLE))
    }

    /// `<fault>_<what>`
    pub fn name(&self, what: &str) -> String {
        format!("{}_{what}", self.name)
    }

    /// From the fault until no HSDir held a dead point any more.
    pub fn gone(&self) -> Figure {
        let gone =
            settled(&self.sightings, self.at, |seen| seen.is_none_or(|seen| seen.points.is_disjoint(&self.dead)));
        Figure::told(self.name("gone_s"), gone.map_or(NEVER, |gone| gone.as_secs_f64()), "s")
    }

    /// From the fault until every HSDir held a newer descriptor than any of before.
    pub fn republished(&self) -> Figure {
        let newest = self.before.values().map(|seen| seen.revision_counter).max().unwrap_or_default();
        let newer = settled(&self.sightings, self.at, |seen| seen.is_none_or(|seen| seen.revision_counter > newest));
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

    /// Told of every run: how many requests there were, and how they fared by kind of client. `least` is how many there must be.
    #[allow(clippy::cast_precision_loss, reason = "counts of some hundreds")]
    pub fn counts(&self, least: usize) -> Vec<Figure> {
        let (ours, plain) = (self.requests.of(Whose::Ours), self.requests.of(Whose::Plain));
        let mut figures = vec![
            Figure::count(self.name("requests"), ours.requests, "requests").with(Limit::AtLeast(least as f64)),
            Figure::count(self.name("plain_failed"), plain.failed, "requests"),
            self.hsdirs(),
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
