//! Checks the targets of the ports, and tells the publisher and the readiness probe about them.
//!
//! The agent cannot know whether a target that fails is down for all backends. The leading
//! publisher compares the reports of all agents and tells an agent whether it is withdrawn.

mod history;
mod probe;
mod tls;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::select_all;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::Connector;
use super::forward::Traffic;
use crate::common::log_limit::{Line, LogLimit};
use crate::link::{ForwardedPort, PodPhase, SyncRequest, TargetHealth, TargetState, brief};
use history::{History, SPACING};

/// The time for which the leader's judgement is valid. The leader repeats it about once a second.
const JUDGEMENT_LASTS: Duration = Duration::from_secs(30);
/// The time from the withdrawal of a backend without any passing target until its tor is ended. By
/// then, the HSDirs have the descriptor without the backend.
const LEAVES_AFTER: Duration = Duration::from_secs(5);
/// The shortest time between two ends of tor, because Kubernetes restarts a container that ends
/// often only after a growing pause.
const LEAVES_AGAIN: Duration = Duration::from_secs(600);
/// The failure that a refused stream counts as.
const STREAM_FAILED: &str = "a stream could not connect";

/// The health of all targets that are checked.
#[derive(Debug, Default)]
pub struct Health {
    targets: Vec<Target>,
    connector: Arc<Connector>,
    leader: watch::Sender<Leader>,
    /// True if every port has a check.
    covers_all: bool,
    /// The time at which the agent last ended tor because of the targets.
    left: Mutex<Option<Instant>>,
}

/// What the leading publisher said last.
#[derive(Debug, Default)]
struct Leader {
    /// The publisher and its round.
    asked: Option<(String, u64)>,
    /// A number that increases with each new round.
    generation: u64,
    /// The time at which the leader last said that this backend is withdrawn.
    withdrew: Option<Instant>,
    /// The time since which the leader has been saying so, of a pod that is not terminating.
    since: Option<Instant>,
}

/// A target that is checked.
#[derive(Debug)]
pub struct Target {
    port: ForwardedPort,
    /// The settings of TLS, if the check uses HTTPS.
    tls: Option<tls::Settings>,
    /// Notified when a stream could not connect to the target.
    doubt: Arc<Notify>,
    seen: Mutex<Seen>,
    /// The limit for the lines about changes.
    changes: LogLimit,
    passed: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug)]
struct Seen {
    history: History,
    /// The generation that was current when the newest check began, and the check's result.
    last: Option<(u64, bool)>,
    /// The reason of the newest failure, unless the newest check passed.
    problem: Option<String>,
}

impl Health {
    /// Creates the checks of all ports that have one. Failed streams of `traffic` cause checks.
    pub fn new(ports: &[ForwardedPort], traffic: &Traffic, connector: Arc<Connector>) -> Self {
        let checked = ports.iter().filter(|port| port.check.enabled);
        let targets: Vec<_> = checked
            .map(|port| {
                let forwarded = traffic.ports().iter().find(|forwarded| forwarded.number == port.port);
                Target::new(port, forwarded.map(|forwarded| forwarded.doubt.clone()).unwrap_or_default())
            })
            .collect();
        let covers_all = !ports.is_empty() && targets.len() == ports.len();
        Self { targets, connector, covers_all, ..Self::default() }
    }

    /// Checks the targets forever.
    pub async fn run(self: Arc<Self>) -> Infallible {
        if self.targets.is_empty() {
            return std::future::pending().await;
        }
        let watching = self.targets.iter().map(|target| Box::pin(self.watch(target)));
        select_all(watching).await.0
    }

    async fn watch(&self, target: &Target) -> Infallible {
        let mut leader = self.leader.subscribe();
        loop {
            let began = Instant::now();
            let generation = leader.borrow_and_update().generation;
            let result = self.check(target).await;
            let counter = if result.is_ok() { &target.passed } else { &target.failed };
            counter.fetch_add(1, Ordering::Relaxed);
            let interval = target.record(result, began, Some(generation));
            tokio::select! {
                () = sleep_until(began + interval) => {}
                () = newer_round(&mut leader, generation) => {}
                () = target.doubt.notified() => {
                    target.record(Err(STREAM_FAILED.to_owned()), Instant::now(), None);
                }
            }
            sleep_until(began + SPACING).await;
        }
    }

    async fn check(&self, target: &Target) -> Result<(), String> {
        let limit = Duration::from_secs(target.port.check.timeout_seconds.into());
        match timeout(limit, probe::probe(&self.connector, &target.port, target.tls.as_ref())).await {
            Ok(result) => result.map_err(|error| brief(&error.to_string())),
            Err(_) => Err(format!("no response within {} s", limit.as_secs())),
        }
    }

    /// Records a request. Only the leading publisher's judgement and round count.
    pub fn heard(&self, request: &SyncRequest) {
        if !request.leading {
            return;
        }
        let now = Instant::now();
        self.leader.send_if_modified(|leader| {
            leader.withdrew = request.unhealthy.then_some(now);
            let stays = request.unhealthy && request.phase == PodPhase::Active;
            leader.since = leader.since.or(Some(now)).filter(|_| stays);
            let asked = (request.publisher.clone(), request.round);
            let is_new = request.round != 0 && leader.asked.as_ref() != Some(&asked);
            if is_new {
                leader.asked = Some(asked);
                leader.generation += 1;
            }
            is_new
        });
    }

    /// Returns the health of the targets for the response to a request.
    pub fn report(&self, request: &SyncRequest) -> Vec<TargetHealth> {
        let round = {
            let leader = self.leader.borrow();
            let asked = leader.asked.as_ref().map(|(publisher, round)| (publisher.as_str(), *round));
            (asked == Some((request.publisher.as_str(), request.round))).then_some(leader.generation)
        };
        self.targets.iter().map(|target| target.report(round)).collect()
    }

    /// Returns the reason why the backend is not ready, or None if the leading publisher has not
    /// withdrawn it or all its targets pass.
    pub fn objection(&self) -> Option<String> {
        let withdrew = self.leader.borrow().withdrew?;
        if withdrew.elapsed() > JUDGEMENT_LASTS {
            return None;
        }
        let failing = self.targets.iter().filter_map(Target::objection).collect::<Vec<_>>();
        (!failing.is_empty()).then(|| failing.join("; "))
    }

    /// Returns true if tor should be ended now. Clients that fetched a descriptor before the
    /// backend was withdrawn still choose its introduction points, which only the end of tor
    /// removes. While any target passes or is not checked, the backend is still useful. A
    /// terminating pod keeps its tor, because the drain waits for the open streams.
    pub fn should_end_tor(&self) -> bool {
        let now = Instant::now();
        let is_withdrawn = {
            let leader = self.leader.borrow();
            leader.withdrew.is_some_and(|last| now.duration_since(last) <= JUDGEMENT_LASTS)
                && leader.since.is_some_and(|since| now.duration_since(since) >= LEAVES_AFTER)
        };
        let is_useless = self.covers_all && self.targets.iter().all(|target| target.state() == TargetState::Failing);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let may = left.is_none_or(|last| now.duration_since(last) >= LEAVES_AGAIN);
        let ends = is_withdrawn && is_useless && may;
        if ends {
            *left = Some(now);
        }
        ends
    }

    /// Returns the targets that are checked.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }
}

/// Waits until the leader asks for a newer round than the one of this generation.
async fn newer_round(leader: &mut watch::Receiver<Leader>, generation: u64) {
    // The sender lives as long as the receiver.
    let _ = leader.wait_for(|leader| leader.generation > generation).await;
}

impl Target {
    fn new(port: &ForwardedPort, doubt: Arc<Notify>) -> Self {
        let seen = Seen { history: History::new(&port.check), last: None, problem: None };
        let https = port.check.http.as_ref().and_then(|http| http.https.as_ref());
        Self {
            port: port.clone(),
            tls: https.map(|https| tls::settings(https.verify)),
            doubt,
            seen: Mutex::new(seen),
            changes: LogLimit::default(),
            passed: AtomicU64::default(),
            failed: AtomicU64::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a result. Returns the time from the start of this check to the start of the next
    /// one.
    fn record(&self, result: Result<(), String>, began: Instant, generation: Option<u64>) -> Duration {
        let mut seen = self.seen();
        let passed = result.is_ok();
        let known = seen.problem.take();
        // The result of a check explains more than a failed stream.
        seen.problem = result.err().map(|problem| known.filter(|_| generation.is_none()).unwrap_or(problem));
        if let Some(generation) = generation {
            seen.last = Some((generation, passed));
        }
        if seen.history.record(passed, began, Instant::now())
            && let Some(Line { suppressed }) = self.changes.line()
        {
            let ForwardedPort { port, target, .. } = &self.port;
            match &seen.problem {
                None => tracing::info!(port, target, suppressed, "the target passes its checks"),
                Some(problem) => tracing::warn!(port, target, problem, suppressed, "the target fails its checks"),
            }
        }
        seen.history.interval()
    }

    fn report(&self, round: Option<u64>) -> TargetHealth {
        let seen = self.seen();
        let is_fresh = |generation: u64| round.is_some_and(|round| generation >= round);
        let fresh = seen.last.filter(|(generation, _)| is_fresh(*generation)).map(|(_, passed)| passed);
        TargetHealth { port: self.port.port, state: seen.history.state(), fresh, problem: seen.problem.clone() }
    }

    fn objection(&self) -> Option<String> {
        let seen = self.seen();
        let ForwardedPort { port, target, .. } = &self.port;
        let problem = seen.problem.as_deref().unwrap_or("its last check passed, and the next one must pass too");
        let fails = seen.history.state() == TargetState::Failing;
        fails.then(|| format!("the target of port {port}, {target}, fails here but not at other backends: {problem}"))
    }

    /// Returns the checked port.
    pub fn port(&self) -> &ForwardedPort {
        &self.port
    }

    /// Returns the state of the target.
    pub fn state(&self) -> TargetState {
        self.seen().history.state()
    }

    /// Returns the numbers of checks that passed and that failed since the agent started.
    pub fn counts(&self) -> (u64, u64) {
        (self.passed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
