//! Resolution of the targets of a service's ports. Agents have no access to the Kubernetes API, so
//! the operator resolves port names to numbers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use crate::crd::validate::Problem;
use crate::crd::{HealthCheck, HttpHealthCheck, OnionBalancedService, Port, Reason, ServiceTarget};
use crate::link::{ForwardedPort, HttpCheck, HttpsCheck, TargetCheck, check_target};
use crate::operator::conditions::Finding;

/// The resolved ports, and the problems that were found while they were resolved.
pub struct Targets {
    /// The ports with a current or a former target, in the order of the spec.
    pub ports: Vec<ForwardedPort>,
    /// The problems with the targets of ports that are valid otherwise.
    pub problems: Vec<Finding>,
}

/// Resolves the target of every port. A port that is invalid or whose target cannot be found is
/// forwarded as before, or not at all if it is new. The other ports are not affected. `problems`
/// are the problems of the spec, and `last` are the ports with which the backends were last
/// configured.
pub fn resolve(
    object: &OnionBalancedService,
    problems: &[Problem],
    services: &BTreeMap<String, Service>,
    last: &[ForwardedPort],
) -> Targets {
    let mut targets = Targets { ports: Vec::new(), problems: Vec::new() };
    for (index, port) in object.spec.ports.iter().enumerate() {
        let former = || last.iter().find(|former| former.port == port.port).cloned();
        let forwarded = if concerns_port(problems, index) {
            former()
        } else {
            match target(object, port, services) {
                Ok(target) => Some(forwarded(port, target)),
                Err((reason, message)) => {
                    let former = former();
                    let message = format!(
                        "spec.ports[{index}].target.{message}. Until then, {}.",
                        describe_former(port.port, former.as_ref())
                    );
                    targets.problems.push(Finding::no(reason, message));
                    former
                }
            }
        };
        let is_known = |port: &ForwardedPort| targets.ports.iter().any(|other| other.port == port.port);
        if let Some(forwarded) = forwarded.filter(|port| !is_known(port)) {
            targets.ports.push(forwarded);
        }
    }
    if object.spec.ports.is_empty() {
        targets.ports = last.to_vec();
    }
    targets
}

/// Returns true if a problem of the spec concerns the port with this index.
fn concerns_port(problems: &[Problem], index: usize) -> bool {
    let prefix = format!("spec.ports[{index}]");
    problems.iter().any(|problem| problem.field.starts_with(&prefix))
}

fn forwarded(port: &Port, target: String) -> ForwardedPort {
    ForwardedPort {
        name: port.name.clone(),
        port: port.port,
        target,
        proxy_header: port.proxy_protocol.is_some(),
        idle_timeout_seconds: port.idle_timeout_seconds,
        check: port.health_check.as_ref().map(check).unwrap_or_default(),
    }
}

fn check(check: &HealthCheck) -> TargetCheck {
    let http = |HttpHealthCheck { path, host, https, statuses }: &HttpHealthCheck| HttpCheck {
        path: path.clone(),
        host: host.clone(),
        https: https.map(|https| HttpsCheck { verify: https.verify }),
        statuses: statuses.clone(),
    };
    TargetCheck {
        enabled: check.enabled,
        http: check.http.as_ref().map(http),
        period_seconds: check.period_seconds,
        timeout_seconds: check.timeout_seconds,
        failure_threshold: check.failure_threshold,
        success_threshold: check.success_threshold,
    }
}

fn describe_former(port: u16, former: Option<&ForwardedPort>) -> String {
    match former {
        Some(former) => format!("port {port} still leads to {}", former.target),
        None => format!("port {port} is not served"),
    }
}

/// A reason, and a message that begins with the name of a field of the target.
type TargetProblem = (Reason, String);

/// Returns the target of a valid port as `host:port`.
fn target(
    object: &OnionBalancedService,
    port: &Port,
    services: &BTreeMap<String, Service>,
) -> Result<String, TargetProblem> {
    let namespace = object.namespace().unwrap_or_default();
    match (&port.target.address, &port.target.service) {
        (Some(address), _) => match check_target(address) {
            Ok(()) => Ok(address.clone()),
            Err(problem) => Err((Reason::TargetNotFound, format!("address: {problem}"))),
        },
        (None, Some(service)) => {
            let number = port_number(service, &namespace, services.get(&service.name));
            let number = number.map_err(|(reason, message)| (reason, format!("service: {message}")))?;
            Ok(format!("{}.{namespace}.svc:{number}", service.name))
        }
        // Validation rejects a port with neither kind of target.
        (None, None) => Err((Reason::TargetNotFound, "service: no Service is named".to_owned())),
    }
}

fn port_number(target: &ServiceTarget, namespace: &str, service: Option<&Service>) -> Result<i32, TargetProblem> {
    let name = &target.name;
    let spec = service.and_then(|service| service.spec.as_ref()).ok_or_else(|| {
        let message = format!("Service {name} does not exist in namespace {namespace}; create it, or correct the name");
        (Reason::TargetNotFound, message)
    })?;
    // The cluster does not know the ports of an external name. A headless Service needs no ports.
    if (is_external_name(spec) || is_headless_without_ports(spec))
        && let Some(number) = number(&target.port)
    {
        return Ok(number);
    }
    let Some(port) = spec.ports.iter().flatten().find(|port| is_tcp(port) && is_meant(port, &target.port)) else {
        return Err((Reason::TargetPortNotFound, missing_port(target, spec)));
    };
    if !is_headless(spec) {
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
    } else if is_headless_without_ports(spec) {
        ". It is headless and lists no ports, so write the number of the port".to_owned()
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

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// Returns true if a Service is headless and lists no ports. Its name resolves to the pods
/// themselves, which can listen on any port.
fn is_headless_without_ports(spec: &ServiceSpec) -> bool {
    is_headless(spec) && spec.ports.as_ref().is_none_or(Vec::is_empty)
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
        let targets = resolve(&object.unwrap(), &[], &BTreeMap::new(), &[]);
        assert!(targets.problems.is_empty());
        let port = |name: Option<&str>, port, target: &str, proxy_header, idle_timeout_seconds| ForwardedPort {
            name: name.map(str::to_owned),
            port,
            target: target.to_owned(),
            proxy_header,
            idle_timeout_seconds,
            check: TargetCheck::default(),
        };
        let expected = [port(Some("http"), 80, "a:1", true, Some(60)), port(None, 443, "a:2", false, None)];
        assert_eq!(targets.ports, expected);
    }

    #[test]
    fn the_check_of_a_target_follows_the_spec() {
        let port = |check: serde_json::Value| {
            let port = serde_json::json!({"port": 80, "target": {"address": "a:1"}, "healthCheck": check});
            forwarded(&serde_json::from_value(port).unwrap(), "a:1".to_owned()).check
        };
        assert_eq!(port(serde_json::Value::Null), TargetCheck::default());
        // The defaults of the schema are those of the agent.
        assert!(port(serde_json::json!({})).is_default());
        assert!(!port(serde_json::json!({"enabled": false})).enabled);
        let check = port(serde_json::json!({
            "periodSeconds": 5, "failureThreshold": 4, "http": {"path": "/healthz", "https": {}, "statuses": [204]},
        }));
        assert_eq!((check.period_seconds, check.timeout_seconds, check.failure_threshold), (5, 2, 4));
        let https = Some(HttpsCheck { verify: true });
        let http = HttpCheck { path: "/healthz".to_owned(), host: None, https, statuses: vec![204] };
        assert_eq!(check.http, Some(http));
    }
}
