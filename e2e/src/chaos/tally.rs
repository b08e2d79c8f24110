//! What became of requests, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::request::{Client, Outcome, Request, Whose};

/// Longer than this is slow.
pub const SLOW: Duration = Duration::from_secs(10);

/// A run's requests, and when its fault came.
#[derive(Debug)]
pub struct Requests {
    all: Vec<Request>,
    fault: Instant,
}

/// Counts of some of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// All.
    pub requests: usize,
    /// Those whose answer never began.
    pub failed: usize,
    /// Those whose answer began and did not end as it should.
    pub cut: usize,
    /// Those that waited longer than [`SLOW`] for the beginning of an answer, or in vain.
    pub slow: usize,
    /// Those for an answer of some length.
    pub streams: usize,
}

impl Tally {
    fn of<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Self {
        let mut tally = Self::default();
        for request in requests {
            tally.requests += 1;
            tally.streams += usize::from(request.seconds > 0);
            tally.failed += usize::from(matches!(request.outcome, Outcome::Failed(_)));
            tally.cut += usize::from(matches!(request.outcome, Outcome::Cut(_)));
            tally.slow += usize::from(is_slow(request));
        }
        tally
    }

    /// The slow ones, in percent.
    pub fn slow_percent(&self) -> f64 {
        percent(self.slow, self.requests)
    }
}

impl Requests {
    /// Of a run whose fault came at this moment.
    pub fn new(all: Vec<Request>, fault: Instant) -> Self {
        Self { all, fault }
    }

    /// Of a service, by all clients.
    pub fn of(&self, whose: Whose) -> Tally {
        Tally::of(self.all.iter().filter(|request| request.whose == whose))
    }

    /// Of a service, by these clients, that began within this time after the fault.
    pub fn within(&self, whose: Whose, client: Client, from: Duration, to: Duration) -> Tally {
        let range = self.fault + from..self.fault + to;
        let of =
            |request: &&Request| request.whose == whose && request.client == client && range.contains(&request.started);
        Tally::of(self.all.iter().filter(of))
    }

    /// Of a service, by all clients, that began between these moments.
    pub fn began(&self, whose: Whose, from: Instant, to: Instant) -> Tally {
        Tally::of(self.between(whose, from, to))
    }

    /// The longest that one of those waited.
    pub fn longest(&self, whose: Whose, from: Instant, to: Instant) -> Duration {
        self.between(whose, from, to).map(|request| request.waited).max().unwrap_or_default()
    }

    fn between(&self, whose: Whose, from: Instant, to: Instant) -> impl Iterator<Item = &Request> {
        self.all.iter().filter(move |request| request.whose == whose && (from..to).contains(&request.started))
    }

    /// Of a service, by these clients.
    pub fn by(&self, whose: Whose, client: Client) -> Tally {
        Tally::of(self.all.iter().filter(|request| request.whose == whose && request.client == client))
    }

    /// The time that so many of a hundred requests waited at most.
    pub fn percentile(&self, whose: Whose, client: Client, percent: usize) -> Duration {
        let mine = self.all.iter().filter(|request| request.whose == whose && request.client == client);
        let mut waited: Vec<_> = mine.map(|request| request.waited).collect();
        waited.sort();
        waited.get((waited.len() * percent / 100).min(waited.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Why ours failed, each reason with its count.
    pub fn reasons(&self) -> BTreeMap<String, usize> {
        let mut reasons = BTreeMap::new();
        for request in &self.all {
            let what = match &request.outcome {
                Outcome::Done => continue,
                Outcome::Failed(why) => format!("{:?}, {:?} client: failed: {why}", request.whose, request.client),
                Outcome::Cut(why) => format!("{:?}, {:?} client: cut: {why}", request.whose, request.client),
            };
            *reasons.entry(what).or_default() += 1;
        }
        reasons
    }

    /// Requests to a service that failed, were cut or slow: when each began, in seconds after the fault, and how long it waited.
    pub fn troubles(&self, whose: Whose) -> Vec<(f64, f64, Client)> {
        let troubled =
            |request: &&Request| request.whose == whose && (request.outcome != Outcome::Done || is_slow(request));
        let seconds = |request: &Request| {
            let after = request.started.saturating_duration_since(self.fault).as_secs_f64();
            after - self.fault.saturating_duration_since(request.started).as_secs_f64()
        };
        self.all.iter().filter(troubled).map(|r| (seconds(r), r.waited.as_secs_f64(), r.client)).collect()
    }
}

fn is_slow(request: &Request) -> bool {
    request.waited > SLOW || matches!(request.outcome, Outcome::Failed(_))
}

/// In percent; 0 of nothing.
#[allow(clippy::cast_precision_loss, reason = "counts of some hundreds")]
pub fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(whose: Whose, client: Client, started: Instant, waited: u64, outcome: Outcome) -> Request {
        Request { whose, client, seconds: 0, started, waited: Duration::from_secs(waited), outcome }
    }

    #[test]
    fn each_request_is_counted_where_it_belongs() {
        let start = Instant::now();
        let fault = start + Duration::from_secs(10);
        let at = |seconds| start + Duration::from_secs(seconds);
        let failed = || Outcome::Failed("why".to_owned());
        let requests = Requests::new(
            vec![
                request(Whose::Ours, Client::Fresh, at(5), 1, Outcome::Done),
                request(Whose::Ours, Client::Fresh, at(12), 11, Outcome::Done),
                request(Whose::Ours, Client::Cached, at(15), 2, failed()),
                request(Whose::Ours, Client::Fresh, at(40), 1, Outcome::Cut("why".to_owned())),
                request(Whose::Plain, Client::Fresh, at(12), 1, failed()),
            ],
            fault,
        );
        let all = requests.of(Whose::Ours);
        assert_eq!(all, Tally { requests: 4, failed: 1, cut: 1, slow: 2, streams: 0 });
        let minute = requests.within(Whose::Ours, Client::Fresh, Duration::ZERO, Duration::from_secs(60));
        assert_eq!((minute.requests, minute.slow), (2, 1));
        assert!((minute.slow_percent() - 50.0).abs() < 1e-9);
        let late = requests.within(Whose::Ours, Client::Fresh, Duration::from_secs(20), Duration::from_secs(60));
        assert_eq!((late.requests, late.slow), (1, 0));
        assert_eq!(
            requests.began(Whose::Ours, at(12), at(40)),
            Tally { requests: 2, failed: 1, slow: 2, ..Tally::default() }
        );
        assert_eq!(requests.longest(Whose::Ours, at(12), at(40)), Duration::from_secs(11));
        assert_eq!(requests.of(Whose::Plain).failed, 1);
        assert_eq!(requests.reasons().len(), 3);
        assert_eq!(requests.troubles(Whose::Ours).len(), 3);
    }
}
