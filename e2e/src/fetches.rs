//! Fetches pages from a service through clients without saved state, counts which backend served
//! each, and compares the counts with the backends' shares of the introduction points.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::agent;
use crate::descriptor::Descriptor;
use crate::service::{BackendPod, Service};
use crate::spread::Spread;
use crate::torclient::TorClient;
use crate::wait::{Seen, until};

/// The number of fetches that [`fetch_all`] makes.
pub const FETCHES: usize = 60;
/// The number of fetches that one client makes with the same descriptor before the next client
/// takes over.
pub const FETCHES_PER_CLIENT: usize = 6;

/// Makes [`FETCHES`] fetches from a published service. `fresh_client` starts a client. After each
/// fetch, `show` receives the counts and the outcome.
pub async fn fetch_all(
    service: &Service,
    fresh_client: impl AsyncFn() -> Result<TorClient>,
    mut show: impl FnMut(&Spread, &str) -> Result<()>,
) -> Result<Spread> {
    let onion = service.onion_address().await?;
    let mut spread = Spread::default();
    let mut next = Some(fresh_client().await?);
    for batch in 1..=FETCHES / FETCHES_PER_CLIENT {
        let client = next.take().context("no client was started for this batch")?;
        let is_last = batch == FETCHES / FETCHES_PER_CLIENT;
        let prepare = async { if is_last { Ok(None) } else { fresh_client().await.map(Some) } };
        let (fetched, prepared) = tokio::join!(fetch_batch(&client, service, &onion, &mut spread, &mut show), prepare);
        fetched?;
        next = prepared?;
        client.remove().await?;
    }
    Ok(spread)
}

async fn fetch_batch(
    client: &TorClient,
    service: &Service,
    onion: &str,
    spread: &mut Spread,
    show: &mut impl FnMut(&Spread, &str) -> Result<()>,
) -> Result<()> {
    let (pods, points) = shares(client, service, onion).await?;
    for number in 0..FETCHES_PER_CLIENT {
        spread.expect(&points);
        let start = Instant::now();
        let outcome = match client.fetch(onion, &format!("fetch {number}")).await {
            Ok(body) => {
                let caller = caller(&body);
                let pod = pods.iter().find(|pod| Some(pod.address.as_str()) == caller);
                let name = pod.map_or_else(|| format!("unknown pod {caller:?}"), |pod| pod.name.clone());
                spread.served(&name);
                format!("{name} answered")
            }
            Err(error) => {
                spread.failed();
                format!("failed: {error:#}")
            }
        };
        show(spread, &format!("{outcome} after {:.1} s", start.elapsed().as_secs_f64()))?;
    }
    Ok(())
}

/// Returns the backends, and the number of introduction points in the descriptor by backend name.
/// The backends' own tor processes report their points; an independent decoder reads the points
/// that the HSDirs hold. If a published point belongs to no backend, the check is repeated, because
/// the backend's tor may just have replaced that point.
async fn shares(
    client: &TorClient,
    service: &Service,
    onion: &str,
) -> Result<(Vec<BackendPod>, BTreeMap<String, u32>)> {
    const LIMIT: Duration = Duration::from_secs(60);
    until("each introduction point in the descriptor belongs to a backend", LIMIT, async || {
        let (pods, own) = own_points(service).await?;
        let descriptor = Descriptor::fetch(client.tor(), onion).await?;
        let published = descriptor.auth_keys();
        let mut points = BTreeMap::new();
        for (pod, own) in pods.iter().zip(&own) {
            let count = own.iter().filter(|key| published.contains(key.as_str())).count();
            points.insert(pod.name.clone(), u32::try_from(count)?);
        }
        let sum: u32 = points.values().sum();
        let is_whole = sum > 0 && descriptor.points.len() == usize::try_from(sum)?;
        let why = format!("{} points are published; the backends hold {points:?} of them", descriptor.points.len());
        Ok(if is_whole { Seen::Yes((pods, points)) } else { Seen::NotYet(why) })
    })
    .await
}

/// Returns the backends and, in the same order, the names of the introduction points that each
/// backend's tor holds.
pub async fn own_points(service: &Service) -> Result<(Vec<BackendPod>, Vec<BTreeSet<String>>)> {
    let token = service.agent_token().await?;
    let pods = service.backends().await?;
    let own = try_join_all(pods.iter().map(|pod| agent::points(&pod.address, &pod.uid, &token))).await?;
    Ok((pods, own))
}

/// Returns the address at the end of the sample app's page. It is the address of the backend pod
/// that requested the page from the app.
pub fn caller(page: &str) -> Option<&str> {
    page.trim().rsplit(' ').next()
}
