//! Checks that a bad part of a service harms nothing else: a target that does not exist, a lost
//! key, and pods that no node takes. On this cluster, Kubernetes' own scheduler refuses the pods.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use onionbalance_e2e::torclient::TorClient;

use crate::scene::{PUBLISHED, SOON, Scene, scene};

/// The services that have been published. Each has another bad part.
const SERVED: [&str; 3] = ["gap", "lost", "moved"];
/// The service whose pods have never run.
const MISFIT: &str = "misfit";

/// The longest time until the pods of a suspended service have ended.
const SUSPENDED: Duration = Duration::from_secs(120);

const SITE: &str = "{port: 80, target: {service: {name: web, port: http}}}";
/// A part of a pod template that no node satisfies.
const NOWHERE: &str = "template: {nodeSelector: {disk: none}}";
/// A patch that gives the backends this template.
const TO_NOWHERE: &str = r#"{"spec":{"backends":{"template":{"nodeSelector":{"disk":"none"}}}}}"#;

#[tokio::test]
async fn a_bad_part_stops_neither_the_other_ports_nor_scaling_nor_suspension() -> Result<()> {
    scene("bad-parts", async |scene| {
        let chat = "{port: 6667, target: {service: {name: chat, port: 6667}}}";
        scene.apply("gap", &spec(&format!("{SITE}, {chat}"), "")).await?;
        scene.apply("lost", &spec(SITE, "")).await?;
        scene.apply("moved", &spec(SITE, "")).await?;
        scene.apply(MISFIT, &(spec(SITE, NOWHERE) + "  frontend: {" + NOWHERE + "}\n")).await?;

        // A new service with a bad port can be scaled, and its other port is served.
        reports(scene, "gap", "BackendsReady", "TargetNotFound", "Service chat does not exist").await?;
        scene.run("scale obs/gap --replicas=2").await?;
        for (component, kind) in [("backend", "BackendsReady"), ("frontend", "Published")] {
            reports(scene, MISFIT, kind, "Unschedulable", &format!("Pod {MISFIT}-{component}-")).await?;
            reports(scene, MISFIT, kind, "Unschedulable", "nodes are available").await?;
        }
        the_list_shows_what_the_scheduler_says(scene).await?;
        for (name, backends) in [("gap", 2), ("lost", 1), ("moved", 1)] {
            scene.service(name).wait_published(backends, PUBLISHED).await?;
        }
        let client = scene.tor_client().await?;
        all_answer(scene, &client, "healthy").await?;

        // The old pods serve while no node takes the new ones, and without the Secret of the key.
        scene.run("delete secret lost-master-key").await?;
        scene.run(&format!("patch obs/moved --type=merge --patch={TO_NOWHERE}")).await?;
        reports(scene, "moved", "BackendsReady", "Unschedulable", "nodes are available").await?;
        reports(scene, "lost", "MasterKeyReady", "SecretNotFound", "").await?;
        all_answer(scene, &client, "with bad parts").await?;

        for name in SERVED.into_iter().chain([MISFIT]) {
            scene.run(&format!("patch obs/{name} --type=merge --patch={{\"spec\":{{\"suspend\":true}}}}")).await?;
        }
        try_join_all(SERVED.into_iter().chain([MISFIT]).map(|name| stops(scene, name))).await?;
        try_join_all(SERVED.map(|name| does_not_answer(scene, &client, name))).await?;
        client.remove().await
    })
    .await
}

fn spec(ports: &str, of_backends: &str) -> String {
    format!("  ports: [{ports}]\n  backends: {{replicas: 1, drainTimeoutSeconds: 5, {of_backends}}}\n")
}

/// Waits until a condition is false for a reason, and its message contains a text.
async fn reports(scene: &Scene, name: &str, kind: &str, reason: &str, text: &str) -> Result<()> {
    scene
        .wait(&format!("{kind} of {name} is {reason}: {text}"), SOON, async || {
            let condition = scene.service(name).wait_condition(kind, "False", SOON).await?;
            let done = condition.reason == reason && condition.message.contains(text);
            Ok(if done { Ok(()) } else { Err(format!("{condition:?}")) })
        })
        .await
}

/// Checks that somebody who only lists the objects learns why there are no pods.
async fn the_list_shows_what_the_scheduler_says(scene: &Scene) -> Result<()> {
    let list = scene.run(&format!("get obs {MISFIT}")).await?;
    ensure!(list.contains("Unschedulable") && list.contains("nodes are available"), "unexpected list:\n{list}");
    Ok(())
}

/// Checks that a client reaches all services that have been published.
async fn all_answer(scene: &Scene, client: &TorClient, isolation: &str) -> Result<()> {
    for name in SERVED {
        let page = client.fetch(&scene.service(name).onion_address().await?, isolation).await?;
        ensure!(page.starts_with("Hello"), "{name}: unexpected page {page:?}");
    }
    Ok(())
}

async fn does_not_answer(scene: &Scene, client: &TorClient, name: &str) -> Result<()> {
    let onion = scene.service(name).onion_address().await?;
    ensure!(client.fetch(&onion, "suspended").await.is_err(), "{name} answers although it is suspended");
    Ok(())
}

/// Waits until a service is suspended. Its backends linger for 30 s after their last descriptor.
/// The status must not say that the service is suspended while a pod is running.
async fn stops(scene: &Scene, name: &str) -> Result<()> {
    scene
        .wait(&format!("{name} is suspended"), SUSPENDED, async || {
            let status = scene.service(name).status().await?;
            let suspended =
                |kind| status.conditions.iter().any(|found| found.type_ == kind && found.reason == "Suspended");
            let running: Vec<_> = (scene.service(name).pods().await?.into_iter())
                .filter_map(|pod| pod.status?.phase)
                .filter(|phase| ["Pending", "Running"].contains(&phase.as_str()))
                .collect();
            let says_so = suspended("BackendsReady") || suspended("Published");
            ensure!(!says_so || running.is_empty(), "{name} is reported as suspended, but has pods: {running:?}");
            let done = suspended("BackendsReady") && suspended("Published");
            Ok(if done { Ok(()) } else { Err(format!("pods {running:?}; {:?}", status.conditions)) })
        })
        .await
}
