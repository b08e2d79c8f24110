//! Adds relays to a network that is up.

use std::fs;

use anyhow::Result;

use super::bandwidths::BANDWIDTH;
use super::{BASE_PORT, COMPLETE, TorNetwork, torrc};
use crate::wait::until;

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
            // The line of an authority says that nobody has measured it.
            larger.knows(wanted.into(), "relays with the same bandwidth", |line| line == measured).await
        })
        .await?;
        until("every relay knows all guards", COMPLETE, async || larger.knows_flag("Guard", wanted.into()).await).await
    }

    /// Returns the network with all relays that have been added to it.
    pub fn grown(&self) -> Self {
        let mut nodes = torrc::nodes(BASE_PORT, torrc::MOST_RELAYS);
        nodes.retain(|node| self.dir.join(&node.name).exists());
        Self { nodes, ..self.clone() }
    }
}
