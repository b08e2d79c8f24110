//! Checks HSDirs that accept connections and data but never answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use onionbalance_e2e::chance::most_failures;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::NETWORK;
use crate::data_plane::{DataPlane, UPLOADED};

/// The number of relays. It is high enough that most circuits avoid the two frozen HSDirs. All of
/// them are HSDirs, so a service finds as many different ones as it needs.
const RELAYS: u16 = 24;
/// The number of responsible HSDirs in a time period: four for each of two replicas (rend-spec-v3,
/// section 2.2.3).
const RESPONSIBLE: usize = 8;
/// The number of time periods for which a service publishes at a time.
const PERIODS: usize = 2;
const BACKENDS: usize = 3;
const FROZEN: usize = 2;
/// The maximum probability that the third relay of a circuit is frozen although the first two are
/// not. Tor chooses the third relay among at least eight relays.
const THROUGH_FROZEN: f64 = 0.25;
/// The maximum time from the end of a backend's tor until the other HSDirs have accepted the new
/// descriptor, according to the publisher's log. What stem reads from them later must be new.
const UP_TO_DATE: Duration = Duration::from_secs(5);
/// The maximum time from the HSDirs' return until all HSDirs have accepted the new descriptor,
/// according to the publisher's log. A failed upload is repeated after at most 8 s.
const CAUGHT_UP: Duration = Duration::from_secs(30);
/// The time after which the test gives up waiting for the uploads.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time for which the HSDirs are frozen. It exceeds the time for which a withdrawal waits for
/// an upload, but is too short for the authorities to notice.
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
    wait_for_a_calm_time().await;
    let held = wait_settled(plane, &client, dead).await?;
    let frozen = away_from_the_publisher(plane, held.keys()).await?;
    // Only the client that reads the HSDirs is told to avoid the frozen relays. The publisher's tor
    // is not. Vanguards would leave the client only four relays for its second hops.
    let exclude = format!("SETCONF VanguardsLiteEnabled=0 ExcludeNodes={}", frozen.join(","));
    let mut clients_tor = Control::open(&client.tor().control_socket(), &client.tor().cookie()).await?;
    ensure!(clients_tor.command(&exclude).await?, "tor rejected {exclude}");
    let held = wait_settled(plane, &client, dead).await?;
    let points = plane.points(dead).await?;
    for hsdir in &frozen {
        plane.signal_relay(hsdir, Signal::STOP)?;
    }

    let (change, silent) = (Timestamp::now(), Instant::now());
    plane.kill_backends_tor(dead).await?;
    sleep_until(silent + UP_TO_DATE).await;
    let late = late(plane, &frozen, change).await?;
    let others: Vec<String> =
        held.into_keys().filter(|hsdir| !frozen.contains(hsdir) && !late.contains(hsdir)).collect();
    wait_withdrawn(plane, &client, &points, &others).await?;
    println!("figure hsdirs_seen_withdrawn_s {:.1} s", silent.elapsed().as_secs_f64());

    sleep_until(silent + SILENCE).await;
    ensure!(!all_accepted(plane).await?, "the frozen HSDirs must not have accepted the new descriptor");
    let back = Timestamp::now();
    for hsdir in &frozen {
        plane.signal_relay(hsdir, Signal::CONT)?;
    }
    until("the frozen HSDirs have caught up", PATIENCE, async || {
        let accepted = plane.metric("hsdirs_accepted").await?;
        let done = all_accepted(plane).await?;
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
    all_have_accepted(plane, change)?;
    ensure!(clients_tor.command("RESETCONF ExcludeNodes").await?, "tor rejected RESETCONF");
    let all: Vec<String> = wait_settled(plane, &client, 0).await?.into_keys().collect();
    wait_withdrawn(plane, &client, &points, &all).await
}

/// Waits for a moment that is far from any change of the responsible HSDirs. On the private
/// network, every 240 s either a time period begins or the shared random values change. All tors
/// know the new consensus less than 60 s later.
async fn wait_for_a_calm_time() {
    const HALF_A_PERIOD: u64 = 240;
    const CALM: RangeInclusive<u64> = 60..=140;
    let since = Timestamp::now().as_second().unsigned_abs() % HALF_A_PERIOD;
    if !CALM.contains(&since) {
        sleep(Duration::from_secs((HALF_A_PERIOD + CALM.start() - since) % HALF_A_PERIOD)).await;
    }
}

/// A circuit of the publisher's tor.
struct Circuit {
    is_built: bool,
    /// The fingerprints of the relays so far. A complete circuit to an HSDir has four relays. The
    /// last one is the HSDir.
    relays: Vec<String>,
}

impl Circuit {
    /// Returns true if a frozen relay on the way to the HSDir keeps the circuit from working. Tor
    /// does not list a relay that has not answered yet.
    fn is_broken(&self, frozen: &[String]) -> bool {
        let way = &self.relays[..self.relays.len().min(3)];
        way.iter().any(|relay| frozen.contains(relay)) || (!self.is_built && way.len() < 3)
    }
}

/// Returns the circuits of the publisher's tor that have the given purpose.
async fn circuits(plane: &DataPlane, purpose: &str) -> Result<Vec<Circuit>> {
    let reply = plane.frontend_control().await?.ask("GETINFO circuit-status").await?.context("tor rejected GETINFO")?;
    let lines = reply.iter().filter(|line| line.contains(purpose));
    Ok(lines
        .map(|line| {
            let mut words = line.trim_start_matches("circuit-status=").split(' ').skip(1);
            let is_built = words.next() == Some("BUILT");
            let path = words.next().filter(|path| path.starts_with('$')).unwrap_or_default();
            let relays = path.split(',').filter_map(|relay| relay.get(1..41)).map(ToOwned::to_owned).collect();
            Circuit { is_built, relays }
        })
        .collect())
}

/// Returns the HSDirs that are least often at the start of the publisher's circuits. A tor uses the
/// same few relays there for hours. On a real network of thousands of relays, a silent HSDir is
/// hardly ever one of them.
async fn away_from_the_publisher(plane: &DataPlane, hsdirs: impl Iterator<Item = &String>) -> Result<Vec<String>> {
    let circuits = circuits(plane, "PURPOSE=HS_").await?;
    ensure!(circuits.iter().any(|circuit| circuit.relays.len() > 2), "the publisher's tor shows no circuit");
    let uses = |hsdir: &String| {
        circuits.iter().filter(|circuit| circuit.relays.iter().take(2).any(|relay| relay == hsdir)).count()
    };
    let mut hsdirs: Vec<String> = hsdirs.cloned().collect();
    hsdirs.sort_by_cached_key(uses);
    hsdirs.truncate(FROZEN);
    Ok(hsdirs)
}

/// Checks that the publisher has sent the new descriptors to all HSDirs in time, and that each
/// HSDir that is not frozen has accepted them unless a frozen relay was on the way. Returns the
/// HSDirs that have not accepted them for this reason.
async fn late(plane: &DataPlane, frozen: &[String], since: Timestamp) -> Result<BTreeSet<String>> {
    let broken = circuits(plane, "PURPOSE=HS_SERVICE_HSDIR").await?.iter().filter(|way| way.is_broken(frozen)).count();
    let uploads = uploads(plane, since)?;
    let others: Vec<&Upload> = uploads.iter().filter(|upload| !frozen.contains(&upload.hsdir)).collect();
    let last =
        others.iter().filter_map(|upload| upload.accepted_after).max().context("no HSDir accepted the descriptor")?;
    println!("figure hsdirs_up_to_date_s {:.1} s", last.as_secs_f64());
    ensure!(last < UP_TO_DATE, "an HSDir accepted the new descriptor after {last:?}");
    let unanswered: Vec<&Upload> = uploads.iter().filter(|upload| upload.accepted_after.is_none()).collect();
    // An HSDir that is responsible in both time periods receives one descriptor after the other. If
    // it does not answer, one descriptor waits.
    let sent = uploads.iter().map(|upload| (&upload.hsdir, &upload.period)).collect::<BTreeSet<_>>().len();
    let waiting = unanswered.iter().map(|upload| &upload.hsdir).collect::<BTreeSet<_>>().len();
    let wanted = PERIODS * RESPONSIBLE;
    ensure!(sent + waiting >= wanted, "only {sent} of {wanted} descriptors were sent");
    let late: BTreeSet<String> =
        unanswered.iter().map(|upload| upload.hsdir.clone()).filter(|hsdir| !frozen.contains(hsdir)).collect();
    println!("figure hsdirs_late {} HSDirs", late.len());
    ensure!(late.len() <= broken, "{late:?} did not answer, but a frozen relay is in {broken} circuits only");
    let most = most_failures(others.len(), THROUGH_FROZEN);
    ensure!(late.len() <= most, "{late:?} did not answer; frozen relays explain {most} of {}", others.len());
    Ok(late)
}

/// Checks in the publisher's log that all responsible HSDirs of both time periods have accepted a
/// descriptor since a moment.
fn all_have_accepted(plane: &DataPlane, since: Timestamp) -> Result<()> {
    let mut accepted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for upload in uploads(plane, since)?.into_iter().filter(|upload| upload.accepted_after.is_some()) {
        accepted.entry(upload.period).or_default().insert(upload.hsdir);
    }
    let complete = accepted.values().filter(|hsdirs| hsdirs.len() >= RESPONSIBLE).count();
    ensure!(complete >= PERIODS, "not all HSDirs of {PERIODS} time periods accepted a descriptor: {accepted:?}");
    Ok(())
}

/// An upload in the publisher's log.
struct Upload {
    hsdir: String,
    /// The time period, as logged.
    period: String,
    /// The time from the change until the HSDir accepted the descriptor.
    accepted_after: Option<Duration>,
}

/// Returns the uploads that the publisher has begun since a moment.
fn uploads(plane: &DataPlane, since: Timestamp) -> Result<Vec<Upload>> {
    let log = fs::read_to_string(plane.processes().log("frontend-publisher"))?;
    let mut uploads: Vec<Upload> = Vec::new();
    for line in log.lines() {
        let Some((_, hsdir)) = line.split_once("hsdir=") else { continue };
        let hsdir = hsdir.split(' ').next().unwrap_or_default();
        let time: Timestamp = line.split(' ').next().unwrap_or_default().parse()?;
        let Ok(after) = Duration::try_from(time.duration_since(since)) else { continue };
        if line.contains(" uploading hsdir=") {
            let period = line.split(' ').find(|word| word.starts_with("period=")).context("no period is logged")?;
            uploads.push(Upload { hsdir: hsdir.to_owned(), period: period.to_owned(), accepted_after: None });
        } else if line.contains(UPLOADED) {
            let begun = uploads.iter_mut().rev().find(|upload| upload.hsdir == hsdir);
            if let Some(upload) = begun {
                upload.accepted_after = Some(after);
            }
        }
    }
    Ok(uploads)
}

/// Waits until all responsible HSDirs have accepted the newest descriptors, which contain points of
/// the given backend. Checks that the publisher knows the right number of HSDirs. Returns the
/// descriptors of the clients' time period, keyed by the fingerprint of the HSDir.
async fn wait_settled(plane: &DataPlane, client: &TorClient, backend: usize) -> Result<BTreeMap<String, Descriptor>> {
    let held = until("all HSDirs hold points of all backends", Duration::from_secs(120), async || {
        plane.check()?;
        let before = plane.metric("revision").await?;
        let accepted = all_accepted(plane).await?;
        let held = plane.newest_descriptors(client).await?;
        let points = plane.points(backend).await?;
        let is_shown = held.values().any(|held| held.auth_keys().iter().any(|key| points.contains(*key)));
        let calm = accepted && before == plane.metric("revision").await?;
        let done = calm && is_shown && held.len() == RESPONSIBLE;
        Ok(if done {
            Seen::Yes(held)
        } else {
            Seen::not_yet(format!("{} HSDirs hold the newest descriptor", held.len()))
        })
    })
    .await?;
    let known = plane.metric("hsdirs").await?;
    let is_right = known.len() == PERIODS && known.values().all(|number| *number == RESPONSIBLE as u64);
    ensure!(is_right, "the publisher must know {RESPONSIBLE} HSDirs in each of {PERIODS} time periods: {known:?}");
    Ok(held)
}

/// Waits until stem has read descriptors from the given HSDirs, all of which have accepted the new
/// descriptor. No descriptor may contain any of the given points.
async fn wait_withdrawn(
    plane: &DataPlane,
    client: &TorClient,
    points: &BTreeSet<String>,
    hsdirs: &[String],
) -> Result<()> {
    // A fetch may fail on the way to the HSDir, so it is retried. Every answer counts: an HSDir
    // that answers with an old descriptor is late.
    until("the HSDirs answer", Duration::from_secs(60), async || {
        let held = Descriptor::fetch_each(client.tor(), plane.onion(), hsdirs).await?;
        for (hsdir, held) in &held {
            let left = held.auth_keys().into_iter().filter(|key| points.contains(*key)).count();
            ensure!(left == 0, "{hsdir} still holds {left} points of the dead backend");
        }
        let done = held.len() == hsdirs.len();
        Ok(if done { Seen::Yes(()) } else { Seen::not_yet(format!("{} HSDirs hold a descriptor", held.len())) })
    })
    .await
}

/// Returns the time between a moment and the last successful upload in the publisher's log.
fn last_upload(plane: &DataPlane, since: Timestamp) -> Result<Duration> {
    let uploads = plane.processes().logged("frontend-publisher", UPLOADED)?;
    let last = uploads.last().context("the publisher has uploaded nothing")?;
    last.duration_since(since).try_into().context("the publisher has uploaded nothing since the change")
}

/// Returns true if all responsible HSDirs have accepted the newest descriptors.
async fn all_accepted(plane: &DataPlane) -> Result<bool> {
    let (accepted, all) = (plane.metric("hsdirs_accepted").await?, plane.metric("hsdirs").await?);
    Ok(!all.is_empty() && accepted == all)
}
