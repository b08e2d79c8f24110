//! When a pod that is told to stop may stop: `preStop` calls `/drain`, which only waits.
//!
//! A rule over facts: what publishers said, how many streams are open, what time it is. Nothing is counted down, so a
//! call that is cut off, a second call, or a new fact needs no special care: the rule is applied afresh.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::link::{PodPhase, longest_drain};

/// A publisher that has not been heard for so long is out of reach.
const PUBLISHER_SILENCE: Duration = Duration::from_secs(5);
/// Kubernetes tells the kubelet and the publisher of a deletion at the same time: for so long the publisher's "active"
/// may be older than the drain.
const ACTIVE_SETTLES: Duration = Duration::from_secs(2);

/// The two times of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct DrainTimes {
    /// From the points' withdrawal, new streams are still taken: clients hold cached descriptors.
    pub linger: Duration,
    /// After that, open streams may go on.
    pub timeout: Duration,
}

/// What is known of this pod's draining. Shared by the probes' server, where `/drain` waits, and the API, which hears
/// the publishers.
#[derive(Debug)]
pub struct Drain {
    times: DrainTimes,
    facts: watch::Sender<Facts>,
    streams: watch::Receiver<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    /// `/drain` calls that wait now: both containers' preStop come at the same time.
    calls: usize,
    /// When the first of them came.
    began: Option<Instant>,
    /// When any publisher was heard last.
    heard: Option<Instant>,
    /// When a leading publisher last said that the pod is not terminating, unless it took that back.
    active: Option<Instant>,
    /// When a leading publisher first said that the points are withdrawn.
    withdrawn: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The pod may stop, for this reason.
    Over(&'static str),
    /// Not before this time, unless a fact changes.
    Until(Instant),
}

impl Drain {
    pub fn new(times: DrainTimes, streams: watch::Receiver<u64>) -> Self {
        Self { times, facts: watch::Sender::default(), streams }
    }

    /// A publisher spoke.
    pub fn heard(&self, leading: bool, phase: PodPhase) {
        let now = Instant::now();
        self.facts.send_modify(|facts| facts.hear(leading, phase, now));
    }

    pub fn is_running(&self) -> bool {
        self.facts.borrow().calls > 0
    }

    /// Waits until the pod may stop; tells why.
    pub async fn wait(&self) -> &'static str {
        let call = Call::new(&self.facts);
        let (mut facts, mut streams) = (self.facts.subscribe(), self.streams.clone());
        loop {
            let (known, open) = (*facts.borrow_and_update(), *streams.borrow_and_update());
            match judge(self.times, &known, call.began, open, Instant::now()) {
                Verdict::Over(reason) => return reason,
                Verdict::Until(time) => tokio::select! {
                    () = sleep_until(time) => {}
                    Ok(()) = facts.changed() => {}
                    Ok(()) = streams.changed() => {}
                },
            }
        }
    }
}

/// A waiting `/drain`; dropping it, also by a broken connection, ends it.
struct Call<'a> {
    facts: &'a watch::Sender<Facts>,
    began: Instant,
}

impl<'a> Call<'a> {
    fn new(facts: &'a watch::Sender<Facts>) -> Self {
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

impl Facts {
    fn hear(&mut self, leading: bool, phase: PodPhase, now: Instant) {
        self.heard = Some(now);
        match phase {
            _ if !leading => {}
            PodPhase::Active => {
                self.active = Some(now);
                self.withdrawn = None;
            }
            // A new leader may not know yet that its predecessor withdrew the points: it never puts them back.
            PodPhase::Terminating => self.active = None,
            PodPhase::Withdrawn => {
                self.active = None;
                self.withdrawn.get_or_insert(now);
            }
        }
    }
}

fn judge(times: DrainTimes, facts: &Facts, began: Instant, streams: u64, now: Instant) -> Verdict {
    if facts.active.is_some_and(|at| at >= began + ACTIVE_SETTLES) {
        return Verdict::Over("the pod is not terminating");
    }
    let limit = began + longest_drain(times.linger, times.timeout);
    if now >= limit {
        return Verdict::Over("the time is up");
    }
    let silent = facts.heard.map_or(began, |at| at.max(began)) + PUBLISHER_SILENCE;
    let withdrawn = match facts.withdrawn {
        Some(at) => at,
        None if now >= silent => silent,
        None => return Verdict::Until(silent.min(limit)),
    };
    let lingered = withdrawn + times.linger;
    if now < lingered {
        return Verdict::Until(lingered.min(limit));
    }
    if streams == 0 {
        return Verdict::Over("no stream is open");
    }
    let timed_out = lingered + times.timeout;
    if now >= timed_out { Verdict::Over("the streams' time is up") } else { Verdict::Until(timed_out.min(limit)) }
}

#[cfg(test)]
mod tests;
