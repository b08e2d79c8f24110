//! Counts the outcomes of requests.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::request::{ClientKind, Outcome, Request, ServiceKind};

/// The waiting time beyond which a request is considered slow.
pub const SLOW: Duration = Duration::from_secs(10);

/// The requests of a run, and the time of the run's fault.
#[derive(Debug)]
pub struct Requests {
    all: Vec<Request>,
    fault: Instant,
}

/// The number of requests in a set, in total and by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// The number of requests.
    pub requests: usize,
    /// The number of requests whose response never began.
    pub failed: usize,
    /// The number of requests whose response began but was cut off.
    pub cut: usize,
    /// The number of requests that failed or waited longer than [`SLOW`] for the response to begin.
    pub slow: usize,
    /// The number of requests for streams. A stream is a response that takes several seconds.
    pub streams: usize,
}

impl RequestCounts {
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
}

impl Requests {
    /// Creates the set of a run's requests. `fault` is the time at which the fault occurred.
    pub fn new(all: Vec<Request>, fault: Instant) -> Self {
        Self { all, fault }
    }

    /// Counts the requests that all clients together sent to a service.
    pub fn of(&self, service: ServiceKind) -> RequestCounts {
        RequestCounts::of(self.all.iter().filter(|request| request.service == service))
    }

    /// Counts the requests that one kind of client sent to a service between `from` and `to` after
    /// the fault.
    pub fn within(&self, service: ServiceKind, client: ClientKind, from: Duration, to: Duration) -> RequestCounts {
        let range = self.fault + from..self.fault + to;
        let of = |request: &&Request| {
            request.service == service && request.client == client && range.contains(&request.started)
        };
        RequestCounts::of(self.all.iter().filter(of))
    }

    /// Counts the requests that all clients together sent to a service between `from` and `to`.
    pub fn began(&self, service: ServiceKind, from: Instant, to: Instant) -> RequestCounts {
        RequestCounts::of(self.between(service, from, to))
    }

    /// Returns the longest wait among the requests to a service that began between `from` and `to`.
    pub fn longest(&self, service: ServiceKind, from: Instant, to: Instant) -> Duration {
        self.between(service, from, to).map(|request| request.waited).max().unwrap_or_default()
    }

    /// Returns how many times longer than the plain onion service our service took, for each pair
    /// of requests that began between `from` and `to` and were both answered.
    pub fn ratios(&self, from: Instant, to: Instant) -> Vec<f64> {
        let of = |service| self.all.iter().filter(move |request| request.service == service);
        // The traffic sends the two requests of a pair at the same time and records them together.
        let pairs = of(ServiceKind::Ours).zip(of(ServiceKind::Plain));
        let answered = pairs.filter(|(ours, plain)| {
            (from..to).contains(&ours.started) && [ours, plain].iter().all(|request| request.outcome == Outcome::Done)
        });
        answered.map(|(ours, plain)| ours.waited.as_secs_f64() / plain.waited.as_secs_f64().max(1e-6)).collect()
    }

    fn between(&self, service: ServiceKind, from: Instant, to: Instant) -> impl Iterator<Item = &Request> {
        self.all.iter().filter(move |request| request.service == service && (from..to).contains(&request.started))
    }

    /// Counts the requests that one kind of client sent to a service.
    pub fn by(&self, service: ServiceKind, client: ClientKind) -> RequestCounts {
        RequestCounts::of(self.all.iter().filter(|request| request.service == service && request.client == client))
    }

    /// Returns the waiting time that `percent` percent of the requests did not exceed.
    pub fn percentile(&self, service: ServiceKind, client: ClientKind, percent: usize) -> Duration {
        let mine = self.all.iter().filter(|request| request.service == service && request.client == client);
        let mut waited: Vec<_> = mine.map(|request| request.waited).collect();
        waited.sort();
        waited.get((waited.len() * percent / 100).min(waited.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Returns the reasons why requests failed or were cut off, each with its count.
    pub fn reasons(&self) -> BTreeMap<String, usize> {
        let mut reasons = BTreeMap::new();
        for request in &self.all {
            let what = match &request.outcome {
                Outcome::Done => continue,
                Outcome::Failed(why) => format!("{:?}, {:?} client: failed: {why}", request.service, request.client),
                Outcome::Cut(why) => format!("{:?}, {:?} client: cut: {why}", request.service, request.client),
            };
            *reasons.entry(what).or_default() += 1;
        }
        reasons
    }

    /// Returns the requests to a service that failed, were cut off or were slow. For each request,
    /// the result contains the time at which it began (in seconds after the fault), its waiting
    /// time in seconds, and the kind of client.
    pub fn problems(&self, service: ServiceKind) -> Vec<(f64, f64, ClientKind)> {
        let has_problem =
            |request: &&Request| request.service == service && (request.outcome != Outcome::Done || is_slow(request));
        let seconds = |request: &Request| {
            let after = request.started.saturating_duration_since(self.fault).as_secs_f64();
            after - self.fault.saturating_duration_since(request.started).as_secs_f64()
        };
        self.all.iter().filter(has_problem).map(|r| (seconds(r), r.waited.as_secs_f64(), r.client)).collect()
    }
}

fn is_slow(request: &Request) -> bool {
    request.waited > SLOW || matches!(request.outcome, Outcome::Failed(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(service: ServiceKind, client: ClientKind, started: Instant, waited: u64, outcome: Outcome) -> Request {
        Request { service, client, seconds: 0, started, waited: Duration::from_secs(waited), outcome }
    }

    #[test]
    fn each_wait_is_compared_with_that_of_the_same_clients_other_request() {
        let start = Instant::now();
        let pair = |second: u64, ours: u64, plain: u64, outcome: Outcome| {
            let at = start + Duration::from_secs(second);
            [
                request(ServiceKind::Ours, ClientKind::Cached, at, ours, Outcome::Done),
                request(ServiceKind::Plain, ClientKind::Cached, at, plain, outcome),
            ]
        };
        let failed = Outcome::Failed("why".to_owned());
        let pairs = [
            pair(1, 9, 1, Outcome::Done),
            pair(4, 6, 2, Outcome::Done),
            pair(2, 3, 60, failed),
            pair(3, 1, 2, Outcome::Done),
        ];
        let requests = Requests::new(pairs.concat(), start);
        assert_eq!(requests.ratios(start + Duration::from_secs(2), start + Duration::from_secs(5)), [3.0, 0.5]);
    }

    #[test]
    fn each_request_is_counted_by_service_client_and_outcome() {
        let start = Instant::now();
        let fault = start + Duration::from_secs(10);
        let at = |seconds| start + Duration::from_secs(seconds);
        let failed = || Outcome::Failed("why".to_owned());
        let requests = Requests::new(
            vec![
                request(ServiceKind::Ours, ClientKind::Fresh, at(5), 1, Outcome::Done),
                request(ServiceKind::Ours, ClientKind::Fresh, at(12), 11, Outcome::Done),
                request(ServiceKind::Ours, ClientKind::Cached, at(15), 2, failed()),
                request(ServiceKind::Ours, ClientKind::Fresh, at(40), 1, Outcome::Cut("why".to_owned())),
                request(ServiceKind::Plain, ClientKind::Fresh, at(12), 1, failed()),
            ],
            fault,
        );
        let all = requests.of(ServiceKind::Ours);
        assert_eq!(all, RequestCounts { requests: 4, failed: 1, cut: 1, slow: 2, streams: 0 });
        let minute = requests.within(ServiceKind::Ours, ClientKind::Fresh, Duration::ZERO, Duration::from_secs(60));
        assert_eq!((minute.requests, minute.slow), (2, 1));
        let late =
            requests.within(ServiceKind::Ours, ClientKind::Fresh, Duration::from_secs(20), Duration::from_secs(60));
        assert_eq!((late.requests, late.slow), (1, 0));
        assert_eq!(
            requests.began(ServiceKind::Ours, at(12), at(40)),
            RequestCounts { requests: 2, failed: 1, slow: 2, ..RequestCounts::default() }
        );
        assert_eq!(requests.longest(ServiceKind::Ours, at(12), at(40)), Duration::from_secs(11));
        assert_eq!(requests.of(ServiceKind::Plain).failed, 1);
        assert_eq!(requests.reasons().len(), 3);
        assert_eq!(requests.problems(ServiceKind::Ours).len(), 3);
    }
}
