//! Generates onion service keys with a stock tor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::Processes;
use crate::tornet::Tor;
use crate::wait::{Seen, until};

/// An onion service's key in tor's file format, and its onion address.
#[derive(Debug, Clone)]
pub struct OnionKey {
    /// The onion address, with its `.onion` suffix.
    pub address: String,
    /// The folder that holds `hs_ed25519_secret_key`, `hs_ed25519_public_key` and `hostname`.
    pub dir: PathBuf,
}

/// Generates a key under `dir` with a tor process that never connects to a network.
pub async fn make(processes: &Processes, dir: &Path) -> Result<OnionKey> {
    let tor = Tor::open(processes, "key-maker", &dir.join("tor"));
    let key = dir.join("key");
    let torrc = format!("DisableNetwork 1\nSocksPort 0\nHiddenServiceDir {}\nHiddenServicePort 80\n", key.display());
    tor.start(Command::new("tor"), &torrc)?;
    let hostname = key.join("hostname");
    let address = until("tor has generated an onion key", Duration::from_secs(60), async || {
        processes.check("key-maker")?;
        Ok(fs::read_to_string(&hostname).map_or_else(|error| Seen::NotYet(error.to_string()), Seen::Yes))
    })
    .await?;
    tor.stop().await?;
    Ok(OnionKey { address: address.trim().to_owned(), dir: key })
}
