//! The publisher's own `OnionBalancedService`.
//!
//! Read leniently, field by field: an operator may be newer than this publisher, and its objects may hold fields that the
//! types of this version refuse.

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;

use super::trouble::Trouble;
use crate::crd::{BackendStatus, OnionBalancedService, PublishedStatus};

/// What the publisher takes from its object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Object {
    pub(super) uid: String,
    /// Publish nothing.
    pub(super) suspend: bool,
    /// What the last publisher wrote.
    pub(super) backends: Vec<BackendStatus>,
    /// What the last publisher wrote.
    pub(super) published: Vec<PublishedStatus>,
}

/// Keeps `object` as the API server tells, for ever. An object that is gone stays as it was: Kubernetes ends this pod then.
pub(super) async fn watch(client: Client, namespace: &str, service: &str, object: watch::Sender<Option<Arc<Object>>>) {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client, namespace, &ApiResource::erase::<OnionBalancedService>(&()));
    let config = watcher::Config::default().fields(&format!("metadata.name={service}")).timeout(60);
    let mut events = pin!(watcher(api, config));
    let mut trouble = Trouble::new("cannot watch the OnionBalancedService");
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(seen) | watcher::Event::InitApply(seen)) => {
                trouble.over();
                let now = view(&seen);
                object.send_if_modified(|known| {
                    let changed = known.as_deref() != Some(&now);
                    *known = Some(Arc::new(now));
                    changed
                });
            }
            Ok(watcher::Event::Delete(_)) => tracing::warn!("the OnionBalancedService was deleted"),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => trouble.wait_out(&error).await,
        }
    }
}

fn view(seen: &DynamicObject) -> Object {
    let status = |field: &str| seen.data.get("status").and_then(|status| status.get(field)).cloned();
    Object {
        uid: seen.metadata.uid.clone().unwrap_or_default(),
        suspend: seen.data.pointer("/spec/suspend").and_then(serde_json::Value::as_bool).unwrap_or_default(),
        backends: status("backends").and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default(),
        published: status("published").and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::BackendState;

    fn read(value: serde_json::Value) -> Object {
        view(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn takes_what_it_needs() {
        let object = read(serde_json::json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": { "name": "web", "uid": "u-1" },
            "spec": { "suspend": true, "somethingNewer": { "x": 1 } },
            "status": { "backends": [
                { "name": "a", "introductionPoints": 3, "state": "Ready", "since": "2026-01-02T03:04:05Z" },
            ] },
        }));
        assert_eq!((object.uid.as_str(), object.suspend), ("u-1", true));
        assert_eq!(object.backends[0].state, BackendState::Ready);
        assert_eq!(object.published, []);
    }

    #[test]
    fn a_status_of_another_version_counts_as_none() {
        let object = read(serde_json::json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": { "name": "web", "uid": "u-1" }, "spec": {},
            "status": { "backends": [{ "name": "a", "state": "Unheard" }] },
        }));
        assert_eq!(object, Object { uid: "u-1".into(), ..Object::default() });
    }
}
