//! The bandwidths that the authorities have measured, which decide how often tors choose a relay.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use futures::future::try_join_all;

use super::torrc::Role;
use super::{TorNetwork, make_private_dir};

/// The bandwidth of each relay, in kilobytes per second. No vote states what was measured of an
/// authority, and tor counts no more than this much for a relay that was not measured
/// (`maxunmeasuredbw`). With a greater value, tors would hardly ever choose an authority.
pub(super) const BANDWIDTH: u32 = 20;

impl TorNetwork {
    /// Gives all relays of a new network the same bandwidth, from the first consensus on. Otherwise
    /// each relay's own measurement would count, and tors choose relays by bandwidth: in one
    /// network, 20 of 27 stable relays had no bandwidth yet, so sixty services had introduction
    /// points at seven relays only.
    pub(super) async fn equalize_bandwidths(&self) -> Result<()> {
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
    pub(super) fn bandwidths(&self) -> Result<String> {
        let mut text = format!("{}\n", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
        for relay in self.fingerprints()?.keys() {
            writeln!(text, "node_id=${relay} bw={BANDWIDTH}")?;
        }
        Ok(text)
    }
}
