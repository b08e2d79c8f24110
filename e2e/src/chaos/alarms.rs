//! Watches the conditions that report outages during a run. While the service answers real clients,
//! none of them may raise an alarm.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use onionbalance_operator::crd::{BackendState, OnionBalancedServiceStatus};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use super::request::ServiceKind;
use super::tally::{RequestCounts, Requests};
use crate::service::Service;

/// The time that an alarm of the probe may refer to: a probe with the timeout of the stage, and the
/// seconds in which the publisher and the operator write the status.
const OF_THE_PROBE: Duration = Duration::from_secs(75);
/// The time that an alarm of the health checks may refer to.
const OF_THE_CHECKS: Duration = Duration::from_secs(30);
/// The percentage of the requests that a service must answer within ten seconds to count as one
/// that answers. The probe makes two attempts. If fewer requests than this fail, both attempts fail
/// in at most one of a hundred probes.
const ANSWERED: usize = 90;
/// The length of the parts into which the time before an alarm is divided. In a short outage, most
/// requests of one part fail, and both attempts of a probe can fail, too.
const PART: Duration = Duration::from_secs(5);

/// The part of the product that raises an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The probe of the address: `Reachable` is False.
    Probe,
    /// The checks of the targets: a backend is unhealthy, or a target fails everywhere.
    Checks,
}

/// The beginning of an alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// The time at which the status first showed the alarm.
    pub at: Instant,
    /// The part of the product that raised the alarm.
    pub source: Source,
    /// The reason of the condition.
    pub reason: String,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.source, self.reason)
    }
}

/// A task that reads the status once a second.
#[derive(Debug)]
pub struct Alarms {
    seen: Arc<Mutex<Seen>>,
    watching: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    looks: usize,
    current: Vec<(Source, String)>,
    alarms: Vec<Alarm>,
}

impl Seen {
    /// Records the alarms that a status shows. An alarm that continues is recorded once.
    fn look(&mut self, status: &OnionBalancedServiceStatus, at: Instant) {
        let now = raised(status);
        let new = now.iter().filter(|alarm| !self.current.contains(alarm));
        self.alarms.extend(new.map(|(source, reason)| Alarm { at, source: *source, reason: reason.clone() }));
        self.looks += 1;
        self.current = now;
    }
}

/// Returns the alarms in a status.
fn raised(status: &OnionBalancedServiceStatus) -> Vec<(Source, String)> {
    let has = |kind: &str, is_alarm: fn(&str, &str) -> bool| {
        let mut found = status.conditions.iter().filter(|condition| condition.type_ == kind);
        found.find(|condition| is_alarm(&condition.status, &condition.reason)).map(|found| found.reason.clone())
    };
    let probe = has("Reachable", |status, _| status == "False").map(|reason| (Source::Probe, reason));
    let failing = has("BackendsReady", |_, reason| ["TargetFailing", "BackendUnhealthy"].contains(&reason));
    let unhealthy = status.backends.iter().filter(|backend| backend.state == BackendState::Unhealthy);
    let checks = failing.into_iter().chain(unhealthy.map(|backend| format!("{} is unhealthy", backend.name)));
    probe.into_iter().chain(checks.map(|reason| (Source::Checks, reason))).collect()
}

impl Alarms {
    /// Starts to watch the status of a service.
    pub fn watch(service: Service) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        let watching = tokio::spawn(async move {
            let mut clock = interval(Duration::from_secs(1));
            loop {
                clock.tick().await;
                // The API server is down during some of the faults.
                if let Ok(status) = service.status().await {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).look(&status, Instant::now());
                }
            }
        });
        Self { seen, watching }
    }

    /// Stops to watch, and returns the alarms. Fails if the status could never be read.
    pub fn end(self) -> Result<Vec<Alarm>> {
        self.watching.abort();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(seen.looks > 0, "the status was never read during the run");
        Ok(std::mem::take(&mut seen.alarms))
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Returns the alarms that began although the service answered the requests of real clients: 90% of
/// all requests before the alarm, and half of those in each part of this time. The alarms of the
/// checks do not count if the fault is one of the app.
pub fn false_alarms<'a>(alarms: &'a [Alarm], requests: &Requests, breaks_app: bool) -> Vec<&'a Alarm> {
    let is_false = |alarm: &&Alarm| {
        let window = match alarm.source {
            Source::Probe => OF_THE_PROBE,
            Source::Checks if breaks_app => return false,
            Source::Checks => OF_THE_CHECKS,
        };
        let from = alarm.at.checked_sub(window).unwrap_or(alarm.at);
        let seen = |from, to| requests.began(ServiceKind::Ours, from, to);
        let parts = std::iter::successors(Some(from), |from| Some(*from + PART)).take_while(|from| *from < alarm.at);
        let mut parts = parts.map(|from| seen(from, (from + PART).min(alarm.at)));
        let all = seen(from, alarm.at);
        all.requests > 0 && answers(all, ANSWERED) && parts.all(|part| answers(part, 50))
    };
    alarms.iter().filter(is_false).collect()
}

/// Returns true if at least this percentage of the requests was answered in time.
fn answers(seen: RequestCounts, percent: usize) -> bool {
    let bad = (seen.slow + seen.cut).min(seen.requests);
    (seen.requests - bad) * 100 >= seen.requests * percent
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use serde_json::json;

    use super::*;
    use crate::chaos::request::{ClientKind, Outcome, Request};

    fn status(kind: &str, status: &str, reason: &str) -> OnionBalancedServiceStatus {
        let condition: Condition = serde_json::from_value(json!({
            "type": kind, "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        OnionBalancedServiceStatus { conditions: vec![condition], ..OnionBalancedServiceStatus::default() }
    }

    #[test]
    fn an_alarm_is_recorded_once_while_it_lasts() {
        let (mut seen, at) = (Seen::default(), Instant::now());
        let clear = status("Reachable", "True", "Answered");
        let probe = status("Reachable", "False", "TargetFailed");
        let unknown = status("Reachable", "Unknown", "NotProbed");
        let checks = status("BackendsReady", "True", "TargetFailing");
        for look in [&clear, &probe, &probe, &clear, &probe, &unknown, &checks] {
            seen.look(look, at);
        }
        let sources: Vec<_> = seen.alarms.iter().map(|alarm| alarm.source).collect();
        assert_eq!(sources, [Source::Probe, Source::Probe, Source::Checks]);
        assert_eq!(seen.looks, 7);
    }

    #[test]
    fn an_alarm_is_false_while_nine_of_ten_requests_are_answered() {
        let start = Instant::now();
        let second = |seconds: u64| start + Duration::from_secs(seconds);
        // One request in each second. None is answered from the 100th to the 120th. After the
        // 300th, one in eight is not answered.
        let request = |number: u64| {
            let is_bad = (100..120).contains(&number) || (number > 300 && number.is_multiple_of(8));
            let outcome = if is_bad { Outcome::Failed(String::new()) } else { Outcome::Done };
            let waited = Duration::from_secs(if is_bad { 60 } else { 1 });
            let (service, client) = (ServiceKind::Ours, ClientKind::Cached);
            Request { service, client, seconds: 0, started: second(number), waited, outcome }
        };
        let requests = Requests::new((0..500).map(request).collect(), second(100));
        let count = |source, at, breaks_app| {
            let alarm = Alarm { at: second(at), source, reason: String::new() };
            false_alarms(&[alarm], &requests, breaks_app).len()
        };
        for (source, at, expected) in [
            (Source::Probe, 99, 1),
            (Source::Probe, 102, 1),
            (Source::Probe, 104, 0),
            (Source::Probe, 120, 0),
            (Source::Probe, 187, 0),
            (Source::Probe, 194, 1),
            (Source::Probe, 400, 0),
            (Source::Checks, 110, 0),
            (Source::Checks, 160, 1),
        ] {
            assert_eq!(count(source, at, false), expected, "{source:?} {at}");
        }
        assert_eq!(count(Source::Checks, 160, true), 0);
        assert_eq!(count(Source::Probe, 194, true), 1, "a fault of the app excuses no alarm of the probe");
    }
}
