//! Checks a service that is published with signing kits instead of the master key.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::control::{Connector, ControlError};
use tokio::time::sleep;

use crate::NETWORK;
use crate::data_plane::{DataPlane, Published};
use crate::stock::{Sample, compare};

/// The number of time periods whose descriptors the long test compares.
const PERIODS: usize = 5;
/// The number of introduction points of a service with one backend.
const POINTS: usize = 3;

#[tokio::test]
async fn a_service_moves_to_a_kit_and_a_new_kit_extends_it() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut plane = DataPlane::start(2).await?;
    let outcome = scenario(&mut plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &mut DataPlane) -> Result<()> {
    is_published(plane, 2, 4).await?;
    let client = plane.client().await?;
    client.fetch(plane.onion(), "online").await.context("the online service does not answer")?;

    // The kit covers only one of the two time periods.
    plane.delegate(Published::Newer, 1).await?;
    is_published(plane, 1, 4).await?;
    ensure!(plane.metric("signing_keys_missing").await?.values().any(|missing| *missing > 0));
    // A longer kit takes effect without a restart.
    plane.write_kit(Published::Older, 12)?;
    is_published(plane, 2, 4).await?;
    client.forget(plane.onion()).await?;
    client.fetch(plane.onion(), "delegated").await.context("the delegated service does not answer")?;
    plane.arti_client().await?.fetch(plane.onion(), "arti").await.context("arti's fetch failed")?;
    plane.no_secret_is_in_a_log()
}

#[tokio::test]
#[ignore = "takes about 30 minutes"]
async fn a_delegated_service_looks_like_an_online_one_in_each_time_period() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut delegated = DataPlane::start(1).await?;
    let outcome = side_by_side(&mut delegated).await;
    delegated.end(outcome)
}

/// Starts an online service beside the service, which it delegates.
async fn side_by_side(delegated: &mut DataPlane) -> Result<()> {
    let online = delegated.beside(1).await?;
    let outcome = watch_changes(delegated, &online).await;
    online.end(outcome)
}

/// Sends requests to both services, of which none may fail, and compares their descriptors in each
/// time period. One client always fetches new descriptors, and another one keeps those that it has.
async fn watch_changes(delegated: &mut DataPlane, online: &DataPlane) -> Result<()> {
    delegated.delegate(Published::Older, 12).await?;
    for plane in [&*delegated, online] {
        is_published(plane, 2, POINTS as u64).await?;
    }
    let (newcomer, regular) = (delegated.client().await?, delegated.client().await?);
    let (mut periods, mut number) = (Vec::new(), 0_u32);
    while periods.len() < PERIODS {
        newcomer.forget(delegated.onion()).await?;
        for (name, plane) in [("delegated", &*delegated), ("online", online)] {
            plane.check()?;
            for (whose, client) in [("newcomer", &newcomer), ("regular client", &regular)] {
                let page = client.fetch(plane.onion(), &number.to_string()).await;
                page.with_context(|| format!("request {number} of the {whose} to the {name} service, {periods:?}"))?;
            }
        }
        number += 1;
        let period = Descriptor::decode(&held(&newcomer, delegated).await?.text, delegated.onion()).await?.blinded_key;
        if periods.last() != Some(&period) {
            look_alike(&newcomer, delegated, online).await.with_context(|| format!("after {periods:?}"))?;
            arti_connects(delegated, online).await?;
            println!("{number} requests of each client: the descriptors of {period} look alike");
            periods.push(period);
        }
        sleep(Duration::from_secs(5)).await;
    }
    for plane in [&*delegated, online] {
        plane.no_secret_is_in_a_log()?;
    }
    newcomer.remove().await?;
    regular.remove().await
}

/// Returns the descriptor that a client has accepted. If the client has dropped the descriptor
/// because the time period has changed, another request makes the client fetch the next one.
async fn held(client: &TorClient, plane: &DataPlane) -> Result<Sample> {
    let (control, _events) = Connector::unix(client.tor().control_socket()).connect().await?;
    let key = format!("hs/client/desc/id/{}", plane.onion().trim_end_matches(".onion"));
    let address = plane.onion().parse()?;
    until("the client holds a descriptor", Duration::from_secs(120), async || match control.get_info(&key).await {
        Ok(text) => Ok(Seen::Yes(Sample { text, address })),
        Err(error @ ControlError::Refused { code: 551, .. }) => {
            client.fetch(plane.onion(), "dropped").await.context("the request in the new time period failed")?;
            Ok(Seen::NotYet(error.to_string()))
        }
        Err(error) => Err(error.into()),
    })
    .await
}

/// Checks that the new descriptors of both services differ in no layer, apart from random parts,
/// and that stem accepts them. A backend's tor may be replacing an introduction point, so
/// descriptors are fetched until both have the usual number of points.
async fn look_alike(client: &TorClient, delegated: &DataPlane, online: &DataPlane) -> Result<()> {
    until("both services have their usual introduction points", Duration::from_secs(120), async || {
        client.forget(delegated.onion()).await?;
        let (mut samples, mut counts) = (Vec::new(), Vec::new());
        for plane in [delegated, online] {
            client.fetch(plane.onion(), "compared").await.context("the comparison's request failed")?;
            let sample = held(client, plane).await?;
            counts.push(Descriptor::decode(&sample.text, plane.onion()).await?.points.len());
            samples.push(sample);
        }
        if counts != [POINTS; 2] {
            return Ok(Seen::NotYet(format!("{counts:?} points")));
        }
        compare(&samples[0], &samples[1], None).context("the delegated service differs from the online one")?;
        Ok(Seen::Yes(()))
    })
    .await
}

/// Checks that an arti client without any state can use the descriptors of both services.
async fn arti_connects(delegated: &DataPlane, online: &DataPlane) -> Result<()> {
    let client = delegated.arti_client().await?;
    for (name, plane) in [("delegated", delegated), ("online", online)] {
        client.fetch(plane.onion(), name).await.with_context(|| format!("arti's request to the {name} service"))?;
    }
    client.remove().await
}

/// Waits until all responsible HSDirs hold the running publisher's descriptors for this number of
/// time periods, with at least this number of introduction points.
async fn is_published(plane: &DataPlane, periods: usize, least: u64) -> Result<()> {
    until("the HSDirs have the newest descriptors", Duration::from_secs(120), async || {
        plane.check()?;
        // The publisher might not be listening yet.
        let Ok(points) = plane.metric("introduction_points").await else { return Ok(Seen::not_yet("no metrics")) };
        let (accepted, total) = (plane.metric("hsdirs_accepted").await?, plane.metric("hsdirs").await?);
        let done = points.len() == periods && points.values().all(|points| *points >= least) && accepted == total;
        Ok(if done { Seen::Yes(()) } else { Seen::NotYet(format!("{points:?} {accepted:?} of {total:?}")) })
    })
    .await
}
