//! Tors lose their directory information while their circuits stand, and get it back, as when the authorities come back after an
//! outage. From then on C tor does nothing for its onion service until it happens to build a circuit: agents have it build one.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::NETWORK;
use crate::data_plane::DataPlane;

const POINTS: usize = 3;
/// Its agent stands still: nobody helps this tor.
const ALONE: usize = 0;
const HELPED: usize = 1;
const BACKENDS: usize = 2;
/// New microdescriptors take some voting rounds of 20 s.
const LOST: Duration = Duration::from_secs(120);
/// In the first moments tor still builds what it had begun.
const STILL: Duration = Duration::from_secs(10);
/// 30 s to notice, then a circuit; tried again every 30 s.
const GOES_ON: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_service_that_stands_still_is_set_going_again() -> Result<()> {
    let _network = NETWORK.lock().await;
    let plane = DataPlane::start(BACKENDS).await?;
    let outcome = story(&plane).await;
    plane.end(outcome)
}

async fn story(plane: &DataPlane) -> Result<()> {
    for backend in [ALONE, HELPED] {
        until_it_has_points(plane, backend).await?;
    }
    until_published(plane).await?;
    plane.signal_agent(ALONE, Signal::STOP)?;
    plane.replace_microdescriptors().await?;
    let mut since = None;
    until("both backends lost their directory information and got it back", LOST, async || {
        let standing = stands_still(plane, HELPED).await? && stands_still(plane, ALONE).await?;
        let for_long = *since.get_or_insert_with(Instant::now);
        if !standing {
            since = None;
        }
        let is_still = standing && for_long.elapsed() >= STILL;
        Ok(if is_still { Seen::Yes(()) } else { Seen::not_yet("a service goes on") })
    })
    .await?;
    // A tor that looks after its service replaces them within seconds.
    for backend in [HELPED, ALONE] {
        close_introduction_circuits(plane, backend).await?;
    }
    let closed = Instant::now();
    // (Its descriptor names the closed ones until it looks after its service again.)
    until_it_has_circuits(plane, HELPED).await?;
    let goes_on = closed.elapsed();
    println!("figure stalled_service_goes_on_s {:.1} s", goes_on.as_secs_f64());
    ensure!(asked_circuits(plane, HELPED).await? > 0, "its agent did nothing for it");
    ensure!(stands_still(plane, ALONE).await?, "the other one goes on by itself: nothing is shown");
    ensure!(introduction_circuits(plane, ALONE).await?.is_empty(), "it makes circuits");

    plane.signal_agent(ALONE, Signal::CONT)?;
    until_it_has_circuits(plane, ALONE).await?;
    for backend in [HELPED, ALONE] {
        until_it_has_points(plane, backend).await?;
    }
    ensure!(!stands_still(plane, ALONE).await?);
    // Nobody was ended, and the frontend's tor, which lost as much, publishes what is new.
    plane.check()?;
    until_published(plane).await?;
    let client = plane.client().await?;
    client.fetch(plane.onion(), "after").await.context("the service answers")?;
    client.remove().await?;
    a_tor_that_restarts_keeps_its_guards(plane, HELPED).await
}

/// As one does that its agent ended.
async fn a_tor_that_restarts_keeps_its_guards(plane: &DataPlane, backend: usize) -> Result<()> {
    let before = guards(plane, backend).await?;
    ensure!(!before.is_empty(), "it has a guard");
    plane.stop_backends_tor(backend).await?;
    until("its agent sees that it is gone", GOES_ON, async || {
        let held = plane.points(backend).await?.len();
        Ok(if held == 0 { Seen::Yes(()) } else { Seen::not_yet(format!("it has {held} points")) })
    })
    .await?;
    plane.restart_backends_tor(backend)?;
    until_it_has_points(plane, backend).await?;
    let after = guards(plane, backend).await?;
    ensure!(before.iter().all(|guard| after.contains(guard)), "its guards were {before:?} and are {after:?}");
    Ok(())
}

/// The relays that its circuits begin at.
async fn guards(plane: &DataPlane, backend: usize) -> Result<BTreeSet<String>> {
    let reply = plane.backend_control(backend).await?.ask("GETINFO circuit-status").await?.context("tor knows")?;
    let paths = reply.iter().filter(|line| line.contains("PURPOSE=HS_")).filter_map(|line| line.split(' ').nth(2));
    Ok(paths.filter_map(|path| path.split(',').next()).map(str::to_owned).collect())
}

async fn until_it_has_points(plane: &DataPlane, backend: usize) -> Result<()> {
    until(&format!("backend {backend} has its points"), GOES_ON, async || {
        let held = plane.points(backend).await.map(|points| points.len()).unwrap_or_default();
        Ok(if held >= POINTS { Seen::Yes(()) } else { Seen::not_yet(format!("it has {held}")) })
    })
    .await
}

async fn until_it_has_circuits(plane: &DataPlane, backend: usize) -> Result<()> {
    until(&format!("backend {backend} has circuits to its points"), GOES_ON, async || {
        let held = introduction_circuits(plane, backend).await?.len();
        Ok(if held >= POINTS { Seen::Yes(()) } else { Seen::not_yet(format!("it has {held}")) })
    })
    .await
}

/// Waits until the newest descriptors, which all HSDirs took, have more points than one backend has. (A relay that both chose is in it
/// once.)
async fn until_published(plane: &DataPlane) -> Result<()> {
    until("all points are published", GOES_ON, async || {
        let points = plane.metric("introduction_points").await?;
        let (accepted, hsdirs) = (plane.metric("hsdirs_accepted").await?, plane.metric("hsdirs").await?);
        let enough = points.values().all(|points| *points > POINTS as u64);
        let done = !hsdirs.is_empty() && accepted == hsdirs && enough;
        Ok(if done { Seen::Yes(()) } else { Seen::not_yet(format!("{points:?}; accepted by {accepted:?}")) })
    })
    .await
}

/// It could build circuits, and waits for one that somebody builds.
async fn stands_still(plane: &DataPlane, backend: usize) -> Result<bool> {
    let mut control = plane.backend_control(backend).await?;
    let mut says = async |what: &str| -> Result<bool> {
        let key = format!("status/{what}");
        let reply = control.ask(&format!("GETINFO {key}")).await?.context("tor knows")?;
        Ok(reply.first() == Some(&format!("{key}=1")))
    };
    Ok(says("enough-dir-info").await? && !says("circuit-established").await?)
}

async fn asked_circuits(plane: &DataPlane, backend: usize) -> Result<u64> {
    plane.agents_metric(backend, "circuits_total").await?.into_values().next().context("the agent counts them")
}

/// The ids of the circuits to its introduction points.
async fn introduction_circuits(plane: &DataPlane, backend: usize) -> Result<Vec<String>> {
    let reply = plane.backend_control(backend).await?.ask("GETINFO circuit-status").await?.context("tor knows")?;
    let circuits = reply.iter().filter(|line| line.contains("PURPOSE=HS_SERVICE_INTRO"));
    Ok(circuits.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

async fn close_introduction_circuits(plane: &DataPlane, backend: usize) -> Result<()> {
    let mut control = plane.backend_control(backend).await?;
    for id in introduction_circuits(plane, backend).await? {
        ensure!(control.command(&format!("CLOSECIRCUIT {id}")).await?, "tor refuses to close a circuit");
    }
    Ok(())
}
