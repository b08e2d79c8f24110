//! Install from an earlier chart, upgrade, roll back, upgrade with the data plane, uninstall, install again: one address all the way.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::cluster::Cluster;
use onionbalance_e2e::helm::Helm;
use onionbalance_e2e::install::{DEPLOYMENT, NAMESPACE};
use onionbalance_e2e::service::Service;
use onionbalance_e2e::state::source_tree;
use serde_json::Value;
use tokio::sync::watch;

use crate::scene::{PUBLISHED, SOON, Scene};
use crate::{alone, tor_network_file};

/// An earlier chart: fixtures/README.md.
const EARLIER: &str = "e2e/tests/helm/fixtures/chart-3e7ad80.tgz";
const IMAGE: &str = "localhost/onionbalance-operator";
const BACKENDS: usize = 2;
const SPEC: &str = "  ports: [{port: 80, target: {service: {name: web, port: http}}}]
  backends: {replicas: 2, drainTimeoutSeconds: 5}
";
/// A default template for the backends.
const TEAM: &str = "dataPlane.defaultTemplates.backend.labels.team=onions";
const CRD: &str = "crd/onionbalancedservices.onionbalance.dev";

#[tokio::test]
async fn from_an_earlier_chart_to_this_one_and_back_nothing_is_lost() -> Result<()> {
    alone("helm", async |scene| {
        // The same program by another name stands for the next version of it: other pod templates would roll pods by themselves
        // (src/operator/build/golden.rs keeps them the same).
        Cluster::open(scene.state())?.tag_image(&format!("{IMAGE}:dev"), &format!("{IMAGE}:next")).await?;
        scene.apply_target().await?;
        let helm = Helm::open(scene.state()).await?;
        let earlier = source_tree().join(EARLIER).display().to_string();
        release(scene, &helm, "install", &earlier, &[]).await?;
        let earlier_crd = crd(scene).await?;
        let web = scene.apply("web", SPEC).await?;
        web.wait_published(BACKENDS, PUBLISHED).await?;
        web.wait_condition("Ready", "True", SOON).await?;
        let identity = identity(scene).await?;
        let onion = web.onion_address().await?;
        let (before, pods_before) = (data_plane(scene).await?, pods(scene).await?);

        // The operator alone: no pod of the data plane is replaced or started again, nor is there a reason to.
        let pinned = ["--set", "image.tag=next", "--set", "dataPlane.image.tag=dev"];
        release(scene, &helm, "upgrade", &Helm::chart(), &pinned).await?;
        let upgraded_crd = crd(scene).await?;
        ensure!(upgraded_crd != earlier_crd, "the CRD is the earlier chart's");
        works(scene, "next").await?;
        ensure!(data_plane(scene).await? == before, "the upgrade of the operator alone took pods: {before:?}");

        // A data plane that cannot be had is told, and what runs goes on.
        let missing = ["--set", "image.tag=next", "--set", "dataPlane.image.tag=missing"];
        release(scene, &helm, "upgrade", &Helm::chart(), &missing).await?;
        scene
            .wait("the missing image is told", SOON, async || {
                let told = web.wait_condition("BackendsReady", "False", SOON).await?;
                let is_told = told.reason == "ImagePullFailed" && told.message.contains(":missing");
                Ok(if is_told { Ok(()) } else { Err(format!("{told:?}")) })
            })
            .await?;
        let client = scene.tor_client().await?;
        client.fetch(&onion, "with a missing image").await?;
        client.remove().await?;

        helm.run(&["rollback", DEPLOYMENT, "1", "--wait", "--timeout", "2m"]).await?;
        works(scene, "dev").await?;
        ensure!(crd(scene).await? == earlier_crd, "the CRD is not the earlier chart's again");
        web.wait_condition("Ready", "True", SOON).await?;
        scene
            .wait("the pods are those before", SOON, async || {
                let now = pods(scene).await?;
                Ok(if now == pods_before { Ok(()) } else { Err(format!("{now:?}, before {pods_before:?}")) })
            })
            .await?;
        ensure!(self::identity(scene).await? == identity, "{identity}");

        // Not pinned: every pod is replaced, and no client notices.
        let (done, rolled) = watch::channel(false);
        let roll = async {
            release(scene, &helm, "upgrade", &Helm::chart(), &["--set", "image.tag=next", "--set", TEAM]).await?;
            rolled_out(scene, &web).await?;
            done.send_replace(true);
            Ok::<_, anyhow::Error>(())
        };
        let ((), fetches) = tokio::try_join!(roll, fetch_until(scene, &onion, rolled))?;
        eprintln!("{fetches} fetches during the roll, none failed");
        ensure!(crd(scene).await? == upgraded_crd, "the CRD is not this chart's");
        let rolled = pods(scene).await?;
        let all_new = rolled.is_disjoint(&pods_before) && rolled.len() == pods_before.len();
        ensure!(all_new, "{pods_before:?}, then {rolled:?}");
        let of_team = scene.run("get pods -l team=onions,onionbalance.dev/service=web -o name").await?;
        ensure!(of_team.lines().count() >= BACKENDS, "with the label of the default template: {of_team}");

        // Without the operator all goes on.
        helm.run(&["uninstall", DEPLOYMENT, "--wait", "--timeout", "2m"]).await?;
        scene.kubectl.run(&format!("--namespace {NAMESPACE} wait --for=delete pods --all --timeout=60s")).await?;
        ensure!(self::identity(scene).await? == identity, "{identity}");
        let client = scene.tor_client().await?;
        client.fetch(&onion, "without an operator").await?;
        client.remove().await?;

        release(scene, &helm, "install", &Helm::chart(), &["--set", "image.tag=next", "--set", TEAM]).await?;
        helm.run(&["test", DEPLOYMENT, "--timeout", "2m"]).await?;
        works(scene, "next").await?;
        ensure!(self::identity(scene).await? == identity, "{identity}");
        ensure!(pods(scene).await? == rolled, "the new release took pods: {rolled:?}");
        web.wait_condition("Ready", "True", SOON).await?;
        Ok(())
    })
    .await
}

/// `helm install` or `helm upgrade` of a chart, with the test's Tor network.
async fn release(scene: &Scene, helm: &Helm, verb: &str, chart: &str, more: &[&str]) -> Result<()> {
    let network = format!("torExtraConfig={}", tor_network_file(scene)?.display());
    let mut arguments = vec![verb, DEPLOYMENT, chart, "--wait", "--timeout", "2m", "--set-file", &network];
    if verb == "install" {
        arguments.push("--create-namespace");
    }
    helm.run(&[&arguments, more].concat()).await?;
    Ok(())
}

/// What must outlive everything: object, address and key. (A generated key's Secret is immutable: the same one has the same key.)
async fn identity(scene: &Scene) -> Result<String> {
    let object = scene.run("get obs/web -o jsonpath={.metadata.uid},{.status.onionAddress}").await?;
    let key = scene.run("get secret/web-master-key -o jsonpath={.metadata.uid}").await?;
    Ok(format!("{object},{key}"))
}

/// The service's Deployments with their generations, and its pods that are not terminating, by UID and with how often their
/// containers were started again.
async fn data_plane(scene: &Scene) -> Result<BTreeSet<String>> {
    living(scene, "deployments,pods").await
}

/// Of these, the pods alone.
async fn pods(scene: &Scene) -> Result<BTreeSet<String>> {
    living(scene, "pods").await
}

async fn living(scene: &Scene, kinds: &str) -> Result<BTreeSet<String>> {
    let list = scene.run(&format!("get {kinds} -l onionbalance.dev/service=web -o json")).await?;
    let list: Value = serde_json::from_str(&list)?;
    let objects = list["items"].as_array().context("a list")?;
    let there = objects.iter().filter(|object| object["metadata"].get("deletionTimestamp").is_none());
    Ok(there
        .map(|object| {
            let (metadata, containers) = (&object["metadata"], &object["status"]["containerStatuses"]);
            let restarts: Vec<_> =
                containers.as_array().into_iter().flatten().map(|status| status["restartCount"].to_string()).collect();
            format!("{} {} {} {restarts:?}", metadata["name"], metadata["uid"], metadata["generation"])
        })
        .collect())
}

/// Waits until an operator of this tag is there alone and has done something: it puts back a child that is deleted.
async fn works(scene: &Scene, tag: &str) -> Result<()> {
    let expected = format!("{IMAGE}:{tag}");
    scene
        .wait(&format!("the only operator runs {expected}"), SOON, async || {
            let path = "jsonpath={.items[*].spec.containers[*].image}";
            let images = scene
                .kubectl
                .run(&format!("--namespace {NAMESPACE} get pods -l app.kubernetes.io/instance={DEPLOYMENT} -o {path}"))
                .await?;
            Ok(if images == expected { Ok(()) } else { Err(images) })
        })
        .await?;
    let uid = async || scene.run("get service/web-backend --ignore-not-found -o jsonpath={.metadata.uid}").await;
    // Before the second look the first has come to its end, Deployments included.
    for _ in 0..2 {
        let before = uid().await?;
        scene.run("delete service/web-backend --wait=false").await?;
        scene
            .wait("the operator puts a Service back", SOON, async || {
                let now = uid().await?;
                Ok(if now.is_empty() || now == before { Err(now) } else { Ok(()) })
            })
            .await?;
    }
    Ok(())
}

/// Waits until every pod of the service runs the image `next`, and is published.
async fn rolled_out(scene: &Scene, web: &Service) -> Result<()> {
    for (component, container) in [("backend", "agent"), ("frontend", "publisher")] {
        let path = format!("jsonpath={{.spec.template.spec.containers[?(@.name==\"{container}\")].image}}");
        scene
            .wait(&format!("{component}s get the next image"), SOON, async || {
                let image = scene.run(&format!("get deployment/web-{component} -o {path}")).await?;
                Ok(if image == format!("{IMAGE}:next") { Ok(()) } else { Err(image) })
            })
            .await?;
        scene.run(&format!("rollout status deployment/web-{component} --timeout=180s")).await?;
    }
    web.wait_published(BACKENDS, PUBLISHED).await?;
    web.wait_condition("Ready", "True", SOON).await?;
    Ok(())
}

/// Fetches one after another until told to stop, every third time with a descriptor that is fresh from an HSDir; gives their number.
async fn fetch_until(scene: &Scene, onion: &str, mut stop: watch::Receiver<bool>) -> Result<usize> {
    let client = scene.tor_client().await?;
    let mut fetches = 0;
    while !*stop.borrow_and_update() {
        if fetches % 3 == 0 {
            client.forget(onion).await?;
        }
        client.fetch(onion, &format!("roll {fetches}")).await.with_context(|| format!("fetch {fetches} failed"))?;
        fetches += 1;
    }
    client.remove().await?;
    ensure!(fetches > 0, "nothing was fetched");
    Ok(fetches)
}

/// The schema of the CRD that the cluster has.
async fn crd(scene: &Scene) -> Result<Value> {
    let crd: Value = serde_json::from_str(&scene.kubectl.run(&format!("get {CRD} -o json")).await?)?;
    Ok(crd["spec"]["versions"].clone())
}
