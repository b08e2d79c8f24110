//! A real Tor client of one service that observes, next to the probe, whether the service answers.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_operator::onion::ClientSecretKey;
use tokio::time::timeout;

use super::stage::Stage;
use super::target::path;
use crate::descriptor::Descriptor;
use crate::torclient::{TorClient, connect, get, key_line};
use crate::wait::{Seen, until};

/// The time after which a request without a response has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time within which a service that has been repaired must answer.
const REPAIRED: Duration = Duration::from_secs(120);

/// A client that gets the descriptor from an HSDir before each request.
#[derive(Debug)]
pub struct Witness {
    client: TorClient,
    onion: String,
    requests: usize,
}

impl Witness {
    /// Starts a client of our service, with this client key if discovery is restricted.
    pub async fn start(stage: &Stage, dir: &Path, key: Option<&ClientSecretKey>) -> Result<Self> {
        let onion = stage.onions.ours.clone();
        let mut torrc = stage.network.torrc_lines()?;
        if let Some(key) = key {
            torrc += &key_line(&dir.join("keys"), key, &onion)?;
        }
        let name = format!("{}-witness", stage.namespace);
        let client = TorClient::fresh(&stage.processes, &name, &dir.join("client"), &torrc, None).await?;
        Ok(Self { client, onion, requests: 0 })
    }

    /// Sends a request with fresh circuits. Returns an error if the service does not answer.
    async fn request(&mut self) -> Result<()> {
        self.client.forget(&self.onion).await?;
        self.requests += 1;
        let isolation = format!("witness {}", self.requests);
        let answer = async {
            let mut stream = connect(self.client.socks(), &self.onion, &isolation).await?;
            get(&mut stream, &self.onion, &path(0)).await
        };
        timeout(PATIENCE, answer).await.with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))??;
        Ok(())
    }

    /// Returns an error if the service answers, although the probe reports an outage.
    pub async fn fails(&mut self) -> Result<()> {
        ensure!(self.request().await.is_err(), "the service answers a client during an outage");
        Ok(())
    }

    /// Waits until the service answers.
    pub async fn succeeds(&mut self) -> Result<()> {
        until("the service answers a client", REPAIRED, async || {
            Ok(self.request().await.map_or_else(|error| Seen::NotYet(format!("{error:#}")), Seen::Yes))
        })
        .await
    }

    /// Returns the number of HSDirs that hold a descriptor of the service for the period that
    /// clients use.
    pub async fn hsdirs(&self, stage: &Stage) -> Result<usize> {
        let fingerprints = stage.network.fingerprints()?;
        let answers = Descriptor::answers(self.client.tor(), &self.onion, fingerprints.keys()).await?;
        Ok(answers.values().filter(|answer| *answer == "HELD").count())
    }

    /// Stops the client.
    pub async fn remove(self) -> Result<()> {
        self.client.remove().await
    }
}
