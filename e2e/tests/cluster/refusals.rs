//! Checks that conditions report pods that a quota or an admission plugin rejects. On this cluster,
//! Kubernetes' own controllers try to create the pods.

use anyhow::Result;

use crate::scene::{SOON, scene};

const SPEC: &str = "  ports: [{port: 80, target: {service: {name: web, port: http}}}]
  backends: {replicas: 2, drainTimeoutSeconds: 5}
";
/// A condition type and the beginning of its message.
const BACKENDS: (&str, &str) = ("BackendsReady", "");

#[tokio::test]
async fn conditions_report_pods_that_a_quota_or_limit_range_rejects() -> Result<()> {
    scene("refusals", async |scene| {
        let reports_rejection = async |kinds: &[(&str, &str)], message: &str| {
            for &(kind, beginning) in kinds {
                scene
                    .wait(&format!("{kind} reports: {message}"), SOON, async || {
                        let condition = scene.service("web").wait_condition(kind, "False", SOON).await?;
                        let is_reported = condition.reason == "PodsRefused"
                            && condition.message.starts_with(beginning)
                            && condition.message.contains(message);
                        Ok(if is_reported { Ok(()) } else { Err(format!("{condition:?}")) })
                    })
                    .await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let reports_no_rejection = async || {
            scene
                .wait("no condition reports a rejected pod", SOON, async || {
                    let status = scene.service("web").status().await?;
                    let refused = status.conditions.iter().find(|condition| condition.reason == "PodsRefused");
                    Ok(refused.map_or(Ok(()), |condition| Err(format!("{condition:?}"))))
                })
                .await
        };
        scene.run("create quota none --hard=pods=0").await?;
        scene.apply("web", SPEC).await?;
        reports_rejection(&[BACKENDS, ("Published", "Frontend: ")], "exceeded quota: none").await?;
        scene.run("delete quota none").await?;
        probe(scene, "created").await?;
        // Kubernetes retries by itself, but at growing intervals. A change makes it retry
        // immediately.
        touch(scene, "a").await?;
        reports_no_rejection().await?;

        let limits = r#"{"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "huge"},
            "spec": {"limits": [{"type": "Container", "min": {"memory": "1Gi"}}]}}"#;
        scene.kubectl(&["apply", "-f", "-"], limits).await?;
        probe(scene, "minimum memory usage").await?;
        touch(scene, "b").await?;
        // The condition Published stays as it is, because the old pods keep running.
        reports_rejection(&[BACKENDS], "minimum memory usage per Container is 1Gi").await?;
        scene.run("delete limitrange huge").await?;
        probe(scene, "created").await?;
        touch(scene, "c").await?;
        reports_no_rejection().await
    })
    .await
}

/// Waits until an attempt to create a pod is answered with the given text. Admission plugins use
/// watch caches, which may lag slightly behind.
async fn probe(scene: &crate::scene::Scene, answer: &str) -> Result<()> {
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": {"containers": [
        {"name": "a", "image": "none", "resources": {"requests": {"memory": "1Mi"}}}]}}"#;
    scene
        .wait(&format!("the API server responds to a new pod with: {answer}"), SOON, async || {
            let printed = scene.kubectl(&["create", "--dry-run=server", "-f", "-"], pod).await;
            let printed = printed.unwrap_or_else(|error| format!("{error:#}"));
            Ok(if printed.contains(answer) { Ok(()) } else { Err(printed) })
        })
        .await
}

/// Changes the pod templates, so that new `ReplicaSet`s without earlier failures are created.
async fn touch(scene: &crate::scene::Scene, label: &str) -> Result<()> {
    let template = format!("{{\"template\":{{\"labels\":{{\"tier\":\"{label}\"}}}}}}");
    let patch = format!("{{\"spec\":{{\"backends\":{template},\"frontend\":{template}}}}}");
    scene.run(&format!("patch obs/web --type=merge --patch={patch}")).await?;
    Ok(())
}
