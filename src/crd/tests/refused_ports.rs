//! The rows of the table of invalid objects that are about `spec.ports`: the ports, their targets
//! and the checks of the targets.

use serde_json::{Value, json};

use super::Refused;

/// Returns the rows.
pub(super) fn rows() -> Vec<Refused> {
    let mut all = ports();
    all.extend(health_checks());
    all.extend(targets());
    all
}

fn ports() -> Vec<Refused> {
    let ports = |ports: Value| Refused::spec(json!({ "ports": ports }));
    let target = json!({"address": "a:1"});
    let many: Vec<_> = (1..=65).map(|port| json!({"port": port, "target": target})).collect();
    vec![
        ports(json!([])).operator("spec.ports: must list at least one port").schema("spec.ports"),
        ports(many.into()).schema("spec.ports"),
        ports(json!([{"port": 0, "target": target}]))
            .operator("spec.ports[0].port: must be from 1 to 65535")
            .schema("spec.ports.port"),
        ports(json!([{"port": 65536, "target": target}])).schema("spec.ports.port"),
        ports(json!([{"port": 80}])).schema("spec.ports.target"),
        ports(json!([{"port": 80, "target": target, "proxyProtocol": "v2"}])).schema("spec.ports.proxyProtocol"),
        ports(json!([{"port": 80, "target": target, "idleTimeoutSeconds": 0}]))
            .operator("spec.ports[0].idleTimeoutSeconds: must be from 1 to 86400, one day")
            .schema("spec.ports.idleTimeoutSeconds"),
        ports(json!([{"port": 80, "target": target, "idleTimeoutSeconds": 86401}]))
            .operator("spec.ports[0].idleTimeoutSeconds: must be from 1 to 86400, one day")
            .schema("spec.ports.idleTimeoutSeconds"),
        ports(json!([{"port": 80, "target": target}, {"port": 80, "target": target}]))
            .operator("spec.ports[1].port: 80 is listed twice; list each port once")
            .schema("spec.ports"),
        ports(json!([{"name": "A", "port": 80, "target": target}]))
            .both("spec.ports[0].name: must consist of at most 63 lower-case letters, digits and \"-\""),
        ports(json!([{"name": "a".repeat(64), "port": 80, "target": target}]))
            .operator("spec.ports[0].name: must consist of at most 63 lower-case letters, digits and \"-\"")
            .schema("spec.ports.name"),
        ports(json!([{"name": "a", "port": 80, "target": target}, {"name": "a", "port": 81, "target": target}]))
            .operator("spec.ports[1].name: \"a\" is used twice; give each port a different name")
            .rule("spec.ports: two ports have the same name; give each port a different name"),
    ]
}

fn health_checks() -> Vec<Refused> {
    let check = |check: Value| {
        Refused::spec(json!({"ports": [{"port": 80, "target": {"address": "a:1"}, "healthCheck": check}]}))
    };
    let number = |name: &str, value: u32, most: u32| {
        check(json!({ name: value }))
            .operator(format!("spec.ports[0].healthCheck.{name}: must be from 1 to {most}"))
            .schema(format!("spec.ports.healthCheck.{name}"))
    };
    let path = "spec.ports[0].healthCheck.http.path: must begin with \"/\" and consist of printable ASCII characters without \
                spaces, for example \"/healthz\"";
    let host = "spec.ports[0].healthCheck.http.host: must be a host name or an address, optionally with a port, for example \
                \"web.example.org\"";
    vec![
        number("periodSeconds", 0, 3600),
        number("periodSeconds", 3601, 3600),
        number("timeoutSeconds", 61, 60),
        number("failureThreshold", 0, 100),
        number("successThreshold", 101, 100),
        check(json!({"http": {"path": "healthz"}})).both(path),
        check(json!({"http": {"path": "/a b"}})).both(path),
        check(json!({"http": {"path": "/a\r\nX: y"}})).both(path),
        check(json!({"http": {"host": "a/b"}})).both(host),
        check(json!({"http": {"statuses": [99]}}))
            .operator("spec.ports[0].healthCheck.http.statuses: each status must be from 100 to 599")
            .schema("spec.ports.healthCheck.http.statuses"),
    ]
}

fn targets() -> Vec<Refused> {
    let target = |target: Value| Refused::spec(json!({"ports": [{"port": 80, "target": target}]}));
    let service = |name: &str, port: Value| target(json!({"service": {"name": name, "port": port}}));
    let service_name = "spec.ports[0].target.service.name: is not a valid Service name; use lower-case letters, digits and \"-\". \
                        For a Service in another namespace, set target.address to NAME.NAMESPACE.svc:PORT instead";
    let mut all = vec![
        target(json!({})).both("spec.ports[0].target: is empty; set service {name, port} or address \"host:port\""),
        target(json!({"service": {"name": "web", "port": 80}, "address": "a:1"}))
            .both("spec.ports[0].target: sets both service and address; keep one of them"),
        service("Web", json!(80)).both(service_name),
        service("web.shop", json!(80)).both(service_name),
        service(&"a".repeat(64), json!(80)).operator(service_name).schema("spec.ports.target.service.name"),
        service("web", json!(65536))
            .operator("spec.ports[0].target.service.port: must be from 1 to 65535, or a port's name")
            .schema("spec.ports.target.service.port"),
        service("web", json!(0))
            .operator("spec.ports[0].target.service.port: must be from 1 to 65535, or a port's name")
            .schema("spec.ports.target.service.port"),
        service("web", json!(""))
            .operator("spec.ports[0].target.service.port: is empty; set the port's name or number")
            .schema("spec.ports.target.service.port"),
        service("web", json!("HTTP"))
            .operator(
                "spec.ports[0].target.service.port: is not a valid port name; use lower-case letters, digits and \"-\"",
            )
            .schema("spec.ports.target.service.port"),
        target(json!({"address": format!("{}:80", "a.".repeat(150))}))
            .operator(not_host_and_port(&format!("{}:80", "a.".repeat(150))))
            .schema("spec.ports.target.address"),
        target(json!({"address": ""})).operator(not_host_and_port("")).schema("spec.ports.target.address"),
        // The following constraints cannot be expressed by a regular expression.
        target(json!({"address": "a:65536"})).operator(not_host_and_port("a:65536")),
        target(json!({"address": "[a]:1"})).operator(not_host_and_port("[a]:1")),
    ];
    for address in ["web", ":80", "a:", "a:0", "a:+1", "a b:1", "2001:db8::1:80", "a..b:1", "unix:/run/x", "http://a:1"]
    {
        all.push(
            target(json!({ "address": address }))
                .operator(not_host_and_port(address))
                .rule("spec.ports[0].target.address: does not have the form host:port, for example \"web.example.org:8080\" or \"[2001:db8::1]:80\""),
        );
    }
    all
}

fn not_host_and_port(address: &str) -> String {
    format!(
        "spec.ports[0].target.address: \"{address}\" does not have the form host:port, for example \"web.example.org:8080\" or \
         \"[2001:db8::1]:80\""
    )
}
