//! Examines the pods of the backends and frontends.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::ResourceExt as _;

use crate::crd::names::Component;
use crate::crd::{OnionBalancedService, Reason};
use crate::status::advice;
use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::{Finding, Mark};
use crate::status::doctor::pod::{condition, containers, is_ending, is_of, is_ready, newest_event, phase, quoted};

/// The time in seconds that a pod may take to become ready: its tor has to bootstrap.
const START: i64 = 300;
/// The time in seconds that a node usually needs at most to create the containers of a pod.
const CREATION: i64 = 60;
/// The time in seconds for which the end of a container is of interest.
const RECENT: i64 = 3600;
/// The kubelet's reasons for a container that is being created.
const CREATING: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// The kubelet's reasons for an image that it cannot use.
const IMAGE: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
];

pub(super) fn examine(facts: &Facts, object: &OnionBalancedService) -> Vec<Finding> {
    let pods = match &facts.pods {
        Ok(pods) => pods,
        Err(unread) => return vec![Finding::unread("pods", unread)],
    };
    let spec = &object.spec;
    let wanted = [(Component::Backend, spec.backends.replicas), (Component::Frontend, spec.frontend.replicas)];
    let found = wanted.into_iter().flat_map(|(component, wanted)| {
        let own: Vec<&Pod> = pods.iter().filter(|pod| is_of(pod, component) && !is_ending(pod)).collect();
        of_component(facts, component, usize::try_from(wanted).unwrap_or(0), &own)
    });
    let mut found: Vec<_> = found.collect();
    if let Err(unread) = &facts.events
        && pods.iter().any(|pod| !is_ready(pod) && !is_ending(pod))
    {
        found.push(Finding::unread("pods", unread));
    }
    found
}

fn area(component: Component) -> &'static str {
    match component {
        Component::Backend => "backend pods",
        Component::Frontend => "frontend pods",
    }
}

fn of_component(facts: &Facts, component: Component, wanted: usize, pods: &[&Pod]) -> Vec<Finding> {
    let area = area(component);
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let mut found = Vec::new();
    // Kubernetes keeps pods that have ended, and creates others in their place.
    let runs = |pod: &&&Pod| !matches!(phase(pod), "Succeeded" | "Failed");
    let existing = pods.iter().filter(runs).count();
    if existing < wanted {
        let advice = advice::action(Reason::PodsRefused.as_str(), &facts.namespace, &facts.name);
        let text = format!("{existing} of {wanted} pods exist.");
        found.push(Finding::problem(area, text).maybe(advice.as_deref()));
    } else if ready >= wanted {
        found.push(Finding::ok(area, format!("{ready} of {wanted} pods are ready.")));
    }
    let no_events = Vec::new();
    let events = facts.events.as_ref().unwrap_or(&no_events);
    let unready = pods.iter().filter(|pod| !is_ready(pod) && (phase(pod) != "Failed" || ready < wanted));
    found.extend(grouped(area, unready.filter_map(|pod| Some((pod.name_any(), obstacle(facts, pod, events)?)))));
    found.extend(grouped(area, pods.iter().filter_map(|pod| Some((pod.name_any(), restarts(facts, pod)?)))));
    found
}

/// What keeps a pod from being ready, and what to do about it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Obstacle {
    is_problem: bool,
    text: String,
    remedy: String,
}

impl Obstacle {
    fn problem(text: String, remedy: String) -> Self {
        Self { is_problem: true, text, remedy }
    }
}

/// Returns one finding for all pods with the same obstacle.
fn grouped(area: &'static str, obstacles: impl Iterator<Item = (String, Obstacle)>) -> Vec<Finding> {
    let mut pods: BTreeMap<Obstacle, Vec<String>> = BTreeMap::new();
    for (pod, obstacle) in obstacles {
        pods.entry(obstacle).or_default().push(pod);
    }
    let finding = |(Obstacle { is_problem, text, remedy }, pods): (Obstacle, Vec<String>)| {
        let more = match pods.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let mark = if is_problem { Mark::Problem } else { Mark::Warning };
        let remedy = remedy.replace("POD", &pods[0]);
        Finding::new(mark, area, format!("{}{more}: {text}.", pods[0])).remedy(&remedy)
    };
    pods.into_iter().map(finding).collect()
}

/// Returns what keeps a pod from being ready. `POD` stands for the name of the pod.
fn obstacle(facts: &Facts, pod: &Pod, events: &[Event]) -> Option<Obstacle> {
    let Facts { namespace, name, .. } = facts;
    let advice = |reason: Reason| advice::action(reason.as_str(), namespace, name).unwrap_or_default();
    let describe = format!("kubectl describe pod POD -n {namespace}");
    let status = pod.status.as_ref();
    match phase(pod) {
        "Succeeded" => return None,
        "Failed" => {
            let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or("no reason given");
            let words = status.and_then(|status| status.message.as_deref()).map(quoted).unwrap_or_default();
            return Some(Obstacle::problem(format!("failed: {reason} {words}").trim_end().to_owned(), describe));
        }
        _ => {}
    }
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(|condition| condition.status == "False") {
        let words = scheduled.message.as_deref().map_or_else(|| "no reason given".to_owned(), quoted);
        return Some(Obstacle::problem(format!("no node: {words}"), advice(Reason::Unschedulable)));
    }
    if let Some(obstacle) = containers(pod).find_map(|container| waiting(container, &advice, &describe)) {
        return Some(obstacle);
    }
    let started = status.and_then(|status| status.start_time.as_ref()).or(pod.metadata.creation_timestamp.as_ref());
    let age = started.map_or(0, |time| facts.seconds_since(time.0));
    if phase(pod) == "Pending" {
        let event = newest_event(pod, events);
        let text = event.clone().unwrap_or_else(|| format!("its containers are being created for {age} s"));
        return Some(Obstacle { is_problem: event.is_some() || age > CREATION, text, remedy: describe });
    }
    let container = containers(pod).find(|container| !container.ready && is_running(container))?;
    let event = newest_event(pod, events).map(|event| format!(" ({event})")).unwrap_or_default();
    let text = if age > START {
        format!("container {} is not ready after {} min{event}", container.name, age / 60)
    } else {
        format!("container {} is not ready yet{event}", container.name)
    };
    let remedy = format!(
        "read why: kubectl logs -n {namespace} POD -c {}; kubectl logs -n {namespace} POD -c tor",
        container.name
    );
    Some(Obstacle { is_problem: age > START, text, remedy })
}

fn is_running(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// Returns the obstacle of a container that waits for something that does not come by itself.
fn waiting(container: &ContainerStatus, advice: &impl Fn(Reason) -> String, describe: &str) -> Option<Obstacle> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| !CREATING.contains(reason))?;
    let name = &container.name;
    if IMAGE.contains(&reason) {
        let text = format!("container {name}: {reason}: cannot pull image {}", container.image);
        return Some(Obstacle::problem(text, advice(Reason::ImagePullFailed)));
    }
    let words = match ended(container) {
        Some((_, words)) => words,
        None => waiting.message.as_deref().map(quoted).unwrap_or_default(),
    };
    let text = format!("container {name}: {reason}: {words}").trim_end_matches([':', ' ']).to_owned();
    Some(Obstacle::problem(text, describe.to_owned()))
}

/// Returns the time and the circumstances of the end of a container's last run.
fn ended(container: &ContainerStatus) -> Option<(jiff::Timestamp, String)> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    let reason = ended.reason.as_deref().unwrap_or("no reason given");
    let at = ended.finished_at.as_ref().map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0);
    Some((at, format!("its last run ended with {reason}, exit code {}", ended.exit_code)))
}

/// Returns a warning about a container that has been restarted lately. A container that waits for
/// its restart is an obstacle instead.
fn restarts(facts: &Facts, pod: &Pod) -> Option<Obstacle> {
    let restarted = containers(pod).filter(|container| container.restart_count > 0 && is_running(container));
    let recent = restarted.filter_map(|container| {
        let (at, words) = ended(container)?;
        (facts.seconds_since(at) < RECENT).then_some((container, words))
    });
    let (container, words) = recent.max_by_key(|(container, _)| container.restart_count)?;
    let name = &container.name;
    Some(Obstacle {
        is_problem: false,
        text: format!("container {name} was restarted {} times; {words}", container.restart_count),
        remedy: format!(
            "read the end of its last log: kubectl logs -n {} POD -c {name} --previous --tail=20",
            facts.namespace
        ),
    })
}

#[cfg(test)]
mod tests;
