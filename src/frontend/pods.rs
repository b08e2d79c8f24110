//! Watches the backend pods of the service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod as KubernetesPod;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;

use super::watch_backoff::WatchBackoff;
use crate::crd::names::{self, Component};
use crate::link::AGENT_API_PORT;
use crate::merge::BackendId;

/// The state of a backend pod, as far as the publisher needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    /// The pod's name.
    pub(super) name: String,
    /// The address of the pod's agent (`host:port`). None while the pod has no IP address.
    pub(super) agent: Option<String>,
    /// True if the pod's condition `Ready` is True.
    pub(super) ready: bool,
    /// True if the pod has a deletion timestamp.
    pub(super) terminating: bool,
}

/// The backend pods by UID. Pods that have ended, for example because they were evicted, are not
/// included.
pub(super) type Pods = BTreeMap<BackendId, Pod>;

/// Watches the backend pods and keeps `pods` up to date, forever.
///
/// While the API server is unreachable, the known pods are kept, because losing the API server does
/// not mean losing backends. Each new listing from the API server replaces all known pods, and thus
/// removes those that have vanished in the meantime.
pub(super) async fn watch(client: Client, namespace: &str, service: &str, pods: watch::Sender<Arc<Pods>>) {
    let selector = names::pod_selector(service, Component::Backend);
    // The timeout limits how long a dead connection can hide changes.
    let config = watcher::Config::default().labels(&selector).timeout(60);
    let (store, writer) = reflector::store();
    let events = watcher(Api::<KubernetesPod>::namespaced(client, namespace), config)
        .modify(|pod| pod.managed_fields_mut().clear());
    let mut events = pin!(reflector(writer, events));
    let mut backoff = WatchBackoff::new("cannot watch the backend pods");
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init | Event::InitApply(_)) => {}
            Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                backoff.reset();
                let now: Pods = store.state().iter().filter_map(|pod| view(pod)).collect();
                pods.send_if_modified(|known| {
                    let changed = **known != now;
                    *known = Arc::new(now);
                    changed
                });
            }
            Err(error) => backoff.wait(&error).await,
        }
    }
}

fn view(pod: &KubernetesPod) -> Option<(BackendId, Pod)> {
    let uid = pod.uid()?;
    let status = pod.status.as_ref();
    if matches!(status.and_then(|status| status.phase.as_deref()), Some("Failed" | "Succeeded")) {
        return None;
    }
    let ready = is_ready(pod);
    let agent = status.and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse().ok()).map(authority);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    Some((BackendId(uid), Pod { name: pod.name_any(), agent, ready, terminating }))
}

/// Returns true if the pod's condition `Ready` is True.
pub(super) fn is_ready(pod: &KubernetesPod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn authority(ip: IpAddr) -> String {
    std::net::SocketAddr::new(ip, AGENT_API_PORT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &serde_json::Value, deleted: bool) -> KubernetesPod {
        let mut pod: KubernetesPod = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web-backend-x", "uid": "u" }, "status": status,
        }))
        .unwrap();
        if deleted {
            pod.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        }
        pod
    }

    #[test]
    fn reads_a_running_pod() {
        let status = serde_json::json!({
            "phase": "Running", "podIP": "10.244.0.7",
            "conditions": [{ "type": "Initialized", "status": "True" }, { "type": "Ready", "status": "True" }],
        });
        let (id, view) = view(&pod(&status, false)).unwrap();
        assert_eq!(id, BackendId("u".into()));
        let agent = Some("10.244.0.7:9400".into());
        assert_eq!(view, Pod { name: "web-backend-x".into(), agent, ready: true, terminating: false });
    }

    #[test]
    fn reads_terminating_and_pending_pods() {
        let status = serde_json::json!({
            "podIP": "fd00::7", "conditions": [{ "type": "Ready", "status": "False" }],
        });
        let (_, going) = view(&pod(&status, true)).unwrap();
        assert!(going.terminating && !going.ready);
        assert_eq!(going.agent.as_deref(), Some("[fd00::7]:9400"));
        let (_, pending) = view(&pod(&serde_json::json!({ "phase": "Pending" }), false)).unwrap();
        assert_eq!(pending.agent, None);
    }

    #[test]
    fn a_pod_that_has_ended_is_left_out() {
        for phase in ["Failed", "Succeeded"] {
            assert_eq!(view(&pod(&serde_json::json!({ "phase": phase, "podIP": "10.0.0.1" }), false)), None);
        }
    }
}
