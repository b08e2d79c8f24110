//! The metrics of the service's pods: which pods are asked, and what their answers say.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::facts::Metrics;
use super::pod::{is_ending, is_ready};

/// The name of the port that serves metrics.
const PORT: &str = "metrics";

/// A pod that is asked for its metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The name of the pod.
    pub pod: String,
    /// The number of the port that serves the metrics.
    pub port: i32,
}

/// Returns the pods whose metrics tell something that their status does not: the leading publisher,
/// and running pods that are not ready.
pub fn asked(pods: &[Pod], lease: Option<&Lease>) -> Vec<Asked> {
    let holder = lease.and_then(holder);
    let is_of_interest = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let leads = holder == Some(pod.name_any().as_str());
        phase == Some("Running") && !is_ending(pod) && (leads || !is_ready(pod))
    };
    let mut found: Vec<&Pod> = pods.iter().filter(is_of_interest).collect();
    // The number of pods that are asked is limited, and the leader tells most.
    found.sort_by_key(|pod| holder != Some(pod.name_any().as_str()));
    let port = |pod: &Pod| {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
        ports.find(|port| port.name.as_deref() == Some(PORT)).map(|port| port.container_port)
    };
    found.into_iter().filter_map(|pod| Some(Asked { pod: pod.name_any(), port: port(pod)? })).collect()
}

/// Returns the name of the pod whose publisher holds the Lease. The publisher writes the name and
/// the UID of its pod, with `_` between them.
pub fn holder(lease: &Lease) -> Option<&str> {
    let identity = lease.spec.as_ref()?.holder_identity.as_deref()?;
    let name = identity.split_once('_').map_or(identity, |(name, _)| name);
    (!name.is_empty()).then_some(name)
}

/// Reads the metrics without labels from the text format of Prometheus.
pub fn parse(text: &str) -> Metrics {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains('{'));
    let pairs = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, phase: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "tor"}, {"name": "agent", "ports": [
                {"name": "probes", "containerPort": 9401}, {"name": "metrics", "containerPort": 9402},
            ]}]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    #[test]
    fn the_leader_and_pods_that_are_not_ready_are_asked() {
        let pods = json!([
            pod("ready", "Running", "True"),
            pod("starting", "Running", "False"),
            pod("pending", "Pending", "False"),
            pod("leader", "Running", "True"),
        ]);
        let pods: Vec<Pod> = serde_json::from_value(pods).unwrap();
        let lease: Lease = serde_json::from_value(json!({"spec": {"holderIdentity": "leader_uid"}})).unwrap();
        let names = |lease| asked(&pods, lease).into_iter().map(|asked| asked.pod).collect::<Vec<_>>();
        assert_eq!(names(Some(&lease)), ["leader", "starting"]);
        assert_eq!(names(None), ["starting"]);
        assert_eq!(asked(&pods, None)[0].port, 9402);
    }

    #[test]
    fn metrics_without_labels_are_read() {
        let text = "# HELP a A.\n# TYPE a gauge\na 1\nb{x=\"y\"} 2\nc 2.5\nd\ne many\n";
        assert_eq!(parse(text), Metrics::from([("a".to_owned(), 1.0), ("c".to_owned(), 2.5)]));
    }
}
