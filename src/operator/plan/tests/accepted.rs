//! Tests of the message of the condition `Accepted`.

use serde_json::json;

use super::support::{concluded, condition, healthy, with};

#[test]
fn the_message_says_what_happens_to_each_bad_part() {
    let external = json!([{"onionAddress": "a.onion"}]);
    let points = ("spec/backends/introductionPoints", json!(2));
    for (changes, expected) in [
        (vec![points.clone()], ". Until this is corrected, these parts keep the values that were last accepted, if "),
        (
            vec![("spec/externalBackends", external.clone())],
            ". Until this is corrected, these backends and clients are left out; ",
        ),
        (
            vec![points, ("spec/externalBackends", external)],
            ". Until this is corrected, these backends and clients are left out, and the other bad parts keep ",
        ),
    ] {
        let mut observed = healthy();
        for (path, value) in changes {
            observed.object = with(&observed.object, path, value);
        }
        let (_, status) = concluded(&observed);
        let found = condition(&status, "Accepted");
        assert!(found.contains(expected), "{found}");
    }
}
