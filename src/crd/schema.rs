//! The `CustomResourceDefinition`, and the parts of its schema that the derive macros cannot
//! generate.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;

use super::{OnionBalancedService, rules};

/// Returns the `CustomResourceDefinition` with a structural schema and validation rules.
///
/// API servers since Kubernetes 1.28 accept it without warnings. In validation rules, versions
/// before 1.28 do not know `fieldPath`, and versions before 1.27 do not know `messageExpression`.
pub fn custom_resource_definition() -> CustomResourceDefinition {
    let mut crd = OnionBalancedService::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            walk(schema, &mut use_known_formats);
            walk(schema, &mut unwrap_description);
            refuse_nulls(schema, "");
            schema.x_kubernetes_validations = Some(rules::object());
            if let Some(status) = schema.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
                status.default = Some(JSON(unseen()));
            }
        }
    }
    crd
}

/// Returns the `CustomResourceDefinition` without its validation rules.
///
/// An API server before Kubernetes 1.28 does not know the rules or some of their fields. It rejects
/// a server-side apply of a manifest that contains them, so neither `kubectl` nor Helm can install
/// that manifest.
pub fn without_rules(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            walk(schema, &mut |node| node.x_kubernetes_validations = None);
        }
    }
    crd
}

/// Returns the default status of an object that no operator has reconciled yet.
///
/// Without this default, tools that follow kstatus would consider a new object ready because it has
/// no conditions.
fn unseen() -> serde_json::Value {
    json!({"conditions": [{
        "type": "Ready", "status": "Unknown", "reason": "Pending", "message": "The operator has not reconciled this object yet.",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }]})
}

/// Replaces Rust's unsigned integer formats, which an API server does not know and warns about.
/// `minimum` and `maximum` express the same bounds.
fn use_known_formats(node: &mut JSONSchemaProps) {
    node.format = match node.format.as_deref() {
        Some("uint8" | "uint16") => Some("int32".to_owned()),
        Some("uint32" | "uint64") => Some("int64".to_owned()),
        _ => node.format.take(),
    };
}

/// Removes the line breaks within a paragraph of a description, which come from the source code.
/// `kubectl explain` wraps the text itself, but keeps the breaks.
fn unwrap_description(node: &mut JSONSchemaProps) {
    if let Some(text) = &mut node.description {
        let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
}

/// The fields whose text may be empty.
///
/// An API server before Kubernetes 1.21 that was compiled with Go 1.16 or newer, as Debian's is,
/// treats an empty text as null. It therefore accepts an empty text only if the text is nullable
/// (kubernetes/kubernetes#99804). The values of [`texts`] may be empty, too.
const MAY_BE_EMPTY: [&str; 3] = ["extraTorrc", "priorityClassName", "runtimeClassName"];

/// Makes every field at and below `schema` refuse null, except the texts that may be empty.
///
/// An API server removes a null from a field that is not nullable, and then sets the default, if
/// there is one. A null in a manifest is thus the same as an absent field. For a nullable field,
/// the server would keep the null, refuse it if the field has a list of allowed values, and tell
/// `kubectl explain` neither the type nor the fields below (OpenAPI 2 has no `nullable`).
fn refuse_nulls(schema: &mut JSONSchemaProps, name: &str) {
    schema.nullable = MAY_BE_EMPTY.contains(&name).then_some(true);
    for (name, field) in schema.properties.iter_mut().flatten() {
        refuse_nulls(field, name);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        refuse_nulls(items, "");
    }
    // The additional properties are the values of maps, which only `texts` makes nullable.
}

/// Visits a schema and every schema nested in it.
fn walk(schema: &mut JSONSchemaProps, visit: &mut impl FnMut(&mut JSONSchemaProps)) {
    visit(schema);
    for field in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        walk(field, visit);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        walk(items, visit);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        walk(values, visit);
    }
}

/// Returns the schema of a Kubernetes object that the API server validates only when the pod
/// template is applied.
///
/// Including the object's full schema would tie the CRD to one Kubernetes version, and would use up
/// much of the size that `kubectl apply` allows.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Returns the schema of a list of Kubernetes objects that only the API server validates; see
/// [`any_object`].
pub(super) fn any_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } })
}

/// Returns the schema of a map of texts, in which a text may be empty and is therefore nullable
/// (see [`MAY_BE_EMPTY`]).
pub(super) fn texts(_: &mut SchemaGenerator) -> Schema {
    let text = json!({ "type": "string", "nullable": true });
    json_schema!({ "type": "object", "maxProperties": 128, "additionalProperties": text })
}

/// Returns the schema of [`texts`] whose keys are not reserved for the operator.
pub(super) fn texts_with_own_keys(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = texts(generator);
    schema.insert("x-kubernetes-validations".to_owned(), json!(rules::own_keys()));
    schema
}

/// Returns the schema of a port reference by name or by number.
pub(super) fn port_reference(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true, "minimum": 1, "maximum": 65535, "maxLength": 63, "pattern": rules::LABEL,
    })
}

/// The pattern of a `resource.Quantity` that has no sign.
const QUANTITY: &str = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$";

/// Returns the schema of a map from resource names to quantities. Both `cpu: 1` and `cpu: "1"` are
/// valid, because users write both.
pub(super) fn quantities(_: &mut SchemaGenerator) -> Schema {
    let quantity = json!({ "x-kubernetes-int-or-string": true, "minimum": 0, "maxLength": 64, "pattern": QUANTITY });
    json_schema!({ "type": "object", "maxProperties": 16, "additionalProperties": quantity })
}

/// Returns the schema of a list of `metav1.Condition`.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": { "description": "The type of the condition, for example `Ready`.", "type": "string", "maxLength": 316 },
                "status": {
                    "description": "The status of the condition: `True`, `False` or `Unknown`.",
                    "type": "string", "enum": ["True", "False", "Unknown"],
                },
                "reason": {
                    "description": "The reason for the status in one CamelCase word.",
                    "type": "string", "minLength": 1, "maxLength": 1024,
                },
                "message": {
                    "description": "A human-readable explanation of the problem and how to solve it.",
                    "type": "string", "maxLength": 32768,
                },
                "observedGeneration": {
                    "description": "The generation of the object that the condition describes.",
                    "type": "integer", "format": "int64", "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "The time at which the status of the condition last changed.",
                    "type": "string", "format": "date-time",
                },
            }
        }
    })
}

/// Returns the schema of a timestamp (RFC 3339).
pub(super) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::crd::manifest;

    fn schema() -> Value {
        let crd = serde_json::to_value(custom_resource_definition()).unwrap();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    fn spec(field: &str) -> Value {
        schema()["properties"]["spec"]["properties"][field].clone()
    }

    fn walk_json(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
        match value {
            Value::Object(map) => {
                visit(map);
                map.values().for_each(|inner| walk_json(inner, visit));
            }
            Value::Array(list) => list.iter().for_each(|inner| walk_json(inner, visit)),
            _ => {}
        }
    }

    #[test]
    fn the_checked_in_manifest_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/onionbalancedservices.yaml");
        let checked_in = std::fs::read_to_string(path).unwrap();
        assert!(checked_in == manifest(true).unwrap(), "run: cargo run -- crd > crds/onionbalancedservices.yaml");
    }

    #[test]
    fn the_crd_fits_into_the_annotation_of_kubectl_apply() {
        let size = serde_json::to_vec(&custom_resource_definition()).unwrap().len();
        // All annotations of an object together may have 256 KiB.
        assert!(size < 128 * 1024, "{size} bytes");
    }

    #[test]
    fn a_minimal_spec_can_be_scaled() {
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
    fn an_object_that_was_never_reconciled_is_not_ready() {
        let status = schema()["properties"]["status"]["default"].clone();
        let status: crate::crd::OnionBalancedServiceStatus = serde_json::from_value(status).unwrap();
        assert_eq!((status.conditions[0].type_.as_str(), status.conditions[0].status.as_str()), ("Ready", "Unknown"));
    }

    /// Visits every field in a schema, with its path. The path of a list's items ends in `[]`, and
    /// that of a map's values in `{}`.
    fn each_field(node: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
        for (name, field) in node["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            visit(&path, field);
            each_field(field, &path, visit);
        }
        for (inner, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
            if node[inner].is_object() {
                let path = format!("{path}{mark}");
                visit(&path, &node[inner]);
                each_field(&node[inner], &path, visit);
            }
        }
    }

    #[test]
    fn only_texts_that_may_be_empty_are_nullable() {
        let mut nullable = Vec::new();
        each_field(&schema(), "", &mut |path, field| {
            if field.get("nullable").is_some() {
                assert_eq!((&field["nullable"], &field["type"]), (&json!(true), &json!("string")), "{path}");
                nullable.push(path.to_owned());
            }
        });
        let template = ["annotations{}", "labels{}", "nodeSelector{}", "priorityClassName", "runtimeClassName"];
        let expected = ["backends", "frontend"].into_iter().flat_map(|part| {
            let fields = template.map(|field| format!("spec.{part}.template.{field}"));
            [format!("spec.{part}.extraTorrc")].into_iter().chain(fields)
        });
        assert_eq!(nullable, expected.collect::<Vec<_>>());
    }

    /// Some API servers refuse an empty text as a null; see [`MAY_BE_EMPTY`]. With a limit, all of
    /// them do.
    #[test]
    fn other_texts_of_the_spec_must_not_be_empty() {
        each_field(&schema()["properties"]["spec"], "", &mut |path, field| {
            let is_text = field["type"] == "string" && field.get("enum").is_none() && field.get("default").is_none();
            if is_text && field.get("nullable").is_none() {
                assert!(field["minLength"].as_i64() >= Some(1), "{path} may be empty");
            }
        });
    }

    /// `kubectl explain` prints each description. Older versions print neither defaults nor limits.
    #[test]
    fn each_description_is_a_sentence_with_the_default_and_the_limits() {
        each_field(&schema(), "", &mut |path, field| {
            if path.ends_with("[]") || path.ends_with("{}") {
                return;
            }
            let text = field["description"].as_str().unwrap_or_default();
            let begins_well = text.starts_with(|first: char| first.is_ascii_uppercase());
            assert!(begins_well && text.ends_with('.') && !text.contains('\n'), "{path}: {text:?}");
            let (mut missing, words) = (Vec::new(), format!(" {text} ").replace(['.', ',', ':', ';', '(', ')'], " "));
            let mut expect = |expected: String| {
                if !words.contains(&format!(" {expected} ")) {
                    missing.push(expected);
                }
            };
            match &field["default"] {
                Value::Number(number) => expect(format!("Default {number}")),
                Value::String(word) => expect(format!("Default `{word}`")),
                Value::Bool(word) => expect(format!("Default `{word}`")),
                _ => {}
            }
            for word in field["enum"].as_array().into_iter().flatten() {
                expect(format!("`{}`", word.as_str().unwrap()));
            }
            if path.starts_with("spec.") && field["type"] == "integer" {
                for limit in ["minimum", "maximum"].iter().filter_map(|limit| field[limit].as_f64()) {
                    expect(format!("{limit}"));
                }
            }
            if let Some(most) = field["maxItems"].as_u64().filter(|_| path.starts_with("spec.")) {
                expect(format!("{most}"));
            }
            assert!(missing.is_empty(), "the description of {path} lacks {missing:?}: {text}");
        });
    }

    #[test]
    fn texts_that_may_be_empty_are_nullable() {
        for part in ["backends", "frontend"] {
            let fields = spec(part)["properties"].clone();
            let template = &fields["template"]["properties"];
            let texts = ["labels", "annotations", "nodeSelector"].map(|map| &template[map]["additionalProperties"]);
            for text in texts.into_iter().chain([&fields["extraTorrc"]]) {
                assert_eq!((&text["type"], &text["nullable"]), (&json!("string"), &json!(true)), "{text}");
            }
            assert_eq!(template["labels"]["maxProperties"], 128);
            assert!(template["labels"]["description"].as_str().unwrap().starts_with("Additional labels"));
        }
    }

    #[test]
    fn lists_declare_their_map_keys() {
        assert_eq!(spec("ports")["x-kubernetes-list-map-keys"], json!(["port"]));
        let status = &schema()["properties"]["status"]["properties"];
        assert_eq!(status["conditions"]["x-kubernetes-list-map-keys"], json!(["type"]));
        assert_eq!(status["backends"]["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(status["published"]["x-kubernetes-list-map-keys"], json!(["timePeriod"]));
    }

    #[test]
    fn the_crd_for_old_servers_lacks_only_the_rules() {
        let with = serde_json::to_string(&custom_resource_definition()).unwrap();
        let without = serde_json::to_value(without_rules(custom_resource_definition())).unwrap();
        assert!(with.contains("x-kubernetes-validations") && !without.to_string().contains("x-kubernetes-validations"));
        let mut bare = serde_json::to_value(custom_resource_definition()).unwrap();
        drop_key(&mut bare, "x-kubernetes-validations");
        assert_eq!(without, bare);
    }

    fn drop_key(value: &mut Value, key: &str) {
        match value {
            Value::Object(map) => {
                map.remove(key);
                map.values_mut().for_each(|inner| drop_key(inner, key));
            }
            Value::Array(list) => list.iter_mut().for_each(|inner| drop_key(inner, key)),
            _ => {}
        }
    }

    #[test]
    fn the_schema_is_structural_and_free_of_warnings() {
        walk_json(&schema(), &mut |node| {
            assert!(!(node.contains_key("properties") && node.contains_key("additionalProperties")), "{node:?}");
            if let Some(Value::String(format)) = node.get("format") {
                assert!(["int32", "int64", "date-time"].contains(&format.as_str()), "{format}");
            }
        });
    }
}
