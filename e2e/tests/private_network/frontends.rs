//! Several publishers of one service with a Lease on a real API server: who leads when one dies, freezes, or is cut off, and that
//! HSDirs end with one descriptor also where two lead.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::NETWORK;
use crate::frontend_pods::{CUT_OFF, Frontend, Pods};

const BACKENDS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);
/// From the leader's end to the standby's descriptor on all HSDirs.
const TAKEN_OVER: Duration = Duration::from_secs(25);
/// From the change that a leader cannot publish to another's descriptor on all HSDirs: 60 s to notice, then a renewal.
const GIVEN_WAY: Duration = Duration::from_secs(85);

#[tokio::test]
async fn one_publisher_leads_whatever_becomes_of_the_others() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut pods = Pods::start(BACKENDS).await?;
    let outcome = story(&mut pods).await;
    pods.plane.end(outcome)
}

async fn story(pods: &mut Pods) -> Result<()> {
    let first = pods.frontend("a").await?;
    first.until_published(BACKENDS).await?;
    let second = pods.frontend("b").await?;
    pods.set_ready(&first).await?;
    pods.set_ready(&second).await?;
    // Which backends it asks; those of a standby are all called Starting, since it publishes none of them.
    let of_standby = |figures: &BTreeMap<String, u64>| {
        (figures.get("leading"), figures.get("backends{state=\"Starting\"}")) == (Some(&0), Some(&(BACKENDS as u64)))
    };
    second.until("it stands by, and knows the backends", PATIENCE, of_standby).await?;

    a_frozen_leader_is_replaced_and_posts_nothing_when_it_thaws(pods, &first, &second).await?;
    a_frozen_tor_fails_its_probe(pods, &first).await?;
    two_that_lead_come_to_rest(pods, &second).await?;
    a_leader_that_is_cut_off_gives_way(pods, &second, &first).await
}

async fn a_frozen_leader_is_replaced_and_posts_nothing_when_it_thaws(
    pods: &Pods,
    leader: &Frontend,
    standby: &Frontend,
) -> Result<()> {
    let before = leader.figures().await?;
    let frozen = Instant::now();
    pods.signal(&leader.publisher, Signal::STOP)?;
    standby.until("it leads", TAKEN_OVER, |figures| figures.get("leading") == Some(&1)).await?;
    let led = Instant::now();
    standby.until_published(BACKENDS).await?;
    let taken_over = frozen.elapsed();
    println!("figure frontend_frozen_republished_s {:.1} s", taken_over.as_secs_f64());
    println!("figure standby_leads_to_published_s {:.1} s", led.elapsed().as_secs_f64());
    ensure!(taken_over < TAKEN_OVER, "taken over after {taken_over:?}");
    for (figure, counter) in standby.periods("revision").await? {
        let known = before.get(&format!("revision{figure}"));
        ensure!(known.is_none_or(|known| *known < counter), "the counter of {figure} rises from {known:?}: {counter}");
    }
    stored_counters(pods, standby).await?;

    pods.signal(&leader.publisher, Signal::CONT)?;
    leader.until("it has noticed", PATIENCE, |figures| figures.get("leading") == Some(&0)).await?;
    // What is awaited is that nothing happens: an upload that it took up would end within this time.
    sleep(Duration::from_secs(20)).await;
    let after = leader.figures().await?;
    let uploads = |figures: &BTreeMap<String, u64>| -> Vec<_> {
        let uploads = figures.iter().filter(|(figure, _)| figure.starts_with("uploads_total"));
        uploads.map(|(figure, count)| (figure.clone(), *count)).collect()
    };
    ensure!(uploads(&before) == uploads(&after), "it posted: {before:?}, then {after:?}");
    ensure!(pods.holder().await? == standby.identity, "the Lease stays");
    Ok(())
}

/// The Lease has the counters of the descriptors that are published now.
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
    ensure!(frontend.tor_is_alive().await?, "it answers");
    let frozen = Instant::now();
    pods.signal(&frontend.tor, Signal::STOP)?;
    until("/tor/livez fails", Duration::from_secs(60), async || {
        Ok(if frontend.tor_is_alive().await? { Seen::not_yet("it says ok") } else { Seen::Yes(()) })
    })
    .await?;
    let noticed = frozen.elapsed();
    println!("figure frontend_tor_freeze_noticed_s {:.1} s", noticed.as_secs_f64());
    ensure!((Duration::from_secs(19)..Duration::from_secs(35)).contains(&noticed), "noticed after {noticed:?}");
    pods.signal(&frontend.tor, Signal::CONT)?;
    until("/tor/livez is well again", PATIENCE, async || {
        Ok(if frontend.tor_is_alive().await? { Seen::Yes(()) } else { Seen::not_yet("it fails") })
    })
    .await?;
    frontend.until("it has a tor", PATIENCE, |figures| figures.get("tor_up") == Some(&1)).await
}

/// In a split, one that does not see the Lease goes on beside the other.
async fn two_that_lead_come_to_rest(pods: &Pods, leader: &Frontend) -> Result<()> {
    let other = pods.frontend_without_lease("split").await?;
    other.until_published(BACKENDS).await?;
    pods.plane.kill_backend(0)?;
    pods.delete_backend(0).await?;
    let backends = BACKENDS - 1;
    until("one descriptor is left, and neither publisher outdoes the other any more", PATIENCE, async || {
        let before = greatest_counters(leader, &other).await?;
        // What is awaited is that nothing happens: whoever is rejected publishes again at once.
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

/// The greater counter that either has used, by time period.
async fn greatest_counters(one: &Frontend, other: &Frontend) -> Result<BTreeMap<String, u64>> {
    let mut greatest = one.periods("revision").await?;
    for (period, counter) in other.periods("revision").await? {
        let known = greatest.entry(period).or_default();
        *known = counter.max(*known);
    }
    Ok(greatest)
}

async fn a_leader_that_is_cut_off_gives_way(pods: &Pods, leader: &Frontend, standby: &Frontend) -> Result<()> {
    leader.until_published(BACKENDS - 1).await?;
    let mut control = pods.control(leader).await?;
    ensure!(control.command("SETCONF DisableNetwork=1").await?, "tor refuses to be cut off");
    let changed = Instant::now();
    pods.plane.kill_backend(1)?;
    pods.delete_backend(1).await?;
    standby.until("it leads", GIVEN_WAY, |figures| figures.get("leading") == Some(&1)).await?;
    ensure!(changed.elapsed() > Duration::from_secs(55), "it was not waited for");
    let named = pods.annotation(CUT_OFF).await?;
    standby.until_published(BACKENDS - 2).await?;
    let given_way = changed.elapsed();
    println!("figure frontend_cut_off_republished_s {:.1} s", given_way.as_secs_f64());
    ensure!(given_way < GIVEN_WAY, "given way after {given_way:?}");
    ensure!(named.as_deref() == Some(&leader.identity) || named.is_none(), "named: {named:?}");
    // It works: nobody need be named any more. The other one does not take it back.
    until("nobody is named", Duration::from_secs(15), async || {
        let named = pods.annotation(CUT_OFF).await?;
        Ok(named.map_or(Seen::Yes(()), Seen::NotYet))
    })
    .await?;
    ensure!(leader.tor_is_alive().await?, "a tor that waits for the network is not silent");
    ensure!(pods.holder().await? == standby.identity, "the Lease stays");
    ensure!(control.command("SETCONF DisableNetwork=0").await?, "tor refuses to be connected");
    let onion = pods.plane.onion().to_owned();
    let client = pods.plane.client().await?;
    client.fetch(&onion, "last").await.context("the service answers")?;
    client.remove().await
}
