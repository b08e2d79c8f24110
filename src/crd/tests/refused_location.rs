//! The rows of the table of invalid objects that are about `spec.anonymity.serverLocation`, and the
//! changes of this field, all of which are refused.

use serde_json::{Value, json};

use super::Refused;

/// Returns the rows.
pub(super) fn rows() -> Vec<Refused> {
    vec![
        Refused::spec(json!({"anonymity": {"serverLocation": "exposed"}})).schema("spec.anonymity.serverLocation"),
        exposed("guardsInUse", &json!(2)).both(
            "spec.anonymity.guardsInUse: must be 1 if serverLocation is Exposed, because the backends then use no guards",
        ),
        exposed("vanguards", &json!("Full")).both(
            "spec.anonymity.vanguards: must be Lite if serverLocation is Exposed, because the circuits of the backends then \
             have a single hop",
        ),
        exposed_with("NumCPUs 1\n +usebridges\t1", "UseBridges"),
        exposed_with("EntryNodes $AB,$CD#x", "EntryNodes"),
    ]
}

/// Returns an object whose location is not hidden, with another field in `spec.anonymity`.
fn exposed(field: &str, value: &Value) -> Refused {
    Refused::spec(json!({"anonymity": {"serverLocation": "Exposed", field: value}}))
}

/// Returns an object whose location is not hidden, with torrc lines that choose entry relays.
fn exposed_with(lines: &str, option: &str) -> Refused {
    Refused::spec(json!({"anonymity": {"serverLocation": "Exposed"}, "backends": {"extraTorrc": lines}})).operator(format!(
        "spec.backends.extraTorrc: \"{option}\" cannot be combined with serverLocation: Exposed, because the backends then \
         connect to introduction points directly; remove the line"
    ))
}

/// A change of a valid object to another valid object that is refused because of the difference.
pub struct RefusedChange {
    /// The change that is merged into [`good`](super::good) to obtain the first object.
    pub before: Value,
    /// The change that is merged into [`good`](super::good) to obtain the second object.
    pub after: Value,
    /// The message of the operator and of the CEL rule that rejects the second object.
    pub says: &'static str,
}

/// Returns one row for each way to change a field that cannot be changed.
pub fn refused_changes() -> Vec<RefusedChange> {
    let says = "spec.anonymity.serverLocation: cannot be changed: what was exposed once is not hidden afterwards, and an \
                edit must not expose what is hidden; create another object, with another master key";
    let location = |location: &str| json!({"spec": {"anonymity": {"serverLocation": location}}});
    let other = json!({"spec": {"anonymity": {"guards": "PerPod"}}});
    let row = |before: Value, after: Value| RefusedChange { before, after, says };
    vec![
        row(location("Hidden"), location("Exposed")),
        row(location("Exposed"), location("Hidden")),
        row(json!({}), location("Exposed")),
        row(location("Exposed"), json!({})),
        row(other.clone(), location("Exposed")),
        row(location("Exposed"), other),
    ]
}
