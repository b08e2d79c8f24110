//! What keeps pods from starting, as the kubelet says: images that cannot be pulled, above all.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ContainerStateWaiting, ContainerStatus, Pod};
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;

use crate::crd::names::{COMPONENT_LABEL, Component, SERVICE_LABEL};

/// A pod that cannot start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// The pod's name.
    pub pod: String,
    /// Which of our pods.
    pub component: Component,
    /// The condition's reason.
    pub reason: &'static str,
    /// What is wrong with which container.
    pub message: String,
}

/// What is wrong with the image: what the kubelet says, and what we say for it. It goes to and fro between failing and waiting
/// to try again, and a status that repeated that would be written every time.
const IMAGE: [(&str, &str); 6] = [
    ("ErrImagePull", "ImagePullBackOff"),
    ("ImagePullBackOff", "ImagePullBackOff"),
    ("ErrImageNeverPull", "ErrImageNeverPull"),
    ("InvalidImageName", "InvalidImageName"),
    ("ImageInspectError", "ImageInspectError"),
    ("RegistryUnavailable", "RegistryUnavailable"),
];
/// What else keeps a container from running, likewise.
const CONTAINER: [(&str, &str); 5] = [
    ("CreateContainerConfigError", "CreateContainerConfigError"),
    ("CreateContainerError", "CreateContainerError"),
    ("RunContainerError", "RunContainerError"),
    ("PostStartHookError", "PostStartHookError"),
    ("CrashLoopBackOff", "CrashLoopBackOff"),
];

/// What is wrong with a pod of ours, if anything that does not pass by itself.
pub fn trouble(pod: &Pod) -> Option<Trouble> {
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
        let reason = waiting.reason.as_deref()?;
        let say = |known: &[(&str, &'static str)]| known.iter().find(|(from, _)| *from == reason).map(|(_, say)| *say);
        let (condition, message) = if let Some(say) = say(&IMAGE) {
            let image = &container.image;
            ("ImagePullFailed", format!("container {}: {say}: image {image:?} cannot be had", container.name))
        } else {
            ("PodsFailing", format!("container {}: {}", container.name, say(&CONTAINER)?))
        };
        let message = format!("Pod {name}: {message}; see `kubectl describe pod {name}`.");
        Some(Trouble { pod: name.clone(), component, reason: condition, message })
    })
}

fn waiting(pod: &Pod) -> impl Iterator<Item = (&ContainerStatus, &ContainerStateWaiting)> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    let containers = init.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten());
    containers.filter_map(|container| Some((container, container.state.as_ref()?.waiting.as_ref()?)))
}

/// Keeps only what is looked at here: a cluster has many pods.
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

/// Which events of a watch tell something new.
#[derive(Debug, Default)]
pub struct News(HashMap<String, Trouble>);

impl News {
    /// Namespace and name of the service whose pod began or ceased to be in trouble.
    pub fn of(&mut self, event: &Event<Pod>) -> Option<(String, String)> {
        let (pod, now) = match event {
            Event::Apply(pod) | Event::InitApply(pod) => (pod, trouble(pod)),
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
        let message = "Pod web-backend-x: container tor: ImagePullBackOff: image \"tor:1\" cannot be had; \
                       see `kubectl describe pod web-backend-x`.";
        for reason in ["ErrImagePull", "ImagePullBackOff"] {
            let mut pod = waits(reason);
            shrink(&mut pod);
            assert!(pod.spec.is_none() && pod.labels().len() == 2);
            let found = trouble(&pod).unwrap();
            assert_eq!((found.reason, found.message.as_str()), ("ImagePullFailed", message));
            assert_eq!(found.component, Component::Backend);
        }
        assert_eq!(trouble(&waits("CrashLoopBackOff")).unwrap().reason, "PodsFailing");
        assert_eq!(trouble(&waits("ContainerCreating")), None);
        assert_eq!(trouble(&pod(&json!([]))), None);
    }

    #[test]
    fn only_beginnings_and_ends_of_trouble_are_news() {
        let mut news = News::default();
        let web = Some(("shop".to_owned(), "web".to_owned()));
        assert_eq!(news.of(&Event::Apply(pod(&json!([])))), None);
        assert_eq!(news.of(&Event::Apply(waits("ErrImagePull"))), web);
        assert_eq!(news.of(&Event::Apply(waits("ImagePullBackOff"))), None);
        assert_eq!(news.of(&Event::Delete(waits("ImagePullBackOff"))), web);
        assert_eq!(news.of(&Event::Delete(waits("ImagePullBackOff"))), None);
    }
}
