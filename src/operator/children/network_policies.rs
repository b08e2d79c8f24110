//! The `NetworkPolicy` of each component. Only a service's publishers may connect to its agents.
//! Everyone may connect to the probes, and the configured peers may connect to the metrics. The
//! pods of the namespace may ask the publishers to close circuits, if the publishers accept this.
//! Tor does not listen on any port, and its outgoing connections are not restricted.

use serde_json::{Value, json};

use super::Inputs;
use crate::crd::names::{self, Component};
use crate::link::{AGENT_API_PORT, CIRCUITS_PORT, METRICS_PORT, PROBE_PORT};

/// Builds the `NetworkPolicy` of the backends. `metrics_from` holds the peers that may read the
/// metrics; an empty list admits everyone.
pub(super) fn backend(inputs: &Inputs<'_>, metrics_from: &[Value]) -> Result<Value, serde_json::Error> {
    let frontends = json!({"podSelector": {"matchLabels": names::pod_labels(&inputs.name(), Component::Frontend)}});
    policy(inputs, Component::Backend, metrics_from, Some(ingress(AGENT_API_PORT, &[frontends])))
}

/// Builds the `NetworkPolicy` of the frontends. `metrics_from` holds the peers that may read the
/// metrics; an empty list admits everyone.
pub(super) fn frontend(inputs: &Inputs<'_>, metrics_from: &[Value]) -> Result<Value, serde_json::Error> {
    // The app runs in the same namespace unless its target is an address.
    let own = ingress(CIRCUITS_PORT, &[json!({"podSelector": {}})]);
    policy(inputs, Component::Frontend, metrics_from, inputs.closes_circuits().then_some(own))
}

fn policy(
    inputs: &Inputs<'_>,
    component: Component,
    metrics_from: &[Value],
    own: Option<Value>,
) -> Result<Value, serde_json::Error> {
    // The kubelet probes from the node's address, which a policy cannot select.
    let common = [ingress(PROBE_PORT, &[]), ingress(METRICS_PORT, metrics_from)];
    Ok(json!({
        "kind": "NetworkPolicy",
        "metadata": serde_json::to_value(inputs.component_metadata(component))?,
        "spec": {
            "podSelector": {"matchLabels": names::pod_labels(&inputs.name(), component)},
            "policyTypes": ["Ingress"],
            "ingress": own.into_iter().chain(common).collect::<Vec<_>>(),
        },
    }))
}

/// Returns a rule that admits the given peers to a port. An empty list admits everyone.
fn ingress(port: u16, from: &[Value]) -> Value {
    let mut rule = json!({"ports": [{"port": port, "protocol": "TCP"}]});
    if !from.is_empty() {
        rule["from"] = from.into();
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::children::tests::support::Fixture;

    #[test]
    fn only_the_publishers_of_the_service_may_connect_to_its_agents() {
        let fixture = Fixture::new();
        let policy = fixture.child("NetworkPolicy web-backend");
        assert_eq!(policy["apiVersion"], "networking.k8s.io/v1");
        let of = |component: &str| json!({"app.kubernetes.io/component": component, "onionbalance.dev/service": "web"});
        assert_eq!(
            policy["spec"],
            json!({
                "podSelector": {"matchLabels": of("backend")},
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"ports": [{"port": 9400, "protocol": "TCP"}], "from": [{"podSelector": {"matchLabels": of("frontend")}}]},
                    {"ports": [{"port": 9401, "protocol": "TCP"}]},
                    {"ports": [{"port": 9402, "protocol": "TCP"}]},
                ],
            })
        );
        for component in ["backend", "frontend"] {
            let pod = fixture.child(&format!("Deployment web-{component}"))["spec"]["template"]["metadata"].clone();
            let labels = of(component);
            let selected = |(key, value): (&String, &Value)| pod["labels"][key] == *value;
            assert!(labels.as_object().unwrap().iter().all(selected), "{component}");
        }
    }

    #[test]
    fn the_pods_of_the_namespace_may_ask_to_close_circuits_if_the_publishers_accept_this() {
        let mut fixture = Fixture::of(&json!({"backends": {"circuitLimits": {}}}));
        let first = |fixture: &Fixture| fixture.child("NetworkPolicy web-frontend")["spec"]["ingress"][0].clone();
        assert_eq!(first(&fixture)["ports"][0]["port"], 9401);
        fixture.ports[0].proxy_header = true;
        let rule = json!({"ports": [{"port": 9404, "protocol": "TCP"}], "from": [{"podSelector": {}}]});
        assert_eq!(first(&fixture), rule);
        let ports = fixture.child("Service web-frontend")["spec"]["ports"].clone();
        assert_eq!((&ports[1]["port"], &ports[1]["targetPort"]), (&json!(9404), &json!("circuits")));
        let publisher = &fixture.child("Deployment web-frontend")["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(publisher["args"], json!(["frontend", "--service", "web", "--circuits-port", "9404"]));
        assert_eq!(publisher["ports"][0]["containerPort"], 9404);
    }

    #[test]
    fn only_the_configured_peers_may_read_the_metrics() {
        let mut fixture = Fixture::new();
        let prometheus = json!({"namespaceSelector": {"matchLabels": {"team": "monitoring"}}});
        fixture.environment.settings.network_policies = Some(vec![prometheus.clone()]);
        for (component, rules) in [("backend", 3), ("frontend", 2)] {
            let policy = fixture.child(&format!("NetworkPolicy web-{component}"));
            let ingress = policy["spec"]["ingress"].as_array().unwrap();
            assert_eq!(ingress.len(), rules);
            let last = json!({"ports": [{"port": 9402, "protocol": "TCP"}], "from": [prometheus]});
            assert_eq!(ingress.last(), Some(&last));
        }
    }
}
