//! A network as large as one wants.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use onionbalance_operator::consensus::{Network, NetworkKind, Placement};
use onionbalance_operator::onion::OnionAddress;
use onionbalance_testnet::Plan;

/// As many relays as the public network has, and some more.
pub const RELAYS: usize = 9_000;
const HOUR: u64 = 3600;

/// The texts that a tor would give.
#[derive(Debug, Clone)]
pub struct Texts {
    /// `GETINFO dir/status-vote/current/consensus-microdesc`
    pub consensus: String,
    /// `GETINFO md/all`
    pub microdescriptors: String,
}

impl Texts {
    /// Makes them; the consensus is of this hour, since Python takes no other.
    pub fn generate(relays: usize) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let network = Plan { relays, valid_after: now - now % HOUR, ..Plan::default() }.generate();
        Ok(Self { microdescriptors: network.all_microdescriptors(), consensus: network.consensus })
    }

    /// Reads both and finds the HSDirs of a service's two periods.
    pub fn place(&self, address: &OnionAddress) -> Result<Vec<Placement>> {
        let network = Network::parse(&self.consensus, &self.microdescriptors, NetworkKind::Public)?;
        let periods = network.service_periods();
        Ok(periods
            .iter()
            .flat_map(|period| network.responsible_hsdirs(&address.blind(period.period), period))
            .collect())
    }

    /// Writes them to `consensus` and `microdescriptors` in a folder.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::write(dir.join("consensus"), &self.consensus).context("write the consensus")?;
        fs::write(dir.join("microdescriptors"), &self.microdescriptors).context("write the microdescriptors")
    }
}
