//! Adds relays to a network that is up.

use anyhow::Result;

use super::{BASE_PORT, COMPLETE, TorNetwork, torrc};
use crate::wait::until;

impl TorNetwork {
    /// Adds relays until the network has `wanted` of them, and waits until every relay knows that
    /// all of them are guards. On a node, the new relays are not HSDirs, so the descriptors stay
    /// where they are. The new relays stay until the whole network goes down.
    pub async fn add_guards(&self, wanted: u16) -> Result<()> {
        let larger = Self { nodes: torrc::nodes(BASE_PORT, wanted), ..self.clone() };
        larger.up().await?;
        until("every relay knows all guards", COMPLETE, async || larger.knows("Guard", wanted.into()).await).await
    }

    /// Returns the network with all relays that have been added to it.
    pub fn grown(&self) -> Self {
        let mut nodes = torrc::nodes(BASE_PORT, torrc::MOST_RELAYS);
        nodes.retain(|node| self.dir.join(&node.name).exists());
        Self { nodes, ..self.clone() }
    }
}
