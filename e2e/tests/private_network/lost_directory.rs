//! Checks that an agent revives a stalled tor. In this test, tor loses its directory information
//! while its circuits stay open, and then gets the information back, as happens after an outage of
//! the authorities. From then on, C tor does not maintain its onion service until it happens to
//! build a circuit. The agent makes tor build one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::NETWORK;
use crate::data_plane::DataPlane;

const POINTS: usize = 3;
/// The number of the backend whose agent is frozen, so that nothing revives its tor.
const ALONE: usize = 0;
/// The number of the backend whose agent works.
const HELPED: usize = 1;
const BACKENDS: usize = 2;
/// The time limit for both backends to lose their directory information and get it back. New
/// microdescriptors take a few voting intervals of 20 s.
const LOST: Duration = Duration::from_secs(120);
/// The time for which both backends must have been stalled before the test continues. At first, tor
/// still completes circuits that it began earlier.
const STILL: Duration = Duration::from_secs(10);
/// The time limit for an agent to revive its tor. The agent needs 30 s to notice the problem, and
/// then builds a circuit. It retries every 30 s.
const RECOVERED: Duration = Duration::from_secs(120);

#[tokio::test]
async fn an_agent_revives_a_stalled_onion_service() -> Result<()> {
    let _network = NETWORK.lock().await;
    let plane = DataPlane::start(BACKENDS).await?;
    let outcome = scenario(&plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &DataPlane) -> Result<()> {
    for backend in [ALONE, HELPED] {
        until_it_has_points(plane, backend).await?;
    }
    until_published(plane).await?;
    plane.signal_agent(ALONE, Signal::STOP)?;
    plane.replace_microdescriptors().await?;
    let mut since = None;
    until("both backends lost their directory information and got it back", LOST, async || {
        let stalled = is_stalled(plane, HELPED).await? && is_stalled(plane, ALONE).await?;
        let for_long = *since.get_or_insert_with(Instant::now);
        if !stalled {
            since = None;
        }
        let is_still = stalled && for_long.elapsed() >= STILL;
        Ok(if is_still { Seen::Yes(()) } else { Seen::not_yet("a service is still active") })
    })
    .await?;
    // A tor that maintains its service replaces these circuits within seconds.
    for backend in [HELPED, ALONE] {
        close_introduction_circuits(plane, backend).await?;
    }
    let closed = Instant::now();
    // The descriptor still contains the closed circuits' points until tor maintains its service
    // again.
    until_it_has_circuits(plane, HELPED).await?;
    let recovered = closed.elapsed();
    println!("figure stalled_service_goes_on_s {:.1} s", recovered.as_secs_f64());
    ensure!(asked_circuits(plane, HELPED).await? > 0, "the agent did not build a circuit");
    ensure!(
        is_stalled(plane, ALONE).await?,
        "the tor without an agent recovered by itself, so this test proves nothing"
    );
    ensure!(introduction_circuits(plane, ALONE).await?.is_empty(), "the stalled tor builds introduction circuits");

    plane.signal_agent(ALONE, Signal::CONT)?;
    until_it_has_circuits(plane, ALONE).await?;
    for backend in [HELPED, ALONE] {
        until_it_has_points(plane, backend).await?;
    }
    ensure!(!is_stalled(plane, ALONE).await?);
    // No process has ended, and the frontend's tor, which also lost its directory information,
    // publishes the changes.
    plane.check()?;
    until_published(plane).await?;
    let client = plane.client().await?;
    client.fetch(plane.onion(), "after").await.context("the service does not answer")?;
    client.remove().await?;
    a_tor_that_restarts_keeps_its_guards(plane, HELPED).await
}

/// Restarts a backend's tor, as its agent might do, and checks that it keeps its guards.
async fn a_tor_that_restarts_keeps_its_guards(plane: &DataPlane, backend: usize) -> Result<()> {
    let before = guards(plane, backend).await?;
    ensure!(before.len() > 1, "tor has sampled too few guards: {before:?}");
    plane.stop_backends_tor(backend).await?;
    until("the agent has noticed that its tor ended", RECOVERED, async || {
        let held = plane.points(backend).await?.len();
        Ok(if held == 0 { Seen::Yes(()) } else { Seen::not_yet(format!("it still reports {held} points")) })
    })
    .await?;
    plane.restart_backends_tor(backend)?;
    until_it_has_points(plane, backend).await?;
    let after = guards(plane, backend).await?;
    ensure!(after.starts_with(&before), "the guards changed from {before:?} to {after:?}");
    Ok(())
}

/// Returns the guards that a backend's tor has sampled, in tor's order. Tor keeps the order in its
/// state file. A tor without that file draws new guards in a random order.
async fn guards(plane: &DataPlane, backend: usize) -> Result<Vec<String>> {
    let reply = plane
        .backend_control(backend)
        .await?
        .ask("GETINFO entry-guards")
        .await?
        .context("tor rejected GETINFO entry-guards")?;
    let guards = reply.iter().filter_map(|line| line.split(['=', ' ']).find(|word| word.starts_with('$')));
    Ok(guards.map(str::to_owned).collect())
}

async fn until_it_has_points(plane: &DataPlane, backend: usize) -> Result<()> {
    until(&format!("backend {backend} has its points"), RECOVERED, async || {
        let held = plane.points(backend).await.map(|points| points.len()).unwrap_or_default();
        Ok(if held >= POINTS { Seen::Yes(()) } else { Seen::not_yet(format!("it has {held}")) })
    })
    .await
}

async fn until_it_has_circuits(plane: &DataPlane, backend: usize) -> Result<()> {
    until(&format!("backend {backend} has circuits to its points"), RECOVERED, async || {
        let held = introduction_circuits(plane, backend).await?.len();
        Ok(if held >= POINTS { Seen::Yes(()) } else { Seen::not_yet(format!("it has {held}")) })
    })
    .await
}

/// Waits until all HSDirs have accepted the newest descriptors, and each of these descriptors has
/// more points than a single backend. The exact number varies, because a descriptor names a relay
/// only once even if both backends chose it.
async fn until_published(plane: &DataPlane) -> Result<()> {
    until("all points are published", RECOVERED, async || {
        let points = plane.metric("introduction_points").await?;
        let (accepted, hsdirs) = (plane.metric("hsdirs_accepted").await?, plane.metric("hsdirs").await?);
        let enough = points.values().all(|points| *points > POINTS as u64);
        let done = !hsdirs.is_empty() && accepted == hsdirs && enough;
        Ok(if done { Seen::Yes(()) } else { Seen::not_yet(format!("{points:?}; accepted by {accepted:?}")) })
    })
    .await
}

/// Returns true if a backend's tor is stalled: it has enough directory information to build
/// circuits, but reports that it has not completed one.
async fn is_stalled(plane: &DataPlane, backend: usize) -> Result<bool> {
    let mut control = plane.backend_control(backend).await?;
    let mut says = async |what: &str| -> Result<bool> {
        let key = format!("status/{what}");
        let reply = control.ask(&format!("GETINFO {key}")).await?.context("tor rejected GETINFO")?;
        Ok(reply.first() == Some(&format!("{key}=1")))
    };
    Ok(says("enough-dir-info").await? && !says("circuit-established").await?)
}

async fn asked_circuits(plane: &DataPlane, backend: usize) -> Result<u64> {
    plane
        .agents_metric(backend, "circuits_total")
        .await?
        .into_values()
        .next()
        .context("the agent does not count circuits")
}

/// Returns the IDs of the circuits from a backend's tor to its introduction points.
async fn introduction_circuits(plane: &DataPlane, backend: usize) -> Result<Vec<String>> {
    let reply = plane
        .backend_control(backend)
        .await?
        .ask("GETINFO circuit-status")
        .await?
        .context("tor rejected GETINFO circuit-status")?;
    let circuits = reply.iter().filter(|line| line.contains("PURPOSE=HS_SERVICE_INTRO"));
    Ok(circuits.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

async fn close_introduction_circuits(plane: &DataPlane, backend: usize) -> Result<()> {
    let mut control = plane.backend_control(backend).await?;
    for id in introduction_circuits(plane, backend).await? {
        ensure!(control.command(&format!("CLOSECIRCUIT {id}")).await?, "tor refused to close a circuit");
    }
    Ok(())
}
