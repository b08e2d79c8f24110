//! The states of a service's pods, and the problems that keep pods from starting. The messages
//! quote the component that reports a problem, for example the scheduler.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerStateWaiting, ContainerStatus, Event as CoreEvent, Pod, PodCondition, PodStatus,
};
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;

use crate::crd::Reason;
use crate::crd::names::{COMPONENT_LABEL, Component, SERVICE_LABEL};

/// A pod of a service. Pods that have finished do not count, unless a node has rejected them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodState {
    /// The pod's name.
    pub pod: String,
    /// The pod's UID.
    pub uid: String,
    /// The component that the pod belongs to.
    pub component: Component,
    /// The problem that keeps the pod from starting, if there is one.
    pub problem: Option<PodProblem>,
    /// The time at which a node began to create the pod's containers, if they are still being
    /// created.
    pub creating_since: Option<Timestamp>,
    /// The time at which the pod was created, if its node has rejected the pod. Such a pod never
    /// runs, and Kubernetes creates another one in its place.
    pub rejected: Option<Timestamp>,
}

/// A problem that keeps a pod from starting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodProblem {
    /// The condition reason that reports the problem.
    pub reason: Reason,
    /// The condition message, which names the pod, the container and the problem.
    pub message: String,
}

/// The time that a node usually needs at most to create the containers of a pod.
const CREATION: SignedDuration = SignedDuration::from_secs(60);
/// The time after which the rejection of a pod says nothing about the present. Kubernetes keeps a
/// rejected pod even if the pod that replaces it runs.
const REJECTION: SignedDuration = SignedDuration::from_secs(300);
/// The condition of a pod that says whether the scheduler has found a node.
const POD_SCHEDULED: &str = "PodScheduled";
/// The kubelet's reasons for a container that is being created.
const CREATING: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// The maximum length of a quotation in characters.
const MAX_QUOTATION: usize = 500;
/// The minimum length of a hexadecimal number that a quotation leaves out. Such a number identifies
/// an attempt, so it would change the message with each attempt.
const ATTEMPT_DIGITS: usize = 32;

/// The kubelet's reasons for an image problem, each with the reason that the condition message
/// shows instead. The kubelet alternates between `ErrImagePull` and `ImagePullBackOff`. If the
/// message showed both, the status would be rewritten at every alternation.
const IMAGE: [(&str, &str); 6] = [
    ("ErrImagePull", "ImagePullBackOff"),
    ("ImagePullBackOff", "ImagePullBackOff"),
    ("ErrImageNeverPull", "ErrImageNeverPull"),
    ("InvalidImageName", "InvalidImageName"),
    ("ImageInspectError", "ImageInspectError"),
    ("RegistryUnavailable", "RegistryUnavailable"),
];
/// The kubelet's codes for other container problems. The second code of each pair is the one that
/// the condition message shows.
const CONTAINER: [(&str, &str); 5] = [
    ("CreateContainerConfigError", "CreateContainerConfigError"),
    ("CreateContainerError", "CreateContainerError"),
    ("RunContainerError", "RunContainerError"),
    ("PostStartHookError", "PostStartHookError"),
    (CRASHING, CRASHING),
];
/// The kubelet's reason for a container that keeps ending soon after its start.
const CRASHING: &str = "CrashLoopBackOff";

impl PodState {
    /// Returns the time at which the creation of the containers has taken too long, if it is still
    /// under way.
    pub fn stuck_from(&self) -> Option<Timestamp> {
        self.creating_since?.checked_add(CREATION).ok()
    }

    /// Returns true if the creation of the containers takes too long.
    pub fn is_stuck(&self, now: Timestamp) -> bool {
        self.stuck_from().is_some_and(|from| from <= now)
    }

    /// Returns true if a node rejected the pod so long ago that the rejection says nothing about
    /// the present.
    pub fn is_outdated(&self, now: Timestamp) -> bool {
        self.rejected.is_some_and(|created| now.duration_since(created) > REJECTION)
    }

    /// Records that the creation of the containers takes too long. `events` are the Events about
    /// the pod.
    pub fn explain(&mut self, events: &[CoreEvent]) {
        let name = &self.pod;
        let cause = newest(events).unwrap_or_else(|| "its node reports no reason".to_owned());
        let message = format!(
            "Pod {name}: its containers have been in creation for over a minute: {cause}; see `kubectl describe pod \
             {name}`."
        );
        self.problem = Some(PodProblem { reason: Reason::PodsStuck, message });
    }
}

/// Returns the state of one of our pods, or None if the pod is not ours or has finished. A pod that
/// its node has rejected has not finished.
pub fn state(pod: &Pod) -> Option<PodState> {
    let component = match pod.labels().get(COMPONENT_LABEL)?.as_str() {
        "backend" => Component::Backend,
        "frontend" => Component::Frontend,
        _ => return None,
    };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let stays = pod.metadata.deletion_timestamp.is_none();
    let rejection = if phase == Some("Failed") && stays { rejection(pod) } else { None };
    if matches!(phase, Some("Succeeded" | "Failed")) && rejection.is_none() {
        return None;
    }
    let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let rejected = rejection.is_some().then_some(created);
    let problem = rejection.or_else(|| stays.then(|| problem(pod)).flatten());
    let creating_since = if stays && problem.is_none() { creating_since(pod) } else { None };
    let (pod, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
    Some(PodState { pod, uid, component, problem, creating_since, rejected })
}

/// Returns the problem that keeps a pod from starting. Ignores problems that resolve themselves.
fn problem(pod: &Pod) -> Option<PodProblem> {
    let (reason, message) =
        unscheduled(pod).or_else(|| waiting(pod).find_map(|(container, why)| failed(container, why)))?;
    Some(about(pod, reason, &message))
}

fn about(pod: &Pod, reason: Reason, message: &str) -> PodProblem {
    let name = pod.name_any();
    PodProblem { reason, message: format!("Pod {name}: {message}; see `kubectl describe pod {name}`.") }
}

/// Returns the problem of a failed pod that its node has rejected, in the kubelet's words. The
/// kubelet gives a reason such as `OutOfmemory` or `NodeAffinity`, and starts no container.
fn rejection(pod: &Pod) -> Option<PodProblem> {
    let status = pod.status.as_ref()?;
    let has_containers = status.container_statuses.as_ref().is_some_and(|statuses| !statuses.is_empty());
    let reason = status.reason.as_deref().filter(|reason| !reason.is_empty() && !has_containers)?;
    let words = status.message.as_deref().unwrap_or("the kubelet gives no message");
    Some(about(pod, Reason::PodsFailing, &format!("rejected by its node: {reason}: {}", quoted(words))))
}

/// Returns the problem of a pod for which the scheduler has found no node, in the scheduler's
/// words.
fn unscheduled(pod: &Pod) -> Option<(Reason, String)> {
    let scheduled = scheduled(pod).filter(|condition| condition.status == "False")?;
    let reason = scheduled.reason.as_deref().unwrap_or("Unschedulable");
    let words = scheduled.message.as_deref().unwrap_or("the scheduler gives no reason");
    Some((Reason::Unschedulable, format!("{reason}: {}", quoted(words))))
}

fn scheduled(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == POD_SCHEDULED)
}

/// Returns the problem of a container that is waiting.
fn failed(container: &ContainerStatus, waiting: &ContainerStateWaiting) -> Option<(Reason, String)> {
    let given = waiting.reason.as_deref()?;
    let shown =
        |known: &[(&str, &'static str)]| known.iter().find(|(kubelets, _)| *kubelets == given).map(|(_, shown)| *shown);
    let name = &container.name;
    if let Some(shown) = shown(&IMAGE) {
        let message = format!("container {name}: {shown}: could not pull image {:?}", container.image);
        return Some((Reason::ImagePullFailed, message));
    }
    let shown = shown(&CONTAINER)?;
    // The message about a crash loop contains the growing pause between two attempts.
    let words = if shown == CRASHING {
        ended(container).map(|(reason, code)| format!("its last run ended with {reason}, exit code {code}"))
    } else {
        waiting.message.as_deref().filter(|words| !words.is_empty()).map(quoted)
    };
    let words = words.map(|words| format!(": {words}")).unwrap_or_default();
    Some((Reason::PodsFailing, format!("container {name}: {shown}{words}")))
}

/// Returns the kubelet's reason for the end of a container's last run, such as `OOMKilled`, and the
/// exit code.
fn ended(container: &ContainerStatus) -> Option<(&str, i32)> {
    let terminated = container.last_state.as_ref()?.terminated.as_ref()?;
    Some((terminated.reason.as_deref().unwrap_or("no reason"), terminated.exit_code))
}

/// Returns the time since which a node has been creating the pod's containers, or None if no node
/// is doing so.
fn creating_since(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Pending"))?;
    let assigned = scheduled(pod).filter(|condition| condition.status == "True");
    let since = status.start_time.clone().or_else(|| assigned?.last_transition_time.clone())?;
    let is_creating =
        |waiting: &ContainerStateWaiting| waiting.reason.as_deref().is_some_and(|reason| CREATING.contains(&reason));
    let has_no_containers = status.container_statuses.as_ref().is_none_or(Vec::is_empty);
    (has_no_containers || waiting(pod).any(|(_, waiting)| is_creating(waiting))).then_some(since.0)
}

/// Returns the reason and the words of the newest Event. A Warning takes precedence.
fn newest(events: &[CoreEvent]) -> Option<String> {
    let time = |event: &CoreEvent| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        let first = event.event_time.as_ref().map(|time| time.0);
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        [last, first, series].into_iter().flatten().max()
    };
    let rank = |event: &&CoreEvent| (event.type_.as_deref() == Some("Warning"), time(event));
    let event = events.iter().max_by_key(rank)?;
    let words = quoted(event.message.as_deref().unwrap_or_default());
    Some([event.reason.clone().unwrap_or_default(), words].join(": "))
}

/// Returns a quotation for a condition message: one line of limited length, without the numbers of
/// attempts.
fn quoted(words: &str) -> String {
    let mut quoted = String::new();
    for word in words.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        quoted.push_str(if digits.len() >= ATTEMPT_DIGITS { "…" } else { digits });
        quoted.extend(word[digits.len()..].chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    let quoted = quoted.trim().trim_end_matches('.');
    if quoted.chars().count() <= MAX_QUOTATION {
        return quoted.to_owned();
    }
    quoted.chars().take(MAX_QUOTATION).chain(['…']).collect()
}

fn waiting(pod: &Pod) -> impl Iterator<Item = (&ContainerStatus, &ContainerStateWaiting)> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    let containers = init.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten());
    containers.filter_map(|container| Some((container, container.state.as_ref()?.waiting.as_ref()?)))
}

/// Removes the parts of a pod that this module does not read, because a cluster can have many pods
/// and all of them are cached.
pub fn shrink(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    pod.metadata.owner_references = None;
    pod.labels_mut().retain(|label, _| [COMPONENT_LABEL, SERVICE_LABEL].contains(&label.as_str()));
    pod.spec = None;
    if let Some(status) = pod.status.take() {
        let conditions = status.conditions.into_iter().flatten();
        let conditions = conditions.filter(|condition| condition.type_ == POD_SCHEDULED).collect();
        let shrunk = pod.status.insert(PodStatus {
            phase: status.phase,
            reason: status.reason,
            message: status.message,
            start_time: status.start_time,
            conditions: Some(conditions),
            ..PodStatus::default()
        });
        let states = |statuses: Option<Vec<ContainerStatus>>| {
            let kept = |status: ContainerStatus| ContainerStatus {
                name: status.name,
                image: status.image,
                state: status.state,
                last_state: status.last_state,
                ..ContainerStatus::default()
            };
            statuses.map(|statuses| statuses.into_iter().map(kept).collect())
        };
        shrunk.init_container_statuses = states(status.init_container_statuses);
        shrunk.container_statuses = states(status.container_statuses);
    }
}

/// The states of all watched pods, by pod UID. Comparing them with a watch event shows whether the
/// state of a pod has changed.
#[derive(Debug, Default)]
pub struct KnownPods {
    known: HashMap<String, (Service, PodState)>,
    /// The UIDs of the pods in a listing that has not ended yet.
    listed: HashSet<String>,
}

/// The namespace and name of a service.
type Service = (String, String);

impl KnownPods {
    /// Records a watch event. Returns the services of the pods that have appeared or gone, or whose
    /// state has changed.
    pub fn update(&mut self, event: &Event<Pod>) -> Vec<Service> {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.extend(pod.uid());
                return Vec::from_iter(self.set(pod, state(pod)));
            }
            Event::InitDone => {
                // Pods that were deleted while the watch was interrupted are not in the listing.
                let listed = std::mem::take(&mut self.listed);
                let gone = self.known.extract_if(|uid, _| !listed.contains(uid));
                return gone.map(|(_, (service, _))| service).collect();
            }
            Event::Apply(pod) => return Vec::from_iter(self.set(pod, state(pod))),
            Event::Delete(pod) => return Vec::from_iter(self.set(pod, None)),
        }
        Vec::new()
    }

    /// Records the state of a pod. Returns the pod's service if the state has changed.
    fn set(&mut self, pod: &Pod, now: Option<PodState>) -> Option<Service> {
        let service = (pod.namespace()?, pod.labels().get(SERVICE_LABEL)?.clone());
        let uid = pod.uid()?;
        let has_changed = self.known.get(&uid).map(|(_, before)| before) != now.as_ref();
        match now {
            Some(now) => self.known.insert(uid, (service.clone(), now)),
            None => self.known.remove(&uid),
        };
        has_changed.then_some(service)
    }
}
