//! The headless Service of each component, through which a scraper can find the pods' metrics, and
//! the app can find the publishers.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Inputs;
use crate::crd::names::{self, Component};
use crate::link::{CIRCUITS_PORT, METRICS_PORT};

/// Builds the headless Service of a component.
pub(super) fn service(inputs: &Inputs<'_>, component: Component) -> Service {
    let mut ports = vec![port("metrics", METRICS_PORT)];
    if component == Component::Frontend && inputs.closes_circuits() {
        ports.push(port("circuits", CIRCUITS_PORT));
    }
    Service {
        metadata: inputs.component_metadata(component),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // The metrics of pods that are not ready are the most interesting ones.
            publish_not_ready_addresses: Some(true),
            selector: Some(names::pod_labels(&inputs.name(), component)),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Returns a port that leads to the pods' port of the same name.
fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number.into(),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::operator::children::tests::support::Fixture;

    #[test]
    fn the_service_is_headless_and_has_the_metrics_port() {
        let spec = &Fixture::new().child("Service web-backend")["spec"];
        assert_eq!(spec["clusterIP"], "None");
        assert_eq!(spec["ports"][0]["port"], 9402);
        assert_eq!(
            spec["selector"],
            json!({"app.kubernetes.io/component": "backend", "onionbalance.dev/service": "web"})
        );
    }
}
