//! Checks restricted discovery with real Tor clients.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::onion::ClientSecretKey;

use crate::NETWORK;
use crate::data_plane::DataPlane;

#[tokio::test]
async fn a_client_with_a_key_connects_and_a_revoked_client_does_not() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut plane = DataPlane::start(2).await?;
    let outcome = scenario(&mut plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &mut DataPlane) -> Result<()> {
    let [alice_key, bob_key] = [[1; 32], [2; 32]].map(ClientSecretKey::from_bytes);
    plane.restrict(&[alice_key.public(), bob_key.public()]).await?;
    is_published(plane).await?;
    let alice = plane.client_with_key(&alice_key).await?;
    let bob = plane.client_with_key(&bob_key).await?;
    let stranger = plane.client().await?;
    for client in [&alice, &bob] {
        client.fetch(plane.onion(), "first").await.context("an authorized client could not connect")?;
    }
    refused(&stranger, plane, "requires a client key").await?;

    plane.restrict(&[alice_key.public()]).await?;
    is_published(plane).await?;
    for client in [&alice, &bob] {
        client.forget(plane.onion()).await?;
    }
    refused(&bob, plane, "does not know this client's key").await?;
    alice.fetch(plane.onion(), "second").await.context("a client that is still authorized could not connect")?;

    plane.restrict(&[]).await?;
    is_published(plane).await?;
    plane
        .client()
        .await?
        .fetch(plane.onion(), "open")
        .await
        .context("a client could not connect to the open service")?;
    Ok(())
}

/// Waits until all responsible HSDirs hold the running publisher's descriptors, with points of both
/// backends.
async fn is_published(plane: &DataPlane) -> Result<()> {
    until("the HSDirs have the newest descriptors", Duration::from_secs(120), async || {
        plane.check()?;
        // The publisher might not be listening yet.
        let Ok(points) = plane.metric("introduction_points").await else { return Ok(Seen::not_yet("no metrics")) };
        let (accepted, total) = (plane.metric("hsdirs_accepted").await?, plane.metric("hsdirs").await?);
        let done = points.len() == 2 && points.values().all(|points| *points > 3) && accepted == total;
        Ok(if done { Seen::Yes(()) } else { Seen::NotYet(format!("{points:?} {accepted:?} of {total:?}")) })
    })
    .await
}

async fn refused(client: &TorClient, plane: &DataPlane, why: &str) -> Result<()> {
    let outcome = client.fetch(plane.onion(), "refused").await;
    let error = outcome.err().context("an unauthorized client connected")?;
    ensure!(format!("{error:#}").contains(why), "{error:#}");
    Ok(())
}
