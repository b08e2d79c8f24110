//! The `ConfigMap` that the pods mount: `torrc` and, in a backend, `agent.yaml`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{BuildError, Inputs, torrc};
use crate::crd::CircuitLimits;
use crate::crd::names::Component;
use crate::link::{self, AgentConfig, StreamRate};
use crate::operator::stamp::hash;

/// The time in seconds for which a draining backend still accepts new streams after its
/// introduction points have been withdrawn. Clients with a cached descriptor continue to use these
/// introduction points for a while.
pub const LINGER_SECONDS: u32 = 30;

const TORRC: &str = "torrc";
const AGENT_CONFIG: &str = "agent.yaml";

/// Returns the entries of a component's `ConfigMap`. The pods mount only these entries, so an entry
/// that somebody adds reaches no pod.
pub(super) fn entries(component: Component) -> &'static [&'static str] {
    match component {
        Component::Backend => &[AGENT_CONFIG, TORRC],
        Component::Frontend => &[TORRC],
    }
}

/// Builds the `ConfigMap` of the backends.
pub(super) fn backend(inputs: &Inputs<'_>) -> Result<ConfigMap, BuildError> {
    let backends = &inputs.object.spec.backends;
    let agent = AgentConfig {
        master_onion_address: inputs.address,
        ports: inputs.ports.to_vec(),
        introduction_points: backends.introduction_points,
        drain_timeout_seconds: backends.drain_timeout_seconds,
        linger_seconds: LINGER_SECONDS,
        circuit_limits: backends.circuit_limits.map(circuit_limits),
    };
    let location = inputs.object.spec.anonymity.server_location;
    let torrc = torrc::backend(&inputs.lines_of_all_tors(), location, backends, inputs.ports);
    let data = [(AGENT_CONFIG.to_owned(), agent.to_yaml()?), (TORRC.to_owned(), torrc)];
    Ok(config_map(inputs, Component::Backend, BTreeMap::from(data)))
}

fn circuit_limits(limits: CircuitLimits) -> link::CircuitLimits {
    link::CircuitLimits {
        open_streams: limits.open_streams,
        new_streams: limits.new_streams().map(|(per_second, burst)| StreamRate { per_second, burst }),
        bytes_per_second: limits.bytes_per_second,
    }
}

/// Builds the `ConfigMap` of the frontends.
pub(super) fn frontend(inputs: &Inputs<'_>) -> ConfigMap {
    let torrc = torrc::frontend(&inputs.lines_of_all_tors(), &inputs.object.spec.frontend);
    config_map(inputs, Component::Frontend, BTreeMap::from([(TORRC.to_owned(), torrc)]))
}

fn config_map(inputs: &Inputs<'_>, component: Component, data: BTreeMap<String, String>) -> ConfigMap {
    ConfigMap { metadata: inputs.component_metadata(component), data: Some(data), ..ConfigMap::default() }
}

/// Returns a hash of everything that a pod reads at startup. The hash is an annotation of the pod
/// template, so that a change starts a rollout. It includes the onion address, because a publisher
/// reads the master key only once.
pub(super) fn config_hash(inputs: &Inputs<'_>, config: &ConfigMap) -> String {
    let parts = config.data.iter().flatten().flat_map(|(key, value)| [key.as_str(), "\0", value, "\0"]);
    hash(&parts.chain([inputs.address.to_string().as_str()]).collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::children::tests::support::Fixture;

    #[test]
    fn an_agent_can_read_its_configuration() {
        let fixture = Fixture::of(&json!({"backends": {
            "introductionPoints": 4, "drainTimeoutSeconds": 7, "circuitLimits": {"openStreams": 9, "streamsPerSecond": 5},
        }}));
        let config = fixture.child("ConfigMap web-backend");
        let agent = AgentConfig::from_yaml(config["data"]["agent.yaml"].as_str().unwrap()).unwrap();
        assert_eq!(
            agent,
            AgentConfig {
                master_onion_address: fixture.key.address(),
                ports: fixture.ports,
                introduction_points: 4,
                drain_timeout_seconds: 7,
                linger_seconds: 30,
                circuit_limits: Some(link::CircuitLimits {
                    open_streams: 9,
                    new_streams: Some(StreamRate { per_second: 5, burst: 50 }),
                    bytes_per_second: None,
                }),
            }
        );
    }

    #[test]
    fn the_pods_mount_the_entries_that_the_operator_writes_and_no_others() {
        let fixture = Fixture::new();
        for name in ["web-backend", "web-frontend"] {
            let written = fixture.child(&format!("ConfigMap {name}"))["data"].clone();
            let pod = &fixture.child(&format!("Deployment {name}"))["spec"]["template"]["spec"];
            let volumes = pod["volumes"].as_array().unwrap().iter();
            let mounted: Vec<_> = volumes.filter_map(|volume| volume.get("configMap")).collect();
            assert_eq!(mounted.len(), 1, "{name}");
            let item = |entry: &String| json!({"key": entry, "path": entry});
            let items: Vec<_> = written.as_object().unwrap().keys().map(item).collect();
            assert_eq!(*mounted[0], json!({"name": name, "items": items}));
        }
    }

    #[test]
    fn only_the_switch_of_the_probe_affects_the_frontends_pods() {
        let of = |spec| Fixture::of(&spec).child("ConfigMap web-frontend")["data"].clone();
        let usual = of(json!({}));
        let changed = json!({"frontend": {"probe": {"periodSeconds": 60, "http": {"path": "/healthz"}}}});
        assert_eq!(of(changed), usual);
        assert_ne!(of(json!({"frontend": {"probe": {"enabled": false}}})), usual);
    }

    #[test]
    fn every_torrc_has_the_cluster_wide_lines() {
        let fixture = Fixture::new();
        for id in ["ConfigMap web-backend", "ConfigMap web-frontend"] {
            assert!(fixture.child(id)["data"]["torrc"].as_str().unwrap().contains("\nUseBridges 1\n"), "{id}");
        }
    }

    #[test]
    fn the_hash_changes_with_the_content_but_not_with_the_scale() {
        let hash = |fixture: &Fixture| config_hash(&fixture.inputs(), &backend(&fixture.inputs()).unwrap());
        let first = Fixture::new();
        let mut other_port = Fixture::new();
        other_port.ports[0].target = "web.shop.svc:8081".to_owned();
        let mut scaled = Fixture::new();
        scaled.object.spec.backends.replicas = 9;
        assert_ne!(hash(&first), hash(&other_port));
        assert_eq!(hash(&first), hash(&scaled));
    }
}
