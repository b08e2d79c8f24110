//! Tests the stand-alone daemon on a private Tor network with real clients. The instances are stock
//! tor processes. The daemon runs first with a configuration from Python Onionbalance's generator
//! and then with one of ours. The test also compares the daemon's status with the status that
//! Python Onionbalance reports.

mod keys;
mod setup;
#[path = "../private_network/target.rs"]
mod target;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::setup::{ControlAuth, DAEMON, Setup};

/// The instances of the service that Python's generator configured.
const OF_PYTHONS: [usize; 2] = [0, 1];
/// The instances of the service that our generator configured.
const OF_OURS: [usize; 2] = [2, 3];
/// The instance that a reload adds to our service.
const LATE: usize = 4;

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

    // A broken configuration changes nothing. A valid one adds an instance without losing any
    // state.
    let before = published(&status);
    std::fs::write(&config, "services: []\n")?;
    setup.signal_daemon(Signal::HUP)?;
    setup.wait_daemon_logs("the new configuration is invalid").await?;
    let all = [OF_OURS[0], OF_OURS[1], LATE];
    setup.write_config(&[(pythons, &OF_PYTHONS), (ours, &all)])?;
    setup.signal_daemon(Signal::HUP)?;
    wait_serves(setup, &ours.master, &all).await?;
    wait_serves(setup, &pythons.master, &OF_PYTHONS).await?;
    let after = setup.status().await?;
    ensure!(
        !before[0].is_empty() && published(&after)[0] >= before[0],
        "the reload lost the state of the first service: {before:?}, then {after}"
    );
    setup.stop_daemon().await?;

    // The last daemon uses the control socket, and its tor is restarted while the daemon is
    // running.
    setup.start_daemon(&config, ControlAuth::Socket)?;
    let before = published(&status_when_complete(setup).await?);
    setup.restart_tor().await?;
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

/// Fetches with fresh clients until each of the given instances, and no other, has answered.
async fn wait_serves(setup: &Setup, onion: &str, instances: &[usize]) -> Result<()> {
    let expected: BTreeSet<usize> = instances.iter().copied().collect();
    until(&format!("the instances {expected:?} serve"), Duration::from_secs(240), async || {
        setup.check(DAEMON)?;
        let client = setup.client().await?;
        let mut seen = BTreeSet::new();
        let mut failed = 0;
        for number in 0..10 {
            match client.fetch(onion, &number.to_string()).await {
                Ok(page) => {
                    let number = page.trim().parse();
                    seen.insert(number.with_context(|| format!("the page is not an instance's number: {page:?}"))?);
                }
                Err(error) if seen.is_empty() => {
                    client.remove().await?;
                    return Ok(Seen::not_yet(format!("{error:#}")));
                }
                Err(_) => failed += 1,
            }
        }
        client.remove().await?;
        ensure!(seen.is_subset(&expected), "{seen:?} answered instead of {expected:?}");
        let done = seen == expected && failed == 0;
        Ok(if done { Seen::Yes(()) } else { Seen::not_yet(format!("{seen:?}, {failed} failed")) })
    })
    .await
}
