//! Tests of the Secret with the guards that all tors of a service share.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::lease::Stage;

/// Returns the lines of the shared guards.
fn guards(secret: &Secret) -> String {
    let data = secret.data.as_ref().and_then(|data| data.get("guards"));
    data.map(|lines| String::from_utf8(lines.0.clone()).unwrap()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_stores_the_guards_and_the_operator_keeps_them() {
    let stage = Stage::start_with("shared-guards", json!({})).await;
    let fingerprint = stage.share_guards();
    let secrets: Api<Secret> = stage.scene.api();
    assert_eq!(guards(&secrets.get("web-guards").await.unwrap()), "");
    let mut publisher = stage.publisher("a").await;
    publisher.wait_log("stored the shared guards").await;
    let stored = guards(&secrets.get("web-guards").await.unwrap());
    assert!(stored.contains(&fingerprint), "{stored}");

    // The operator restores its own part of the Secret, and nothing else.
    let damage = json!({"metadata": {"annotations": {"onionbalance.dev/applied": "x"}}});
    secrets.patch("web-guards", &PatchParams::default(), &Patch::Merge(damage)).await.unwrap();
    let repaired = stage.scene.wait_for::<Secret>("web-guards", |secret| {
        secret.metadata.annotations.as_ref().is_some_and(|all| all["onionbalance.dev/applied"] != "x")
    });
    let repaired = repaired.await;
    assert_eq!(guards(&repaired), stored);
    assert_eq!(repaired.metadata.owner_references, None);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_secret_is_replaced() {
    let stage = Stage::start_with("damaged-guards", json!({})).await;
    let fingerprint = stage.share_guards();
    let secrets: Api<Secret> = stage.scene.api();
    let damage = json!({"stringData": {"guards": "Guard in=default x\n", "mac": "0"}});
    secrets.patch("web-guards", &PatchParams::default(), &Patch::Merge(damage)).await.unwrap();
    let mut publisher = stage.publisher("a").await;
    publisher.wait_log("replacing the shared guards").await;
    publisher.wait_log("stored the shared guards").await;
    let stored = guards(&secrets.get("web-guards").await.unwrap());
    assert!(stored.contains(&fingerprint), "{stored}");
    let begins = "The publisher replaced the content of Secret web-guards at ";
    stage.scene.wait_message("web", "GuardsShared", "False GuardsReplaced", begins).await;
    let object = stage.scene.untyped().get("web").await.unwrap();
    let (seen, message) = (&object.data["status"]["guards"], object.data["status"].to_string());
    assert_eq!((&seen["shared"], &seen["inUse"]), (&json!(1), &json!(1)), "{seen}");
    assert!(!message.contains(&fingerprint), "the status must not name a guard: {message}");
    stage.end().await;
}
