//! Checks that a rolling restart of the app behind a service withdraws no backend.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::scene::{PUBLISHED, SOON, Scene, scene};

/// The backends check the app every second, so that the checks meet the restarts many times.
const SPEC: &str = "  ports:
  - {port: 80, target: {service: {name: web, port: http}}, healthCheck: {periodSeconds: 1}}
  backends: {replicas: 2}
";
const BACKENDS: usize = 2;
const RESTARTS: usize = 3;
/// The time after a restart in which the checks would still make a backend unready: a target fails
/// after failures that extend over 4 s, and the publisher and the kubelet need a few seconds more.
const LATE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_rolling_restart_of_the_app_makes_no_backend_flap() -> Result<()> {
    scene("app", async |scene| {
        let web = scene.apply("web", SPEC).await?;
        web.wait_published(BACKENDS, PUBLISHED).await?;
        web.wait_condition("Ready", "True", SOON).await?;
        let before = readiness(scene).await?;
        ensure!(before.matches("True").count() == BACKENDS, "both backends must be Ready: {before}");
        for _ in 0..RESTARTS {
            scene.run("rollout restart deployment/web").await?;
            scene.run("rollout status deployment/web --timeout=120s").await?;
        }
        // Wait for a fixed time, to see whether anything changes.
        sleep(LATE).await;
        let after = readiness(scene).await?;
        ensure!(before == after, "a backend has become unready or has restarted: {before}, then {after}");

        // The checks do notice an app that stays away.
        scene.run("scale deployment/web --replicas=0").await?;
        web.wait_condition_message("BackendsReady", "False", "TargetFailing", "", SOON).await
    })
    .await
}

/// Returns whether each backend is Ready and since when, and the restarts of its containers. A
/// backend that was unready for only a moment is Ready since a later time.
async fn readiness(scene: &Scene) -> Result<String> {
    let path = r#"{range.items[*]}{.metadata.uid}{.status.conditions[?(@.type=="Ready")].status}{.status.conditions[?(@.type=="Ready")].lastTransitionTime}{.status.containerStatuses[*].restartCount};{end}"#;
    let selector = "onionbalance.dev/service=web,app.kubernetes.io/component=backend";
    scene.run(&format!("get pods -l {selector} -o jsonpath={path}")).await
}
