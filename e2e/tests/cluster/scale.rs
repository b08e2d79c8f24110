//! Checks that every backend serves pages at any scale, and that the descriptor contains only
//! points of existing backends.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::chance::fetches_to_reach_all;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::fetches::{FETCHES_PER_CLIENT, caller, fetch_until, own_points};
use onionbalance_e2e::service::Service;
use onionbalance_e2e::spread::{MOST_FETCHES, Verdict};
use serde_json::Value;

use crate::scene::{FRONTEND, PUBLISHED, SOON, Scene, scene};

#[tokio::test]
async fn every_backend_serves_when_scaled_from_three_to_five_to_two() -> Result<()> {
    scene("scale", async |scene| {
        let web = scene.apply("web", SPEC).await?;
        web.wait_published(3, PUBLISHED).await?;
        let frontend = scene.running(FRONTEND).await?;
        all_serve_their_shares(scene, &web).await?;

        scene.run("scale obs/web --replicas=5").await?;
        web.wait_published(5, PUBLISHED).await?;
        all_serve(scene, &web, 5).await?;

        scene.run("scale obs/web --replicas=2").await?;
        only_these_are_in_the_descriptor(scene, &web, 2).await?;
        all_serve(scene, &web, 2).await?;
        ensure!(scene.running(FRONTEND).await? == frontend, "scaling replaced or restarted the publisher's pod");
        the_publisher_fits_its_request(scene).await
    })
    .await
}

/// The number of introduction points of each backend.
const POINTS: u32 = 3;

const SPEC: &str = "  ports:
  - {port: 80, target: {service: {name: web, port: http}}}
  backends: {replicas: 3, drainTimeoutSeconds: 5}
";

/// Fetches pages until the counts show whether each backend serves its share of the points. Checks
/// that each backend does, and that no fetch fails.
async fn all_serve_their_shares(scene: &Scene, web: &Service) -> Result<()> {
    let spread = fetch_until(
        web,
        async || scene.tor_client().await,
        |spread| spread.verdict() != Verdict::Open || spread.fetches() >= MOST_FETCHES,
        |_, last| {
            eprintln!("{last}");
            Ok(())
        },
    )
    .await?;
    println!("figure spread_fetches {} fetches", spread.fetches());
    println!("figure spread_stale_s {:.1} s", spread.longest_stale().as_secs_f64());
    ensure!(spread.verdict() == Verdict::Fair, "the fetches are not spread fairly: {spread:?}");
    Ok(())
}

/// Fetches pages until each backend has answered. A client keeps its descriptor, so a new client
/// takes over after every few fetches.
async fn all_serve(scene: &Scene, web: &Service, backends: u32) -> Result<()> {
    let onion = web.onion_address().await?;
    let expected: BTreeSet<String> = web.backends().await?.into_iter().map(|pod| pod.address).collect();
    ensure!(expected.len() == usize::try_from(backends)?, "there are {} backend pods", expected.len());
    let mut seen = BTreeSet::new();
    let clients = fetches_to_reach_all(backends, POINTS * backends).div_ceil(FETCHES_PER_CLIENT);
    for _ in 0..clients {
        let client = scene.tor_client().await?;
        for number in 0..FETCHES_PER_CLIENT {
            let page = client.fetch(&onion, &number.to_string()).await.context("a fetch failed")?;
            let address = caller(&page).context("the page does not name its caller")?;
            ensure!(expected.contains(address), "{address} answered, but is not one of {expected:?}");
            seen.insert(address.to_owned());
        }
        client.remove().await?;
        if seen == expected {
            return Ok(());
        }
    }
    anyhow::bail!("only {seen:?} of {expected:?} answered")
}

/// Waits until stem finds only points of the existing backends in the merged descriptor, and at
/// least one point of each of them.
async fn only_these_are_in_the_descriptor(scene: &Scene, web: &Service, backends: usize) -> Result<()> {
    let onion = web.onion_address().await?;
    scene
        .wait(&format!("the descriptor has the points of {backends} backends"), SOON, async || {
            let (pods, of_each) = own_points(web).await?;
            if pods.len() != backends {
                return Ok(Err(format!("there are {} pods", pods.len())));
            }
            let client = scene.tor_client().await?;
            let descriptor = Descriptor::fetch(client.tor(), &onion).await?;
            client.remove().await?;
            let merged = descriptor.auth_keys();
            let strangers = merged.iter().filter(|key| !of_each.iter().any(|own| own.contains(**key))).count();
            let absent = of_each.iter().filter(|own| !own.iter().any(|key| merged.contains(key.as_str()))).count();
            Ok(match (strangers, absent) {
                (0, 0) => Ok(()),
                _ => Err(format!(
                    "{strangers} points belong to none of these backends, and {absent} backends have no point"
                )),
            })
        })
        .await
}

/// Checks that the publisher's container uses less memory than the operator requests for it by
/// default. The kubelet measures the memory.
async fn the_publisher_fits_its_request(scene: &Scene) -> Result<()> {
    let pods: Value = serde_json::from_str(&scene.run(&format!("get pods -l {FRONTEND} -o json")).await?)?;
    let (pod, node) = (&pods["items"][0]["metadata"]["name"], &pods["items"][0]["spec"]["nodeName"]);
    let is_publisher = |container: &&Value| container["name"] == "publisher";
    let containers = pods["items"][0]["spec"]["containers"].as_array().context("the pod has no containers")?;
    let publisher = containers.iter().find(is_publisher).context("the pod has no publisher")?;
    let request = publisher["resources"]["requests"]["memory"].as_str().and_then(|text| text.strip_suffix("Mi"));
    let request: u64 = request.context("the publisher requests no memory in Mi")?.parse()?;

    let node = node.as_str().context("the pod has no node")?;
    let stats = scene.kubectl.run(&format!("get --raw /api/v1/nodes/{node}/proxy/stats/summary")).await?;
    let stats: Value = serde_json::from_str(&stats)?;
    let of_pods = stats["pods"].as_array().context("the kubelet reports no pods")?;
    let of_pod = of_pods.iter().find(|stats| {
        stats["podRef"]["name"] == *pod && stats["podRef"]["namespace"].as_str() == Some(scene.namespace())
    });
    let containers = of_pod.and_then(|stats| stats["containers"].as_array()).context("the kubelet omits the pod")?;
    let memory = &containers.iter().find(is_publisher).context("the kubelet omits the publisher")?["memory"];
    let bytes = memory["workingSetBytes"].as_u64().with_context(|| format!("no working set in {memory}"))?;
    let kib = bytes / 1024;
    println!("figure publisher_in_pod_kib {kib} KiB");
    ensure!(kib > 1024 && kib < request * 1024, "the publisher uses {kib} KiB and requests {request} MiB: {memory}");
    Ok(())
}
