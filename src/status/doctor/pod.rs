//! What the status of a pod says.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, PodCondition};
use kube::ResourceExt as _;

use crate::crd::names::{COMPONENT_LABEL, Component};

/// Returns true if the pod is Ready. A pod of the service is Ready only if its tor has
/// bootstrapped.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Returns true if the pod has been deleted and is only finishing.
pub fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Returns true if the pod is one of the component's.
pub fn is_of(pod: &Pod, component: Component) -> bool {
    pod.labels().get(COMPONENT_LABEL).map(String::as_str) == Some(component.as_str())
}

/// Returns the phase of the pod, for example `Running`.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown")
}

/// Returns the condition of this type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Returns the states of all containers, those of the init containers first.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    init.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten())
}

/// Returns the newest of the Events about the pod, as `Reason: message`.
pub fn newest_event(pod: &Pod, events: &[Event]) -> Option<String> {
    let name = pod.name_any();
    let uid = pod.metadata.uid.as_deref();
    let is_about = |event: &&Event| {
        let about = &event.involved_object;
        about.name.as_deref() == Some(name.as_str())
            && (uid.is_none() || about.uid.is_none() || about.uid.as_deref() == uid)
    };
    let time = |event: &&Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        [last, series, event.event_time.as_ref().map(|time| time.0)].into_iter().flatten().max()
    };
    let event = events.iter().filter(is_about).max_by_key(time)?;
    Some(format!("{}: {}", event.reason.as_deref().unwrap_or("Event"), quoted(event.message.as_deref()?)))
}

/// Returns a quotation of what Kubernetes says: one line of limited length without a full stop.
pub fn quoted(words: &str) -> String {
    const LONGEST: usize = 300;
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.trim_end_matches('.');
    if line.chars().count() <= LONGEST { line.to_owned() } else { line.chars().take(LONGEST).chain(['…']).collect() }
}
