//! Checks an external backend, that is, a stock tor that the object lists. The tor first serves
//! alone and then together with a pod. Finally, it is removed from the list.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::chance::fetches_to_reach_all;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::fetches::{FETCHES_PER_CLIENT, caller};
use onionbalance_e2e::service::Service;
use onionbalance_operator::crd::{BackendState, BackendStatus};

use crate::scene::{PUBLISHED, SOON, Scene, scene};
use crate::target;

/// The page of the external backend's web server, which differs from every pod's page.
const OUTSIDE: usize = 7;
/// The number of introduction points of each backend.
const POINTS: u32 = 3;

#[tokio::test]
async fn an_external_tor_serves_alone_and_with_a_pod_until_it_is_removed() -> Result<()> {
    scene("external", async |scene| {
        let web = scene.apply("web", &spec("backends: {replicas: 0}")).await?;
        let onion = web.onion_address().await?;
        let (tor, address) = scene.tor_outside(&onion, &target::serve(OUTSIDE).await?).await?;
        let outside = format!("externalBackends: [{{onionAddress: {address}}}]");
        scene.apply("web", &spec(&format!("backends: {{replicas: 0}}\n  {outside}"))).await?;
        web.wait_condition_message("BackendsReady", "True", "OnlyExternal", "spec.backends.replicas is 0;", SOON)
            .await?;
        wait_published_with(scene, &web, Some(&address), 0).await?;
        web.wait_condition("Ready", "True", SOON).await?;
        let alone = BTreeSet::from([OUTSIDE.to_string()]);
        ensure!(serving_backends(scene, &onion, &alone).await? == alone);

        scene.apply("web", &spec(&format!("backends: {{replicas: 1, drainTimeoutSeconds: 5}}\n  {outside}"))).await?;
        wait_published_with(scene, &web, Some(&address), 1).await?;
        let pods: BTreeSet<_> = web.backends().await?.into_iter().map(|pod| pod.address).collect();
        let both: BTreeSet<_> = alone.union(&pods).cloned().collect();
        ensure!(serving_backends(scene, &onion, &both).await? == both);

        // After its removal from the list, the tor continues as a service of its own, but none of
        // its points is left in the descriptor of the common address.
        scene.apply("web", &spec("backends: {replicas: 1, drainTimeoutSeconds: 5}")).await?;
        wait_published_with(scene, &web, None, 1).await?;
        let client = scene.tor_client().await?;
        let own = Descriptor::fetch(client.tor(), &address)
            .await
            .context("could not fetch the external backend's own descriptor")?;
        let merged = Descriptor::fetch(client.tor(), &onion).await?;
        client.remove().await?;
        ensure!(own.auth_keys().is_disjoint(&merged.auth_keys()), "the external backend's points are still published");
        ensure!(serving_backends(scene, &onion, &pods).await? == pods);
        tor.remove().await
    })
    .await
}

fn spec(backends: &str) -> String {
    format!("  ports: [{{port: 80, target: {{service: {{name: web, port: http}}}}}}]\n  {backends}\n")
}

/// Waits until the status lists the given number of pods and, if given, the external backend. All
/// of them must be Ready. Each published descriptor must have as many introduction points as all
/// these backends together, and all responsible HSDirs must have accepted the descriptor.
async fn wait_published_with(scene: &Scene, web: &Service, outside: Option<&String>, pods: usize) -> Result<()> {
    let what = format!("the service is published with the external backend {outside:?} and {pods} pods");
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
            // The descriptor of each time period contains all of these points, because both
            // descriptors start with the same points.
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

/// Fetches through clients without saved state until all expected backends have served a page.
/// Every fetch must succeed. Returns the addresses or pages of the backends that served.
async fn serving_backends(scene: &Scene, onion: &str, expected: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let backends = u32::try_from(expected.len())?;
    let mut seen = BTreeSet::new();
    for _ in 0..fetches_to_reach_all(backends, POINTS * backends).div_ceil(FETCHES_PER_CLIENT) {
        let client = scene.tor_client().await?;
        for number in 0..FETCHES_PER_CLIENT {
            let page = client.fetch(onion, &number.to_string()).await.context("a fetch failed")?;
            seen.insert(caller(&page).context("the page does not name the backend that served it")?.to_owned());
        }
        client.remove().await?;
        if expected.is_subset(&seen) {
            break;
        }
    }
    Ok(seen)
}
