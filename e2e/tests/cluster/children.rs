//! Checks that the operator restores a deleted child, and that the children are deleted with the
//! object while the master key is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::chaos::pods::{PodProgram, processes};
use serde_json::Value;

use crate::scene::{PUBLISHED, SOON, Scene, scene};

const CHILDREN: [&str; 16] = [
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
    GUARDS,
    "networkpolicy/web-backend",
    "networkpolicy/web-frontend",
    "poddisruptionbudget/web-backend",
    "poddisruptionbudget/web-frontend",
];
const KEY: &str = "secret/web-master-key";
const GUARDS: &str = "secret/web-guards";
/// Secrets that outlive the object: a service that is created again has the same address and enters
/// the Tor network through the same guards.
const KEPT: [&str; 2] = [KEY, GUARDS];
/// The path of our program in its image.
const PROGRAM: &str = "/usr/local/bin/onionbalance-operator";

const SPEC: &str = "  ports:
  - {port: 80, target: {service: {name: web, port: http}}}
  backends: {replicas: 1, drainTimeoutSeconds: 5}
";

#[tokio::test]
async fn a_deleted_child_is_created_again() -> Result<()> {
    scene("children", async |scene| {
        let web = scene.apply("web", SPEC).await?;
        web.wait_published(1, PUBLISHED).await?;
        only_publishers_have_credentials(scene).await?;
        the_program_is_unreadable(scene).await?;
        the_containers_offer_nothing_to_run(scene).await?;
        let token = scene.run("get secret/web-agent-token -o jsonpath={.data.token}").await?;
        for child in CHILDREN.into_iter().chain(["lease/web-frontend"]) {
            let before = uid(scene, child).await?;
            ensure!(!before.is_empty(), "{child} does not exist");
            scene.run(&format!("delete {child} --wait=false")).await?;
            scene
                .wait(&format!("{child} is created again"), SOON, async || {
                    let now = uid(scene, child).await?;
                    let back = !now.is_empty() && now != before;
                    Ok(if back { Ok(()) } else { Err(format!("uid {now:?}")) })
                })
                .await?;
        }
        let again = scene.run("get secret/web-agent-token -o jsonpath={.data.token}").await?;
        ensure!(again == token, "the restored agent token differs from the deleted one");
        web.wait_published(1, PUBLISHED).await?;
        web.wait_condition("Ready", "True", SOON).await?;
        Ok(())
    })
    .await
}

/// Checks that the agent's user may run the program of our image, but not read it. The kernel
/// therefore hides the agent from tor, which runs as the same user.
async fn the_program_is_unreadable(scene: &Scene) -> Result<()> {
    let selector = "onionbalance.dev/service=web,app.kubernetes.io/component=backend";
    let pod = scene.run(&format!("get pods -l {selector} -o jsonpath={{.items[0].metadata.uid}}")).await?;
    let agents = processes(&pod, PodProgram::Ours)?;
    let agent = agents.first().context("no agent is running")?.as_raw_nonzero();
    let file = fs::metadata(format!("/proc/{agent}/root{PROGRAM}"))?;
    let (mode, owner) = (file.mode() & 0o7777, file.uid());
    ensure!((mode, owner) == (0o711, 0), "{PROGRAM} has the mode {mode:o} and the owner {owner}");
    Ok(())
}

/// Checks that a person who may run commands in our containers finds neither a shell nor a command
/// that reveals a secret of the pod.
async fn the_containers_offer_nothing_to_run(scene: &Scene) -> Result<()> {
    let run = async |deployment: &str, container: &str, command: &[&str]| {
        let container = format!("--container={container}");
        let exec = [&["exec", "--stdin", deployment, &container, "--"], command].concat();
        let printed = scene.kubectl(&exec, "services: []").await;
        printed.err().map(|error| format!("{error:#}")).with_context(|| format!("{command:?} ran in {deployment}"))
    };
    for (deployment, container) in [
        ("deployment/web-backend", "agent"),
        ("deployment/web-backend", "tor"),
        ("deployment/web-frontend", "publisher"),
        ("deployment/web-frontend", "tor"),
    ] {
        for program in ["sh", "/bin/sh", "cat"] {
            let error = run(deployment, container, &[program]).await?;
            let is_missing =
                ["executable file not found", "no such file or directory"].iter().any(|text| error.contains(text));
            ensure!(is_missing, "{program} in container {container} of {deployment}: {error}");
        }
    }
    let api_token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    for (command, refusal) in [
        (["key", "show", "/etc/onionbalance/master-key"], "unrecognized subcommand"),
        (["frontend", "--config", "/dev/stdin"], "the stand-alone daemon does not run in a pod"),
        (["backend", "--config", api_token], "this is not the configuration of an agent"),
    ] {
        let ours = [&["onionbalance-operator"], &command[..]].concat();
        let error = run("deployment/web-frontend", "publisher", &ours).await?;
        ensure!(error.contains(refusal), "{command:?}: {error}");
    }
    Ok(())
}

/// Checks that only publishers have an API token and the master key. Inspects the running pods,
/// which include the changes made by admission plugins.
async fn only_publishers_have_credentials(scene: &Scene) -> Result<()> {
    let pods = scene.run("get pods -l onionbalance.dev/service=web -o json").await?;
    let pods: Value = serde_json::from_str(&pods)?;
    let mut holders: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let containers = ["initContainers", "containers"].into_iter().filter_map(|kind| pod["spec"][kind].as_array());
        for container in containers.flatten() {
            let paths = container["volumeMounts"].as_array().into_iter().flatten();
            for path in paths.filter_map(|mount| mount["mountPath"].as_str()) {
                holders.entry(path).or_default().extend(container["name"].as_str());
            }
        }
    }
    let of = |path: &str| holders.get(path).cloned().unwrap_or_default();
    ensure!(
        of("/run/onionbalance") == ["agent", "publisher", "tor"].into(),
        "unexpected mounts of the run folder: {holders:?}"
    );
    for secret in ["/var/run/secrets/kubernetes.io/serviceaccount", "/etc/onionbalance/master-key"] {
        ensure!(of(secret) == ["publisher"].into(), "only the publisher may mount {secret}: {holders:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_master_key_and_the_guards_outlive_the_object() -> Result<()> {
    scene("deletion", async |scene| {
        let web = scene.apply("web", SPEC).await?;
        let onion = web.onion_address().await?;
        web.wait_published(1, PUBLISHED).await?;
        scene
            .wait("the tors of the service share guards", PUBLISHED, async || {
                let lines = scene.run(&format!("get {GUARDS} -o jsonpath={{.data.guards}}")).await?;
                Ok(if lines.is_empty() { Err("the Secret is empty".to_owned()) } else { Ok(()) })
            })
            .await?;
        let kept = uids(scene).await?;
        scene.run("delete obs web").await?;
        for child in CHILDREN.into_iter().filter(|child| *child != GUARDS).chain(["lease/web-frontend"]) {
            scene
                .wait(&format!("{child} is deleted with the object"), PUBLISHED, async || {
                    Ok(if uid(scene, child).await?.is_empty() { Ok(()) } else { Err("it still exists".to_owned()) })
                })
                .await?;
        }
        ensure!(uids(scene).await? == kept, "the master key or the guards were deleted with the object");

        let web = scene.apply("web", SPEC).await?;
        ensure!(web.onion_address().await? == onion, "the address changed");
        ensure!(uids(scene).await? == kept, "the master key or the guards were generated again");

        // With `deletionPolicy: Delete`, both are deleted with the object.
        scene.run(r#"patch obs web --type=merge --patch={"spec":{"deletionPolicy":"Delete"}}"#).await?;
        for kept in KEPT {
            scene
                .wait(&format!("the object owns {kept}"), SOON, async || {
                    let get = format!("get {kept} -o jsonpath={{.metadata.ownerReferences[*].name}}");
                    let owner = scene.run(&get).await?;
                    Ok(if owner == "web" { Ok(()) } else { Err(format!("its owner is {owner:?}")) })
                })
                .await?;
        }
        scene.run("delete obs web").await?;
        for kept in KEPT {
            scene
                .wait(&format!("{kept} is deleted with the object"), SOON, async || {
                    Ok(if uid(scene, kept).await?.is_empty() { Ok(()) } else { Err("it still exists".to_owned()) })
                })
                .await?;
        }
        Ok(())
    })
    .await
}

/// Returns the UIDs of the Secrets that outlive the object.
async fn uids(scene: &Scene) -> Result<[String; 2]> {
    Ok([uid(scene, KEY).await?, uid(scene, GUARDS).await?])
}

/// Returns the object's UID, or an empty string if the object does not exist.
async fn uid(scene: &Scene, object: &str) -> Result<String> {
    scene.run(&format!("get {object} --ignore-not-found -o jsonpath={{.metadata.uid}}")).await
}
