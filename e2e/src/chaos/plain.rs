//! The plain onion service with which ours is compared: one stock tor that forwards to a web
//! server of the same kind and publishes its own descriptor.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::circuits::FailedCircuits;
use super::hops::Hops;
use crate::process::Processes;
use crate::tornet::Tor;

/// A stock tor with one onion service.
#[derive(Debug)]
pub struct PlainService {
    tor: Tor,
    onion: String,
}

impl PlainService {
    /// Starts the tor process. The HSDirs hold its onion service's descriptor a few seconds later.
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

    /// Returns the onion address, with its `.onion` suffix.
    pub fn onion(&self) -> &str {
        &self.onion
    }

    /// Returns the relays through which the tor process enters the network.
    pub async fn hops(&self) -> Result<Hops> {
        Hops::of(&self.tor.control_socket(), &self.tor.cookie()).await
    }

    /// Counts the circuits to HSDirs that the tor process cannot complete.
    pub async fn watch_circuits(&self) -> Result<FailedCircuits> {
        FailedCircuits::watch(&self.tor.control_socket(), &self.tor.cookie()).await
    }

    /// Stops the tor process and deletes the onion service's key.
    pub async fn remove(&self) -> Result<()> {
        self.tor.remove().await
    }
}
