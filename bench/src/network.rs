//! Generated network documents for a Tor network of any size.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use onionbalance_operator::consensus::{Network, NetworkKind, Placement};
use onionbalance_operator::onion::OnionAddress;
use onionbalance_testnet::Plan;

/// The number of relays in the benchmarks, which is somewhat more than on the public network.
pub const RELAYS: usize = 9_000;
const HOUR: u64 = 3600;

/// The documents that describe a network, as returned by tor's control port.
#[derive(Debug, Clone)]
pub struct Texts {
    /// The reply to `GETINFO dir/status-vote/current/consensus-microdesc`.
    pub consensus: String,
    /// The reply to `GETINFO md/all`.
    pub microdescriptors: String,
}

impl Texts {
    /// Generates the documents. The consensus is for the current hour, because Python Onionbalance
    /// does not accept any other.
    pub fn generate(relays: usize) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let network = Plan { relays, valid_after: now - now % HOUR, ..Plan::default() }.generate();
        Ok(Self { microdescriptors: network.all_microdescriptors(), consensus: network.consensus })
    }

    /// Parses both documents and returns the HSDirs for a service's two time periods.
    pub fn place(&self, address: &OnionAddress) -> Result<Vec<Placement>> {
        let network = Network::parse(&self.consensus, &self.microdescriptors, NetworkKind::Public)?;
        let periods = network.service_periods();
        Ok(periods
            .iter()
            .flat_map(|period| network.responsible_hsdirs(&address.blind(period.period), period))
            .collect())
    }

    /// Writes the documents to the files `consensus` and `microdescriptors` in a folder.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::write(dir.join("consensus"), &self.consensus).context("could not write the consensus")?;
        fs::write(dir.join("microdescriptors"), &self.microdescriptors).context("could not write the microdescriptors")
    }
}
