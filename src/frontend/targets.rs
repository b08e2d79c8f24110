//! Compares the health of the targets that the agents report, and decides which backends are
//! withdrawn. The code is pure.
//!
//! A backend is withdrawn only if another one serves every port that it serves, and at least one
//! more. This relation is a strict order, so the backends that no other one surpasses always stay.
//! If all backends fail in the same way, all of them stay.
//!
//! Two reports of different ages do not show that two backends differ: the app may have stopped, or
//! come back, between the two checks. The publisher therefore asks for two rounds of checks. A
//! better backend must pass a check that began after the first round, and the backend in question
//! must then fail a check that began after the second round.
//!
//! Only the leader's rounds count, so a new leader compares from the beginning. It holds a backend
//! that seems to be worse back until the comparison has ended: its predecessor has probably
//! withdrawn this backend. A leader that has published a backend never holds it back.

use std::collections::{BTreeMap, BTreeSet};

use crate::link::{TargetHealth, TargetState, brief};
use crate::merge::BackendId;

/// The maximum number of ports that a report is expected to contain.
const MAX_PORTS: usize = 64;

/// A report on the targets of one backend, which answers a request with this round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TargetReport {
    pub(super) round: u64,
    pub(super) ports: Vec<TargetHealth>,
}

/// The numbers of some ports.
type Ports = BTreeSet<u16>;

/// The comparison of all backends of a service.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    seen: BTreeMap<BackendId, BTreeMap<u16, Seen>>,
    trials: BTreeMap<BackendId, Trial>,
    withdrawn: BTreeSet<BackendId>,
    /// The backends that may be published unless they are withdrawn. A standby admits a backend
    /// only while it does not seem to be worse than another one.
    admitted: BTreeSet<BackendId>,
    /// The backends that must not be published: they are withdrawn or not admitted.
    held: BTreeSet<BackendId>,
    /// The newest round of checks, or 0 before the first one.
    round: u64,
}

/// What the publisher is, and what it knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// True if this publisher is the leader.
    pub(super) leads: bool,
    /// True if each backend has reported or has been silent for too long.
    pub(super) is_complete: bool,
}

/// The health of one target, as one backend sees it.
#[derive(Debug)]
struct Seen {
    state: TargetState,
    problem: String,
    /// The round after which the newest check began, and the result of the check.
    fresh: Option<(u64, bool)>,
}

/// The examination of a backend that seems to be worse than another one.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// The round in which a better backend must pass.
    first: u64,
    /// The round in which the backend must fail, once a better one has passed.
    second: Option<u64>,
}

/// The backends that can replace others, by the ports that they do not serve.
type Able<'a> = BTreeMap<Ports, Vec<&'a BackendId>>;

impl Comparison {
    /// Records a report.
    pub(super) fn report(&mut self, id: BackendId, report: TargetReport) {
        let before = self.seen.remove(&id).unwrap_or_default();
        let seen = |target: TargetHealth| {
            let known = before.get(&target.port).and_then(|seen| seen.fresh);
            let fresh = target.fresh.map(|passed| (report.round, passed)).or(known);
            let problem = brief(&target.problem.unwrap_or_default());
            (target.port, Seen { state: target.state, problem, fresh })
        };
        let ports = report.ports.into_iter().take(MAX_PORTS).map(seen).collect();
        self.seen.insert(id, ports);
    }

    /// Forgets all backends except these.
    pub(super) fn retain(&mut self, exists: impl Fn(&BackendId) -> bool) {
        self.seen.retain(|id, _| exists(id));
        self.trials.retain(|id, _| exists(id));
        self.withdrawn.retain(|id| exists(id));
        self.admitted.retain(|id| exists(id));
        self.held.retain(|id| exists(id));
    }

    /// Forgets a backend that does not answer.
    pub(super) fn forget(&mut self, id: &BackendId) {
        self.retain(|other| other != id);
    }

    /// Returns true if the backend is withdrawn.
    pub(super) fn has_withdrawn(&self, id: &BackendId) -> bool {
        self.withdrawn.contains(id)
    }

    /// Returns true if the backend must not be published: it is withdrawn, or the comparison with
    /// the others has not ended yet. A backend that reports no targets is never held back.
    pub(super) fn holds_back(&self, id: &BackendId) -> bool {
        self.held.contains(id)
    }

    /// Returns the backends that are withdrawn.
    pub(super) fn withdrawn(&self) -> &BTreeSet<BackendId> {
        &self.withdrawn
    }

    /// Returns the newest round of checks, or 0 before the first one.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Returns the ports whose targets fail at a backend, with the reasons.
    pub(super) fn failing(&self, id: &BackendId) -> BTreeMap<u16, String> {
        let ports = self.seen.get(id).into_iter().flatten();
        let failing = ports.filter(|(_, seen)| seen.state == TargetState::Failing);
        failing.map(|(port, seen)| (*port, seen.problem.clone())).collect()
    }

    /// Compares the backends again. `is_able` tells whether a backend has introduction points, so
    /// that it can replace others. Returns the backends that are held back now or no longer.
    pub(super) fn judge(&mut self, position: Position, is_able: impl Fn(&BackendId) -> bool) -> BTreeSet<BackendId> {
        let failing: BTreeMap<BackendId, Ports> = self
            .seen
            .iter()
            .map(|(id, ports)| (id.clone(), numbers(ports, |state| state == TargetState::Failing)))
            .filter(|(_, ports)| !ports.is_empty())
            .collect();
        self.trials.retain(|id, _| failing.contains_key(id));
        self.withdrawn.retain(|id| failing.contains_key(id));
        if !failing.is_empty() {
            self.examine(&failing, is_able);
        }
        self.admit(&failing, position);
        let Self { seen, withdrawn, admitted, .. } = self;
        let is_held = |id: &&BackendId| withdrawn.contains(id) || !admitted.contains(id);
        let held = seen.keys().filter(is_held).cloned().collect();
        let before = std::mem::replace(&mut self.held, held);
        before.symmetric_difference(&self.held).cloned().collect()
    }

    /// Admits the backends that do not seem to be worse than another one. A failing backend is not
    /// admitted before the reports of all others are known.
    fn admit(&mut self, failing: &BTreeMap<BackendId, Ports>, position: Position) {
        if !position.leads {
            self.admitted.clear();
        }
        let Self { seen, trials, withdrawn, admitted, .. } = self;
        let is_clear = |id: &&BackendId| {
            let is_known = position.is_complete || !failing.contains_key(id);
            is_known && !trials.contains_key(id) && !withdrawn.contains(id)
        };
        admitted.extend(seen.keys().filter(is_clear).cloned());
    }

    /// Examines the backends at which some ports fail.
    fn examine(&mut self, failing: &BTreeMap<BackendId, Ports>, is_able: impl Fn(&BackendId) -> bool) {
        let Self { seen, trials, withdrawn, admitted, round, .. } = self;
        let able = able(seen, is_able);
        // All trials that need a new round share it.
        let next = *round + 1;
        for (id, ports) in failing {
            let better: Vec<_> =
                able.iter().filter(|(bad, _)| bad.len() < ports.len() && bad.is_subset(ports)).collect();
            if better.is_empty() {
                trials.remove(id);
                if withdrawn.remove(id) {
                    admitted.insert(id.clone());
                }
                continue;
            }
            if withdrawn.contains(id) {
                continue;
            }
            let trial = trials.entry(id.clone()).or_insert_with(|| {
                *round = next;
                Trial { first: next, second: None }
            });
            let has = |id: &BackendId, port: u16, passed: bool, since: u64| {
                let fresh = seen.get(id).and_then(|ports| ports.get(&port)).and_then(|seen| seen.fresh);
                fresh.is_some_and(|(round, result)| round >= since && result == passed)
            };
            let first = trial.first;
            // The ports that only the better backends serve.
            let all = |bad: &Ports, id: &BackendId, passed: bool, since: u64| {
                ports.difference(bad).all(|port| has(id, *port, passed, since))
            };
            let passes = |bad: &Ports, ids: &[&BackendId]| ids.iter().any(|id| all(bad, id, true, first));
            match trial.second {
                None if better.iter().any(|(bad, ids)| passes(bad, ids)) => {
                    *round = next;
                    trial.second = Some(next);
                }
                Some(second) if better.iter().any(|(bad, ids)| passes(bad, ids) && all(bad, id, false, second)) => {
                    trials.remove(id);
                    withdrawn.insert(id.clone());
                }
                None | Some(_) => {}
            }
        }
    }
}

/// Returns the backends that can replace others, by the ports that they do not serve.
fn able(seen: &BTreeMap<BackendId, BTreeMap<u16, Seen>>, is_able: impl Fn(&BackendId) -> bool) -> Able<'_> {
    let known: Ports = seen.values().flat_map(BTreeMap::keys).copied().collect();
    let mut able = Able::new();
    for (id, ports) in seen.iter().filter(|(id, _)| is_able(id)) {
        let passing = numbers(ports, |state| state == TargetState::Passing);
        able.entry(known.difference(&passing).copied().collect()).or_default().push(id);
    }
    able
}

/// Returns the ports whose state satisfies the condition.
fn numbers(ports: &BTreeMap<u16, Seen>, is_meant: impl Fn(TargetState) -> bool) -> Ports {
    ports.iter().filter(|(_, seen)| is_meant(seen.state)).map(|(port, _)| *port).collect()
}

#[cfg(test)]
mod tests;
