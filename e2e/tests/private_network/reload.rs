//! Checks that the environment never ends a tor by reloading it while it starts. A slow machine
//! reloads relays that are late, and SIGHUP ends a tor that has no signal handlers yet.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::tornet::Tor;
use onionbalance_e2e::wait::{Seen, until};

#[tokio::test]
async fn a_tor_that_is_reloaded_while_it_starts_does_so_and_reloads_later() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let processes = Processes::open(dir.path())?;
    let tor = Tor::open(&processes, "tor", &dir.path().join("tor"));
    tor.start(Command::new("tor"), "SocksPort 0\nDisableNetwork 1\n")?;
    let outcome = until("tor has read its configuration again", Duration::from_secs(30), async || {
        tor.reload()?;
        // This is an error if tor has ended.
        tor.bootstrapped()?;
        let log = fs::read_to_string(tor.dir().join("notice.log")).unwrap_or_default();
        Ok(if log.contains("Received reload signal") { Seen::Yes(()) } else { Seen::NotYet(log) })
    })
    .await;
    tor.remove().await?;
    outcome
}
