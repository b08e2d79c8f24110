//! Checks that a user's mistakes are reported clearly and do not interrupt a service.

use anyhow::{Result, ensure};
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::install;
use onionbalance_e2e::service::Service;
use serde_json::Value;

use crate::scene::{FRONTEND, PUBLISHED, SOON, Scene, scene};

const HEALTHY: &str = "  ports:
  - {port: 80, target: {service: {name: web, port: http}}}
  masterKey: {secretName: the-key}
  backends: {replicas: 1, drainTimeoutSeconds: 5}
";

#[tokio::test]
async fn a_new_object_with_a_mistake_reports_the_mistake() -> Result<()> {
    scene("mistakes", async |scene| {
        scene.run("create secret generic bad-key --from-literal=hs_ed25519_secret_key=nonsense").await?;
        let cases = [
            ("malformed", spec("web", "http", "bad-key"), "MasterKeyReady", "KeyInvalid"),
            ("missing", spec("web", "http", "no-such-key"), "MasterKeyReady", "SecretNotFound"),
            ("no-service", spec("no-such-service", "80", ""), "BackendsReady", "TargetNotFound"),
            ("no-port", spec("web", "81", ""), "BackendsReady", "TargetPortNotFound"),
        ];
        for (name, spec, _, _) in &cases {
            scene.apply(name, spec).await?;
        }
        for (name, _, kind, reason) in &cases {
            let condition = scene.service(name).wait_condition(kind, "False", SOON).await?;
            ensure!(condition.reason == *reason, "{name}: unexpected condition {condition:?}");
            ensure!(!condition.message.is_empty(), "{name} has no message");
            let ready = scene.service(name).wait_condition("Ready", "False", SOON).await?;
            ensure!(ready.reason == *reason, "{name}: Ready must have the same reason, but is {ready:?}");
        }
        let rejected = scene.apply("typo", &(spec("web", "http", "") + "  backend: {replicas: 3}\n")).await.err();
        let text = rejected.map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(
            text.contains("backend") && text.contains("unknown field"),
            "the API server must reject the unknown field: {text:?}"
        );
        no_crash_loop(scene).await
    })
    .await
}

#[tokio::test]
async fn a_mistake_in_a_healthy_object_interrupts_nothing() -> Result<()> {
    scene("healthy", async |scene| {
        scene.apply("donor", &spec("web", "http", "")).await?;
        scene.service("donor").onion_address().await?;
        let key = scene.run("get secret donor-master-key -o jsonpath={.data.hs_ed25519_secret_key}").await?;
        scene.run("delete obs donor").await?;
        put_key(scene, &key).await?;
        let web = scene.apply("web", HEALTHY).await?;
        web.wait_published(1, PUBLISHED).await?;
        // The publisher notices that a backend is Ready before the Deployment's status reports it.
        web.wait_condition("Ready", "True", SOON).await?;
        a_target_can_be_created_again(scene, &web).await?;
        let running = running(scene).await?;
        put_key(scene, "bm9uc2Vuc2U=").await?;
        let condition = web.wait_condition("MasterKeyReady", "False", SOON).await?;
        ensure!(condition.reason == "KeyInvalid", "unexpected condition {condition:?}");
        ensure!(self::running(scene).await? == running, "a malformed key restarted or removed pods");
        a_new_publisher_waits_for_a_good_key(scene, &web, &key).await?;
        let running = self::running(scene).await?;

        let rival = scene.apply("rival", HEALTHY).await?;
        let condition = rival.wait_condition("MasterKeyReady", "False", SOON).await?;
        ensure!(
            condition.reason == "KeyConflict" && condition.message.contains("/web"),
            "unexpected condition {condition:?}"
        );
        web.wait_condition("MasterKeyReady", "True", SOON).await?;
        ensure!(self::running(scene).await? == running, "a second object with the same key restarted or removed pods");
        no_crash_loop(scene).await
    })
    .await
}

fn spec(service: &str, port: &str, secret: &str) -> String {
    let key = if secret.is_empty() { String::new() } else { format!("  masterKey: {{secretName: {secret}}}\n") };
    format!(
        "  ports: [{{port: 80, target: {{service: {{name: {service}, port: {port}}}}}}}]\n  backends: {{replicas: 1}}\n{key}"
    )
}

async fn put_key(scene: &Scene, base64: &str) -> Result<()> {
    let secret = format!(
        "kind: Secret\napiVersion: v1\nmetadata: {{name: the-key}}\ndata: {{hs_ed25519_secret_key: {base64}}}\n"
    );
    scene.kubectl(&["apply", "-f", "-"], &secret).await?;
    Ok(())
}

/// Returns the UIDs, restart counts and deletion timestamps of the pods of `web`.
async fn running(scene: &Scene) -> Result<String> {
    scene.running("onionbalance.dev/service=web").await
}

/// Deletes and re-creates the target. Clients must reach the new target, which has a new address,
/// through the same pods.
async fn a_target_can_be_created_again(scene: &Scene, web: &Service) -> Result<()> {
    let address = async || scene.run("get service web -o jsonpath={.spec.clusterIP}").await;
    let (before, pods) = (address().await?, running(scene).await?);
    let onion = web.onion_address().await?;
    let client = scene.tor_client().await?;
    client.fetch(&onion, "before").await?;
    scene.run("delete service web").await?;
    let condition = web.wait_condition("BackendsReady", "False", SOON).await?;
    ensure!(condition.reason == "TargetNotFound", "unexpected condition {condition:?}");
    ensure!(client.fetch(&onion, "without a target").await.is_err(), "a client reached a deleted target");
    scene.apply_target().await?;
    web.wait_condition("BackendsReady", "True", SOON).await?;
    let after = address().await?;
    ensure!(after != before, "the new target has the address of the old one, so the next fetch would prove nothing");
    scene
        .wait("a client reaches the new target", SOON, async || {
            Ok(client.fetch(&onion, "after").await.map(drop).map_err(|error| format!("{error:#}")))
        })
        .await?;
    ensure!(running(scene).await? == pods, "a missing target restarted or removed pods");
    client.remove().await
}

/// Checks that a publisher that starts with a malformed key reports the problem, neither exits nor
/// becomes ready, and publishes once the key is valid.
async fn a_new_publisher_waits_for_a_good_key(scene: &Scene, web: &Service, key: &str) -> Result<()> {
    scene.run(&format!("delete pods -l {FRONTEND}")).await?;
    scene
        .wait("the publisher waits for a good key", SOON, async || {
            let publisher = publisher(scene).await?;
            if publisher["state"].get("running").is_none() {
                return Ok(Err(publisher.to_string()));
            }
            let log = scene.run(&format!("logs -l {FRONTEND} -c publisher --tail=20")).await?;
            let waits = log.contains("the master key cannot be used") && publisher["ready"] == false;
            Ok(if waits { Ok(()) } else { Err(format!("{publisher}\n{log}")) })
        })
        .await?;
    no_crash_loop(scene).await?;

    let onion = web.onion_address().await?;
    let client = scene.tor_client().await?;
    // `None` if the HSDirs have no descriptor yet for a time period that has just begun.
    let revision = async || Descriptor::fetch(client.tor(), &onion).await.ok().map(|found| found.revision_counter);
    let before = revision().await;
    put_key(scene, key).await?;
    web.wait_condition("MasterKeyReady", "True", SOON).await?;
    // The kubelet refreshes mounted Secrets about once a minute.
    scene
        .wait("the publisher has read the good key and published with it", PUBLISHED, async || {
            let publisher = publisher(scene).await?;
            let now = revision().await;
            let done = publisher["ready"] == true && now.is_some() && now != before;
            Ok(if done { Ok(()) } else { Err(format!("revision {before:?}, then {now:?}; {publisher}")) })
        })
        .await?;
    client.remove().await?;
    no_crash_loop(scene).await?;
    web.wait_published(1, PUBLISHED).await?;
    web.wait_condition("Ready", "True", SOON).await?;
    Ok(())
}

/// Returns the status of the publisher's container, or null if it has none yet.
async fn publisher(scene: &Scene) -> Result<Value> {
    let pods: Value = serde_json::from_str(&scene.run(&format!("get pods -l {FRONTEND} -o json")).await?)?;
    let containers = pods["items"][0]["status"]["containerStatuses"].as_array();
    Ok(containers.into_iter().flatten().find(|status| status["name"] == "publisher").cloned().unwrap_or_default())
}

/// Checks that no container has restarted.
async fn no_crash_loop(scene: &Scene) -> Result<()> {
    let path = "jsonpath={..restartCount}";
    let ours = scene.run(&format!("get pods -o {path}")).await?;
    let operator = scene.kubectl.run(&format!("--namespace {} get pods -o {path}", install::NAMESPACE)).await?;
    let all = format!("{ours} {operator}");
    ensure!(all.split_whitespace().all(|count| count == "0"), "a container has restarted: {all}");
    Ok(())
}
