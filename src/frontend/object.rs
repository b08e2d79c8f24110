//! The publisher's own `OnionBalancedService`.
//!
//! Read leniently, field by field: an operator may be newer than this publisher, and its objects may hold fields that the
//! types of this version refuse.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;

use super::admission::Restriction;
use super::trouble::Trouble;
use crate::crd::{BackendStatus, DistinctDescriptors, OnionBalancedService, PublishedStatus};
use crate::onion::OnionAddress;

/// What the publisher takes from its object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Object {
    pub(super) uid: String,
    /// Publish nothing.
    pub(super) suspend: bool,
    /// Whether HSDirs may hold different descriptors. A mode of another version counts as the usual one.
    pub(super) distinct_descriptors: DistinctDescriptors,
    /// Who may find it; None: everybody.
    pub(super) restriction: Option<Restriction>,
    /// Backends elsewhere. What is no address is left out: the operator says so.
    pub(super) external_backends: BTreeSet<OnionAddress>,
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
    let external = seen.data.pointer("/spec/externalBackends").and_then(serde_json::Value::as_array);
    let external =
        external.into_iter().flatten().filter_map(|backend| backend.get("onionAddress")?.as_str()?.parse().ok());
    let mode = seen.data.pointer("/spec/frontend/distinctDescriptors").cloned();
    let status = |field: &str| seen.data.get("status").and_then(|status| status.get(field)).cloned();
    Object {
        uid: seen.metadata.uid.clone().unwrap_or_default(),
        suspend: seen.data.pointer("/spec/suspend").and_then(serde_json::Value::as_bool).unwrap_or_default(),
        distinct_descriptors: mode.and_then(|mode| serde_json::from_value(mode).ok()).unwrap_or_default(),
        restriction: seen
            .data
            .pointer("/spec/restrictedDiscovery")
            .filter(|field| !field.is_null())
            .map(Restriction::of),
        external_backends: external.collect(),
        backends: status("backends").and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default(),
        published: status("published").and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::BackendState;

    const EXTERNAL: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

    fn read(value: serde_json::Value) -> Object {
        view(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn takes_what_it_needs() {
        let object = read(serde_json::json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": { "name": "web", "uid": "u-1" },
            "spec": { "suspend": true, "frontend": { "distinctDescriptors": "Never" }, "somethingNewer": { "x": 1 },
                "externalBackends": [{ "onionAddress": EXTERNAL }, { "onionAddress": "x" }, { "newer": 1 }, 7] },
            "status": { "backends": [
                { "name": "a", "introductionPoints": 3, "state": "Ready", "since": "2026-01-02T03:04:05Z" },
            ] },
        }));
        assert_eq!((object.uid.as_str(), object.suspend), ("u-1", true));
        assert_eq!(object.distinct_descriptors, DistinctDescriptors::Never);
        assert_eq!(object.restriction, None);
        assert_eq!(object.backends[0].state, BackendState::Ready);
        assert_eq!(object.published, []);
        assert_eq!(object.external_backends, [EXTERNAL.parse().unwrap()].into());
    }

    #[test]
    fn any_restriction_counts() {
        for restricted in [serde_json::json!({}), serde_json::json!({ "unheard": 1 })] {
            let object = read(serde_json::json!({
                "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
                "metadata": { "name": "web", "uid": "u-1" }, "spec": { "restrictedDiscovery": restricted },
            }));
            assert_eq!(object.restriction, Some(Restriction::default()));
        }
    }

    #[test]
    fn a_status_of_another_version_counts_as_none() {
        let object = read(serde_json::json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": { "name": "web", "uid": "u-1" }, "spec": { "frontend": { "distinctDescriptors": "Unheard" } },
            "status": { "backends": [{ "name": "a", "state": "Unheard" }] },
        }));
        assert_eq!(object, Object { uid: "u-1".into(), ..Object::default() });
    }
}
