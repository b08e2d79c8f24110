//! What a quota and an admission plugin refuse, with Kubernetes' own controllers at work, is told in the conditions.

use anyhow::Result;

use crate::scene::{SOON, scene};

const SPEC: &str = "  ports: [{port: 80, target: {service: {name: web, port: http}}}]
  backends: {replicas: 2, drainTimeoutSeconds: 5}
";
/// A condition, and how its message begins.
const BACKENDS: (&str, &str) = ("BackendsReady", "");

#[tokio::test]
async fn pods_that_a_quota_or_a_limit_range_refuses_are_told() -> Result<()> {
    scene("refusals", async |scene| {
        let refused = async |kinds: &[(&str, &str)], message: &str| {
            for &(kind, beginning) in kinds {
                scene
                    .wait(&format!("{kind} tells of {message}"), SOON, async || {
                        let condition = scene.service("web").wait_condition(kind, "False", SOON).await?;
                        let is_told = condition.reason == "PodsRefused"
                            && condition.message.starts_with(beginning)
                            && condition.message.contains(message);
                        Ok(if is_told { Ok(()) } else { Err(format!("{condition:?}")) })
                    })
                    .await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let refused_no_more = async || {
            scene
                .wait("nothing is refused any more", SOON, async || {
                    let status = scene.service("web").status().await?;
                    let refused = status.conditions.iter().find(|condition| condition.reason == "PodsRefused");
                    Ok(refused.map_or(Ok(()), |condition| Err(format!("{condition:?}"))))
                })
                .await
        };
        scene.run("create quota none --hard=pods=0").await?;
        scene.apply("web", SPEC).await?;
        refused(&[BACKENDS, ("Published", "Frontend: ")], "exceeded quota: none").await?;
        scene.run("delete quota none").await?;
        probe(scene, "created").await?;
        // Kubernetes tries again by itself, but less and less often: a change makes it try at once.
        touch(scene, "a").await?;
        refused_no_more().await?;

        let limits = r#"{"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "huge"},
            "spec": {"limits": [{"type": "Container", "min": {"memory": "1Gi"}}]}}"#;
        scene.kubectl(&["apply", "-f", "-"], limits).await?;
        probe(scene, "minimum memory usage").await?;
        touch(scene, "b").await?;
        // What is published stands: the old pods go on.
        refused(&[BACKENDS], "minimum memory usage per Container is 1Gi").await?;
        scene.run("delete limitrange huge").await?;
        probe(scene, "created").await?;
        touch(scene, "c").await?;
        refused_no_more().await
    })
    .await
}

/// Waits until the API server says this of a new pod: admission plugins go by what they have watched, which may be a moment old.
async fn probe(scene: &crate::scene::Scene, answer: &str) -> Result<()> {
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": {"containers": [
        {"name": "a", "image": "none", "resources": {"requests": {"memory": "1Mi"}}}]}}"#;
    scene
        .wait(&format!("of a new pod is said: {answer}"), SOON, async || {
            let said = scene.kubectl(&["create", "--dry-run=server", "-f", "-"], pod).await;
            let said = said.unwrap_or_else(|error| format!("{error:#}"));
            Ok(if said.contains(answer) { Ok(()) } else { Err(said) })
        })
        .await
}

/// A new pod template, so that there are new `ReplicaSet`s, which have failed at nothing yet.
async fn touch(scene: &crate::scene::Scene, label: &str) -> Result<()> {
    let template = format!("{{\"template\":{{\"labels\":{{\"touched\":\"{label}\"}}}}}}");
    let patch = format!("{{\"spec\":{{\"backends\":{template},\"frontend\":{template}}}}}");
    scene.run(&format!("patch obs/web --type=merge --patch={patch}")).await?;
    Ok(())
}
