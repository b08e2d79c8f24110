//! Adds relays to a network that is up, and sets the bandwidths of relays.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use futures::future::try_join_all;

use super::torrc::Role;
use super::{BASE_PORT, COMPLETE, TorNetwork, make_private_dir, torrc};
use crate::wait::until;

/// The bandwidth that the authorities have measured for each relay, in kilobytes per second.
const BANDWIDTH: u32 = 1000;

impl TorNetwork {
    /// Adds relays until the network has `wanted` of them, and waits until every relay knows that
    /// all of them are guards. All relays get the same bandwidth, because nobody would choose a new
    /// relay that has not carried any traffic. On a node, the new relays are not HSDirs, so the
    /// descriptors stay where they are. The new relays stay until the whole network goes down.
    pub async fn add_guards(&self, wanted: u16) -> Result<()> {
        let larger = Self { nodes: torrc::nodes(BASE_PORT, wanted), ..self.clone() };
        larger.up().await?;
        fs::write(self.bandwidths_file(), larger.bandwidths()?)?;
        until("every relay knows all bandwidths", COMPLETE, async || {
            let measured = format!("w Bandwidth={BANDWIDTH}");
            // Authorities give each other a small bandwidth.
            larger.knows(wanted.into(), "relays with the same bandwidth", |line| line == measured).await
        })
        .await?;
        until("every relay knows all guards", COMPLETE, async || larger.knows_flag("Guard", wanted.into()).await).await
    }

    /// Gives all relays of a new network the same bandwidth, from the first consensus on. Otherwise
    /// each relay's own measurement would count, and tors choose relays by bandwidth: in one
    /// network, three quarters of the relays had no bandwidth yet, so sixty services had
    /// introduction points only at the rest.
    pub(super) async fn measure(&self) -> Result<()> {
        if self.bandwidths_file().exists() {
            return Ok(());
        }
        let relays = self.nodes.iter().filter(|node| node.role == Role::Relay);
        let prepared = relays.map(async |node| {
            let dir = self.dir.join(&node.name);
            make_private_dir(&dir)?;
            self.fingerprint(node, &dir).await
        });
        try_join_all(prepared).await?;
        Ok(fs::write(self.bandwidths_file(), self.bandwidths()?)?)
    }

    /// Returns the path of the file from which the authorities read the relays' bandwidths. Without
    /// the file, a relay's own statement counts.
    pub(super) fn bandwidths_file(&self) -> PathBuf {
        self.dir.join("bandwidths")
    }

    /// Returns the file of the relays' bandwidths (bandwidth-file-spec, version 1.0.0).
    #[allow(clippy::disallowed_methods, reason = "authorities ignore an old file")]
    fn bandwidths(&self) -> Result<String> {
        let mut text = format!("{}\n", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
        for relay in self.fingerprints()?.keys() {
            writeln!(text, "node_id=${relay} bw={BANDWIDTH}")?;
        }
        Ok(text)
    }

    /// Returns the network with all relays that have been added to it.
    pub fn grown(&self) -> Self {
        let mut nodes = torrc::nodes(BASE_PORT, torrc::MOST_RELAYS);
        nodes.retain(|node| self.dir.join(&node.name).exists());
        Self { nodes, ..self.clone() }
    }
}
