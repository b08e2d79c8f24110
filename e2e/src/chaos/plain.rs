//! The plain onion service beside ours: one stock tor that leads straight to the same target and publishes by itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::Processes;
use crate::tornet::Tor;

/// A stock tor with one onion service.
#[derive(Debug)]
pub struct PlainService {
    tor: Tor,
    onion: String,
}

impl PlainService {
    /// Starts it. Its descriptor is on the HSDirs some seconds later.
    pub async fn start(processes: &Processes, name: &str, dir: &Path, torrc_lines: &str, target: &str) -> Result<Self> {
        let tor = Tor::open(processes, name, dir);
        tor.remove().await?;
        let service = dir.join("service");
        let torrc = format!(
            "{torrc_lines}SocksPort 0\nHiddenServiceDir {}\nHiddenServicePort 80 {target}\n",
            service.display()
        );
        tor.start(Command::new("tor"), &torrc)?;
        tor.wait_bootstrapped().await?;
        let onion = fs::read_to_string(service.join("hostname"))?.trim().to_owned();
        Ok(Self { tor, onion })
    }

    /// `….onion`
    pub fn onion(&self) -> &str {
        &self.onion
    }

    /// Ends it and removes its key.
    pub async fn remove(&self) -> Result<()> {
        self.tor.remove().await
    }
}
