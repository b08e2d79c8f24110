//! Tests the data plane without Kubernetes: stock tor, agents and a publisher run as ordinary
//! processes on a private Tor network.

mod backend_options;
mod bridges;
mod circuits;
mod data_plane;
mod delegated;
mod external_backends;
mod frontend_pods;
mod frontends;
mod lost_directory;
mod many_backends;
#[path = "../../../tests/operator_api_server/needles.rs"]
mod needles;
mod probe;
mod reload;
mod restricted;
#[path = "../../../tests/operator_api_server/server.rs"]
#[allow(
    dead_code,
    clippy::expect_used,
    reason = "only the functions that start the server are used, and they fail like a test"
)]
mod server;
mod silent_hsdirs;
mod single_hop;
mod stock;
mod target;
mod vanguards;
#[path = "../../../tests/operator_api_server/wait.rs"]
#[allow(clippy::panic, reason = "it fails like a test")]
mod wait;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::chance::fetches_to_reach_all;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::fetches::FETCHES_PER_CLIENT;
use onionbalance_e2e::wait::{Seen, until};

use tokio::sync::Mutex;

use crate::data_plane::DataPlane;

const BACKENDS: usize = 3;
/// The number of introduction points of each backend.
const POINTS: u32 = 3;

/// The lock that lets only one private network run at a time, because all of them use the same
/// ports.
static NETWORK: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn all_backends_serve_and_a_dead_one_is_withdrawn() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut plane = DataPlane::start(BACKENDS).await?;
    let outcome = scenario(&mut plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &mut DataPlane) -> Result<()> {
    first_page(plane).await?;
    let all: BTreeSet<usize> = (0..BACKENDS).collect();
    all_points_are_published(plane, &all).await?;
    ensure!(serving_backends(plane, &all).await? == all);
    an_arti_client_connects(plane, &all).await?;
    no_backend_is_published(plane).await?;

    let dead = 0;
    let points = plane.points(dead).await?;
    plane.kill_backend(dead)?;
    until("the dead backend's points have left the descriptor", Duration::from_secs(45), async || {
        let merged = plane.descriptor().await?;
        let left = merged.auth_keys().iter().filter(|key| points.contains(**key)).count();
        Ok(if left == 0 { Seen::Yes(()) } else { Seen::not_yet(format!("{left} of them are still in it")) })
    })
    .await?;
    let alive: BTreeSet<usize> = (1..BACKENDS).collect();
    all_points_are_published(plane, &alive).await?;
    ensure!(serving_backends(plane, &alive).await? == alive, "the other backends must continue to serve");
    a_greedy_backend_gets_its_share(plane, 1, 2).await?;
    plane.no_secret_is_in_a_log()
}

/// Gives a backend's tor more introduction points than it may publish. Checks that its share of the
/// descriptor stays the same, both beside an honest backend and without it.
async fn a_greedy_backend_gets_its_share(plane: &DataPlane, greedy: usize, honest: usize) -> Result<()> {
    plane.make_greedy(greedy)?;
    until("the publisher notices the surplus points", Duration::from_secs(60), async || {
        let surplus = format!("but only {POINTS} of them are published");
        let noticed = plane.processes().logged("frontend-publisher", &surplus)?;
        Ok(if noticed.is_empty() { Seen::not_yet("there is no warning") } else { Seen::Yes(()) })
    })
    .await?;
    for is_alone in [false, true] {
        let mut backends = BTreeSet::from([greedy, honest]);
        if is_alone {
            plane.kill_backend(honest)?;
            backends.remove(&honest);
        }
        all_points_are_published(plane, &backends).await?;
        let merged = plane.descriptor().await?;
        let own = plane.points(greedy).await?;
        let share = merged.auth_keys().iter().filter(|key| own.contains(**key)).count();
        let is_fair = (1..=usize::try_from(POINTS)?).contains(&share);
        ensure!(is_fair, "{share} of {} points of the greedy backend are published", own.len());
    }
    Ok(())
}

async fn first_page(plane: &DataPlane) -> Result<()> {
    let client = plane.client().await?;
    until("the onion address answers", Duration::from_secs(120), async || {
        plane.check()?;
        Ok(match client.fetch(plane.onion(), "first").await {
            Ok(_) => Seen::Yes(()),
            Err(error) => Seen::not_yet(format!("{error:#}")),
        })
    })
    .await?;
    client.remove().await
}

/// Checks that a client that shares no code with C tor can fetch, decrypt and use the descriptor.
async fn an_arti_client_connects(plane: &DataPlane, backends: &BTreeSet<usize>) -> Result<()> {
    let client = plane.arti_client().await?;
    for number in 0..5 {
        let page = client.fetch(plane.onion(), &number.to_string()).await.context("arti's fetch failed")?;
        let backend = page.trim().parse().with_context(|| format!("the page is not a backend's number: {page:?}"))?;
        ensure!(backends.contains(&backend), "no backend has the number {backend}");
    }
    client.remove().await
}

/// Checks that no HSDir has a descriptor of a backend's own onion address. The same request finds
/// the descriptor of the public address.
async fn no_backend_is_published(plane: &DataPlane) -> Result<()> {
    let client = plane.client().await?;
    let answers = plane.answers(&client, plane.onion()).await?;
    ensure!(answers.values().any(|answer| answer == "HELD"), "no HSDir has the public descriptor: {answers:?}");
    for backend in 0..BACKENDS {
        let own = plane.backends_onion(backend)?;
        let answers = plane.answers(&client, &own).await?;
        let without = answers.values().filter(|answer| *answer == "NOT_FOUND").count();
        ensure!(without == plane.number_of_relays(), "backend {backend}, {own}: {answers:?}");
    }
    client.remove().await
}

/// Waits until the merged descriptor contains points of each given backend, and of no other
/// backend. No relay may occur twice, because a client would never use the second point.
async fn all_points_are_published(plane: &DataPlane, backends: &BTreeSet<usize>) -> Result<()> {
    until("the descriptor has points of every backend", Duration::from_secs(60), async || {
        let merged: Descriptor = plane.descriptor().await?;
        let relays: BTreeSet<_> = merged.points.iter().map(|point| &point.relay).collect();
        ensure!(relays.len() == merged.points.len(), "a relay occurs twice in the descriptor: {merged:?}");
        let mut strangers = merged.auth_keys();
        let mut absent = Vec::new();
        for &backend in backends {
            let own = plane.points(backend).await?;
            if !own.iter().any(|key| strangers.remove(key.as_str())) {
                absent.push(backend);
            }
            strangers.retain(|key| !own.contains(*key));
        }
        let done = absent.is_empty() && strangers.is_empty();
        let why = format!("the backends {absent:?} have no point; {} points are unknown", strangers.len());
        Ok(if done { Seen::Yes(()) } else { Seen::NotYet(why) })
    })
    .await
}

/// Fetches pages until all expected backends have answered. Returns the backends that answered.
/// Every fetch must succeed.
async fn serving_backends(plane: &DataPlane, expected: &BTreeSet<usize>) -> Result<BTreeSet<usize>> {
    let backends = u32::try_from(expected.len())?;
    let mut seen = BTreeSet::new();
    for _ in 0..fetches_to_reach_all(backends, POINTS * backends).div_ceil(FETCHES_PER_CLIENT) {
        let client = plane.client().await?;
        for number in 0..FETCHES_PER_CLIENT {
            let page = client.fetch(plane.onion(), &number.to_string()).await.context("a fetch failed")?;
            seen.insert(page.trim().parse().with_context(|| format!("the page is not a backend's number: {page:?}"))?);
        }
        client.remove().await?;
        if expected.is_subset(&seen) {
            break;
        }
    }
    Ok(seen)
}
