//! Examines the Services that the ports lead to, and whether the backends reach them.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::crd::{BackendState, OnionBalancedService, Port, Reason, ServiceTarget};
use crate::status::advice;
use crate::status::doctor::backing::Backing;
use crate::status::doctor::facts::{Facts, TargetFacts};
use crate::status::doctor::finding::{Finding, Mark};

const AREA: &str = "target";

pub(super) fn examine(facts: &Facts, object: &OnionBalancedService) -> Vec<Finding> {
    let found = object.spec.ports.iter().map(|port| {
        let of_service = port.target.service.as_ref().map(|target| service(facts, port, target));
        // A Service that is certainly broken explains the failures of the checks.
        match of_service {
            Some(finding) if finding.mark == Mark::Problem => finding,
            of_service => failing(facts, port).or(of_service).unwrap_or_else(|| address(facts, port)),
        }
    });
    found.collect()
}

/// Judges a port that leads to an address outside our sight by the checks of the backends.
fn address(facts: &Facts, port: &Port) -> Finding {
    let target = port.target.address.as_deref().unwrap_or("nowhere");
    let is_checked = port.health_check.as_ref().is_none_or(|check| check.enabled);
    let is_reported = facts.status().backends.iter().any(|backend| backend.state == BackendState::Ready);
    if is_checked && is_reported {
        return Finding::ok(AREA, format!("Port {}: the backends reach {target}.", port.port));
    }
    Finding::new(Mark::Unchecked, AREA, format!("Port {}: no backend checks {target}.", port.port))
}

/// Returns a problem if the checks of backends fail.
fn failing(facts: &Facts, port: &Port) -> Option<Finding> {
    let backends = facts.status().backends;
    let fails: Vec<_> = backends.iter().filter(|backend| backend.failing_ports.contains(&port.port)).collect();
    let first = fails.first()?;
    let why = first.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    let found = format!("Port {}: {} of {} backends cannot reach the app{why}", port.port, fails.len(), backends.len());
    let found = format!("{}.", found.trim_end_matches('.'));
    let reason = if fails.len() == backends.len() { Reason::TargetFailing } else { Reason::BackendUnhealthy };
    let advice = advice::action(reason.as_str(), &facts.namespace, &facts.name);
    Some(Finding::problem(AREA, found).maybe(advice.as_deref()))
}

fn service(facts: &Facts, port: &Port, target: &ServiceTarget) -> Finding {
    let Facts { namespace, name, .. } = facts;
    let (number, service_name) = (port.port, &target.name);
    let advice = |reason: Reason| advice::action(reason.as_str(), namespace, name);
    let problem = |reason, text: String| Finding::problem(AREA, text).maybe(advice(reason).as_deref());
    let Some(TargetFacts { service, backing }) = facts.targets.get(service_name) else {
        return Finding::new(Mark::Unchecked, AREA, format!("Port {number}: Service {service_name} was not read."));
    };
    let service = match service {
        Ok(Some(service)) => service,
        Ok(None) => {
            return problem(Reason::TargetNotFound, format!("Port {number}: Service {service_name} does not exist."));
        }
        Err(unread) => return Finding::unread(AREA, unread),
    };
    if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return Finding::ok(AREA, format!("Port {number}: Service {service_name} stands for an external name."));
    }
    let Some(service_port) = find(service, &target.port) else {
        let wanted = match &target.port {
            IntOrString::Int(wanted) => wanted.to_string(),
            IntOrString::String(wanted) => wanted.clone(),
        };
        let found = format!("Port {number}: Service {service_name} has no port {wanted}.");
        return problem(Reason::TargetPortNotFound, found);
    };
    match backing {
        Ok(backing) => endpoints(facts, port, service_name, service_port, backing),
        Err(unread) => Finding::unread(AREA, unread),
    }
}

/// Judges the addresses behind a port of a Service.
fn endpoints(facts: &Facts, port: &Port, service: &str, service_port: &ServicePort, backing: &[Backing]) -> Finding {
    let number = port.port;
    let name = service_port.name.as_ref().filter(|name| !name.is_empty());
    let serving: Vec<_> =
        backing.iter().filter(|backing| backing.ports.iter().any(|port| port.as_ref() == name)).collect();
    let ready: usize = serving.iter().map(|backing| backing.ready).sum();
    let unready: usize = serving.iter().map(|backing| backing.unready).sum();
    if ready > 0 {
        return Finding::ok(AREA, format!("Port {number}: {ready} addresses behind Service {service} are ready."));
    }
    let namespace = &facts.namespace;
    let found = match (unready, backing.is_empty()) {
        (0, true) => format!("Port {number}: no pod is behind Service {service}."),
        (0, false) => format!("Port {number}: no pod behind Service {service} has the Service's targetPort."),
        _ => format!("Port {number}: none of {unready} addresses behind Service {service} is ready."),
    };
    Finding::problem(AREA, found).remedy(&format!(
        "check the app's pods, and the selector of the Service: kubectl describe service {service} -n {namespace}; \
         kubectl get pods -n {namespace}"
    ))
}

/// Returns the port of a Service that has this name or number.
fn find<'a>(service: &'a Service, wanted: &IntOrString) -> Option<&'a ServicePort> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    ports.iter().find(|port| match wanted {
        IntOrString::Int(number) => port.port == *number,
        IntOrString::String(name) => port.name.as_ref() == Some(name),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::status::doctor::judge::tests::{forbidden, healthy, with_spec, with_status};

    fn found(change: impl FnOnce(&mut Facts)) -> (Mark, String) {
        let mut facts = healthy();
        change(&mut facts);
        let finding = examine(&facts, facts.object().unwrap()).remove(0);
        (finding.mark, finding.found)
    }

    fn target(facts: &mut Facts) -> &mut TargetFacts {
        facts.targets.get_mut("web").unwrap()
    }

    fn backing(ports: &[&str], ready: usize, unready: usize) -> Backing {
        Backing { ports: ports.iter().map(|name| Some((*name).to_owned())).collect(), ready, unready }
    }

    #[test]
    fn ready_addresses_are_counted() {
        let expected = "Port 80: 2 addresses behind Service web are ready.";
        assert_eq!(found(|_| {}), (Mark::Ok, expected.to_owned()));
    }

    #[test]
    fn a_service_without_ready_addresses_is_a_problem() {
        for (backing, expected) in [
            (vec![], "Port 80: no pod is behind Service web."),
            (vec![backing(&["http"], 0, 2)], "Port 80: none of 2 addresses behind Service web is ready."),
            (vec![backing(&["metrics"], 2, 0)], "Port 80: no pod behind Service web has the Service's targetPort."),
        ] {
            let found = found(|facts| target(facts).backing = Ok(backing));
            assert_eq!(found, (Mark::Problem, expected.to_owned()));
        }
        assert_eq!(found(|facts| target(facts).backing = Err(forbidden("list"))).0, Mark::Unchecked);
    }

    #[test]
    fn a_missing_service_or_port_is_a_problem() {
        let (mark, text) = found(|facts| target(facts).service = Ok(None));
        assert_eq!((mark, text.as_str()), (Mark::Problem, "Port 80: Service web does not exist."));
        let (mark, text) = found(|facts| {
            let service = json!({"spec": {"ports": [{"name": "other", "port": 81}]}});
            target(facts).service = Ok(Some(serde_json::from_value(service).unwrap()));
        });
        assert_eq!((mark, text.as_str()), (Mark::Problem, "Port 80: Service web has no port http."));
        assert_eq!(found(|facts| target(facts).service = Err(forbidden("get"))).0, Mark::Unchecked);
    }

    #[test]
    fn an_external_name_has_no_addresses() {
        let (mark, _) = found(|facts| {
            let service = json!({"spec": {"type": "ExternalName", "externalName": "example.org"}});
            *target(facts) =
                TargetFacts { service: Ok(Some(serde_json::from_value(service).unwrap())), backing: Ok(vec![]) };
        });
        assert_eq!(mark, Mark::Ok);
    }

    #[test]
    fn failing_checks_are_problems_even_if_kubernetes_calls_the_pods_ready() {
        let backend = |name: &str, failing: &[u16]| {
            json!({"name": name, "state": "Ready", "introductionPoints": 3, "since": "2026-01-01T11:00:00Z",
                   "failingPorts": failing, "message": "port 80: refused."})
        };
        let (mark, text) =
            found(|facts| with_status(facts, "backends", json!([backend("a", &[80]), backend("b", &[])])));
        let expected = "Port 80: 1 of 2 backends cannot reach the app: port 80: refused.";
        assert_eq!((mark, text.as_str()), (Mark::Problem, expected));
    }

    #[test]
    fn an_address_is_judged_by_the_checks_of_the_backends() {
        let ports =
            |check: bool| json!([{"port": 80, "target": {"address": "a:1"}, "healthCheck": {"enabled": check}}]);
        let (mark, text) = found(|facts| with_spec(facts, "ports", ports(true)));
        assert_eq!((mark, text.as_str()), (Mark::Ok, "Port 80: the backends reach a:1."));
        assert_eq!(found(|facts| with_spec(facts, "ports", ports(false))).0, Mark::Unchecked);
    }
}
