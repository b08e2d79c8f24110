//! Fetches pages from a service through clients without saved state, counts which backend served
//! each, and compares the counts with the backends' shares of the introduction points.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::agent;
use crate::descriptor::Descriptor;
use crate::service::{BackendPod, Service};
use crate::spread::Spread;
use crate::torclient::TorClient;

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
    let mut stale = BTreeMap::new();
    let mut client = fresh_client().await?;
    while !is_done(&spread) {
        // The next client starts while this one fetches.
        let batch = async {
            let shares = shares(&client, service, &onion).await?;
            spread.was_stale(longest_stale(&mut stale, &shares.stale, Instant::now())?);
            fetch_batch(&client, &shares, &onion, &mut spread, &is_done, &mut show).await
        };
        let (fetched, next) = tokio::join!(batch, fresh_client());
        fetched?;
        std::mem::replace(&mut client, next?).remove().await?;
    }
    client.remove().await?;
    Ok(spread)
}

async fn fetch_batch(
    client: &TorClient,
    shares: &Shares,
    onion: &str,
    spread: &mut Spread,
    is_done: &impl Fn(&Spread) -> bool,
    show: &mut impl FnMut(&Spread, &str) -> Result<()>,
) -> Result<()> {
    for number in 0..FETCHES_PER_CLIENT {
        if is_done(spread) {
            break;
        }
        let start = Instant::now();
        let outcome = match client.fetch(onion, &format!("fetch {number}")).await {
            Ok(body) => {
                let caller = caller(&body);
                let pod = shares.pods.iter().find(|pod| Some(pod.address.as_str()) == caller);
                let name = pod.map_or_else(|| format!("unknown pod {caller:?}"), |pod| pod.name.clone());
                spread.served(&shares.points, &name);
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
    /// The points in the descriptor that no backend has any more.
    stale: BTreeSet<String>,
}

/// Compares the points that the HSDirs hold, which an independent decoder reads, with the points
/// that the backends' own tor processes report afterwards. A client that picks a stale point is
/// turned away and picks another one, so only the other points determine the shares.
async fn shares(client: &TorClient, service: &Service, onion: &str) -> Result<Shares> {
    let descriptor = Descriptor::fetch(client.tor(), onion).await?;
    let (pods, own) = own_points(service).await?;
    let mut stale = descriptor.auth_keys();
    let mut points = BTreeMap::new();
    for (pod, own) in pods.iter().zip(&own) {
        let count = own.iter().filter(|key| stale.remove(key.as_str())).count();
        points.insert(pod.name.clone(), u32::try_from(count)?);
    }
    ensure!(points.values().any(|points| *points > 0), "the descriptor contains no current point: {descriptor:?}");
    let stale = stale.into_iter().map(ToOwned::to_owned).collect();
    Ok(Shares { pods, points, stale })
}

/// Updates the times at which stale points were first seen. Returns the longest time for which a
/// point that is still stale has been in the descriptor, or an error if this takes too long.
fn longest_stale(
    first_seen: &mut BTreeMap<String, Instant>,
    stale: &BTreeSet<String>,
    now: Instant,
) -> Result<Duration> {
    first_seen.retain(|point, _| stale.contains(point));
    for point in stale {
        first_seen.entry(point.clone()).or_insert(now);
    }
    let longest = first_seen.values().map(|first| now.duration_since(*first)).max().unwrap_or_default();
    ensure!(longest < STALE, "the descriptor has contained points that no backend has for {longest:?}");
    Ok(longest)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_may_be_stale_for_a_while_but_not_for_long() {
        let (mut seen, start) = (BTreeMap::new(), Instant::now());
        let mut look = |stale: &[&str], after| {
            let stale = stale.iter().map(ToString::to_string).collect();
            longest_stale(&mut seen, &stale, start + after).ok()
        };
        assert_eq!(look(&[], Duration::ZERO), Some(Duration::ZERO));
        assert_eq!(look(&["first"], STALE), Some(Duration::ZERO));
        assert_eq!(look(&["first", "second"], STALE + STALE / 2), Some(STALE / 2));
        assert_eq!(look(&["second"], 2 * STALE), Some(STALE / 2));
        assert_eq!(look(&["second"], STALE * 5 / 2), None);
    }
}
