//! The stand-alone daemon on a private Tor network: a Python Onionbalance's configuration and one of ours, plain tors as
//! instances, real clients; and Python Onionbalance itself for comparison.

mod scene;
#[path = "../private_network/target.rs"]
mod target;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::scene::{By, DAEMON, Scene};

/// Instances of Python's service, and of ours; and one that a reload adds to ours.
const OF_PYTHONS: [usize; 2] = [0, 1];
const OF_OURS: [usize; 2] = [2, 3];
const LATE: usize = 4;

#[tokio::test]
async fn a_drop_in_for_python_onionbalance() -> Result<()> {
    let scene = Scene::start().await?;
    let outcome = story(&scene).await;
    scene.end(outcome)
}

async fn story(scene: &Scene) -> Result<()> {
    let [pythons, ours] = [&scene.pythons, &scene.ours];

    // Python's configuration, as it is: control port over TCP with a password, of a tor that sleeps.
    scene.start_daemon(&scene.python_config(), By::Password)?;
    serves(scene, &pythons.master, &OF_PYTHONS).await?;
    let of_ours = status_when_complete(scene).await?;
    scene.stop_daemon().await?;
    ensure!(!scene.status_socket().exists(), "SIGTERM leaves no socket behind");

    // What Python Onionbalance says of the same configuration on the same network.
    scene.start_python()?;
    let of_python = status_when_complete(scene).await?;
    scene.stop_python().await?;
    ensure!(form(&of_ours) == form(&of_python), "ours: {of_ours}\nPython's: {of_python}");

    // Two services, keys of both forms; a socket that Python leaves, or not, is in nobody's way. By cookie.
    let config = scene.write_config(&[(pythons, &OF_PYTHONS), (ours, &OF_OURS)])?;
    scene.start_daemon(&config, By::Cookie)?;
    serves(scene, &pythons.master, &OF_PYTHONS).await?;
    serves(scene, &ours.master, &OF_OURS).await?;
    let status = status_when_complete(scene).await?;
    ensure!(status["services"][1]["instances"].as_array().is_some_and(|list| list.len() == 2), "{status}");

    // A broken file changes nothing; a good one adds an instance, and nothing is lost.
    let before = published(&status);
    std::fs::write(&config, "services: []\n")?;
    scene.signal_daemon(Signal::HUP)?;
    scene.daemon_says("the new configuration is refused").await?;
    let all = [OF_OURS[0], OF_OURS[1], LATE];
    scene.write_config(&[(pythons, &OF_PYTHONS), (ours, &all)])?;
    scene.signal_daemon(Signal::HUP)?;
    serves(scene, &ours.master, &all).await?;
    serves(scene, &pythons.master, &OF_PYTHONS).await?;
    let after = scene.status().await?;
    ensure!(!before[0].is_empty() && published(&after)[0] >= before[0], "{before:?} {after}");
    scene.stop_daemon().await?;

    // By control socket; and its tor restarts under it.
    scene.start_daemon(&config, By::Socket)?;
    let before = published(&status_when_complete(scene).await?);
    scene.restart_tor().await?;
    until("all is published again through the new tor", Duration::from_secs(120), async || {
        scene.check(DAEMON)?;
        let now = published(&scene.status().await?);
        let done = now.iter().zip(&before).all(|(now, before)| now > before);
        Ok(if done { Seen::Yes(()) } else { Seen::not_yet(format!("{before:?}, now {now:?}")) })
    })
    .await?;
    serves(scene, &ours.master, &all).await?;
    scene.stop_daemon().await
}

/// When each service's first descriptor was published.
fn published(status: &Value) -> Vec<String> {
    let services = status["services"].as_array().cloned().unwrap_or_default();
    services
        .iter()
        .map(|service| service["publishAttemptFirstDescriptor"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Until both descriptors are published, and every instance's was received.
async fn status_when_complete(scene: &Scene) -> Result<Value> {
    until("the status is complete", Duration::from_secs(240), async || {
        let Ok(status) = scene.status().await else { return Ok(Seen::not_yet("no status socket")) };
        let services = status["services"].as_array().context("services")?;
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

/// A document with its times and numbers replaced by their kind; addresses stay.
fn form(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), form(value))).collect(),
        Value::Array(list) => list.iter().map(form).collect(),
        Value::Number(_) => "number".into(),
        Value::String(text) if text.strip_suffix(".onion").is_some() => text.clone().into(),
        Value::String(text) => {
            text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect::<String>().into()
        }
        other => other.clone(),
    }
}

/// Fresh clients fetch, until each of the instances has answered and nobody else.
async fn serves(scene: &Scene, onion: &str, instances: &[usize]) -> Result<()> {
    let expected: BTreeSet<usize> = instances.iter().copied().collect();
    until(&format!("{expected:?} serve"), Duration::from_secs(240), async || {
        scene.check(DAEMON)?;
        let client = scene.client().await?;
        let mut seen = BTreeSet::new();
        let mut failed = 0;
        for number in 0..10 {
            match client.fetch(onion, &number.to_string()).await {
                Ok(page) => _ = seen.insert(page.trim().parse().with_context(|| format!("{page:?}"))?),
                Err(error) if seen.is_empty() => {
                    client.remove().await?;
                    return Ok(Seen::not_yet(format!("{error:#}")));
                }
                Err(_) => failed += 1,
            }
        }
        client.remove().await?;
        ensure!(seen.is_subset(&expected), "{seen:?} answered, of {expected:?}");
        let done = seen == expected && failed == 0;
        Ok(if done { Seen::Yes(()) } else { Seen::not_yet(format!("{seen:?}, {failed} failed")) })
    })
    .await
}
