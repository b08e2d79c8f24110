//! Backends outside the cluster, named in the object: a stock tor alone, beside a pod, and taken out again.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::fetches::caller;
use onionbalance_e2e::service::Service;
use onionbalance_operator::crd::{BackendState, BackendStatus};

use crate::scene::{PUBLISHED, SOON, Scene, scene};
use crate::target;

/// What the web server outside answers with: no pod's page.
const OUTSIDE: usize = 7;

#[tokio::test]
async fn a_tor_outside_serves_alone_beside_a_pod_and_not_once_it_is_taken_out() -> Result<()> {
    scene("external", async |scene| {
        let web = scene.apply("web", &spec("backends: {replicas: 0}")).await?;
        let onion = web.onion_address().await?;
        let (tor, address) = scene.tor_outside(&onion, &target::serve(OUTSIDE).await?).await?;
        let outside = format!("externalBackends: [{{onionAddress: {address}}}]");
        scene.apply("web", &spec(&format!("backends: {{replicas: 0}}\n  {outside}"))).await?;
        web.wait_told("BackendsReady", "True", "OnlyExternal", "spec.backends.replicas is 0;", SOON).await?;
        is_published_with(scene, &web, Some(&address), 0).await?;
        web.wait_condition("Ready", "True", SOON).await?;
        let alone = BTreeSet::from([OUTSIDE.to_string()]);
        ensure!(who_serves(scene, &onion, &alone).await? == alone);

        scene.apply("web", &spec(&format!("backends: {{replicas: 1, drainTimeoutSeconds: 5}}\n  {outside}"))).await?;
        is_published_with(scene, &web, Some(&address), 1).await?;
        let pods: BTreeSet<_> = web.backends().await?.into_iter().map(|pod| pod.address).collect();
        let both: BTreeSet<_> = alone.union(&pods).cloned().collect();
        ensure!(who_serves(scene, &onion, &both).await? == both);

        // Taken out of the list, it goes on as a service of its own; at the common address none of its points is left.
        scene.apply("web", &spec("backends: {replicas: 1, drainTimeoutSeconds: 5}")).await?;
        is_published_with(scene, &web, None, 1).await?;
        let client = scene.tor_client().await?;
        let own = Descriptor::fetch(client.tor(), &address).await.context("its own descriptor")?;
        let merged = Descriptor::fetch(client.tor(), &onion).await?;
        client.remove().await?;
        ensure!(own.auth_keys().is_disjoint(&merged.auth_keys()), "its points are still published");
        ensure!(who_serves(scene, &onion, &pods).await? == pods);
        tor.remove().await
    })
    .await
}

fn spec(backends: &str) -> String {
    format!("  ports: [{{port: 80, target: {{service: {{name: web, port: http}}}}}}]\n  {backends}\n")
}

/// Waits until status names the tor outside, or no such one, and so many pods, all of them Ready with points that add up to what
/// all responsible HSDirs have.
async fn is_published_with(scene: &Scene, web: &Service, outside: Option<&String>, pods: usize) -> Result<()> {
    let what = format!("published with {outside:?} outside and {pods} pods");
    scene
        .wait(&what, PUBLISHED, async || {
            let status = web.status().await?;
            let mut expected: BTreeSet<String> = web.backends().await?.into_iter().map(|pod| pod.name).collect();
            let has_pods = expected.len() == pods;
            expected.extend(outside.cloned());
            let named: BTreeSet<String> = status.backends.iter().map(|backend| backend.name.clone()).collect();
            let serves = |backend: &BackendStatus| {
                let own_address = outside
                    .is_none_or(|outside| backend.name != *outside || backend.onion_address.as_ref() == Some(outside));
                backend.state == BackendState::Ready && backend.introduction_points > 0 && own_address
            };
            let points: u32 = status.backends.iter().map(|backend| backend.introduction_points).sum();
            // In each period's descriptor; the two begin alike.
            let on_hsdirs = status
                .published
                .iter()
                .all(|period| period.introduction_points == points && period.hsdirs_accepted == period.hsdirs_total);
            let done = has_pods
                && named == expected
                && status.backends.iter().all(serves)
                && !status.published.is_empty()
                && on_hsdirs;
            Ok(if done { Ok(()) } else { Err(format!("{:?} {:?}", status.backends, status.published)) })
        })
        .await
}

/// Fetches through clients without any state, all of which must succeed, until these have served, by their pages or pods.
async fn who_serves(scene: &Scene, onion: &str, expected: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    // One of two is missed by all with a chance of 1 in 16 million, if they have as many points; one alone needs no more than a few.
    const CLIENTS: usize = 4;
    const FETCHES_PER_CLIENT: usize = 6;
    let mut seen = BTreeSet::new();
    for _ in 0..CLIENTS {
        let client = scene.tor_client().await?;
        for number in 0..FETCHES_PER_CLIENT {
            let page = client.fetch(onion, &number.to_string()).await.context("a fetch failed")?;
            seen.insert(caller(&page).context("a page says who served")?.to_owned());
        }
        client.remove().await?;
        if expected.is_subset(&seen) {
            break;
        }
    }
    Ok(seen)
}
