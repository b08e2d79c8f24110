//! Reads an object of which some parts do not match our types.
//!
//! An API server may store such an object: the schema cannot express every limit of our types, and
//! a newer CRD may allow values that this version does not know. One unreadable part must not hide
//! the other parts.

use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::validate::Problem;
use super::{OnionBalancedService, OnionBalancedServiceSpec, OnionBalancedServiceStatus};

/// Reads an object. A part of the spec or the status that does not match our types is replaced by a
/// default and returned as a problem. An unreadable restriction of discovery admits nobody, and an
/// unreadable item of a list is replaced by an invalid one, so that the other items keep their
/// indices. Returns an error if the object is unreadable as a whole.
pub fn salvage(whole: &Value) -> Result<(OnionBalancedService, Vec<Problem>), serde_json::Error> {
    let error = match OnionBalancedService::deserialize(whole) {
        Ok(object) => return Ok((object, Vec::new())),
        Err(error) => error,
    };
    let (mut whole, mut problems) = (whole.clone(), Vec::new());
    if let Some(Value::Object(spec)) = whole.get_mut("spec") {
        salvage_ports(spec, &mut problems);
        salvage_external_backends(spec, &mut problems);
        salvage_fields(spec, &mut problems);
    }
    if let Some(Value::Object(status)) = whole.get_mut("status") {
        salvage_status(status, &mut problems);
    }
    if problems.is_empty() {
        return Err(error);
    }
    OnionBalancedService::deserialize(&whole).map(|object| (object, problems))
}

/// Returns why a part does not match the types of the spec, or None if it does. `path` is the path
/// of the part in the spec.
fn mismatch(path: &[&str], part: &Value) -> Option<String> {
    let mut spec = json!({"ports": []});
    let mut place = &mut spec;
    for name in path {
        place = &mut place[*name];
    }
    *place = part.clone();
    OnionBalancedServiceSpec::deserialize(&spec).err().map(|error| error.to_string())
}

fn unreadable(field: String, error: &str) -> Problem {
    Problem { field, message: format!("cannot be read: {error}") }
}

fn salvage_ports(spec: &mut Map<String, Value>, problems: &mut Vec<Problem>) {
    let Some(Value::Array(ports)) = spec.get_mut("ports") else {
        problems.push(unreadable("spec.ports".to_owned(), "a list of ports is required"));
        spec.insert("ports".to_owned(), json!([]));
        return;
    };
    for (index, port) in ports.iter_mut().enumerate() {
        if let Some(error) = mismatch(&["ports"], &json!([port])) {
            problems.push(unreadable(format!("spec.ports[{index}]"), &error));
            // The operator finds the port's former target by the port's number.
            let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok());
            *port = json!({"port": number.unwrap_or_default(), "target": {}});
        }
    }
}

fn salvage_external_backends(spec: &mut Map<String, Value>, problems: &mut Vec<Problem>) {
    let Some(Value::Array(backends)) = spec.get_mut("externalBackends") else { return };
    for (index, backend) in backends.iter_mut().enumerate() {
        if let Some(error) = mismatch(&["externalBackends"], &json!([backend])) {
            problems.push(unreadable(format!("spec.externalBackends[{index}]"), &error));
            *backend = json!({"onionAddress": ""});
        }
    }
}

/// Salvages all fields except the ports and the external backends. `spec.backends` and
/// `spec.frontend` are checked field by field, and so are their pod templates.
fn salvage_fields(spec: &mut Map<String, Value>, problems: &mut Vec<Problem>) {
    for path in paths(spec) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let pointer = format!("/{}", path.iter().map(|name| escaped(name)).collect::<Vec<_>>().join("/"));
        let mut whole = Value::Object(std::mem::take(spec));
        if let Some(part) = whole.pointer_mut(&pointer)
            && let Some(error) = mismatch(&path, part)
        {
            problems.push(unreadable(format!("spec.{}", path.join(".")), &error));
            *part = if path == ["restrictedDiscovery"] { json!({}) } else { Value::Null };
            remove_null(&mut whole, &path);
        }
        if let Value::Object(kept) = whole {
            *spec = kept;
        }
    }
}

/// Returns the paths of the parts that [`salvage_fields`] checks.
fn paths(spec: &Map<String, Value>) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (name, value) in spec.iter().filter(|(name, _)| *name != "ports") {
        let fields = value.as_object().filter(|_| ["backends", "frontend"].contains(&name.as_str()));
        let Some(fields) = fields else {
            paths.push(vec![name.clone()]);
            continue;
        };
        for (field, value) in fields {
            let settings = value.as_object().filter(|_| field == "template");
            let Some(settings) = settings else {
                paths.push(vec![name.clone(), field.clone()]);
                continue;
            };
            paths.extend(settings.keys().map(|setting| vec![name.clone(), field.clone(), setting.clone()]));
        }
    }
    paths
}

/// Escapes a name for a JSON pointer (RFC 6901, section 3).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Removes the field at a path if its value is null.
fn remove_null(place: &mut Value, path: &[&str]) {
    match path {
        [name] => {
            if let Value::Object(fields) = place
                && fields.get(*name).is_some_and(Value::is_null)
            {
                fields.remove(*name);
            }
        }
        [name, rest @ ..] => remove_null(&mut place[*name], rest),
        [] => {}
    }
}

fn salvage_status(status: &mut Map<String, Value>, problems: &mut Vec<Problem>) {
    status.retain(|name, value| {
        let error = OnionBalancedServiceStatus::deserialize(&json!({ name: value })).err();
        let is_readable = error.is_none();
        problems.extend(error.map(|error| unreadable(format!("status.{name}"), &error.to_string())));
        is_readable
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object() -> Value {
        json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {
                "ports": [
                    {"port": 80, "target": {"address": "a:1"}}, {"port": 81, "target": {"address": "a:2"}},
                ],
                "masterKey": {"secretName": "mine"}, "suspend": true, "deletionPolicy": "Delete",
                "backends": {"replicas": 5, "extraTorrc": "NumCPUs 1", "template": {
                    "nodeSelector": {"disk": "ssd"}, "resources": {"tor": {"limits": {"memory": "1Gi"}}},
                }},
                "frontend": {"replicas": 2},
                "externalBackends": [{"onionAddress": "a"}, {"onionAddress": "b"}],
                "restrictedDiscovery": {"secretName": "clients"},
            },
            "status": {
                "onionAddress": "a.onion",
                "backends": [{"name": "b", "introductionPoints": 3, "state": "Ready", "since": "2026-01-01T00:00:00Z"}],
            },
        })
    }

    /// Returns the object that is read after a change to one value, and the fields of the problems.
    fn read(pointer: &str, value: Value) -> (OnionBalancedService, Vec<String>) {
        let mut whole = object();
        *whole.pointer_mut(pointer).unwrap() = value;
        let (object, problems) = salvage(&whole).unwrap();
        (object, problems.into_iter().map(|problem| problem.field).collect())
    }

    #[test]
    fn a_readable_object_has_no_problems() {
        let (read, problems) = salvage(&object()).unwrap();
        assert_eq!((serde_json::to_value(&read).unwrap()["spec"]["suspend"].clone(), problems), (json!(true), vec![]));
    }

    #[test]
    fn an_unreadable_part_is_named_and_leaves_the_others() {
        for (pointer, value, field) in [
            ("/spec/backends/replicas", json!("many"), "spec.backends.replicas"),
            (
                "/spec/backends/template/resources/tor/limits/memory",
                json!(5_000_000_000_u64),
                "spec.backends.template.resources",
            ),
            ("/spec/backends/template/nodeSelector", json!("ssd"), "spec.backends.template.nodeSelector"),
            ("/spec/backends/template", json!(1), "spec.backends.template"),
            ("/spec/frontend", json!("two"), "spec.frontend"),
            ("/spec/masterKey", json!(1), "spec.masterKey"),
            ("/spec/deletionPolicy", json!("Later"), "spec.deletionPolicy"),
            ("/spec/ports/1/target", json!("a:2"), "spec.ports[1]"),
            ("/spec/externalBackends/0", json!("a"), "spec.externalBackends[0]"),
            ("/spec/restrictedDiscovery", json!(true), "spec.restrictedDiscovery"),
            ("/status/backends/0/state", json!("Tired"), "status.backends"),
        ] {
            let (read, problems) = read(pointer, value);
            assert_eq!(problems, [field]);
            assert!(read.spec.suspend, "{field}");
            assert_eq!(read.spec.ports[0].target.address.as_deref(), Some("a:1"), "{field}");
            assert_eq!(read.status.unwrap().onion_address.as_deref(), Some("a.onion"), "{field}");
        }
    }

    #[test]
    fn an_unreadable_port_keeps_its_index_and_its_number() {
        let (read, _) = read("/spec/ports/0/target", json!(1));
        assert_eq!(read.spec.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [80, 81]);
        assert_eq!(read.spec.ports[0].target.address, None);
    }

    #[test]
    fn an_unreadable_restriction_admits_nobody() {
        let (read, _) = read("/spec/restrictedDiscovery", json!("everyone"));
        let restricted = read.spec.restricted_discovery.unwrap();
        assert!(restricted.clients.is_empty() && restricted.secret_name.is_none());
    }

    #[test]
    fn an_object_without_a_readable_spec_is_unreadable() {
        for (pointer, value) in [("/spec", json!("none")), ("/metadata", json!(1))] {
            let mut whole = object();
            *whole.pointer_mut(pointer).unwrap() = value;
            assert!(salvage(&whole).is_err(), "{pointer}");
        }
    }

    proptest! {
        #[test]
        fn no_value_of_one_field_hides_the_others(
            field in prop::sample::select(vec![
                "masterKey", "deletionPolicy", "backends", "frontend", "externalBackends", "restrictedDiscovery",
            ]),
            value in prop::sample::select(vec![
                Value::Null, json!(true), json!(-1), json!("x"), json!([]), json!([1]), json!({}), json!({"a": 1}),
                json!({"replicas": "x", "template": []}), json!({"template": {"labels": [], "a/b~c": 1}}),
            ]),
        ) {
            let mut whole = object();
            whole["spec"][field] = value;
            let (read, problems) = salvage(&whole).unwrap();
            prop_assert!(read.spec.suspend && read.spec.ports.len() == 2);
            let path = format!("spec.{field}");
            prop_assert!(problems.iter().all(|problem| problem.field.starts_with(&path)));
        }
    }
}
