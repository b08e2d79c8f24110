//! The findings about the pods: how many of them run, and what keeps the others away.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};

use super::Conclusion;
use super::basis::COMPONENTS;
use super::observed::Observed;
use crate::crd::Reason;
use crate::crd::names::Component;
use crate::onion::OnionAddress;
use crate::operator::conditions::Finding;

/// Returns the finding about a suspended service. The service counts as suspended once none of its
/// pods is running.
pub(super) fn suspended(observed: &Observed) -> Finding {
    let running = COMPONENTS.map(|component| (component, running(observed, component)));
    match still_running(&running) {
        None => Finding::no(Reason::Suspended, "spec.suspend is true. No pod is running."),
        Some(pods) => Finding::no(Reason::Stopping, format!("spec.suspend is true. {pods}")),
    }
}

/// Returns a sentence about the pods that are still running, or None if there are none.
fn still_running(running: &[(Component, usize)]) -> Option<String> {
    let pods = |(component, count): &(Component, usize)| {
        let plural = if *count == 1 { "" } else { "s" };
        (*count > 0).then(|| format!("{count} {}{plural}", component.as_str()))
    };
    let pods: Vec<_> = running.iter().filter_map(pods).collect();
    (!pods.is_empty()).then(|| format!("Still running: {}.", pods.join(", ")))
}

/// Returns the number of pods of a component that are running or about to run. A terminating pod
/// still counts. A Deployment's status does not count terminating pods, but may know of a new pod
/// before the operator's cache does.
fn running(observed: &Observed, component: Component) -> usize {
    let pods = observed.pods.iter().filter(|pod| pod.component == component && pod.rejected.is_none()).count();
    let status = observed.deployment(component).and_then(|deployment| deployment.status.as_ref());
    let replicas = status.and_then(|status| status.replicas).unwrap_or(0);
    pods.max(usize::try_from(replicas).unwrap_or(0))
}

/// Returns the finding about the backends' pods. `ready` is the number of ready pods.
pub(super) fn backends(observed: &Observed, conclusion: &Conclusion, ready: i32) -> Finding {
    if observed.object.spec.suspend {
        return suspended(observed);
    }
    let wanted = conclusion.backends;
    let Some(deployment) = observed.deployment(Component::Backend) else {
        return if conclusion.withheld.contains(&Component::Backend) || !observed.taken.is_empty() {
            let message = "The backends are created once the problems in the conditions are solved.";
            Finding::no(Reason::Waiting, message)
        } else {
            Finding::no(Reason::Progressing, format!("0 of {wanted} backends are ready."))
        };
    };
    if wanted == 0 {
        return scaled_to_zero(observed);
    }
    let count = format!("{ready} of {wanted} backends are ready.");
    if (ready < wanted || !rolled_out(deployment, wanted))
        && let Some(obstacle) = obstacle(observed, Component::Backend)
    {
        return Finding { message: format!("{count} {}", obstacle.message), ..obstacle };
    }
    if ready < wanted {
        return Finding::no(Reason::Progressing, count);
    }
    if !rolled_out(deployment, wanted) {
        return Finding::no(Reason::RollingOut, "A new version of the backends is being rolled out.");
    }
    Finding::yes(Reason::AllReady, format!("All {wanted} backends are ready."))
}

fn scaled_to_zero(observed: &Observed) -> Finding {
    // The publisher leaves out invalid addresses.
    let external = &observed.object.spec.external_backends;
    let external = external.iter().filter(|backend| backend.onion_address.parse::<OnionAddress>().is_ok()).count();
    if external > 0 {
        let message = format!("spec.backends.replicas is 0; external backends: {external}.");
        return Finding::yes(Reason::OnlyExternal, message);
    }
    match still_running(&[(Component::Backend, running(observed, Component::Backend))]) {
        None => Finding::no(Reason::ScaledToZero, "spec.backends.replicas is 0."),
        Some(pods) => Finding::no(Reason::Stopping, format!("spec.backends.replicas is 0. {pods}")),
    }
}

/// Returns what keeps pods of a component away, in the words of the component that refuses them:
/// the API server, the scheduler, the kubelet or the Deployment controller.
pub(super) fn obstacle(observed: &Observed, component: Component) -> Option<Finding> {
    let deployment = observed.deployment(component);
    if let Some(message) = deployment.and_then(refused_pods) {
        return Some(Finding::no(Reason::PodsRefused, message));
    }
    let pods = observed.pods.iter().filter(|pod| pod.component == component);
    // A rejected pod may already be replaced, and then the new pod's problem is the present one.
    let (rejected, present): (Vec<_>, Vec<_>) = pods.partition(|pod| pod.rejected.is_some());
    if let Some(problem) = present.into_iter().chain(rejected).find_map(|pod| pod.problem.as_ref()) {
        return Some(Finding::no(problem.reason, problem.message.clone()));
    }
    let overdue = condition(deployment?, "Progressing", "False")?;
    let is_overdue = overdue.reason.as_deref() == Some(Reason::ProgressDeadlineExceeded.as_str());
    let message = overdue.message.clone().unwrap_or_else(|| "The rollout makes no progress.".to_owned());
    is_overdue.then(|| Finding::no(Reason::ProgressDeadlineExceeded, message))
}

/// Returns true if all pods are of the newest version. If not, the ready pods may include older
/// ones.
pub(super) fn rolled_out(deployment: &Deployment, wanted: i32) -> bool {
    let status = deployment.status.as_ref();
    let seen = status.and_then(|status| status.observed_generation) >= deployment.metadata.generation;
    let updated = status.and_then(|status| status.updated_replicas).unwrap_or(0);
    seen && updated >= wanted && updated >= status.and_then(|status| status.replicas).unwrap_or(0)
}

/// Returns a message with the reason why the API server refuses to create pods, for example a quota
/// or an admission webhook. The reason comes from the Deployment's status.
fn refused_pods(deployment: &Deployment) -> Option<String> {
    let failure = condition(deployment, "ReplicaFailure", "True")?;
    Some(format!("Pods cannot be created: {}", failure.message.as_deref().unwrap_or("the Deployment gives no reason")))
}

fn condition<'a>(deployment: &'a Deployment, kind: &str, status: &str) -> Option<&'a DeploymentCondition> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == status)
}
