//! Drift detection: checks that an owned object is still as the operator last applied it.
//!
//! Comparing the desired object with the live one would report the API server's defaults as
//! differences, and would miss fields that are no longer desired. Instead, each owned object
//! carries the hash of the applied manifest, and the API server's `managedFields` show changes by
//! others: when anyone else changes or removes a field that we applied, the field disappears from
//! our entry. An object has not drifted if its hash matches the desired manifest and our entry
//! still contains every field of that manifest. This check needs only the metadata, so the operator
//! does not watch the contents of Secrets.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde_json::{Map, Value};

use super::stamp::APPLIED_ANNOTATION;
use crate::crd::OPERATOR_MANAGER;

/// Removes all entries except ours from `managedFields`, and converts ours to text. As a tree of
/// JSON values, the entry of each owned object would take ten times as much memory.
pub fn compact(live: &mut ObjectMeta) {
    let Some(entries) = &mut live.managed_fields else { return };
    entries.retain(is_ours);
    for fields in entries.iter_mut().filter_map(|entry| entry.fields_v1.as_mut()) {
        fields.0 = Value::String(fields.0.to_string());
    }
    entries.shrink_to_fit();
}

/// Returns true if the live object has not drifted from the stamped manifest.
pub fn is_applied(live: &ObjectMeta, stamped: &Value) -> bool {
    let wanted = stamped["metadata"]["annotations"][APPLIED_ANNOTATION].as_str();
    let present = live.annotations.as_ref().and_then(|annotations| annotations.get(APPLIED_ANNOTATION));
    present.map(String::as_str) == wanted
        && owned_fields(live).is_some_and(|fields| covers(&fields, stamped, Level::Root))
}

/// Returns true if the live object has this annotation with the value that we applied. If anyone
/// else changes or removes an annotation that we applied, it disappears from our entry.
pub fn owns_annotation(live: &ObjectMeta, name: &str) -> bool {
    let Some(fields) = owned_fields(live) else { return false };
    let is_whole = fields.as_object().is_some_and(Map::is_empty);
    is_whole || !fields["f:metadata"]["f:annotations"][format!("f:{name}")].is_null()
}

/// Returns our fields in `managedFields`. The metadata may have been compacted by [`compact`].
fn owned_fields(live: &ObjectMeta) -> Option<Cow<'_, Value>> {
    let ours = live.managed_fields.iter().flatten().find(|entry| is_ours(entry))?;
    match &ours.fields_v1.as_ref()?.0 {
        Value::String(text) => serde_json::from_str(text).ok().map(Cow::Owned),
        fields => Some(Cow::Borrowed(fields)),
    }
}

/// Returns true if the operator has applied the live object at least once. The metadata may have
/// been compacted by [`compact`].
pub fn has_applied(live: &ObjectMeta) -> bool {
    live.managed_fields.iter().flatten().any(is_ours)
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(OPERATOR_MANAGER)
        && entry.operation.as_deref() == Some("Apply")
        && entry.subresource.as_deref().unwrap_or_default().is_empty()
}

/// The nesting level of a value in an object. The level matters because the fields that identify an
/// object are not owned by any field manager.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Metadata,
    Inner,
}

impl Level {
    fn identifies(self, field: &str) -> bool {
        match self {
            Self::Root => matches!(field, "apiVersion" | "kind"),
            Self::Metadata => matches!(field, "name" | "namespace"),
            Self::Inner => false,
        }
    }

    fn of_child(self, field: &str) -> Self {
        if self == Self::Root && field == "metadata" { Self::Metadata } else { Self::Inner }
    }
}

/// Returns true if a field set includes every field of a value. In the `FieldsV1` format, `f:`
/// names a field, `k:` names a list item by its key, `v:` names a list item by its value, and an
/// empty set stands for the whole value.
fn covers(fields: &Value, value: &Value, level: Level) -> bool {
    let Some(fields) = fields.as_object() else { return false };
    if fields.is_empty() {
        return true;
    }
    match value {
        Value::Object(map) => {
            map.iter().filter(|(field, _)| !level.identifies(field)).all(|(field, inner)| {
                match fields.get(&format!("f:{field}")) {
                    Some(owned) => covers(owned, inner, level.of_child(field)),
                    None => is_zero(inner),
                }
            })
        }
        Value::Array(items) => items.iter().all(|item| covers_item(fields, item)),
        _ => true,
    }
}

fn covers_item(fields: &Map<String, Value>, item: &Value) -> bool {
    fields.iter().any(|(name, owned)| {
        if let Some(key) = name.strip_prefix("k:") {
            serde_json::from_str(key).is_ok_and(|key| has_key(item, &key)) && covers(owned, item, Level::Inner)
        } else if let Some(value) = name.strip_prefix("v:") {
            serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item)
        } else {
            false
        }
    })
}

/// Returns true if a list item matches a key. Parts of the key that the item lacks are ignored,
/// because the API server has set them to their defaults.
fn has_key(item: &Value, key: &Map<String, Value>) -> bool {
    key.iter().all(|(field, value)| item.get(field).is_none_or(|own| own == value))
}

/// Returns true if a value is empty, zero or false. The API server may drop a field with a zero
/// value.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_zero),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::stamp::stamped;

    fn wanted() -> Value {
        stamped(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop", "labels": {"a": "b"}},
            "spec": {
                "clusterIP": "None",
                "selector": {"app": "web"},
                "ports": [{"name": "metrics", "port": 9402}],
                "externalIPs": [],
            },
        }))
    }

    /// Returns the metadata as the API server stores it: `protocol` is set to its default, the
    /// empty list is dropped, and the selector is atomic.
    fn live(wanted: &Value) -> ObjectMeta {
        serde_json::from_value(json!({
            "name": "web", "namespace": "shop",
            "annotations": wanted["metadata"]["annotations"],
            "managedFields": [
                {"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:status": {}}},
                {"manager": OPERATOR_MANAGER, "operation": "Apply", "fieldsV1": {
                    "f:metadata": {
                        "f:annotations": {"f:onionbalance.dev/applied": {}},
                        "f:labels": {"f:a": {}},
                    },
                    "f:spec": {
                        "f:clusterIP": {},
                        "f:selector": {},
                        "f:ports": {
                            "k:{\"port\":9402,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}},
                        },
                    },
                }},
            ],
        }))
        .unwrap()
    }

    fn fields(live: &mut ObjectMeta) -> &mut Value {
        &mut live.managed_fields.as_mut().unwrap()[1].fields_v1.as_mut().unwrap().0
    }

    #[test]
    fn defaults_of_the_server_are_not_drift() {
        assert!(is_applied(&live(&wanted()), &wanted()));
    }

    #[test]
    fn compacted_metadata_gives_the_same_result() {
        let mut live = live(&wanted());
        compact(&mut live);
        assert_eq!(live.managed_fields.as_ref().map(Vec::len), Some(1));
        assert!(is_applied(&live, &wanted()));
        let mut other = wanted();
        other["spec"]["type"] = "ExternalName".into();
        assert!(!is_applied(&live, &other), "the field is not in our entry");
        let text = live.managed_fields.as_mut().unwrap()[0].fields_v1.as_mut().unwrap();
        text.0 = Value::String(text.0.as_str().unwrap().replace("f:clusterIP", "f:other"));
        assert!(!is_applied(&live, &wanted()));
    }

    #[test]
    fn a_changed_manifest_is_drift() {
        let mut other = wanted();
        other["spec"]["clusterIP"] = "10.0.0.1".into();
        other["metadata"]["annotations"] = json!({});
        assert!(!is_applied(&live(&wanted()), &stamped(&other)));
    }

    #[test]
    fn a_field_that_someone_changed_or_removed_is_drift() {
        for path in ["/f:spec", "/f:metadata/f:labels", "/f:spec/f:ports", "/f:metadata/f:annotations"] {
            let mut live = live(&wanted());
            let owned = fields(&mut live).pointer_mut(path).unwrap().as_object_mut().unwrap();
            let field = owned.keys().next().unwrap().clone();
            owned.remove(&field);
            // An empty set would mean that we own the whole value.
            owned.insert("f:other".to_owned(), json!({}));
            assert!(!is_applied(&live, &wanted()), "{path} without {field}");
        }
    }

    #[test]
    fn an_annotation_is_ours_until_someone_changes_it() {
        assert!(owns_annotation(&live(&wanted()), APPLIED_ANNOTATION));
        assert!(!owns_annotation(&live(&wanted()), "example.org/note"));
        let mut changed = live(&wanted());
        let annotations = fields(&mut changed).pointer_mut("/f:metadata/f:annotations").unwrap();
        annotations.as_object_mut().unwrap().remove(&format!("f:{APPLIED_ANNOTATION}"));
        assert!(!owns_annotation(&changed, APPLIED_ANNOTATION));
        changed.managed_fields = None;
        assert!(!owns_annotation(&changed, APPLIED_ANNOTATION));
    }

    #[test]
    fn an_object_of_another_manager_is_drift() {
        let mut live = live(&wanted());
        assert!(has_applied(&live));
        live.managed_fields.as_mut().unwrap()[1].manager = Some("kubectl".to_owned());
        assert!(!is_applied(&live, &wanted()) && !has_applied(&live));
        live.managed_fields = None;
        assert!(!is_applied(&live, &wanted()));
    }

    #[test]
    fn fields_that_we_wrote_without_an_apply_do_not_count() {
        let mut live = live(&wanted());
        live.managed_fields.as_mut().unwrap()[1].operation = Some("Update".to_owned());
        assert!(!is_applied(&live, &wanted()));
    }
}
