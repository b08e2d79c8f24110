//! Checks the stand-alone daemon with signing kits: it moves between the kits and the master key,
//! and the owner of the master key outruns a thief of the kits.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;

use crate::setup::{ControlAuth, DAEMON, OnionService, Setup};
use crate::{OF_OURS, SHARED, status_when_complete, wait_serves};

/// The word with which the daemon logs that an HSDir holds a descriptor with a greater counter.
const REJECTED: &str = "UPLOAD_REJECTED";
/// The words with which the daemon logs that SIGHUP has changed its configuration.
const RELOADED: &str = "applying the new configuration";

#[tokio::test]
async fn the_daemon_moves_between_kits_and_the_master_key_which_outruns_stolen_kits() -> Result<()> {
    let setup = Setup::start().await?;
    let outcome = scenario(&setup).await;
    setup.end(outcome)
}

async fn scenario(setup: &Setup) -> Result<()> {
    let online = &setup.ours;
    let delegated = &setup.delegate(online, 12).await?;
    let config = setup.write_config(&[(delegated, &OF_OURS)])?;
    setup.start_daemon(&config, ControlAuth::Socket)?;
    wait_serves(setup, &online.master, &OF_OURS).await?;
    let client = setup.client().await?;
    for service in [online, delegated] {
        move_to(setup, &client, service).await?;
    }
    ensure!(setup.times_logged(REJECTED)? == 0, "the counters of the kits and of the master key must continue");

    // From now on, the daemon with the kits is a thief. The owner runs another instance.
    setup.start_owner(online, &[SHARED])?;
    wait_serves(setup, &online.master, &[SHARED]).await?;
    let rejected = setup.times_logged(REJECTED)?;
    setup.write_config(&[(delegated, &OF_OURS[..1])])?;
    setup.signal_daemon(Signal::HUP)?;
    until("the HSDirs reject the thief's descriptors", Duration::from_secs(120), async || {
        setup.check(DAEMON)?;
        let now = setup.times_logged(REJECTED)?;
        Ok(if now > rejected { Seen::Yes(()) } else { Seen::NotYet(format!("{now} rejections")) })
    })
    .await?;
    wait_serves(setup, &online.master, &[SHARED]).await?;
    client.remove().await
}

/// Moves the running daemon to the other key of its service with SIGHUP, and then restarts the
/// daemon, which publishes with this key from the beginning. Every request must succeed.
async fn move_to(setup: &Setup, client: &TorClient, service: &OnionService) -> Result<()> {
    let reloads = setup.times_logged(RELOADED)?;
    let config = setup.write_config(&[(service, &OF_OURS)])?;
    setup.signal_daemon(Signal::HUP)?;
    until("the daemon has the other key", Duration::from_secs(10), async || {
        Ok(if setup.times_logged(RELOADED)? > reloads { Seen::Yes(()) } else { Seen::not_yet("no reload") })
    })
    .await?;
    serves(client, service, "reloaded").await?;

    let before = Descriptor::fetch(client.tor(), &service.master).await?;
    setup.stop_daemon().await?;
    serves(client, service, "stopped").await?;
    setup.start_daemon(&config, ControlAuth::Socket)?;
    status_when_complete(setup).await?;
    until("the HSDirs have a descriptor of the other key", Duration::from_secs(120), async || {
        setup.check(DAEMON)?;
        let now = Descriptor::fetch(client.tor(), &service.master).await?;
        // The counters of another time period cannot be compared.
        let newer = now.blinded_key != before.blinded_key || now.revision_counter > before.revision_counter;
        Ok(if newer { Seen::Yes(()) } else { Seen::NotYet(format!("counter {}", now.revision_counter)) })
    })
    .await?;
    serves(client, service, "restarted").await
}

/// Requests a page with a descriptor that the client has just fetched.
async fn serves(client: &TorClient, service: &OnionService, isolation: &str) -> Result<()> {
    client.forget(&service.master).await?;
    client.fetch(&service.master, isolation).await.with_context(|| format!("the request {isolation} failed"))?;
    Ok(())
}
