//! Resolution of the targets of a service's ports. Agents have no access to the Kubernetes API, so
//! the operator resolves port names to numbers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use crate::crd::{OnionBalancedService, Reason, ServiceTarget};
use crate::link::{AgentConfig, ForwardedPort};
use crate::operator::conditions::Finding;

/// The resolved ports, and the first problem that was found while they were resolved.
pub struct Targets {
    /// The resolved ports, or `None` if a port has neither a current nor a former target. Without
    /// the ports, the pods cannot be configured.
    pub ports: Option<Vec<ForwardedPort>>,
    /// The first problem with the target of a port, if there is one.
    pub problem: Option<Finding>,
}

/// Resolves the target of every port. A port whose Service is missing keeps its former target, so
/// that a temporarily missing Service does not interrupt traffic.
pub fn resolve(
    object: &OnionBalancedService,
    services: &BTreeMap<String, Service>,
    last: Option<&AgentConfig>,
) -> Targets {
    let namespace = object.namespace().unwrap_or_default();
    let (mut ports, mut problem) = (Some(Vec::new()), None);
    for (index, port) in object.spec.ports.iter().enumerate() {
        let target = match (&port.target.address, &port.target.service) {
            (Some(address), _) => Some(address.clone()),
            (None, Some(service)) => {
                let host = format!("{}.{namespace}.svc", service.name);
                match port_number(service, &namespace, services.get(&service.name)) {
                    Ok(number) => Some(format!("{host}:{number}")),
                    Err((reason, message)) => {
                        problem.get_or_insert_with(|| {
                            Finding::no(reason, format!("spec.ports[{index}].target.service: {message}"))
                        });
                        former(last, port.port, &host)
                    }
                }
            }
            // Validation rejects a port with neither kind of target.
            (None, None) => None,
        };
        let forwarded = target.map(|target| ForwardedPort {
            name: port.name.clone(),
            port: port.port,
            target,
            proxy_header: port.proxy_protocol.is_some(),
            idle_timeout_seconds: port.idle_timeout_seconds,
        });
        ports = ports.zip(forwarded).map(|(mut ports, forwarded)| {
            ports.push(forwarded);
            ports
        });
    }
    Targets { ports, problem }
}

fn former(last: Option<&AgentConfig>, port: u16, host: &str) -> Option<String> {
    let former = last?.ports.iter().find(|former| former.port == port)?;
    former.target.strip_prefix(host).is_some_and(|rest| rest.starts_with(':')).then(|| former.target.clone())
}

type Problem = (Reason, String);

fn port_number(target: &ServiceTarget, namespace: &str, service: Option<&Service>) -> Result<i32, Problem> {
    let name = &target.name;
    let spec = service.and_then(|service| service.spec.as_ref()).ok_or_else(|| {
        let message = format!("Service {name} does not exist in namespace {namespace}; create it, or correct the name");
        (Reason::TargetNotFound, message)
    })?;
    // The cluster does not know the ports of an external name.
    if is_external_name(spec)
        && let Some(number) = number(&target.port)
    {
        return Ok(number);
    }
    let Some(port) = spec.ports.iter().flatten().find(|port| is_tcp(port) && is_meant(port, &target.port)) else {
        return Err((Reason::TargetPortNotFound, missing_port(target, spec)));
    };
    if spec.cluster_ip.as_deref() != Some("None") {
        return Ok(port.port);
    }
    // The name of a headless Service resolves to the pods themselves, which listen only on the
    // target port.
    match &port.target_port {
        None => Ok(port.port),
        Some(IntOrString::Int(number)) => Ok(*number),
        Some(IntOrString::String(text)) => Err((
            Reason::TargetPortNotFound,
            format!(
                "Service {name} is headless, and the targetPort of its port {} is the name \"{text}\"; use a number, or \
                 give the Service a cluster IP",
                port.port
            ),
        )),
    }
}

/// Explains why a Service lacks the port that a target names.
fn missing_port(target: &ServiceTarget, spec: &ServiceSpec) -> String {
    let wanted = match &target.port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => format!("\"{text}\""),
    };
    let all = || spec.ports.iter().flatten();
    let present: Vec<_> = all().filter(|port| is_tcp(port)).map(describe).collect();
    let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
    let is_target = |found: &IntOrString| {
        *found == target.port || number(found).is_some_and(|found| number(&target.port) == Some(found))
    };
    let by_target = all().find(|port| is_tcp(port) && port.target_port.as_ref().is_some_and(is_target));
    let hint = if is_external_name(spec) {
        ". It is an ExternalName, so write the number of the port".to_owned()
    } else if let Some(other) = all().find(|port| is_meant(port, &target.port)) {
        format!(". Its port {} is {}, but Tor carries only TCP", describe(other), protocol(other))
    } else if let Some(port) = by_target {
        format!(". {wanted} is the targetPort of its port {}, so write {}", describe(port), port.port)
    } else {
        String::new()
    };
    format!("Service {} has no TCP port {wanted}; its TCP ports: {present}{hint}", target.name)
}

fn is_external_name(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

/// Returns the number in a reference to a port, which may be quoted. Returns None for a name.
fn number(reference: &IntOrString) -> Option<i32> {
    let number = match reference {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => text.parse().ok()?,
    };
    (1..=65535).contains(&number).then_some(number)
}

/// Returns true if the reference is the port's name or number.
fn is_meant(port: &ServicePort, reference: &IntOrString) -> bool {
    let by_name = matches!(reference, IntOrString::String(text) if port.name.as_ref() == Some(text));
    by_name || number(reference) == Some(port.port)
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn is_tcp(port: &ServicePort) -> bool {
    protocol(port) == "TCP"
}

fn describe(port: &ServicePort) -> String {
    match &port.name {
        Some(name) => format!("{name} ({})", port.port),
        None => port.port.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_keeps_its_name_and_its_options() {
        let object = serde_json::from_value(serde_json::json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": "web"},
            "spec": {"ports": [
                {"name": "http", "port": 80, "target": {"address": "a:1"}, "proxyProtocol": "v1", "idleTimeoutSeconds": 60},
                {"port": 443, "target": {"address": "a:2"}},
            ]},
        }));
        let targets = resolve(&object.unwrap(), &BTreeMap::new(), None);
        assert!(targets.problem.is_none());
        let port = |name: Option<&str>, port, target: &str, proxy_header, idle_timeout_seconds| ForwardedPort {
            name: name.map(str::to_owned),
            port,
            target: target.to_owned(),
            proxy_header,
            idle_timeout_seconds,
        };
        let expected = [port(Some("http"), 80, "a:1", true, Some(60)), port(None, 443, "a:2", false, None)];
        assert_eq!(targets.ports.unwrap(), expected);
    }
}
