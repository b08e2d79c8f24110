//! Compares an API server with the table of invalid objects. The server must reject the objects
//! that violate the schema's types and limits. A server that evaluates the rules must also reject
//! the objects that violate a rule. The server must accept all others, which the operator rejects.
//!
//! The tests of the rules and of the operator's validation use the same table.

use kube::api::{Api, DynamicObject, PostParams};
use kube::core::Status;
use serde_json::Value;

#[allow(dead_code, reason = "other tests check the operator's messages")]
#[path = "../../src/crd/tests/refused.rs"]
pub mod refused;

/// Removes the indices of list items, which only some servers include in messages.
pub fn without_indices(text: &str) -> String {
    let mut parts = text.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match part.split_once(']') {
        Some((index, rest)) if index.bytes().all(|byte| byte.is_ascii_digit()) => text + rest,
        _ => text + "[" + part,
    })
}

/// Applies a change to the valid object. Returns the server's reasons for rejecting the result, or
/// `None` if the server accepts the result.
async fn rejection(objects: &Api<DynamicObject>, change: &Value) -> Option<Status> {
    let object = serde_json::from_value(refused::changed(change)).unwrap();
    match objects.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) if status.code == 422 => Some(*status),
        Err(error) => panic!("{change}: {error}"),
    }
}

/// Returns the fields and the messages that a rejection lists.
fn causes(rejection: Option<&Status>) -> Vec<(&str, &str)> {
    let details = rejection.and_then(|status| status.details.as_ref());
    let causes = details.map(|details| &*details.causes).unwrap_or_default();
    causes.iter().map(|cause| (&*cause.field, &*cause.message)).collect()
}

/// Checks that the server rejects and accepts the rows of the table as expected.
pub async fn rejects_exactly_the_invalid_objects(objects: &Api<DynamicObject>, evaluates_rules: bool) {
    for row in refused::refused() {
        let rejection = rejection(objects, &row.change).await;
        let found = causes(rejection.as_ref());
        match (&row.schema, row.rule.filter(|_| evaluates_rules)) {
            (Some(field), None) => {
                assert!(found.iter().any(|(at, _)| without_indices(at) == *field), "{}: {rejection:?}", row.change);
            }
            (None, Some(rule)) => {
                let (field, message) = rule.split_once(": ").unwrap();
                // The schema has no fields below `metadata`, so these messages include the field.
                let expected = if field == "metadata.name" { ("<nil>", &*rule) } else { (field, message) };
                let is_expected = |(at, text): &(&str, &str)| *at == expected.0 && text.ends_with(expected.1);
                assert!(found.iter().any(is_expected), "{}: {rejection:?}", row.change);
            }
            (None, None) => assert!(rejection.is_none(), "{}: {rejection:?}", row.change),
            (Some(_), Some(_)) => panic!("{}: a server does not evaluate rules if the schema is violated", row.change),
        }
    }
    for change in refused::allowed() {
        let rejection = rejection(objects, &change).await;
        assert!(rejection.is_none(), "{change}: {rejection:?}");
    }
}
