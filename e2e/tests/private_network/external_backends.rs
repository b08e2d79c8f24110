//! Checks external backends, which are stock tor processes that publish their own descriptors. The
//! backends must serve clients both alone and together with a backend that has an agent.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::wait::{Seen, until};

use crate::data_plane::DataPlane;
use crate::{NETWORK, first_page, serving_backends};

/// The number of the backend with an agent.
const AGENT: usize = 0;
/// The numbers of the external backends.
const EXTERNAL: [usize; 2] = [1, 2];

#[tokio::test]
async fn external_backends_serve_and_their_new_points_are_published() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut plane = DataPlane::start_with_external(1, EXTERNAL.len()).await?;
    let outcome = scenario(&mut plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &mut DataPlane) -> Result<()> {
    first_page(plane).await?;
    points_of_external_ones_are_published(plane).await?;
    let all = BTreeSet::from([AGENT, EXTERNAL[0], EXTERNAL[1]]);
    ensure!(serving_backends(plane, &all).await? == all);

    // One external backend dies. Its HSDirs still return its old descriptor, which the publisher
    // fetches repeatedly.
    let dead = EXTERNAL[1];
    let old = plane.descriptor_of(&plane.external()[1]).await?;
    let old: BTreeSet<String> = old.auth_keys().into_iter().map(str::to_owned).collect();
    plane.kill_external(dead)?;
    let before = found(plane).await?;
    until("the dead backend's descriptor has been fetched eight more times", Duration::from_secs(90), async || {
        let fetches = found(plane).await? - before;
        Ok(if fetches >= 8 { Seen::Yes(()) } else { Seen::NotYet(format!("{fetches} fetches")) })
    })
    .await?;

    // The backend's tor starts again with new points, which replace the old ones.
    plane.restart_external(dead)?;
    until("the restarted backend's new points have replaced the old ones", Duration::from_secs(120), async || {
        let merged = plane.descriptor().await?;
        let left = merged.auth_keys().iter().filter(|key| old.contains(**key)).count();
        Ok(if left == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{left} old points are left")) })
    })
    .await?;
    points_of_external_ones_are_published(plane).await?;
    ensure!(serving_backends(plane, &all).await? == all);

    // The external backends work without any backend that has an agent.
    plane.kill_backend(AGENT)?;
    let external = BTreeSet::from(EXTERNAL);
    until("the backend with an agent is lost", Duration::from_secs(45), async || {
        let lost = plane.metric("backends").await?.get("{state=\"Lost\"}").copied();
        Ok(if lost == Some(1) { Seen::Yes(()) } else { Seen::NotYet(format!("{lost:?} are lost")) })
    })
    .await?;
    points_of_external_ones_are_published(plane).await?;
    ensure!(serving_backends(plane, &external).await? == external, "the external backends must continue to serve");
    Ok(())
}

async fn found(plane: &DataPlane) -> Result<u64> {
    let fetches = plane.metric("external_fetches_total").await?;
    fetches.get("{result=\"found\"}").copied().context("the publisher counts no fetches")
}

/// Waits until the merged descriptor contains at least one point of each external backend's own
/// descriptor.
async fn points_of_external_ones_are_published(plane: &DataPlane) -> Result<()> {
    until("the descriptor has points of every external backend", Duration::from_secs(120), async || {
        let merged = plane.descriptor().await?;
        let merged = merged.auth_keys();
        for address in plane.external() {
            let own = plane.descriptor_of(address).await?;
            if own.auth_keys().is_disjoint(&merged) {
                return Ok(Seen::NotYet(format!("it has no point of {address}")));
            }
        }
        Ok(Seen::Yes(()))
    })
    .await
}
