//! Combines what is known about each backend: its pod (from Kubernetes), its introduction points
//! (from its agent), and the points that are published (from the engine).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::agents::{AgentNews, AgentReport};
use super::pods::{Pod, Pods};
use super::targets::{Comparison, Position};
use super::view::{BackendView, StateHistory};
use crate::common::log_limit::{Line, LogLimit};
use crate::crd::BackendState;
use crate::merge::{BackendId, Input, PointLimits, Remark, Status, remarks};

/// The backends of one service, by pod UID.
#[derive(Debug, Default)]
pub(super) struct Backends {
    pods: Arc<Pods>,
    reports: BTreeMap<BackendId, AgentReport>,
    /// True if this publisher is the leader.
    leads: bool,
    /// The health of the targets, as the backends see them.
    targets: Comparison,
    /// The number of introduction points that each backend may contribute.
    limits: PointLimits,
    /// The parts of each backend's descriptor that are not published.
    remarks: BTreeMap<BackendId, Vec<Remark>>,
    /// The limits for the warnings about each backend's descriptor.
    warnings: BTreeMap<BackendId, LogLimit>,
    /// The backends whose introduction points the engine has used at least once, even if they were
    /// not published.
    counted: BTreeSet<BackendId>,
    states: StateHistory<BackendId>,
}

impl Backends {
    /// Updates the set of pods and returns the resulting inputs for the engine. As soon as a pod
    /// terminates or vanishes, its introduction points are no longer used.
    pub(super) fn pods(&mut self, pods: Arc<Pods>) -> Vec<Input> {
        let before = std::mem::replace(&mut self.pods, pods);
        self.reports.retain(|id, _| self.pods.contains_key(id));
        self.warnings.retain(|id, _| self.pods.contains_key(id));
        self.remarks.retain(|id, _| self.pods.contains_key(id));
        self.counted.retain(|id| self.pods.contains_key(id));
        self.states.retain(|id| self.pods.contains_key(id));
        self.targets.retain(|id| self.pods.contains_key(id));
        let stays = |id: &BackendId| self.pods.get(id).is_some_and(|pod| !pod.terminating);
        let left = before.iter().filter(|(id, pod)| !pod.terminating && !stays(id));
        let mut inputs: Vec<_> = left.map(|(id, _)| Input::BackendLost(id.clone())).collect();
        // A terminating backend no longer replaces others.
        inputs.extend(self.compare().iter().filter_map(|id| self.input(id)));
        inputs
    }

    /// Returns the backends that should soon be published. A pod is Ready only if its backend has
    /// introduction points. Kubernetes notices only after some time that a withdrawn backend is no
    /// longer ready.
    pub(super) fn expected(&self) -> impl Iterator<Item = &BackendId> {
        let ready = self.pods.iter().filter(|(_, pod)| pod.ready && !pod.terminating).map(|(id, _)| id);
        ready.filter(move |id| !self.targets.holds_back(id))
    }

    /// Sets whether this publisher is the leader.
    pub(super) fn set_leads(&mut self, leads: bool) {
        self.leads = leads;
    }

    /// Returns the pods of the latest update.
    pub(super) fn known_pods(&self) -> Arc<Pods> {
        self.pods.clone()
    }

    /// Processes news from the agent of a backend, and returns the resulting inputs for the engine.
    pub(super) fn take(&mut self, id: BackendId, news: AgentNews) -> Vec<Input> {
        match news {
            AgentNews::Backend(report) => self.report(id, report),
            AgentNews::Targets(report) if self.pods.contains_key(&id) => {
                self.targets.report(id, report);
                self.compare().iter().filter_map(|id| self.input(id)).collect()
            }
            AgentNews::Targets(_) => Vec::new(),
        }
    }

    /// Processes a report on a backend. The introduction points of a terminating or missing pod are
    /// ignored.
    fn report(&mut self, id: BackendId, report: AgentReport) -> Vec<Input> {
        if !self.pods.contains_key(&id) {
            return Vec::new();
        }
        if report == AgentReport::Silent {
            self.targets.forget(&id);
        }
        self.reports.insert(id.clone(), report);
        self.remark(id.clone());
        let mut concerned = self.compare();
        concerned.insert(id);
        concerned.iter().filter_map(|id| self.input(id)).collect()
    }

    /// Compares the backends by their targets. Returns the backends that are held back now or no
    /// longer.
    fn compare(&mut self) -> BTreeSet<BackendId> {
        let Self { pods, reports, targets, warnings, leads, .. } = self;
        let mut active = pods.iter().filter(|(_, pod)| !pod.terminating);
        let position = Position { leads: *leads, is_complete: active.all(|(id, _)| reports.contains_key(id)) };
        let before = targets.withdrawn().clone();
        let changed = targets.judge(position, |id| {
            let has_points = matches!(reports.get(id), Some(AgentReport::Points(..)));
            has_points && pods.get(id).is_some_and(|pod| !pod.terminating)
        });
        for id in before.symmetric_difference(targets.withdrawn()) {
            let backend = pods.get(id).map(|pod| pod.name.as_str());
            let Some(Line { suppressed }) = warnings.entry(id.clone()).or_default().line() else { continue };
            if targets.has_withdrawn(id) {
                let failing = targets.failing(id);
                tracing::warn!(backend, ?failing, suppressed, "withdrew a backend whose targets others reach");
            } else {
                tracing::info!(backend, suppressed, "a withdrawn backend returns");
            }
        }
        changed
    }

    /// Returns the input for the engine that follows from what is known about a backend.
    fn input(&self, id: &BackendId) -> Option<Input> {
        let report = self.reports.get(id).filter(|_| self.pods.get(id).is_some_and(|pod| !pod.terminating))?;
        Some(match report {
            AgentReport::Points(_, content) if !self.targets.holds_back(id) => {
                Input::Backend(id.clone(), content.clone())
            }
            AgentReport::Points(..) | AgentReport::NoPoints(_) | AgentReport::Silent => Input::BackendLost(id.clone()),
        })
    }

    /// Returns the comparison of the backends by their targets.
    pub(super) fn targets(&self) -> &Comparison {
        &self.targets
    }

    /// Sets the number of introduction points that each backend may contribute.
    pub(super) fn set_limits(&mut self, limits: &PointLimits) {
        if self.limits != *limits {
            self.limits = limits.clone();
            let known: Vec<BackendId> = self.reports.keys().cloned().collect();
            for id in known {
                self.remark(id);
            }
        }
    }

    /// Updates the remarks on a backend's newest descriptor, and logs them if they have changed.
    fn remark(&mut self, id: BackendId) {
        let Some(AgentReport::Points(_, content)) = self.reports.get(&id) else { return };
        let remarks = remarks(content, self.limits.of(&id));
        if self.remarks.get(&id).map(Vec::as_slice).unwrap_or_default() != remarks {
            let pod = self.pods.get(&id).map(|pod| pod.name.as_str());
            let warnings = self.warnings.entry(id.clone()).or_default();
            for remark in &remarks {
                if let Some(Line { suppressed }) = warnings.line() {
                    tracing::warn!(backend = pod, suppressed, "{remark}");
                }
            }
            self.remarks.insert(id, remarks);
        }
    }

    /// Returns the backends whose pods are terminating.
    pub(super) fn terminating(&self) -> impl Iterator<Item = &BackendId> {
        self.pods.iter().filter(|(_, pod)| pod.terminating).map(|(id, _)| id)
    }

    /// Returns the state of all backends, sorted by name, given the state of the engine.
    pub(super) fn views(&mut self, status: &Status, now: SystemTime) -> Vec<BackendView> {
        let points: BTreeMap<&BackendId, usize> = status.points.iter().map(|(id, count)| (id, *count)).collect();
        let mut views = Vec::with_capacity(self.pods.len());
        for (id, pod) in self.pods.iter() {
            let points = points.get(id).copied().unwrap_or_default();
            let outvoted = status.outvoted.get(id);
            let usage = match outvoted {
                _ if points > 0 => Usage::Published,
                Some(_) => Usage::Outvoted,
                None if status.waiting.contains(id) => Usage::Waiting,
                None => Usage::Unused,
            };
            if usage != Usage::Unused {
                self.counted.insert(id.clone());
            }
            let report = self.reports.get(id);
            let onion_address = match report {
                Some(AgentReport::Points(address, _) | AgentReport::NoPoints(address)) => Some(address.to_string()),
                Some(AgentReport::Silent) | None => None,
            };
            let state = match state(pod, report, usage, self.counted.contains(id)) {
                BackendState::Ready | BackendState::Lost | BackendState::Waiting | BackendState::Starting
                    if self.targets.has_withdrawn(id) =>
                {
                    BackendState::Unhealthy
                }
                state => state,
            };
            let since = self.states.enter(id.clone(), state, now);
            let exclusion = outvoted.filter(|_| state == BackendState::Excluded);
            if let Some(reason) = exclusion.filter(|_| since == now)
                && let Some(Line { suppressed }) = self.warnings.entry(id.clone()).or_default().line()
            {
                tracing::warn!(backend = pod.name, suppressed, "{reason}");
            }
            let remarks = self.remarks.get(id).into_iter().flatten().map(ToString::to_string);
            let messages: Vec<_> = exclusion.map(ToString::to_string).into_iter().chain(remarks).collect();
            let message = Some(messages.join("; ")).filter(|message| !message.is_empty());
            let (name, failing) = (pod.name.clone(), self.targets.failing(id));
            views.push(BackendView { name, onion_address, points, state, since, message, failing });
        }
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }
}

/// The engine's use of a backend's introduction points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    /// At least one of them is published.
    Published,
    /// None is published, because the backend's congestion control differs from the others'.
    Outvoted,
    /// None is published, because it is another backend's turn.
    Waiting,
    /// None is published, because the engine has not selected any yet or does not know the backend.
    Unused,
}

fn state(pod: &Pod, report: Option<&AgentReport>, usage: Usage, has_counted: bool) -> BackendState {
    match (report, usage) {
        _ if pod.terminating => BackendState::Draining,
        (Some(AgentReport::Points(..)), Usage::Published) => BackendState::Ready,
        (Some(AgentReport::Points(..)), Usage::Outvoted) => BackendState::Excluded,
        (Some(AgentReport::Points(..)), Usage::Waiting) => BackendState::Waiting,
        _ if has_counted => BackendState::Lost,
        _ => BackendState::Starting,
    }
}

#[cfg(test)]
mod tests;
