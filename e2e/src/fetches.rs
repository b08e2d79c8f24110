//! Fetches pages from a service through clients without saved state, counts which backend served
//! each, and compares the counts with the backends' shares of the introduction points.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::agent;
use crate::descriptor::Descriptor;
use crate::service::{BackendPod, Service};
use crate::spread::Spread;
use crate::torclient::TorClient;
use crate::wait::{Seen, until};

/// The number of fetches that one client makes with the same descriptor before the next client
/// takes over.
pub const FETCHES_PER_CLIENT: usize = 6;
/// The maximum time for which the descriptor may name points that no backend has any more. The
/// limit of `make chaos` for dead points is half of it, but other tests run on the same processors
/// at the same time.
const STALE: Duration = Duration::from_secs(20);

/// Fetches from a published service until `is_done` returns true. `fresh_client` starts a client.
/// After each fetch, `show` receives the counts and the outcome.
pub async fn fetch_until(
    service: &Service,
    fresh_client: impl AsyncFn() -> Result<TorClient>,
    is_done: impl Fn(&Spread) -> bool,
    mut show: impl FnMut(&Spread, &str) -> Result<()>,
) -> Result<Spread> {
    let onion = service.onion_address().await?;
    let mut spread = Spread::default();
    let mut client = fresh_client().await?;
    while !is_done(&spread) {
        // The next client starts while this one fetches.
        let batch = fetch_batch(&client, service, &onion, &mut spread, &is_done, &mut show);
        let (fetched, next) = tokio::join!(batch, fresh_client());
        fetched?;
        std::mem::replace(&mut client, next?).remove().await?;
    }
    client.remove().await?;
    Ok(spread)
}

async fn fetch_batch(
    client: &TorClient,
    service: &Service,
    onion: &str,
    spread: &mut Spread,
    is_done: &impl Fn(&Spread) -> bool,
    show: &mut impl FnMut(&Spread, &str) -> Result<()>,
) -> Result<()> {
    let Shares { pods, points, stale } = shares(client, service, onion).await?;
    spread.was_stale(stale);
    for number in 0..FETCHES_PER_CLIENT {
        if is_done(spread) {
            break;
        }
        let start = Instant::now();
        let outcome = match client.fetch(onion, &format!("fetch {number}")).await {
            Ok(body) => {
                let caller = caller(&body);
                let pod = pods.iter().find(|pod| Some(pod.address.as_str()) == caller);
                let name = pod.map_or_else(|| format!("unknown pod {caller:?}"), |pod| pod.name.clone());
                spread.served(&points, &name);
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

/// The backends and their introduction points in the descriptor.
struct Shares {
    pods: Vec<BackendPod>,
    /// The number of each backend's points by backend name.
    points: BTreeMap<String, u32>,
    /// The time for which the descriptor named points that no backend had any more.
    stale: Duration,
}

/// Compares the points that the backends' own tor processes report with the points that the HSDirs
/// hold, which an independent decoder reads. If a published point belongs to no backend, the check
/// is repeated until the publisher has replaced the point, because the backend's tor may just have
/// done so.
async fn shares(client: &TorClient, service: &Service, onion: &str) -> Result<Shares> {
    let mut since = None;
    until("each introduction point in the descriptor belongs to a backend", STALE, async || {
        let looked = Instant::now();
        let (pods, own) = own_points(service).await?;
        let descriptor = Descriptor::fetch(client.tor(), onion).await?;
        let published = descriptor.auth_keys();
        let mut points = BTreeMap::new();
        for (pod, own) in pods.iter().zip(&own) {
            let count = own.iter().filter(|key| published.contains(key.as_str())).count();
            points.insert(pod.name.clone(), u32::try_from(count)?);
        }
        let sum: u32 = points.values().sum();
        if sum > 0 && descriptor.points.len() == usize::try_from(sum)? {
            let stale = since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
            return Ok(Seen::Yes(Shares { pods, points, stale }));
        }
        since.get_or_insert(looked);
        let held = descriptor.points.len();
        Ok(Seen::NotYet(format!("{held} points are published; the backends hold {points:?} of them")))
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
