//! The addresses behind a Service, from `EndpointSlice` objects or, on older API servers, from
//! `Endpoints`.

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// A group of addresses that serve the same ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The names of the ports. A Service with a single port may leave its name out.
    pub ports: Vec<Option<String>>,
    /// The number of addresses that are ready.
    pub ready: usize,
    /// The number of addresses that are not ready.
    pub unready: usize,
}

impl From<EndpointSlice> for Backing {
    fn from(slice: EndpointSlice) -> Self {
        // Without a value, the endpoint counts as ready (discovery.k8s.io/v1, EndpointConditions).
        let is_ready = |endpoint: &&k8s_openapi::api::discovery::v1::Endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
        };
        let ready = slice.endpoints.iter().filter(is_ready).count();
        let ports = slice.ports.unwrap_or_default().into_iter().map(|port| port.name).collect();
        Self { ports: named(ports), ready, unready: slice.endpoints.len() - ready }
    }
}

/// Returns the groups of addresses of an `Endpoints` object.
pub fn of_endpoints(endpoints: Endpoints) -> Vec<Backing> {
    let subsets = endpoints.subsets.unwrap_or_default().into_iter();
    let backing = subsets.map(|subset| Backing {
        ports: named(subset.ports.unwrap_or_default().into_iter().map(|port| port.name).collect()),
        ready: subset.addresses.unwrap_or_default().len(),
        unready: subset.not_ready_addresses.unwrap_or_default().len(),
    });
    backing.collect()
}

/// Treats an empty name like an absent one. API servers return both.
fn named(ports: Vec<Option<String>>) -> Vec<Option<String>> {
    ports.into_iter().map(|name| name.filter(|name| !name.is_empty())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slices_and_endpoints_tell_the_same() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
            ],
        }))
        .unwrap();
        let endpoints: Endpoints = serde_json::from_value(json!({"subsets": [{
            "ports": [{"port": 8080}], "addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
            "notReadyAddresses": [{"ip": "10.0.0.3"}],
        }]}))
        .unwrap();
        let expected = Backing { ports: vec![None], ready: 2, unready: 1 };
        assert_eq!(Backing::from(slice), expected);
        assert_eq!(of_endpoints(endpoints), [expected]);
    }
}
