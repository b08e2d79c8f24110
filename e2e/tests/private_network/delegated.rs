//! Checks a service that is published with signing kits instead of the master key.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::wait::{Seen, until};
use tokio::time::sleep;

use crate::NETWORK;
use crate::data_plane::{DataPlane, Published};

/// The number of changes of the time period that the long test watches.
const CHANGES: usize = 4;

#[tokio::test]
async fn a_service_moves_to_a_kit_and_a_new_kit_extends_it() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut plane = DataPlane::start(2).await?;
    let outcome = scenario(&mut plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &mut DataPlane) -> Result<()> {
    is_published(plane, 2).await?;
    let client = plane.client().await?;
    client.fetch(plane.onion(), "online").await.context("the online service does not answer")?;

    // The kit covers only one of the two time periods.
    plane.delegate(Published::Newer, 1).await?;
    is_published(plane, 1).await?;
    ensure!(plane.metric("signing_keys_missing").await?.values().any(|missing| *missing > 0));
    // A longer kit takes effect without a restart.
    plane.write_kit(Published::Older, 12)?;
    is_published(plane, 2).await?;
    client.forget(plane.onion()).await?;
    client.fetch(plane.onion(), "delegated").await.context("the delegated service does not answer")?;
    plane.arti_client().await?.fetch(plane.onion(), "arti").await.context("arti's fetch failed")?;
    plane.no_secret_is_in_a_log()
}

#[tokio::test]
#[ignore = "takes about 40 minutes"]
async fn no_change_of_the_time_period_fails_a_request() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut plane = DataPlane::start(2).await?;
    let outcome = watch_changes(&mut plane).await;
    plane.end(outcome)
}

async fn watch_changes(plane: &mut DataPlane) -> Result<()> {
    plane.delegate(Published::Older, 12).await?;
    is_published(plane, 2).await?;
    let client = plane.client().await?;
    let (mut periods, mut number) = (Vec::new(), 0_u32);
    while periods.len() <= CHANGES {
        plane.check()?;
        let newest = plane.metric("revision").await?.into_keys().max().context("no time period is published")?;
        if periods.last() != Some(&newest) {
            periods.push(newest);
        }
        client.forget(plane.onion()).await?;
        let page = client.fetch(plane.onion(), &number.to_string()).await;
        page.with_context(|| format!("request {number} failed, with the time periods {periods:?}"))?;
        number += 1;
        sleep(Duration::from_secs(5)).await;
    }
    client.remove().await
}

/// Waits until all responsible HSDirs hold the running publisher's descriptors for this number of
/// time periods.
async fn is_published(plane: &DataPlane, periods: usize) -> Result<()> {
    until("the HSDirs have the newest descriptors", Duration::from_secs(120), async || {
        plane.check()?;
        // The publisher might not be listening yet.
        let Ok(points) = plane.metric("introduction_points").await else { return Ok(Seen::not_yet("no metrics")) };
        let (accepted, total) = (plane.metric("hsdirs_accepted").await?, plane.metric("hsdirs").await?);
        let done = points.len() == periods && points.values().all(|points| *points > 3) && accepted == total;
        Ok(if done { Seen::Yes(()) } else { Seen::NotYet(format!("{points:?} {accepted:?} of {total:?}")) })
    })
    .await
}
