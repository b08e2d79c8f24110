//! What the operator made comes back when it is deleted, and goes with the object; the master key stays.

use anyhow::{Result, ensure};

use crate::scene::{PUBLISHED, SOON, Scene, scene};

const CHILDREN: [&str; 15] = [
    "deployment/web-backend",
    "deployment/web-frontend",
    "configmap/web-backend",
    "configmap/web-frontend",
    "service/web-backend",
    "service/web-frontend",
    "serviceaccount/web-backend",
    "serviceaccount/web-frontend",
    "role/web-frontend",
    "rolebinding/web-frontend",
    "secret/web-agent-token",
    "networkpolicy/web-backend",
    "networkpolicy/web-frontend",
    "poddisruptionbudget/web-backend",
    "poddisruptionbudget/web-frontend",
];
const KEY: &str = "secret/web-master-key";

const SPEC: &str = "  ports:
  - {port: 80, target: {service: {name: web, port: http}}}
  backends: {replicas: 1, drainTimeoutSeconds: 5}
";

#[tokio::test]
async fn a_deleted_child_comes_back() -> Result<()> {
    scene("children", async |scene| {
        let web = scene.apply("web", SPEC).await?;
        web.wait_published(1, PUBLISHED).await?;
        let token = scene.run("get secret/web-agent-token -o jsonpath={.data.token}").await?;
        for child in CHILDREN.into_iter().chain(["lease/web-frontend"]) {
            let before = uid(scene, child).await?;
            ensure!(!before.is_empty(), "{child} is not there");
            scene.run(&format!("delete {child} --wait=false")).await?;
            scene
                .wait(&format!("{child} comes back"), SOON, async || {
                    let now = uid(scene, child).await?;
                    let back = !now.is_empty() && now != before;
                    Ok(if back { Ok(()) } else { Err(format!("uid {now:?}")) })
                })
                .await?;
        }
        let again = scene.run("get secret/web-agent-token -o jsonpath={.data.token}").await?;
        ensure!(again == token, "the token that came back is another one");
        web.wait_published(1, PUBLISHED).await?;
        web.wait_condition("Ready", "True", SOON).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_key_outlives_the_object() -> Result<()> {
    scene("deletion", async |scene| {
        let web = scene.apply("web", SPEC).await?;
        let onion = web.onion_address().await?;
        web.wait_published(1, PUBLISHED).await?;
        let key = uid(scene, KEY).await?;
        scene.run("delete obs web").await?;
        for child in CHILDREN.into_iter().chain(["lease/web-frontend"]) {
            scene
                .wait(&format!("{child} goes with the object"), PUBLISHED, async || {
                    Ok(if uid(scene, child).await?.is_empty() { Ok(()) } else { Err("it is there".to_owned()) })
                })
                .await?;
        }
        ensure!(uid(scene, KEY).await? == key, "the master key went with the object");

        let web = scene.apply("web", SPEC).await?;
        ensure!(web.onion_address().await? == onion, "the address changed");
        ensure!(uid(scene, KEY).await? == key, "the master key was made anew");
        Ok(())
    })
    .await
}

/// Empty when it is not there.
async fn uid(scene: &Scene, object: &str) -> Result<String> {
    scene.run(&format!("get {object} --ignore-not-found -o jsonpath={{.metadata.uid}}")).await
}
