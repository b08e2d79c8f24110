//! A headless Service for each kind of pod: where its metrics are.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Inputs;
use crate::crd::names::{self, Component};
use crate::link::METRICS_PORT;

pub(super) fn service(inputs: &Inputs<'_>, component: Component) -> Service {
    Service {
        metadata: inputs.component_metadata(component),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // What is not Ready is what one wants to see in the metrics.
            publish_not_ready_addresses: Some(true),
            selector: Some(names::pod_labels(&inputs.name(), component)),
            ports: Some(vec![ServicePort {
                name: Some("metrics".to_owned()),
                port: METRICS_PORT.into(),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("metrics".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::operator::children::testing::Fixture;

    #[test]
    fn headless_metrics_of_the_pods() {
        let spec = &Fixture::new().child("Service web-backend")["spec"];
        assert_eq!(spec["clusterIP"], "None");
        assert_eq!(spec["ports"][0]["port"], 9402);
        assert_eq!(
            spec["selector"],
            json!({"app.kubernetes.io/component": "backend", "onionbalance.dev/service": "web"})
        );
    }
}
