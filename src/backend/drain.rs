//! The drain rule, which decides when a terminating pod may stop. The `preStop` hook calls
//! `/drain`, which only waits.
//!
//! The rule depends only on the publishers' reports, the number of open streams, and the time. It
//! uses no countdowns, so an aborted call, a second call or a new report needs no special handling;
//! the rule is simply applied again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::link::{PodPhase, longest_drain};

/// If no report arrives for this long, the publishers are considered unreachable.
const PUBLISHER_SILENCE: Duration = Duration::from_secs(5);
/// For this long after a drain starts, a publisher may still report that the pod is active, because
/// the kubelet and the publisher learn of the deletion at the same time. Such a report does not end
/// the drain.
const ACTIVE_SETTLES: Duration = Duration::from_secs(2);

/// The drain times from the agent's configuration.
#[derive(Debug, Clone, Copy)]
pub struct DrainTimes {
    /// How long new streams are still accepted after the withdrawal of the introduction points, for
    /// clients that hold cached descriptors.
    pub linger: Duration,
    /// How long open streams may continue after the end of the linger time.
    pub timeout: Duration,
}

/// The drain state of this pod. It is shared by two servers: `/drain` waits in the probe server,
/// and the API receives the publishers' reports.
#[derive(Debug)]
pub struct Drain {
    times: DrainTimes,
    facts: watch::Sender<DrainFacts>,
    streams: watch::Receiver<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct DrainFacts {
    /// The number of waiting `/drain` calls. The `preStop` hooks of both containers call `/drain`
    /// at the same time.
    calls: usize,
    /// The time at which the first waiting `/drain` call began.
    began: Option<Instant>,
    /// The time of the latest report from any publisher.
    heard: Option<Instant>,
    /// The time at which a leading publisher last reported that the pod is not terminating. None if
    /// a leading publisher has since reported the opposite.
    active: Option<Instant>,
    /// The time at which a leading publisher first reported that the introduction points are
    /// withdrawn.
    withdrawn: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DrainDecision {
    /// The pod may stop now, for the given reason.
    Stop(&'static str),
    /// The pod must not stop before this time, unless the reports or the number of streams change.
    WaitUntil(Instant),
}

impl Drain {
    /// Creates the drain state. `streams` yields the number of open streams.
    pub fn new(times: DrainTimes, streams: watch::Receiver<u64>) -> Self {
        Self { times, facts: watch::Sender::default(), streams }
    }

    /// Records a publisher's report.
    pub fn heard(&self, leading: bool, phase: PodPhase) {
        let now = Instant::now();
        self.facts.send_modify(|facts| facts.hear(leading, phase, now));
    }

    /// Returns true while a `/drain` call waits.
    pub fn is_running(&self) -> bool {
        self.facts.borrow().calls > 0
    }

    /// Waits until the pod may stop, and returns the reason.
    pub async fn wait(&self) -> &'static str {
        let call = Call::new(&self.facts);
        let (mut facts, mut streams) = (self.facts.subscribe(), self.streams.clone());
        loop {
            let (known, open) = (*facts.borrow_and_update(), *streams.borrow_and_update());
            match decide(self.times, &known, call.began, open, Instant::now()) {
                DrainDecision::Stop(reason) => return reason,
                DrainDecision::WaitUntil(time) => tokio::select! {
                    () = sleep_until(time) => {}
                    Ok(()) = facts.changed() => {}
                    Ok(()) = streams.changed() => {}
                },
            }
        }
    }
}

/// A guard for a waiting `/drain` call. The call ends when the guard is dropped, for example
/// because the connection broke.
struct Call<'a> {
    facts: &'a watch::Sender<DrainFacts>,
    began: Instant,
}

impl<'a> Call<'a> {
    fn new(facts: &'a watch::Sender<DrainFacts>) -> Self {
        let mut began = Instant::now();
        facts.send_modify(|facts| {
            facts.calls += 1;
            began = *facts.began.get_or_insert(began);
        });
        Self { facts, began }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.facts.send_modify(|facts| {
            facts.calls -= 1;
            if facts.calls == 0 {
                facts.began = None;
            }
        });
    }
}

impl DrainFacts {
    fn hear(&mut self, leading: bool, phase: PodPhase, now: Instant) {
        self.heard = Some(now);
        match phase {
            _ if !leading => {}
            PodPhase::Active => {
                self.active = Some(now);
                self.withdrawn = None;
            }
            // A new leader may not know yet that its predecessor withdrew the introduction points.
            // It never publishes them again, so the withdrawal remains valid.
            PodPhase::Terminating => self.active = None,
            PodPhase::Withdrawn => {
                self.active = None;
                self.withdrawn.get_or_insert(now);
            }
        }
    }
}

fn decide(times: DrainTimes, facts: &DrainFacts, began: Instant, streams: u64, now: Instant) -> DrainDecision {
    if facts.active.is_some_and(|at| at >= began + ACTIVE_SETTLES) {
        return DrainDecision::Stop("the pod is not terminating");
    }
    let limit = began + longest_drain(times.linger, times.timeout);
    if now >= limit {
        return DrainDecision::Stop("the time limit is reached");
    }
    let silent = facts.heard.map_or(began, |at| at.max(began)) + PUBLISHER_SILENCE;
    let withdrawn = match facts.withdrawn {
        Some(at) => at,
        None if now >= silent => silent,
        None => return DrainDecision::WaitUntil(silent.min(limit)),
    };
    let lingered = withdrawn + times.linger;
    if now < lingered {
        return DrainDecision::WaitUntil(lingered.min(limit));
    }
    if streams == 0 {
        return DrainDecision::Stop("no stream is open");
    }
    let timed_out = lingered + times.timeout;
    if now >= timed_out {
        DrainDecision::Stop("the drain timeout has expired")
    } else {
        DrainDecision::WaitUntil(timed_out.min(limit))
    }
}

#[cfg(test)]
mod tests;
