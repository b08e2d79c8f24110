//! Tests the stand-alone daemon on a private Tor network with real clients. The instances are stock
//! tor processes. The daemon runs first with a configuration from Python Onionbalance's generator
//! and then with one of ours. The test also compares the daemon's status with the status that
//! Python Onionbalance reports.

mod keys;
mod kits;
mod programs;
mod setup;
#[path = "../private_network/target.rs"]
mod target;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::chance::fetches_to_reach_all;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::fetches::FETCHES_PER_CLIENT;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::setup::{ControlAuth, DAEMON, Setup};

/// The instances of the service that Python's generator configured.
const OF_PYTHONS: [usize; 2] = [0, 1];
/// The instances of the service that our generator configured.
const OF_OURS: [usize; 2] = [2, 3];
/// The instance that a reload adds to both services. It serves both addresses.
const SHARED: usize = 4;
/// The words with which the daemon logs that it starts a service.
const STARTED: &str = "started a service";
/// The number of introduction points of each instance.
const POINTS: u32 = 3;

#[tokio::test]
async fn the_daemon_is_a_drop_in_replacement_for_python_onionbalance() -> Result<()> {
    let setup = Setup::start().await?;
    let outcome = scenario(&setup).await;
    setup.end(outcome)
}

async fn scenario(setup: &Setup) -> Result<()> {
    let [pythons, ours] = [&setup.pythons, &setup.ours];

    // Python's configuration works unchanged. The daemon connects to the TCP control port of a
    // dormant tor and authenticates with a password.
    setup.start_daemon(&setup.python_config(), ControlAuth::Password)?;
    wait_serves(setup, &pythons.master, &OF_PYTHONS).await?;
    let of_ours = status_when_complete(setup).await?;
    setup.stop_daemon().await?;
    ensure!(!setup.status_socket().exists(), "the daemon left its status socket behind after SIGTERM");

    // Python Onionbalance must report the same status for the same configuration on the same
    // network.
    setup.start_python()?;
    let of_python = status_when_complete(setup).await?;
    setup.stop_python().await?;
    ensure!(
        normalized(&of_ours) == normalized(&of_python),
        "the status differs; ours: {of_ours}\nPython's: {of_python}"
    );

    // The next daemon runs two services with keys in both formats and authenticates by cookie. It
    // must work whether or not Python has left its status socket behind.
    let config = setup.write_config(&[(pythons, &OF_PYTHONS), (ours, &OF_OURS)])?;
    setup.start_daemon(&config, ControlAuth::Cookie)?;
    wait_serves(setup, &pythons.master, &OF_PYTHONS).await?;
    wait_serves(setup, &ours.master, &OF_OURS).await?;
    let status = status_when_complete(setup).await?;
    ensure!(
        status["services"][1]["instances"].as_array().is_some_and(|list| list.len() == 2),
        "the second service must have two instances: {status}"
    );

    // A broken configuration changes nothing. A valid one adds an instance to both services without
    // losing any state.
    std::fs::write(&config, "services: []\n")?;
    setup.signal_daemon(Signal::HUP)?;
    setup.wait_daemon_logs("the new configuration is invalid").await?;
    let before = status_when_complete(setup).await?;
    let started = setup.times_logged(STARTED)?;
    ensure!(started > 0, "the daemon must log that it starts a service, or the check below proves nothing");
    let (first, all) = ([OF_PYTHONS[0], OF_PYTHONS[1], SHARED], [OF_OURS[0], OF_OURS[1], SHARED]);
    setup.write_config(&[(pythons, &first), (ours, &all)])?;
    setup.signal_daemon(Signal::HUP)?;
    let after = first_status_with(setup, all.len()).await?;
    nothing_is_lost(&before, &after)?;
    wait_serves(setup, &ours.master, &all).await?;
    wait_serves(setup, &pythons.master, &first).await?;
    ensure!(setup.times_logged(STARTED)? == started, "the reload restarted a service");
    setup.stop_daemon().await?;

    // The last daemon uses the control socket, and its tor is killed and started again while the
    // daemon is running.
    setup.start_daemon(&config, ControlAuth::Socket)?;
    let before = published(&status_when_complete(setup).await?);
    setup.replace_tor().await?;
    until("everything is published again through the new tor", Duration::from_secs(120), async || {
        setup.check(DAEMON)?;
        let now = published(&setup.status().await?);
        let done = now.iter().zip(&before).all(|(now, before)| now > before);
        Ok(if done { Seen::Yes(()) } else { Seen::not_yet(format!("{before:?}, now {now:?}")) })
    })
    .await?;
    wait_serves(setup, &ours.master, &all).await?;
    setup.stop_daemon().await
}

/// Returns the time at which each service's first descriptor was published.
fn published(status: &Value) -> Vec<String> {
    let services = status["services"].as_array().cloned().unwrap_or_default();
    services
        .iter()
        .map(|service| service["publishAttemptFirstDescriptor"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Waits until the second service has the given number of instances, and returns the first status
/// that shows them.
async fn first_status_with(setup: &Setup, instances: usize) -> Result<Value> {
    until("the new configuration is in effect", Duration::from_secs(10), async || {
        let status = setup.status().await?;
        let found = status["services"][1]["instances"].as_array().map_or(0, Vec::len);
        Ok(if found == instances { Seen::Yes(status) } else { Seen::not_yet(status.to_string()) })
    })
    .await
}

/// Checks that a reload has kept the state of the services that were configured before. A service
/// that had been restarted would need a while to fetch its instances' descriptors and to publish. A
/// new time period may replace the times of the published descriptors, but never removes both.
fn nothing_is_lost(before: &Value, after: &Value) -> Result<()> {
    for (service, old) in before["services"].as_array().context("the status has no services")?.iter().enumerate() {
        let new = &after["services"][service];
        let published = new["publishAttemptFirstDescriptor"].is_string();
        ensure!(published, "the reload lost the published descriptors: {before}, then {after}");
        for (instance, old) in old["instances"].as_array().context("a service has no instances")?.iter().enumerate() {
            let new = &new["instances"][instance];
            let is_kept = |time: &str| {
                let times = old[time].as_str().zip(new[time].as_str());
                times.is_some_and(|(before, after)| before <= after)
            };
            let all = new["onionAddress"] == old["onionAddress"]
                && is_kept("descriptorReceived")
                && is_kept("introSetModified");
            ensure!(all, "the reload lost the state of an instance: {before}, then {after}");
        }
    }
    Ok(())
}

/// Waits until each service has published both of its descriptors and the descriptors of all
/// instances have been received. Returns the status.
async fn status_when_complete(setup: &Setup) -> Result<Value> {
    until("the status is complete", Duration::from_secs(240), async || {
        let Ok(status) = setup.status().await else { return Ok(Seen::not_yet("no status socket")) };
        let services = status["services"].as_array().context("the status has no services")?;
        let is_complete = |service: &Value| {
            let attempts = ["publishAttemptFirstDescriptor", "publishAttemptSecondDescriptor"];
            let received = |instance: &Value| instance["descriptorReceived"].is_string();
            attempts.iter().all(|attempt| service[attempt].is_string())
                && service["instances"].as_array().is_some_and(|instances| instances.iter().all(received))
        };
        let done = services.iter().all(is_complete);
        Ok(if done { Seen::Yes(status) } else { Seen::not_yet(status.to_string()) })
    })
    .await
}

/// Replaces the times and numbers in a JSON document with placeholders, and keeps the onion
/// addresses.
fn normalized(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), normalized(value))).collect(),
        Value::Array(list) => list.iter().map(normalized).collect(),
        Value::Number(_) => "number".into(),
        Value::String(text) if text.strip_suffix(".onion").is_some() => text.clone().into(),
        Value::String(text) => {
            text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect::<String>().into()
        }
        other => other.clone(),
    }
}

/// Waits until the service's descriptor has points of each of the given instances and of no other.
/// Then fetches until each of them has answered. Every fetch must succeed, except that an instance
/// may replace its points meanwhile: after a failed fetch, the test waits for the new points once.
async fn wait_serves(setup: &Setup, onion: &str, instances: &[usize]) -> Result<()> {
    let expected: BTreeSet<usize> = instances.iter().copied().collect();
    let backends = u32::try_from(expected.len())?;
    let (mut seen, mut failed, mut shown) = (BTreeSet::new(), 0, Duration::ZERO);
    for _ in 0..fetches_to_reach_all(backends, POINTS * backends).div_ceil(FETCHES_PER_CLIENT) {
        let client = setup.client().await?;
        let start = Instant::now();
        wait_shown(setup, &client, onion, instances).await?;
        shown = shown.max(start.elapsed());
        for number in 0..FETCHES_PER_CLIENT {
            match client.fetch(onion, &number.to_string()).await {
                Ok(page) => {
                    let number = page.trim().parse();
                    seen.insert(number.with_context(|| format!("the page is not an instance's number: {page:?}"))?);
                }
                Err(error) => {
                    failed += 1;
                    ensure!(failed <= 1, "{failed} fetches of {onion} failed: {error:#}");
                    eprintln!("a fetch of {onion} failed: {error:#}");
                    break;
                }
            }
        }
        client.remove().await?;
        ensure!(seen.is_subset(&expected), "{seen:?} answered instead of {expected:?}");
        if seen == expected {
            break;
        }
    }
    println!("figure standalone_fetches_failed {failed} fetches");
    println!("figure standalone_shown_s {:.1} s", shown.as_secs_f64());
    ensure!(seen == expected, "only {seen:?} of {expected:?} answered");
    Ok(())
}

/// Waits until the service's descriptor has points of each of the given instances and of no other.
/// The instances publish their points themselves.
async fn wait_shown(setup: &Setup, client: &TorClient, onion: &str, instances: &[usize]) -> Result<()> {
    until(&format!("the descriptor shows the instances {instances:?}"), Duration::from_secs(240), async || {
        setup.check(DAEMON)?;
        let fetch = async |onion| Descriptor::fetch(client.tor(), onion).await;
        let merged = match fetch(onion).await {
            Ok(merged) => merged,
            Err(error) => return Ok(Seen::NotYet(format!("no merged descriptor: {error:#}"))),
        };
        let mut strangers = merged.auth_keys();
        for &instance in instances {
            let own = match fetch(setup.instance(instance)).await {
                Ok(own) => own,
                Err(error) => return Ok(Seen::NotYet(format!("no descriptor of instance {instance}: {error:#}"))),
            };
            let (own, all) = (own.auth_keys(), strangers.len());
            strangers.retain(|key| !own.contains(key));
            if strangers.len() == all {
                return Ok(Seen::NotYet(format!("instance {instance} has no point in the descriptor")));
            }
        }
        let left = strangers.len();
        Ok(if left == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{left} points are of no instance")) })
    })
    .await
}
