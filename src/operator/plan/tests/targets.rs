//! Tests of the resolution of port targets.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::support::{from, healthy, service, with};
use crate::crd::validate;
use crate::link::{ForwardedPort, TargetCheck};
use crate::operator::plan::targets::{Targets, resolve};

#[test]
fn targets_are_resolved_to_numbers() {
    let resolved = |target: Value, ports: Value, cluster_ip: &str| {
        let object = with(&healthy().object, "spec/ports", json!([{"port": 80, "target": target}]));
        let targets = resolve(&object, &[], &service(&ports, cluster_ip), &[]);
        match (targets.ports.first(), targets.problems.first()) {
            (Some(port), None) => port.target.clone(),
            (None, Some(problem)) => problem.reason.to_string(),
            (port, problem) => format!("{port:?} {problem:?}"),
        }
    };
    let web = |port: Value| json!({"service": {"name": "web", "port": port}});
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": 8080}, {"port": 81, "targetPort": "named"}, {"port": 82},
        {"port": 53, "protocol": "UDP"},
    ]);
    for (target, cluster_ip, expected) in [
        (web(json!("http")), "10.0.0.1", "web.shop.svc:80"),
        (web(json!(81)), "10.0.0.1", "web.shop.svc:81"),
        (web(json!("81")), "10.0.0.1", "web.shop.svc:81"),
        (web(json!("http")), "None", "web.shop.svc:8080"),
        (web(json!(82)), "None", "web.shop.svc:82"),
        (web(json!(81)), "None", "TargetPortNotFound"),
        (web(json!(8080)), "10.0.0.1", "TargetPortNotFound"),
        (web(json!(53)), "10.0.0.1", "TargetPortNotFound"),
        (json!({"address": "db.example.org:5432"}), "10.0.0.1", "db.example.org:5432"),
    ] {
        assert_eq!(resolved(target.clone(), ports.clone(), cluster_ip), expected, "{target} {cluster_ip}");
    }
}

#[test]
fn an_external_name_accepts_any_port() {
    let object = with(
        &healthy().object,
        "spec/ports",
        json!([{"port": 80, "target": {"service": {"name": "web", "port": 8443}}}]),
    );
    let external =
        json!({"metadata": {"name": "web"}, "spec": {"type": "ExternalName", "externalName": "example.org"}});
    let targets = resolve(&object, &[], &BTreeMap::from([("web".to_owned(), from(external))]), &[]);
    assert_eq!(targets.ports[0].target, "web.shop.svc:8443");
}

fn forwarded(port: u16, target: &str) -> ForwardedPort {
    ForwardedPort {
        name: None,
        port,
        target: target.to_owned(),
        proxy_header: false,
        idle_timeout_seconds: None,
        check: TargetCheck::default(),
    }
}

/// Resolves ports that were forwarded to `old:1` and `old:2` before. The only existing Service is
/// `web`.
fn resolved(ports: Value) -> Targets {
    let object = with(&healthy().object, "spec/ports", ports);
    let services = service(&json!([{"name": "http", "port": 80}]), "10.0.0.1");
    let last = [forwarded(80, "old:1"), forwarded(81, "old:2")];
    resolve(&object, &validate::spec(&object), &services, &last)
}

#[test]
fn a_bad_port_keeps_its_last_target_and_the_others_get_new_ones() {
    let missing = json!({"service": {"name": "none", "port": 1}});
    let good = |port: u16| json!({"port": port, "target": {"service": {"name": "web", "port": 80}}});
    for (bad, is_invalid) in [
        (json!({"port": 80, "target": missing}), false),
        (json!({"port": 80, "target": {}}), true),
        (json!({"port": 80, "target": {"address": "no port"}}), true),
        (json!({"name": "Not A Name", "port": 80, "target": {"address": "a:1"}}), true),
    ] {
        let targets = resolved(json!([bad, good(81)]));
        assert_eq!(targets.ports, [forwarded(80, "old:1"), forwarded(81, "web.shop.svc:80")], "{bad}");
        assert_eq!(targets.problems.is_empty(), is_invalid, "validation names an invalid port: {bad}");
    }
    let targets = resolved(json!([{"port": 82, "target": missing}, good(81)]));
    assert_eq!(targets.ports, [forwarded(81, "web.shop.svc:80")], "a new port has no last target");
    assert!(targets.problems[0].message.ends_with("Until then, port 82 is not served."));
}

#[test]
fn a_port_that_is_listed_twice_is_forwarded_once() {
    let targets = resolved(json!([
        {"port": 80, "target": {"address": "a:1"}}, {"port": 80, "target": {"address": "a:2"}},
    ]));
    assert_eq!(targets.ports, [forwarded(80, "a:1")]);
}

#[test]
fn without_any_port_the_last_ports_remain() {
    assert_eq!(resolved(json!([])).ports, [forwarded(80, "old:1"), forwarded(81, "old:2")]);
}

/// Returns the target of a new port that forwards to this port of a Service, or the message about
/// the target.
fn target_or_message(spec: &Value, port: &Value) -> String {
    let target = json!([{"port": 80, "target": {"service": {"name": "web", "port": port}}}]);
    let object = with(&healthy().object, "spec/ports", target);
    let service = from(json!({"metadata": {"name": "web"}, "spec": spec}));
    let targets = resolve(&object, &[], &BTreeMap::from([("web".to_owned(), service)]), &[]);
    match targets.problems.first() {
        Some(problem) => problem.message.strip_suffix(". Until then, port 80 is not served.").unwrap().to_owned(),
        None => targets.ports[0].target.clone(),
    }
}

#[test]
fn a_number_may_be_quoted() {
    let plain = json!({"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 8080}]});
    let external = json!({"type": "ExternalName", "externalName": "api.example.org"});
    for (spec, port, expected) in [
        (&plain, json!("8080"), "web.shop.svc:8080"),
        (&plain, json!(8080), "web.shop.svc:8080"),
        (&external, json!("443"), "web.shop.svc:443"),
        (&external, json!(443), "web.shop.svc:443"),
    ] {
        assert_eq!(target_or_message(spec, &port), expected, "{spec} {port}");
    }
}

#[test]
fn a_service_needs_neither_a_selector_nor_ports() {
    let ports = json!([{"name": "https", "port": 443, "targetPort": 8443}]);
    let external = json!({"type": "ExternalName", "externalName": "api.example.org", "ports": ports});
    let without_selector = json!({"clusterIP": "10.0.0.1", "selector": null, "ports": ports});
    for (spec, port, expected) in [
        (&external, json!("https"), "web.shop.svc:443"),
        (&external, json!(8080), "web.shop.svc:8080"),
        (&without_selector, json!("https"), "web.shop.svc:443"),
        (&without_selector, json!(443), "web.shop.svc:443"),
        (&json!({"clusterIP": "None"}), json!(8080), "web.shop.svc:8080"),
        (&json!({"clusterIP": "None"}), json!("8080"), "web.shop.svc:8080"),
        (&json!({"clusterIP": "None", "ports": []}), json!(8080), "web.shop.svc:8080"),
    ] {
        assert_eq!(target_or_message(spec, &port), expected, "{spec} {port}");
    }
}

#[test]
fn a_message_about_a_headless_service_says_what_to_write() {
    let problem = "spec.ports[0].target.service: Service web";
    assert_eq!(
        target_or_message(&json!({"clusterIP": "None"}), &json!("http")),
        format!(
            "{problem} has no TCP port \"http\"; its TCP ports: none. It is headless and lists no ports, so write the \
             number of the port"
        )
    );
    let ports = json!([{"name": "http", "port": 80, "targetPort": "web"}]);
    assert_eq!(
        target_or_message(&json!({"clusterIP": "None", "ports": ports}), &json!("http")),
        format!(
            "{problem} is headless, and the targetPort of its port 80 is the name \"web\"; use a number, or give the \
             Service a cluster IP"
        )
    );
}

#[test]
fn a_message_about_a_missing_port_says_what_to_write_instead() {
    let ports = json!([
        {"name": "api", "port": 81, "targetPort": 9090}, {"name": "mail", "port": 25, "targetPort": "smtp"},
        {"name": "voice", "port": 5060, "protocol": "UDP"}, {"port": 132, "protocol": "SCTP"},
    ]);
    let plain = json!({"clusterIP": "10.0.0.1", "ports": ports});
    let none = "spec.ports[0].target.service: Service web has no TCP port";
    let tcp = "its TCP ports: api (81), mail (25)";
    for (port, expected) in [
        (json!(9090), format!("{none} 9090; {tcp}. 9090 is the targetPort of its port api (81), so write 81")),
        (
            json!("smtp"),
            format!("{none} \"smtp\"; {tcp}. \"smtp\" is the targetPort of its port mail (25), so write 25"),
        ),
        (json!("voice"), format!("{none} \"voice\"; {tcp}. Its port voice (5060) is UDP, but Tor carries only TCP")),
        (json!(132), format!("{none} 132; {tcp}. Its port 132 is SCTP, but Tor carries only TCP")),
        (json!(1), format!("{none} 1; {tcp}")),
    ] {
        assert_eq!(target_or_message(&plain, &port), expected);
    }
    let external = json!({"type": "ExternalName", "externalName": "api.example.org"});
    assert_eq!(
        target_or_message(&external, &json!("https")),
        format!("{none} \"https\"; its TCP ports: none. It is an ExternalName, so write the number of the port")
    );
}
