//! Checks the probe of the onion address from outside with real tor processes.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use onionbalance_e2e::tornet::period::{until_quiet, wall_clock};
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::onion::ClientSecretKey;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::NETWORK;
use crate::data_plane::DataPlane;

const BACKENDS: usize = 2;
/// The time from the freeze of the agents until a probe has ended.
const FROZEN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_probe_names_the_part_of_the_connection_that_fails() -> Result<()> {
    let _network = NETWORK.lock().await;
    let mut plane = DataPlane::start(BACKENDS).await?;
    let outcome = scenario(&mut plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &mut DataPlane) -> Result<()> {
    let client = ClientSecretKey::from_bytes([1; 32]).public();
    for clients in [Vec::new(), vec![client]] {
        plane.probe(&clients).await?;
        probed(plane, &["Answered"]).await?;
    }

    // At a change of the time period, tor replaces all points, and a frozen agent cannot report the
    // new ones.
    sleep(until_quiet(wall_clock()?, FROZEN)).await;
    // The kernel accepts the streams of a frozen agent, so its tor says that they are open.
    signal_agents(plane, Signal::STOP)?;
    probed(plane, &["TargetFailed"]).await?;
    signal_agents(plane, Signal::CONT)?;
    probed(plane, &["Answered"]).await?;

    // The last descriptor stays on the HSDirs, with points that nobody serves.
    let log = plane.log_introductions().await?;
    for backend in 0..BACKENDS {
        plane.stop_backends_tor(backend).await?;
    }
    let begun = fs::read_to_string(&log)?.len();
    let result = probed(plane, &["IntroductionFailed", "RendezvousFailed"]).await?;
    is_proved(&result, fs::read_to_string(&log)?.split_at(begun).1)?;
    for backend in 0..BACKENDS {
        plane.restart_backends_tor(backend)?;
    }
    probed(plane, &["Answered"]).await?;
    plane.no_secret_is_in_a_log()
}

/// Returns an error unless the log of the frontend's tor proves the result of a probe. A relay may
/// accept introductions for a tor that has ended, even minutes later: only what the relays answered
/// decides between the two results. The log contains the attempts since all backends have ended.
fn is_proved(result: &str, log: &str) -> Result<()> {
    let count = |text: &str| log.matches(text).count();
    let (attempts, accepted) = (count("Send an ESTABLISH_RENDEZVOUS cell"), count("Received INTRODUCE_ACK ack!"));
    let proved = match result {
        "RendezvousFailed" => accepted > 0,
        // If tor knows that all points are dead, it builds no circuit.
        _ => accepted < attempts || attempts == 0,
    };
    ensure!(proved, "{result}, but {accepted} introductions of {attempts} attempts were accepted: {log}");
    Ok(())
}

fn signal_agents(plane: &DataPlane, signal: Signal) -> Result<()> {
    (0..BACKENDS).try_for_each(|backend| plane.signal_agent(backend, signal))
}

/// Waits until a probe ends with one of these results, and returns the result.
pub async fn probed(plane: &DataPlane, expected: &[&str]) -> Result<String> {
    let before = results(plane)?.len();
    until(&format!("a probe ends with one of {expected:?}"), Duration::from_secs(180), async || {
        plane.check()?;
        let results = results(plane)?;
        let new = results.get(before..).unwrap_or_default();
        let found = new.iter().find(|result| expected.contains(&result.as_str()));
        Ok(found.map_or_else(|| Seen::NotYet(format!("the results are {new:?}")), |found| Seen::Yes(found.clone())))
    })
    .await
}

/// Returns the results that the publisher has logged.
fn results(plane: &DataPlane) -> Result<Vec<String>> {
    let log = fs::read(plane.processes().log("frontend-publisher"))?;
    let log = String::from_utf8_lossy(&log);
    let lines = log.lines().filter(|line| line.contains("probed the address"));
    let results = lines.filter_map(|line| line.split_once("result=")?.1.split_whitespace().next());
    Ok(results.map(ToOwned::to_owned).collect())
}
