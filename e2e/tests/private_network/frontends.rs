//! Checks leader election among several publishers of one service, with a Lease on a real API
//! server. A standby must take over when the leader freezes or is cut off. The HSDirs must end up
//! with one descriptor even if two publishers lead.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::NETWORK;
use crate::data_plane::UPLOADED;
use crate::frontend_pods::{CUT_OFF, Forwarder, Frontend, Pods};

const BACKENDS: usize = 4;
/// The words with which a publisher logs that it leads.
const LEADS: &str = "started leading";
const PATIENCE: Duration = Duration::from_secs(120);
/// The maximum time from the leader's failure until all HSDirs hold the standby's descriptor,
/// according to the standby's log.
const TAKEN_OVER: Duration = Duration::from_secs(25);
/// The maximum time between a change that the leader cannot publish and the moment when all HSDirs
/// hold another frontend's descriptor, according to that frontend's log. The leader needs 60 s to
/// notice that it is cut off, and gives up the Lease at its next renewal.
const GAVE_WAY: Duration = Duration::from_secs(85);
/// The time until the publisher reports that its tor is frozen, according to the publisher's log.
/// The publisher sends tor a command every second, and waits 20 s for the answer.
const NOTICED: Range<Duration> = Duration::from_secs(19)..Duration::from_secs(35);
/// The time until the early probe of a frozen tor fails. The publisher asks tor a question every
/// second, and waits 3 s for the answer.
const NOTICED_EARLY: Range<Duration> = Duration::from_secs(2)..Duration::from_secs(8);
/// The probes of a frontend's tor, in the order in which they notice that tor is frozen.
const PROBES: [&str; 2] = ["/tor/livez?early", "/tor/livez"];

#[tokio::test]
async fn one_publisher_leads_when_others_fail() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut pods = Pods::start(BACKENDS).await?;
    let outcome = scenario(&mut pods).await;
    pods.plane.end(outcome)
}

async fn scenario(pods: &mut Pods) -> Result<()> {
    let (first, forwarder) = pods.frontend_behind_a_forwarder("a").await?;
    first.until_published(BACKENDS).await?;
    let second = pods.frontend("b").await?;
    pods.set_ready(&first).await?;
    pods.set_ready(&second).await?;
    // A standby already polls its backends, but reports all of them as Starting because it
    // publishes none of them.
    let of_standby = |figures: &BTreeMap<String, u64>| {
        (figures.get("leading"), figures.get("backends{state=\"Starting\"}")) == (Some(&0), Some(&(BACKENDS as u64)))
    };
    second.until("it is a standby and knows the backends", PATIENCE, of_standby).await?;

    a_frozen_leader_is_replaced(pods, &first, &second).await?;
    it_posts_nothing_after_its_pause(pods, &first, &second, &forwarder).await?;
    a_frozen_tor_fails_its_probe(pods, &first).await?;
    two_leaders_converge_on_one_descriptor(pods, &second).await?;
    a_leader_that_is_cut_off_gives_way(pods, &second, &first).await
}

/// Freezes the leader, and leaves it frozen.
async fn a_frozen_leader_is_replaced(pods: &Pods, leader: &Frontend, standby: &Frontend) -> Result<()> {
    let before = leader.figures().await?;
    let frozen = Timestamp::now();
    pods.signal(&leader.publisher, Signal::STOP)?;
    standby.until("it leads", PATIENCE, |figures| figures.get("leading") == Some(&1)).await?;
    standby.until_published(BACKENDS).await?;
    let led = pods.first_logged(&standby.publisher, LEADS, frozen)?;
    let taken_over = pods.last_logged(&standby.publisher, UPLOADED, frozen)?;
    println!("figure frontend_frozen_republished_s {:.1} s", taken_over.as_secs_f64());
    println!("figure standby_leads_to_published_s {:.1} s", taken_over.saturating_sub(led).as_secs_f64());
    ensure!(taken_over < TAKEN_OVER, "the standby took over after {taken_over:?}");
    for (figure, counter) in standby.periods("revision").await? {
        let known = before.get(&format!("revision{figure}"));
        ensure!(
            known.is_none_or(|known| *known < counter),
            "the counter of {figure} must rise from {known:?}, but is {counter}"
        );
    }
    stored_counters(pods, standby).await
}

/// Thaws the old leader, which must read the Lease before it publishes anything. It knows that a
/// backend is gone, so it would publish at once if it still led, but it cannot reach the API
/// server.
async fn it_posts_nothing_after_its_pause(
    pods: &Pods,
    old: &Frontend,
    leader: &Frontend,
    forwarder: &Forwarder,
) -> Result<()> {
    // The old leader finds the news about the pod in its socket when it thaws.
    pods.plane.kill_backend(BACKENDS - 1)?;
    pods.delete_backend(BACKENDS - 1).await?;
    leader.until_published(BACKENDS - 1).await?;
    // A result of an upload from before the pause may arrive late, so the beginnings are counted.
    let begun = pods.begun_uploads(old)?;
    ensure!(begun > 0, "the log of {} shows no upload", old.publisher);
    forwarder.pause();
    let thawed = Timestamp::now();
    pods.signal(&old.publisher, Signal::CONT)?;

    let knows = |figures: &BTreeMap<String, u64>| {
        let states = figures.iter().filter(|(figure, _)| figure.starts_with("backends{"));
        states.map(|(_, backends)| *backends).sum::<u64>() == BACKENDS as u64 - 1
    };
    old.until("it knows that a backend is gone", PATIENCE, knows).await?;
    pods.until_logged(&old.publisher, "the API server does not answer", thawed).await?;
    // This time is long enough for a change of the backends to be published.
    sleep(Duration::from_secs(20)).await;
    let figures = old.figures().await?;
    let posted = pods.begun_uploads(old)? - begun;
    ensure!(posted == 0, "the old leader began {posted} uploads before it read the Lease: {figures:?}");
    ensure!(figures.get("leading") == Some(&0), "the old leader led again before it read the Lease: {figures:?}");
    the_hsdirs_hold_a_descriptor_of(pods, leader).await?;

    let resumed = Timestamp::now();
    forwarder.resume();
    pods.until_logged(&old.publisher, "standing by for the Lease", resumed).await?;
    old.until("it is a standby", PATIENCE, |figures| figures.get("leading") == Some(&0)).await?;
    ensure!(pods.begun_uploads(old)? == begun, "the old leader uploaded after it had read the Lease");
    ensure!(pods.holder().await? == leader.identity, "the standby must keep the Lease");
    Ok(())
}

/// Waits until the newest descriptor on the HSDirs is one that the given publisher published.
async fn the_hsdirs_hold_a_descriptor_of(pods: &Pods, leader: &Frontend) -> Result<()> {
    let client = pods.plane.client().await?;
    until("the newest descriptor is the leader's", Duration::from_secs(60), async || {
        let counters = leader.periods("revision").await?;
        let held = pods.plane.newest_descriptors(&client).await?;
        let newest = held.values().next().map(|held| held.revision_counter);
        let is_own = counters.values().any(|counter| Some(*counter) == newest);
        Ok(if is_own { Seen::Yes(()) } else { Seen::NotYet(format!("{newest:?}, but {counters:?}")) })
    })
    .await?;
    client.remove().await
}

/// Waits until the Lease contains the revision counters of the currently published descriptors.
async fn stored_counters(pods: &Pods, leader: &Frontend) -> Result<()> {
    until("the counters are stored", Duration::from_secs(10), async || {
        let stored = pods.annotation("onionbalance.dev/revision-counters").await?.unwrap_or_default();
        let used = leader.periods("revision").await?;
        let number = |label: &str| label.trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
        let all = used.iter().all(|(label, counter)| stored.contains(&format!("{}={counter}", number(label))));
        Ok(if all && !used.is_empty() { Seen::Yes(()) } else { Seen::not_yet(format!("{stored}; used: {used:?}")) })
    })
    .await
}

async fn a_frozen_tor_fails_its_probe(pods: &Pods, frontend: &Frontend) -> Result<()> {
    for path in PROBES {
        ensure!(frontend.tor_is_alive(path).await?, "{path} must succeed before the tor is frozen");
    }
    let (frozen, start) = (Timestamp::now(), Instant::now());
    pods.signal(&frontend.tor, Signal::STOP)?;
    for path in PROBES {
        until(&format!("{path} fails"), Duration::from_secs(60), async || {
            Ok(if frontend.tor_is_alive(path).await? { Seen::not_yet("it still succeeds") } else { Seen::Yes(()) })
        })
        .await?;
        println!("figure frontend_tor_freeze_noticed_s{{path=\"{path}\"}} {:.1} s", start.elapsed().as_secs_f64());
        if path == PROBES[0] {
            ensure!(NOTICED_EARLY.contains(&start.elapsed()), "{path} failed {:?} after the freeze", start.elapsed());
        }
    }
    let noticed = pods.first_logged(&frontend.publisher, "no connection to tor: ", frozen)?;
    ensure!(NOTICED.contains(&noticed), "the frozen tor was noticed after {noticed:?}");
    pods.signal(&frontend.tor, Signal::CONT)?;
    for path in PROBES {
        until(&format!("{path} succeeds again"), PATIENCE, async || {
            Ok(if frontend.tor_is_alive(path).await? { Seen::Yes(()) } else { Seen::not_yet("it still fails") })
        })
        .await?;
    }
    frontend.until("its tor is up again", PATIENCE, |figures| figures.get("tor_up") == Some(&1)).await
}

/// Simulates a split: a publisher that cannot reach the Lease leads at the same time as the holder
/// of the Lease.
async fn two_leaders_converge_on_one_descriptor(pods: &Pods, leader: &Frontend) -> Result<()> {
    let other = pods.frontend_without_lease("split").await?;
    other.until_published(BACKENDS - 1).await?;
    pods.plane.kill_backend(0)?;
    pods.delete_backend(0).await?;
    let backends = BACKENDS - 2;
    until("one descriptor is left, and the publishers no longer supersede each other", PATIENCE, async || {
        let before = greatest_counters(leader, &other).await?;
        // The counters must not change during this time. A publisher whose upload is rejected
        // publishes again immediately, with a greater counter.
        sleep(Duration::from_secs(10)).await;
        let counters = greatest_counters(leader, &other).await?;
        let client = pods.plane.client().await?;
        let held = pods.plane.newest_descriptors(&client).await?;
        client.remove().await?;
        let newest = held.values().next().map(|held| held.revision_counter);
        let wins = counters.values().any(|counter| Some(*counter) == newest);
        let points = held.values().map(|held| held.points.len()).min().unwrap_or_default();
        let done = before == counters && wins && held.len() == leader.responsible().await? && points >= backends;
        let what =
            format!("{counters:?}, before {before:?}; {} HSDirs hold {newest:?} with {points} points", held.len());
        Ok(if done { Seen::Yes(()) } else { Seen::NotYet(what) })
    })
    .await?;
    pods.stop(&other).await
}

/// Returns the higher of the two frontends' revision counters for each time period.
async fn greatest_counters(one: &Frontend, other: &Frontend) -> Result<BTreeMap<String, u64>> {
    let mut greatest = one.periods("revision").await?;
    for (period, counter) in other.periods("revision").await? {
        let known = greatest.entry(period).or_default();
        *known = counter.max(*known);
    }
    Ok(greatest)
}

async fn a_leader_that_is_cut_off_gives_way(pods: &Pods, leader: &Frontend, standby: &Frontend) -> Result<()> {
    leader.until_published(BACKENDS - 2).await?;
    let mut control = pods.control(leader).await?;
    ensure!(control.command("SETCONF DisableNetwork=1").await?, "tor refused to disable its network");
    let changed = Timestamp::now();
    pods.plane.kill_backend(1)?;
    pods.delete_backend(1).await?;
    standby.until("it leads", PATIENCE, |figures| figures.get("leading") == Some(&1)).await?;
    let led = pods.first_logged(&standby.publisher, LEADS, changed)?;
    ensure!(led > Duration::from_secs(55), "the leader lost the Lease too early, after {led:?}");
    let named = pods.annotation(CUT_OFF).await?;
    standby.until_published(BACKENDS - 3).await?;
    let gave_way = pods.last_logged(&standby.publisher, UPLOADED, changed)?;
    println!("figure frontend_cut_off_republished_s {:.1} s", gave_way.as_secs_f64());
    ensure!(gave_way < GAVE_WAY, "the new leader published after {gave_way:?}");
    ensure!(
        named.as_deref() == Some(&leader.identity) || named.is_none(),
        "the Lease names another frontend as cut off: {named:?}"
    );
    // Once the new leader works, the annotation is removed, and the old leader does not reclaim the
    // Lease.
    until("the Lease names no frontend as cut off", Duration::from_secs(15), async || {
        let named = pods.annotation(CUT_OFF).await?;
        Ok(named.map_or(Seen::Yes(()), Seen::NotYet))
    })
    .await?;
    ensure!(leader.tor_is_alive("/tor/livez").await?, "a tor without a network must still pass its liveness probe");
    ensure!(pods.holder().await? == standby.identity, "the standby must keep the Lease");
    ensure!(control.command("SETCONF DisableNetwork=0").await?, "tor refused to enable its network");
    let onion = pods.plane.onion().to_owned();
    let client = pods.plane.client().await?;
    client.fetch(&onion, "last").await.context("the service does not answer")?;
    client.remove().await
}
