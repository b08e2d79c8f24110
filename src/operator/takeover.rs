//! Takeover of the fields of an object that the operator has never applied, such as a restored one.
//!
//! The tool that restores an object becomes the owner of all its fields. An apply would make the
//! operator a second owner. A field that the manifest omits later would then stay, because the API
//! server removes a field only when its last owner omits it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::stamp::APPLIED_ANNOTATION;
use crate::crd::OPERATOR_MANAGER;

/// The parts of an object whose fields are not taken over. Controllers and other tools keep their
/// own labels and annotations.
const NOT_TAKEN: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Returns the `managedFields` with which the operator is the only owner of the parts of an object
/// that the stamped manifest sets. The other parts get no owner. The next apply of the manifest
/// removes the fields of these parts that the manifest omits.
pub fn managed_fields(live: &ObjectMeta, stamped: &Value) -> Value {
    // Without any field, the API server would consider the object to have no owners, and make one
    // up at the next apply.
    let mut fields = json!({"f:metadata": {"f:annotations": {(format!("f:{APPLIED_ANNOTATION}")): {}}}});
    let parts = stamped.as_object().into_iter().flat_map(|parts| parts.keys());
    for part in parts.filter(|part| !NOT_TAKEN.contains(&part.as_str())) {
        let name = format!("f:{part}");
        let entries = live.managed_fields.iter().flatten().filter_map(|entry| entry.fields_v1.as_ref());
        for owned in entries.filter_map(|entry| entry.0.get(&name)) {
            merge(&mut fields[&name], owned);
        }
    }
    let api_version = &stamped["apiVersion"];
    json!([{
        "manager": OPERATOR_MANAGER, "operation": "Apply", "apiVersion": api_version, "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }])
}

/// Adds the fields of one set in the `FieldsV1` format to another.
fn merge(all: &mut Value, more: &Value) {
    match (&mut *all, more) {
        (Value::Object(all), Value::Object(more)) => {
            for (name, inner) in more {
                merge(all.entry(name).or_insert(Value::Null), inner);
            }
        }
        _ => *all = more.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(entries: &Value) -> Value {
        let live = serde_json::from_value(json!({ "managedFields": entries })).unwrap();
        let stamped = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 1}});
        let mut taken = managed_fields(&live, &stamped);
        assert_eq!((&taken[0]["manager"], &taken[0]["operation"]), (&json!(OPERATOR_MANAGER), &json!("Apply")));
        assert_eq!((taken.as_array().unwrap().len(), &taken[0]["apiVersion"]), (1, &json!("apps/v1")));
        let mut fields = taken[0]["fieldsV1"].take();
        let stamp = json!({"f:annotations": {"f:onionbalance.dev/applied": {}}});
        assert_eq!(fields.as_object_mut().unwrap().remove("f:metadata"), Some(stamp));
        fields
    }

    #[test]
    fn the_fields_of_all_managers_are_taken_over() {
        let entries = json!([
            {"manager": "velero", "operation": "Update", "fieldsV1": {"f:spec": {
                "f:replicas": {}, "f:template": {"f:spec": {"f:nodeSelector": {".": {}, "f:disk": {}}}},
            }}},
            {"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {
                "f:paused": {}, "f:template": {"f:spec": {"f:nodeSelector": {"f:zone": {}}}},
            }}},
        ]);
        let expected = json!({"f:spec": {
            "f:replicas": {}, "f:paused": {},
            "f:template": {"f:spec": {"f:nodeSelector": {".": {}, "f:disk": {}, "f:zone": {}}}},
        }});
        assert_eq!(taken(&entries), expected);
    }

    #[test]
    fn parts_that_the_manifest_does_not_set_are_not_taken_over() {
        let entries = json!([{"manager": "velero", "operation": "Update", "fieldsV1": {
            "f:metadata": {"f:labels": {"f:team": {}}}, "f:secrets": {}, "f:spec": {"f:replicas": {}}, "f:status": {},
        }}]);
        assert_eq!(taken(&entries), json!({"f:spec": {"f:replicas": {}}}));
    }

    #[test]
    fn an_object_without_known_owners_gets_one() {
        assert_eq!(taken(&Value::Null), json!({}));
        assert_eq!(taken(&json!([{"manager": "velero", "operation": "Update"}])), json!({}));
    }
}
