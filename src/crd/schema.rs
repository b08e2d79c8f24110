//! The `CustomResourceDefinition`, and the parts of its schema that a derive cannot know.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;
use schemars::{Schema, SchemaGenerator, json_schema};

use super::OnionBalancedService;

/// The `CustomResourceDefinition`, with a structural schema that every API server since 1.20 takes without a warning.
pub fn custom_resource_definition() -> CustomResourceDefinition {
    let mut crd = OnionBalancedService::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            use_known_formats(schema);
        }
    }
    crd
}

/// Rust's unsigned formats are unknown to an API server, which warns of each; their bounds are in `minimum`, `maximum`.
fn use_known_formats(schema: &mut JSONSchemaProps) {
    schema.format = match schema.format.as_deref() {
        Some("uint8" | "uint16") => Some("int32".to_owned()),
        Some("uint32" | "uint64") => Some("int64".to_owned()),
        _ => schema.format.take(),
    };
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(use_known_formats);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        use_known_formats(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        use_known_formats(values);
    }
}

/// A Kubernetes type that the API server checks when the pod is applied: repeating its schema here would tie it to one
/// Kubernetes version, and take much of the size that `kubectl apply` allows.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true })
}

/// A list of such.
pub(super) fn any_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } })
}

/// The name or number of a port.
pub(super) fn port_reference(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}

/// Resource quantities by name; YAML authors write `cpu: 1` as readily as `cpu: "1"`.
pub(super) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "x-kubernetes-int-or-string": true } })
}

/// `metav1.Condition`.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "lastTransitionTime": { "type": "string", "format": "date-time" }
            }
        }
    })
}

/// A point in time.
pub(super) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::manifest;

    fn schema() -> Value {
        let crd = serde_json::to_value(custom_resource_definition()).unwrap();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    fn spec(field: &str) -> Value {
        schema()["properties"]["spec"]["properties"][field].clone()
    }

    fn walk(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
        match value {
            Value::Object(map) => {
                visit(map);
                map.values().for_each(|inner| walk(inner, visit));
            }
            Value::Array(list) => list.iter().for_each(|inner| walk(inner, visit)),
            _ => {}
        }
    }

    #[test]
    fn the_checked_in_manifest_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/onionbalancedservices.yaml");
        let checked_in = std::fs::read_to_string(path).unwrap();
        assert!(checked_in == manifest().unwrap(), "run: cargo run -- crd > crds/onionbalancedservices.yaml");
    }

    #[test]
    fn it_fits_the_annotation_of_kubectl_apply() {
        let size = serde_json::to_vec(&custom_resource_definition()).unwrap().len();
        assert!(size < 64 * 1024, "{size} bytes");
    }

    #[test]
    fn a_bare_spec_can_be_scaled() {
        assert_eq!(spec("backends")["default"]["replicas"], json!(2));
        assert_eq!(spec("backends")["properties"]["replicas"]["default"], json!(2));
        assert_eq!(schema()["properties"]["spec"]["required"], json!(["ports"]));
    }

    #[test]
    fn numbers_have_bounds() {
        let port = &spec("ports")["items"]["properties"]["port"];
        assert_eq!((&port["minimum"], &port["maximum"]), (&json!(1.0), &json!(65535.0)));
        let points = &spec("backends")["properties"]["introductionPoints"];
        assert_eq!((&points["minimum"], &points["maximum"]), (&json!(3.0), &json!(20.0)));
        assert_eq!(spec("frontend")["properties"]["replicas"]["minimum"], json!(0.0));
    }

    #[test]
    fn lists_with_keys_say_so() {
        assert_eq!(spec("ports")["x-kubernetes-list-map-keys"], json!(["port"]));
        let status = &schema()["properties"]["status"]["properties"];
        assert_eq!(status["conditions"]["x-kubernetes-list-map-keys"], json!(["type"]));
        assert_eq!(status["backends"]["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(status["published"]["x-kubernetes-list-map-keys"], json!(["timePeriod"]));
    }

    #[test]
    fn it_is_structural_and_free_of_warnings() {
        walk(&schema(), &mut |node| {
            assert!(!(node.contains_key("properties") && node.contains_key("additionalProperties")), "{node:?}");
            if let Some(Value::String(format)) = node.get("format") {
                assert!(["int32", "int64", "date-time"].contains(&format.as_str()), "{format}");
            }
        });
    }
}
