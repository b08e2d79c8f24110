//! Checks HSDirs that accept connections and data but never answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use crate::NETWORK;
use crate::data_plane::{DataPlane, UPLOADED};

/// The number of relays. It is high enough that most circuits avoid the two frozen HSDirs.
const RELAYS: u16 = 24;
const BACKENDS: usize = 3;
const FROZEN: usize = 2;
/// The maximum time from the end of a backend's tor until the other HSDirs have accepted the new
/// descriptor, according to the publisher's log.
const UP_TO_DATE: Duration = Duration::from_secs(5);
/// The maximum time from the HSDirs' return until they have accepted the new descriptor, according
/// to the publisher's log. A failed upload is repeated after at most 8 s.
const CAUGHT_UP: Duration = Duration::from_secs(30);
/// The time after which the test gives up waiting for the uploads.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time for which the HSDirs are frozen. It exceeds an upload's deadline, but is too short for
/// the authorities to notice.
const SILENCE: Duration = Duration::from_secs(25);

#[tokio::test]
async fn two_frozen_hsdirs_do_not_delay_the_others_and_catch_up_later() -> Result<()> {
    let _network = NETWORK.lock().await;
    let plane = DataPlane::start_on(RELAYS, BACKENDS).await?;
    let outcome = scenario(&plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &DataPlane) -> Result<()> {
    let client = plane.client().await?;
    let dead = BACKENDS - 1;
    let held = wait_settled(plane, &client, dead).await?;
    let frozen: Vec<String> = held.keys().take(FROZEN).cloned().collect();
    // On a small network, many circuits would pass through one of the two relays, which is not the
    // subject of this test. A tor that has only four relays for its second hops could be left
    // without any.
    let exclude = format!("SETCONF VanguardsLiteEnabled=0 ExcludeNodes={}", frozen.join(","));
    let mut clients_tor = Control::open(&client.tor().control_socket(), &client.tor().cookie()).await?;
    for tor in [&mut plane.frontend_control().await?, &mut clients_tor] {
        ensure!(tor.command(&exclude).await?, "tor rejected {exclude}");
    }
    wait_settled(plane, &client, dead).await?;
    let points = plane.points(dead).await?;
    let before = plane.metric("revision").await?;
    ensure!(before.len() == 2, "both time periods must be published: {before:?}");
    for hsdir in &frozen {
        plane.signal_relay(hsdir, Signal::STOP)?;
    }

    let (change, silent) = (Timestamp::now(), Instant::now());
    plane.kill_backends_tor(dead)?;
    until("the other HSDirs have accepted the new descriptor", PATIENCE, async || {
        let counters = plane.metric("revision").await?;
        let newer = counters.iter().all(|(period, counter)| before.get(period).is_none_or(|before| counter > before));
        let accepted = plane.metric("hsdirs_accepted").await?;
        let done = newer && all_accepted(plane, FROZEN).await?;
        Ok(if done {
            Seen::Yes(())
        } else {
            Seen::not_yet(format!("descriptors are newer: {newer}; HSDirs that accepted them: {accepted:?}"))
        })
    })
    .await?;
    let up_to_date = last_upload(plane, change)?;
    println!("figure hsdirs_up_to_date_s {:.1} s", up_to_date.as_secs_f64());
    ensure!(up_to_date < UP_TO_DATE, "the other HSDirs accepted the new descriptor after {up_to_date:?}");
    wait_withdrawn(plane, &client, &points, &frozen).await?;

    sleep_until(silent + SILENCE).await;
    ensure!(!all_accepted(plane, 0).await?, "the frozen HSDirs must not have accepted the new descriptor");
    let back = Timestamp::now();
    for hsdir in &frozen {
        plane.signal_relay(hsdir, Signal::CONT)?;
    }
    until("the frozen HSDirs have caught up", PATIENCE, async || {
        let accepted = plane.metric("hsdirs_accepted").await?;
        let done = all_accepted(plane, 0).await?;
        Ok(if done {
            Seen::Yes(())
        } else {
            Seen::not_yet(format!("HSDirs that accepted the new descriptor: {accepted:?}"))
        })
    })
    .await?;
    let caught_up = last_upload(plane, back)?;
    println!("figure hsdirs_caught_up_s {:.1} s", caught_up.as_secs_f64());
    ensure!(caught_up < CAUGHT_UP, "the frozen HSDirs caught up after {caught_up:?}");
    ensure!(clients_tor.command("RESETCONF ExcludeNodes").await?, "tor rejected RESETCONF");
    wait_withdrawn(plane, &client, &points, &[]).await
}

/// Waits until all responsible HSDirs have accepted the newest descriptors, which contain points of
/// the given backend. Returns the descriptors of the clients' time period, keyed by the fingerprint
/// of the HSDir.
async fn wait_settled(plane: &DataPlane, client: &TorClient, backend: usize) -> Result<BTreeMap<String, Descriptor>> {
    until("all HSDirs hold points of all backends", Duration::from_secs(120), async || {
        plane.check()?;
        let before = plane.metric("revision").await?;
        let accepted = all_accepted(plane, 0).await?;
        let held = plane.newest_descriptors(client).await?;
        let points = plane.points(backend).await?;
        let is_shown = held.values().any(|held| held.auth_keys().iter().any(|key| points.contains(*key)));
        let calm = accepted && before == plane.metric("revision").await?;
        let done = calm && is_shown && held.len() == responsible(plane).await?;
        Ok(if done {
            Seen::Yes(held)
        } else {
            Seen::not_yet(format!("{} HSDirs hold the newest descriptor", held.len()))
        })
    })
    .await
}

/// Waits until stem reads the newest descriptor from all responsible HSDirs except those in `but`.
/// The descriptor must not contain any of the given points.
async fn wait_withdrawn(
    plane: &DataPlane,
    client: &TorClient,
    points: &BTreeSet<String>,
    but: &[String],
) -> Result<()> {
    // A fetch may fail on the way to the HSDir, so it is retried.
    until("the HSDirs answer", Duration::from_secs(60), async || {
        let held = plane.newest_descriptors_but(client, but).await?;
        let left = held.values().flat_map(|held| held.auth_keys()).filter(|key| points.contains(*key)).count();
        ensure!(left == 0, "{left} points of the dead backend are still there");
        let done = held.len() == responsible(plane).await? - but.len();
        Ok(if done {
            Seen::Yes(())
        } else {
            Seen::not_yet(format!("{} HSDirs hold the newest descriptor", held.len()))
        })
    })
    .await
}

/// Returns the time between a moment and the last successful upload in the publisher's log.
fn last_upload(plane: &DataPlane, since: Timestamp) -> Result<Duration> {
    let uploads = plane.processes().logged("frontend-publisher", UPLOADED)?;
    let last = uploads.last().context("the publisher has uploaded nothing")?;
    last.duration_since(since).try_into().context("the publisher has uploaded nothing since the change")
}

/// Returns the number of responsible HSDirs in a time period.
async fn responsible(plane: &DataPlane) -> Result<usize> {
    let hsdirs = plane.metric("hsdirs").await?;
    let number = hsdirs.into_values().min().context("the publisher has published nothing")?;
    Ok(usize::try_from(number)?)
}

/// Returns true if, in each time period, at most `but` HSDirs have not accepted the newest
/// descriptor.
async fn all_accepted(plane: &DataPlane, but: usize) -> Result<bool> {
    let (accepted, all) = (plane.metric("hsdirs_accepted").await?, plane.metric("hsdirs").await?);
    let enough =
        |(period, all): (&String, &u64)| accepted.get(period).is_some_and(|accepted| accepted + but as u64 >= *all);
    Ok(!all.is_empty() && all.iter().all(enough))
}
