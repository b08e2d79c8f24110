//! Problems that keep pods from starting, as reported by the kubelet, for example an image that
//! cannot be pulled.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ContainerStateWaiting, ContainerStatus, Pod};
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;

use crate::crd::Reason;
use crate::crd::names::{COMPONENT_LABEL, Component, SERVICE_LABEL};

/// A problem that keeps a pod from starting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodProblem {
    /// The pod's name.
    pub pod: String,
    /// The component that the pod belongs to.
    pub component: Component,
    /// The condition reason that reports the problem.
    pub reason: Reason,
    /// The condition message, which names the pod, the container and the problem.
    pub message: String,
}

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
    ("CrashLoopBackOff", "CrashLoopBackOff"),
];

/// Returns the problem that keeps one of our pods from starting. Ignores problems that resolve
/// themselves.
pub fn problem(pod: &Pod) -> Option<PodProblem> {
    let component = match pod.labels().get(COMPONENT_LABEL)?.as_str() {
        "backend" => Component::Backend,
        "frontend" => Component::Frontend,
        _ => return None,
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = pod.name_any();
    waiting(pod).find_map(|(container, waiting)| {
        let given = waiting.reason.as_deref()?;
        let shown = |known: &[(&str, &'static str)]| {
            known.iter().find(|(kubelets, _)| *kubelets == given).map(|(_, shown)| *shown)
        };
        let (reason, message) = if let Some(shown) = shown(&IMAGE) {
            let image = &container.image;
            let message = format!("container {}: {shown}: could not pull image {image:?}", container.name);
            (Reason::ImagePullFailed, message)
        } else {
            (Reason::PodsFailing, format!("container {}: {}", container.name, shown(&CONTAINER)?))
        };
        let message = format!("Pod {name}: {message}; see `kubectl describe pod {name}`.");
        Some(PodProblem { pod: name.clone(), component, reason, message })
    })
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
        let shrunk = pod.status.insert(k8s_openapi::api::core::v1::PodStatus::default());
        let states = |statuses: Option<Vec<ContainerStatus>>| {
            let kept = |status: ContainerStatus| ContainerStatus {
                name: status.name,
                image: status.image,
                state: status.state,
                ..ContainerStatus::default()
            };
            statuses.map(|statuses| statuses.into_iter().map(kept).collect())
        };
        shrunk.init_container_statuses = states(status.init_container_statuses);
        shrunk.container_statuses = states(status.container_statuses);
    }
}

/// The problems of all watched pods, by pod UID. Comparing them with a watch event shows whether
/// the pod's problem has changed.
#[derive(Debug, Default)]
pub struct KnownProblems(HashMap<String, PodProblem>);

impl KnownProblems {
    /// Records a watch event. Returns the namespace and name of the pod's service if a problem with
    /// the pod has begun, changed or ended.
    pub fn update(&mut self, event: &Event<Pod>) -> Option<(String, String)> {
        let (pod, now) = match event {
            Event::Apply(pod) | Event::InitApply(pod) => (pod, problem(pod)),
            Event::Delete(pod) => (pod, None),
            Event::Init | Event::InitDone => return None,
        };
        let uid = pod.uid()?;
        let before = match now.clone() {
            Some(now) => self.0.insert(uid, now),
            None => self.0.remove(&uid),
        };
        (before != now).then_some(())?;
        Some((pod.namespace()?, pod.labels().get(SERVICE_LABEL)?.clone()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(containers: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web-backend-x", "namespace": "shop", "uid": "u",
                "labels": {"app.kubernetes.io/component": "backend", "onionbalance.dev/service": "web", "team": "a"},
            },
            "spec": {"containers": []},
            "status": {"phase": "Pending", "containerStatuses": containers},
        }))
        .unwrap()
    }

    fn status(name: &str, state: &Value) -> Value {
        json!({"name": name, "image": "tor:1", "imageID": "", "ready": false, "restartCount": 0, "state": state})
    }

    fn waits(reason: &str) -> Pod {
        let running = status("agent", &json!({"running": {}}));
        pod(&json!([running, status("tor", &json!({"waiting": {"reason": reason, "message": "rpc error"}}))]))
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named_with_its_pod() {
        let message = "Pod web-backend-x: container tor: ImagePullBackOff: could not pull image \"tor:1\"; \
                       see `kubectl describe pod web-backend-x`.";
        for reason in ["ErrImagePull", "ImagePullBackOff"] {
            let mut pod = waits(reason);
            shrink(&mut pod);
            assert!(pod.spec.is_none() && pod.labels().len() == 2);
            let found = problem(&pod).unwrap();
            assert_eq!((found.reason, found.message.as_str()), (Reason::ImagePullFailed, message));
            assert_eq!(found.component, Component::Backend);
        }
        assert_eq!(problem(&waits("CrashLoopBackOff")).unwrap().reason, Reason::PodsFailing);
        assert_eq!(problem(&waits("ContainerCreating")), None);
        assert_eq!(problem(&pod(&json!([]))), None);
    }

    #[test]
    fn only_the_beginning_and_the_end_of_a_problem_trigger_a_reconciliation() {
        let mut known = KnownProblems::default();
        let web = Some(("shop".to_owned(), "web".to_owned()));
        assert_eq!(known.update(&Event::Apply(pod(&json!([])))), None);
        assert_eq!(known.update(&Event::Apply(waits("ErrImagePull"))), web);
        assert_eq!(known.update(&Event::Apply(waits("ImagePullBackOff"))), None);
        assert_eq!(known.update(&Event::Delete(waits("ImagePullBackOff"))), web);
        assert_eq!(known.update(&Event::Delete(waits("ImagePullBackOff"))), None);
    }
}
