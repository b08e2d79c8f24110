//! Tests of leader election among operators that run as separate processes.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use serde_json::json;

use crate::program::Program;
use crate::scene::{OPERATOR_LEASE, PATIENCE, Scene};
use crate::wait::until;

/// Waits until the operator with the given name holds the Lease, and returns the Lease's spec.
async fn held_by(scene: &Scene, name: &str) -> LeaseSpec {
    let leases: Api<Lease> = scene.api();
    until(&format!("{name} leads"), PATIENCE, async || {
        let lease = leases.get_opt(OPERATOR_LEASE).await.map_err(|error| error.to_string())?.ok_or("no Lease")?;
        let spec = lease.spec.unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder.starts_with(&format!("{name}_")) { Ok(spec) } else { Err(format!("{spec:?}")) }
    })
    .await
}

/// Returns the time between the old holder's last renewal and the new holder's acquisition.
fn gap(before: &LeaseSpec, after: &LeaseSpec) -> Duration {
    let (renewed, acquired) = (before.renew_time.as_ref().unwrap().0, after.acquire_time.as_ref().unwrap().0);
    Duration::try_from(acquired.duration_since(renewed)).unwrap()
}

async fn scale(scene: &Scene, replicas: i32) {
    scene.change("web", json!({"spec": {"backends": {"replicas": replicas}}})).await;
    let scaled = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas == Some(replicas);
    scene.wait_for::<Deployment>("web-backend", scaled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_the_leader() {
    let scene = Scene::without_operator("leader").await;
    let start = |name| Program::start(name, &scene.namespace, "info,kube_client=off,kube_runtime=off");
    let first = start("first");
    held_by(&scene, "first").await;
    let mut second = start("second");
    second.wait_log("another operator is the leader; standing by").await;
    // The standby becomes ready once it has filled its watch caches, although it does not hold the
    // Lease.
    second.wait_log("ready").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    assert!(first.log().contains("created"));
    assert!(!second.log().contains("created"), "{}", second.log());

    let before = scene.api::<Lease>().get(OPERATOR_LEASE).await.unwrap().spec.unwrap();
    first.kill();
    let after = held_by(&scene, "second").await;
    assert!(gap(&before, &after) >= Duration::from_secs(15), "{before:?} {after:?}");
    assert_eq!(after.lease_transitions, Some(1));
    scale(&scene, 5).await;
    second.wait_log("updated").await;

    let third = start("third");
    third.wait_log("another operator is the leader; standing by").await;
    assert!(second.terminate().await.success(), "{}", second.log());
    let log = second.log();
    let released = log.lines().find(|line| line.contains("released the Lease")).unwrap_or_else(|| panic!("{log}"));
    let released: Timestamp = released.split(' ').next().unwrap().parse().unwrap();
    let acquired = held_by(&scene, "third").await.acquire_time.unwrap().0;
    let after: Duration = acquired.duration_since(released).try_into().unwrap();
    assert!(after < Duration::from_secs(10), "the standby acquired the released Lease after {after:?}");
    scale(&scene, 3).await;
    third.wait_log("updated").await;
}
