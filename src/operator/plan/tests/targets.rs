//! Tests of the resolution of port targets.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::support::{from, healthy, service, with};
use crate::operator::plan::resolve;

#[test]
fn targets_are_resolved_to_numbers() {
    let resolved = |target: Value, ports: Value, cluster_ip: &str| {
        let object = with(&healthy().object, "spec/ports", json!([{"port": 80, "target": target}]));
        let targets = resolve(&object, &service(&ports, cluster_ip), None);
        match (targets.ports, targets.problem) {
            (Some(ports), None) => ports[0].target.clone(),
            (_, Some(problem)) => problem.reason.to_string(),
            (None, None) => "nothing".to_owned(),
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
    let targets = resolve(&object, &BTreeMap::from([("web".to_owned(), from(external))]), None);
    assert_eq!(targets.ports.unwrap()[0].target, "web.shop.svc:8443");
}
