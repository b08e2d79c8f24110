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
mod tests {
    use super::*;
    use crate::frontend::targets::TargetReport;
    use crate::link::{TargetHealth, TargetState};
    use crate::merge::Outvoted;
    use crate::merge::tests::network::point;
    use crate::onion::ServiceContent;

    fn id(uid: &str) -> BackendId {
        BackendId(uid.into())
    }

    fn pods(pods: &[(&str, bool)]) -> Arc<Pods> {
        let pod = |uid: &str, terminating| Pod { name: format!("pod-{uid}"), agent: None, ready: true, terminating };
        Arc::new(pods.iter().map(|(uid, terminating)| (id(uid), pod(uid, *terminating))).collect())
    }

    fn lost(inputs: impl IntoIterator<Item = Input>) -> Vec<BackendId> {
        let lost = |input| match input {
            Input::BackendLost(id) => id,
            other => panic!("{other:?}"),
        };
        inputs.into_iter().map(lost).collect()
    }

    #[test]
    fn terminating_and_vanished_pods_lose_their_points_once() {
        let mut backends = Backends::default();
        assert_eq!(lost(backends.pods(pods(&[("a", false), ("b", false), ("c", false)]))), []);
        assert_eq!(lost(backends.pods(pods(&[("a", true), ("c", false)]))), [id("a"), id("b")]);
        assert_eq!(lost(backends.pods(pods(&[("a", true), ("c", false)]))), []);
        assert_eq!(lost(backends.pods(pods(&[]))), [id("c")]);
    }

    #[test]
    fn a_silent_backend_is_lost_unless_its_pod_is_terminating_or_has_vanished() {
        let mut backends = Backends::default();
        backends.pods(pods(&[("a", false), ("b", true)]));
        assert_eq!(lost(backends.report(id("a"), AgentReport::Silent)), [id("a")]);
        assert_eq!(lost(backends.report(id("b"), AgentReport::Silent)), []);
        assert_eq!(lost(backends.report(id("gone"), AgentReport::Silent)), []);
        assert_eq!(backends.terminating().collect::<Vec<_>>(), [&id("b")]);
    }

    #[test]
    fn a_backend_that_answers_without_points_is_lost() {
        let address = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
        let mut backends = Backends::default();
        backends.pods(pods(&[("a", false), ("b", true)]));
        assert_eq!(lost(backends.report(id("a"), AgentReport::NoPoints(address))), [id("a")]);
        assert_eq!(lost(backends.report(id("b"), AgentReport::NoPoints(address))), [], "the pod is terminating");
    }

    /// Returns a report on port 80.
    fn target(round: u64, state: TargetState, fresh: bool) -> AgentNews {
        let problem = (state == TargetState::Failing).then(|| "cannot connect".to_owned());
        AgentNews::Targets(TargetReport {
            round,
            ports: vec![TargetHealth { port: 80, state, fresh: Some(fresh), problem }],
        })
    }

    #[test]
    fn a_backend_whose_target_fails_is_lost_while_another_one_passes() {
        let mut backends = Backends::default();
        backends.set_leads(true);
        backends.pods(pods(&[("a", false), ("b", false)]));
        for name in ["a", "b"] {
            backends.report(id(name), points(false));
        }
        let (passing, failing) = (TargetState::Passing, TargetState::Failing);
        assert_eq!(lost(backends.take(id("a"), target(0, failing, false))), [], "nothing is known about b");
        assert_eq!(lost(backends.take(id("b"), target(0, passing, true))), []);
        assert_eq!(lost(backends.take(id("b"), target(1, passing, true))), []);
        assert_eq!(backends.expected().collect::<Vec<_>>(), [&id("a"), &id("b")]);
        assert_eq!(lost(backends.take(id("a"), target(2, failing, false))), [id("a")]);
        assert_eq!(backends.expected().collect::<Vec<_>>(), [&id("b")], "a is not waited for");
        assert_eq!(lost(backends.report(id("a"), points(true))), [id("a")], "new points stay unpublished");
        let view = backends.views(&Status::default(), SystemTime::UNIX_EPOCH).remove(0);
        assert_eq!(view.state, BackendState::Unhealthy);
        assert_eq!(view.failing, BTreeMap::from([(80, "cannot connect".to_owned())]));
        // The other backend is about to stop, so this one returns.
        let inputs = backends.pods(pods(&[("a", false), ("b", true)]));
        assert!(matches!(&inputs[..], [Input::BackendLost(gone), Input::Backend(back, _)]
            if *gone == id("b") && *back == id("a")));
    }

    #[test]
    fn a_new_leader_does_not_publish_a_failing_backend_before_the_comparison_has_ended() {
        let (passing, failing) = (TargetState::Passing, TargetState::Failing);
        let mut backends = Backends::default();
        backends.set_leads(true);
        backends.pods(pods(&[("a", false), ("b", false)]));
        // Each answer of an agent contains both, and the health comes first.
        assert_eq!(lost(backends.take(id("a"), target(0, failing, false))), []);
        assert_eq!(lost(backends.take(id("a"), AgentNews::Backend(points(false)))), [id("a")], "b is not known yet");
        assert_eq!(lost(backends.take(id("b"), target(0, passing, true))), []);
        let inputs = backends.take(id("b"), AgentNews::Backend(points(false)));
        assert!(matches!(&inputs[..], [Input::Backend(published, _)] if *published == id("b")), "{inputs:?}");
        assert_eq!(backends.expected().collect::<Vec<_>>(), [&id("b")], "a is not waited for");
        assert_eq!(backends.targets().round(), 1);
        // Before the comparison has ended, the target of a passes again.
        let inputs = backends.take(id("a"), target(1, passing, true));
        assert!(matches!(&inputs[..], [Input::Backend(published, _)] if *published == id("a")), "{inputs:?}");
    }

    #[test]
    fn since_is_the_time_at_which_the_state_began() {
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let mut backends = Backends::default();
        backends.pods(pods(&[("a", false)]));
        let state = |backends: &mut Backends, seconds| {
            let view = backends.views(&Status::default(), at(seconds)).remove(0);
            (view.state, view.since)
        };
        assert_eq!(state(&mut backends, 10), (BackendState::Starting, at(10)));
        assert_eq!(state(&mut backends, 20), (BackendState::Starting, at(10)));
        backends.pods(pods(&[("a", true)]));
        assert_eq!(state(&mut backends, 30), (BackendState::Draining, at(30)));
    }

    #[test]
    fn the_state_follows_from_the_pod_the_agent_and_the_engine() {
        let pod = |terminating| Pod { name: "a".into(), agent: None, ready: true, terminating };
        let address = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
        let none = AgentReport::NoPoints(address);
        let lost = BackendState::Lost;
        assert_eq!(state(&pod(false), None, Usage::Unused, false), BackendState::Starting);
        assert_eq!(state(&pod(false), Some(&none), Usage::Unused, false), BackendState::Starting);
        assert_eq!(state(&pod(false), Some(&none), Usage::Unused, true), lost);
        assert_eq!(
            state(&pod(false), Some(&AgentReport::Silent), Usage::Published, true),
            lost,
            "the last descriptor stays published"
        );
        assert_eq!(
            state(&pod(false), Some(&AgentReport::Silent), Usage::Waiting, true),
            lost,
            "the engine will soon be informed"
        );
        assert_eq!(state(&pod(true), Some(&none), Usage::Published, true), BackendState::Draining);
    }

    #[test]
    fn a_backend_that_waits_for_its_turn_is_not_lost() {
        let mut backends = Backends::default();
        backends.pods(pods(&[("a", false)]));
        let mut state = |report: Option<AgentReport>, points, waits: bool| {
            if let Some(report) = report {
                backends.report(id("a"), report);
            }
            let waiting = waits.then(|| id("a")).into_iter().collect();
            let status = Status { points: vec![(id("a"), points)], waiting, ..Status::default() };
            backends.views(&status, SystemTime::UNIX_EPOCH).remove(0).state
        };
        assert_eq!(
            state(Some(points(false)), 0, false),
            BackendState::Starting,
            "the engine has not selected points yet"
        );
        assert_eq!(state(None, 0, true), BackendState::Waiting);
        assert_eq!(state(None, 3, false), BackendState::Ready);
        assert_eq!(state(None, 0, true), BackendState::Waiting);
        assert_eq!(state(Some(AgentReport::Silent), 0, false), BackendState::Lost);
    }

    #[test]
    fn an_outvoted_backend_is_excluded_and_its_message_says_why() {
        let mut backends = Backends::default();
        backends.pods(pods(&[("a", false)]));
        let mut view = |report: Option<AgentReport>, points, outvoted: bool| {
            if let Some(report) = report {
                backends.report(id("a"), report);
            }
            let outvoted = outvoted.then(|| (id("a"), Outvoted { own: None, increment: 31 })).into_iter().collect();
            let status = Status { points: vec![(id("a"), points)], outvoted, ..Status::default() };
            let view = backends.views(&status, SystemTime::UNIX_EPOCH).remove(0);
            (view.state, view.message)
        };
        let (state, message) = view(Some(points(true)), 0, true);
        assert_eq!(state, BackendState::Excluded);
        let message = message.unwrap();
        assert!(message.starts_with("it is not published, because its descriptor has no flow-control"), "{message}");
        assert!(message.contains("; its proof-of-work defence"), "{message}");
        assert_eq!(view(Some(points(false)), 3, true), (BackendState::Ready, None), "a new round is about to begin");
        assert_eq!(view(Some(AgentReport::Silent), 0, false), (BackendState::Lost, None));
    }

    #[test]
    fn a_limit_below_the_number_of_points_is_remarked_as_soon_as_it_is_known() {
        let mut backends = Backends::default();
        backends.pods(pods(&[("a", false)]));
        let offered = (1..=5).map(|number| point(number, number));
        let address = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
        let content = Arc::new(ServiceContent::plain(offered.collect()));
        let mut message = |usual| {
            backends.set_limits(&PointLimits { usual, ..PointLimits::default() });
            backends.report(id("a"), AgentReport::Points(address, content.clone()));
            backends.set_limits(&PointLimits { usual: usual + 1, ..PointLimits::default() });
            backends.views(&Status::default(), SystemTime::UNIX_EPOCH).remove(0).message
        };
        assert!(message(2).unwrap().starts_with("it offers 5 introduction points, but only 3 of them are published"));
        assert_eq!(message(4), None);
    }

    fn points(pow_params: bool) -> AgentReport {
        let address = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
        let content = ServiceContent { pow_params, ..ServiceContent::plain(Vec::new()) };
        AgentReport::Points(address, Arc::new(content))
    }

    #[test]
    fn the_message_names_unpublished_features_while_they_last() {
        let mut backends = Backends::default();
        backends.pods(pods(&[("a", false)]));
        let mut report = |pow_params| {
            backends.report(id("a"), points(pow_params));
            backends.views(&Status::default(), SystemTime::UNIX_EPOCH).remove(0).message
        };
        assert_eq!(report(false), None);
        assert!(report(true).unwrap().starts_with("its proof-of-work defence protects its own address only"));
        assert_eq!(report(false), None);
    }

    #[test]
    fn views_are_sorted_by_name() {
        let mut backends = Backends::default();
        let pod = |name: &str| Pod { name: name.into(), agent: None, ready: true, terminating: false };
        backends.pods(Arc::new(Pods::from([(id("1"), pod("z")), (id("2"), pod("a"))])));
        let views = backends.views(&Status::default(), SystemTime::UNIX_EPOCH);
        let names: Vec<_> = views.into_iter().map(|view| view.name).collect();
        assert_eq!(names, ["a", "z"]);
    }
}
