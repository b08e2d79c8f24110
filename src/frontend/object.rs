//! Watches the `OnionBalancedService` of the publisher.
//!
//! The object is read leniently, field by field, because the operator may be newer than this
//! publisher, and its objects may have fields that the types of this version reject.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;

use super::external;
use super::watch_backoff::WatchBackoff;
use crate::crd::clients::ClientList;
use crate::crd::{
    AddressProbe, AuthorizedClient, BackendStatus, DistinctDescriptors, GuardsStatus, HttpProbe, OnionBalancedService,
    ProbeStatus, PublishedStatus, VanguardsStatus,
};
use crate::merge::PointLimits;
use crate::onion::OnionAddress;

/// The fields of the `OnionBalancedService` that the publisher uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Object {
    /// The object's UID.
    pub(super) uid: String,
    /// True if the service is suspended, so that nothing may be published.
    pub(super) suspend: bool,
    /// True if the service has a single publisher.
    pub(super) alone: bool,
    /// The mode that determines whether HSDirs get different descriptors. An unknown mode is
    /// treated as the default.
    pub(super) distinct_descriptors: DistinctDescriptors,
    /// The restriction of discovery. None if every client can discover the service.
    pub(super) restriction: Option<Restriction>,
    /// The external backends. Invalid addresses are omitted; the operator reports them.
    pub(super) external_backends: BTreeSet<OnionAddress>,
    /// The number of introduction points that each backend may contribute. A value that is not a
    /// non-negative integer is treated as the default, and any other value is limited to 1 to 20.
    pub(super) limits: PointLimits,
    /// The settings of the probe. None if the probe is switched off.
    pub(super) probe: Option<AddressProbe>,
    /// The ports of the onion address.
    pub(super) ports: Vec<u16>,
    /// The backends' status as the previous publisher wrote it.
    pub(super) backends: Vec<BackendStatus>,
    /// The status of the published descriptors as the previous publisher wrote it.
    pub(super) published: Vec<PublishedStatus>,
    /// The results of the probes as the previous publisher wrote them.
    pub(super) probes: Vec<ProbeStatus>,
    /// The report on the shared guards as the previous publisher wrote it.
    pub(super) guards: Option<GuardsStatus>,
    /// The report on the shared vanguards as the previous publisher wrote it.
    pub(super) vanguards: Option<VanguardsStatus>,
}

/// The object's `spec.restrictedDiscovery`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Restriction {
    /// The clients that the spec lists.
    pub(super) clients: ClientList,
    /// The name of the Secret that lists further clients. The operator copies the Secret.
    pub(super) secret_name: Option<String>,
}

impl Restriction {
    /// Reads `spec.restrictedDiscovery` leniently. Any value restricts discovery, even an unknown
    /// one.
    pub(super) fn of(restricted: &Value) -> Self {
        let entries = restricted.get("clients").and_then(Value::as_array);
        let entries = entries.into_iter().flatten().map(|entry| serde_json::from_value(entry.clone()));
        let clients: Vec<AuthorizedClient> = entries.filter_map(Result::ok).collect();
        let secret_name = restricted.get("secretName").and_then(Value::as_str).map(ToOwned::to_owned);
        Self { clients: ClientList::of_spec(&clients), secret_name }
    }
}

/// Watches the object and keeps `object` up to date, forever. When the object is deleted, the last
/// state is kept, because Kubernetes then terminates this pod.
pub(super) async fn watch(client: Client, namespace: &str, service: &str, object: watch::Sender<Option<Arc<Object>>>) {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client, namespace, &ApiResource::erase::<OnionBalancedService>(&()));
    let config = watcher::Config::default().fields(&format!("metadata.name={service}")).timeout(60);
    let mut events = pin!(watcher(api, config));
    let mut backoff = WatchBackoff::new("cannot watch the OnionBalancedService");
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(seen) | watcher::Event::InitApply(seen)) => {
                backoff.reset();
                let now = view(&seen);
                object.send_if_modified(|known| {
                    let changed = known.as_deref() != Some(&now);
                    *known = Some(Arc::new(now));
                    changed
                });
            }
            Ok(watcher::Event::Delete(_)) => tracing::warn!("the OnionBalancedService was deleted"),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => backoff.wait(&error).await,
        }
    }
}

fn view(seen: &DynamicObject) -> Object {
    let external = seen.data.pointer("/spec/externalBackends").and_then(Value::as_array);
    let external: BTreeMap<OnionAddress, Option<usize>> =
        external.into_iter().flatten().filter_map(external_backend).collect();
    let mode = seen.data.pointer("/spec/frontend/distinctDescriptors").cloned();
    let status = |field: &str| seen.data.get("status").and_then(|status| status.get(field)).cloned();
    Object {
        uid: seen.metadata.uid.clone().unwrap_or_default(),
        suspend: seen.data.pointer("/spec/suspend").and_then(Value::as_bool).unwrap_or_default(),
        alone: seen.data.pointer("/spec/frontend/replicas").and_then(Value::as_u64) == Some(1),
        distinct_descriptors: mode.and_then(|mode| serde_json::from_value(mode).ok()).unwrap_or_default(),
        restriction: seen
            .data
            .pointer("/spec/restrictedDiscovery")
            .filter(|field| !field.is_null())
            .map(Restriction::of),
        limits: limits(seen.data.pointer("/spec/backends/introductionPoints").and_then(number), &external),
        external_backends: external.into_keys().collect(),
        probe: probe(seen.data.pointer("/spec/frontend/probe")),
        ports: ports(seen.data.pointer("/spec/ports")),
        backends: status("backends").and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default(),
        published: status("published").and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default(),
        probes: status("probes").and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default(),
        guards: status("guards").and_then(|guards| serde_json::from_value(guards).ok()),
        vanguards: status("vanguards").and_then(|vanguards| serde_json::from_value(vanguards).ok()),
    }
}

/// Reads the settings of the probe. Without the field, the defaults apply: an old API server does
/// not fill them in. Settings of another form switch the probe off, because tor may have no SOCKS
/// port.
fn probe(field: Option<&Value>) -> Option<AddressProbe> {
    let probe = match field.filter(|field| !field.is_null()) {
        Some(field) => serde_json::from_value(field.clone()).ok()?,
        None => AddressProbe::default(),
    };
    // The operator reports these problems; a request with such a path or host is never sent.
    let probe = AddressProbe { http: probe.http.filter(HttpProbe::is_valid), ..probe };
    probe.enabled.then_some(probe)
}

fn ports(field: Option<&Value>) -> Vec<u16> {
    let ports = field.and_then(Value::as_array).into_iter().flatten();
    let ports = ports.filter_map(|port| port.get("port")?.as_u64()).filter_map(|port| u16::try_from(port).ok());
    ports.collect()
}

/// Reads the address and the limit of an external backend. Returns None if the address is invalid.
fn external_backend(backend: &Value) -> Option<(OnionAddress, Option<usize>)> {
    let address = backend.get("onionAddress")?.as_str()?.parse().ok()?;
    Some((address, backend.get("maxIntroductionPoints").and_then(number)))
}

fn number(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| usize::try_from(number).ok())
}

/// Returns the limits of the pods and of the external backends. The limits of the pods never apply
/// to external backends.
fn limits(pods: Option<usize>, external: &BTreeMap<OnionAddress, Option<usize>>) -> PointLimits {
    let default = PointLimits::default();
    let individual = external.iter().map(|(address, limit)| (external::id(address), limit.unwrap_or(default.usual)));
    PointLimits { individual: individual.collect(), usual: pods.unwrap_or(default.usual) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::BackendState;
    use crate::merge::BackendId;
    use crate::onion::ClientSecretKey;

    const EXTERNAL: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

    fn read(value: serde_json::Value) -> Object {
        view(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn reads_the_fields_that_the_publisher_needs() {
        let object = read(serde_json::json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": { "name": "web", "uid": "u-1" },
            "spec": { "suspend": true, "frontend": { "distinctDescriptors": "Never", "replicas": 1 }, "somethingNewer": { "x": 1 },
                "externalBackends": [{ "onionAddress": EXTERNAL }, { "onionAddress": "x" }, { "newer": 1 }, 7] },
            "status": { "backends": [
                { "name": "a", "introductionPoints": 3, "state": "Ready", "since": "2026-01-02T03:04:05Z" },
            ] },
        }));
        assert_eq!((object.uid.as_str(), object.suspend, object.alone), ("u-1", true, true));
        assert_eq!(object.distinct_descriptors, DistinctDescriptors::Never);
        assert_eq!(object.restriction, None);
        assert_eq!(object.backends[0].state, BackendState::Ready);
        assert_eq!(object.published, []);
        assert_eq!(object.external_backends, [EXTERNAL.parse().unwrap()].into());
    }

    #[test]
    fn each_backend_has_the_limit_of_the_spec_or_the_default() {
        let pod = BackendId("a pod's UID".to_owned());
        let external = external::id(&EXTERNAL.parse().unwrap());
        for (introduction_points, max_introduction_points, expected) in [
            (json!(null), json!(null), [3, 3]),
            (json!(7), json!(null), [7, 3]),
            (json!(null), json!(7), [3, 7]),
            (json!(20), json!(1), [20, 1]),
            // The limits of a newer version might have another form.
            (json!("many"), json!(-1), [3, 3]),
            (json!(0), json!(1000), [1, 20]),
        ] {
            let object = read(json!({
                "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
                "metadata": { "name": "web", "uid": "u-1" },
                "spec": {
                    "backends": { "introductionPoints": introduction_points },
                    "externalBackends": [{ "onionAddress": EXTERNAL, "maxIntroductionPoints": max_introduction_points }],
                },
            }));
            let found = [&pod, &external].map(|id| object.limits.of(id));
            assert_eq!(found, expected, "{introduction_points} {max_introduction_points}");
        }
    }

    #[test]
    fn the_probe_is_on_unless_it_is_switched_off_or_unknown() {
        let of = |probe: Value| {
            let object = read(json!({
                "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
                "metadata": { "name": "web", "uid": "u-1" },
                "spec": { "ports": [{ "port": 80 }, { "port": 99999 }, 7], "frontend": { "probe": probe } },
            }));
            assert_eq!(object.ports, [80]);
            object.probe
        };
        assert_eq!(of(Value::Null), Some(AddressProbe::default()));
        assert_eq!(of(json!({"newer": 1})), Some(AddressProbe::default()));
        assert_eq!(of(json!({"periodSeconds": 60})).map(|probe| probe.period_seconds), Some(60));
        for off in [json!({"enabled": false}), json!({"enabled": "sometimes"}), json!(true)] {
            assert_eq!(of(off.clone()), None, "{off}");
        }
        let injection = json!({"http": {"path": "/\r\nX: y"}});
        assert_eq!(of(injection), Some(AddressProbe::default()), "the request is never sent");
    }

    #[test]
    fn an_unknown_restriction_restricts_discovery() {
        for restricted in [serde_json::json!({}), serde_json::json!({ "unheard": 1 })] {
            let object = read(serde_json::json!({
                "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
                "metadata": { "name": "web", "uid": "u-1" }, "spec": { "restrictedDiscovery": restricted },
            }));
            assert_eq!(object.restriction, Some(Restriction::default()));
        }
    }

    #[test]
    fn a_status_of_another_version_is_ignored() {
        let object = read(serde_json::json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": { "name": "web", "uid": "u-1" }, "spec": { "frontend": { "distinctDescriptors": "Unheard" } },
            "status": { "backends": [{ "name": "a", "state": "Unheard" }] },
        }));
        let probe = Some(AddressProbe::default());
        assert_eq!(object, Object { uid: "u-1".into(), probe, ..Object::default() });
    }

    #[test]
    fn a_restriction_of_another_version_restricts_discovery() {
        let key = ClientSecretKey::from_bytes([1; 32]).public();
        for restricted in [json!({}), json!("yes"), json!({"clients": "all"}), json!({"clients": [{"key": "x"}, 1]})] {
            assert_eq!(Restriction::of(&restricted), Restriction::default());
        }
        let newer = json!({"clients": [{"name": "a", "publicKey": key.to_string(), "until": "x"}]});
        assert_eq!(Restriction::of(&newer).clients.clients, [("a".to_owned(), key)]);
    }
}
