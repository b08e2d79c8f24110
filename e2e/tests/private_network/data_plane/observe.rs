//! Observes a service: with Tor clients, in the descriptors that relays and agents hold, in metrics
//! and in logs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Result, ensure};
use onionbalance_e2e::agent;
use onionbalance_e2e::articlient::ArtiClient;
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::torclient::{TorClient, get, key_line};
use onionbalance_e2e::tornet::{Place, TorNetwork};
use onionbalance_operator::link::METRICS_PORT;
use onionbalance_operator::onion::ClientSecretKey;
use tokio::net::TcpStream;

use super::{Backend, DataPlane, backend_address};
use crate::needles::{find, forms, of_a_token};

impl DataPlane {
    /// Returns an error if a log of our programs or of tor contains part of the master key, of the
    /// signing kit or of the agents' token.
    pub fn no_secret_is_in_a_log(&self) -> Result<()> {
        let key = fs::read(self.key.dir.join("hs_ed25519_secret_key"))?;
        let mut needles = BTreeMap::from([
            ("the master key's scalar", forms(&key[32..64])),
            ("the master key's other half", forms(&key[64..96])),
            ("the agents' token", of_a_token(self.token.to_hex().as_bytes())),
            ("the app's token", of_a_token(self.token.circuit_token().as_bytes())),
        ]);
        if let Some(folder) = &self.kits {
            let kit = fs::read(folder.join("signing.kit"))?;
            // The format is described in src/onion/kit/format.rs.
            needles.extend([
                ("the kit's secret for marks", forms(&kit[96..128])),
                ("a descriptor signing key", forms(&kit[188..220])),
                ("a key of revision counters", forms(&kit[220..252])),
            ]);
        }
        let mut lines = 0;
        for name in self.processes.names()? {
            let log = String::from_utf8_lossy(&fs::read(self.processes.log(&name))?).into_owned();
            let found = find(&log, &needles);
            ensure!(found.is_empty(), "{found:?} in the log of {name}");
            lines += log.lines().filter(|line| line.contains("DEBUG") || line.contains("TRACE")).count();
        }
        ensure!(lines > 10, "the programs must log at debug level, but there are only {lines} lines");
        Ok(())
    }

    /// Starts a Tor client with empty state.
    pub async fn client(&self) -> Result<TorClient> {
        self.client_with("").await
    }

    /// Starts a Tor client that has a client key for the public address.
    pub async fn client_with_key(&self, key: &ClientSecretKey) -> Result<TorClient> {
        let dir = self.path(&format!("keys-of-client{}", self.clients.load(Ordering::Relaxed)));
        self.client_with(&key_line(&dir, key, self.onion())?).await
    }

    async fn client_with(&self, torrc: &str) -> Result<TorClient> {
        let name = format!("client{}", self.clients.fetch_add(1, Ordering::Relaxed));
        let torrc = self.network_torrc.clone() + torrc;
        TorClient::fresh(&self.processes, &name, &self.path(&name), &torrc, None).await
    }

    /// Starts an arti client with empty state.
    pub async fn arti_client(&self) -> Result<ArtiClient> {
        let network = TorNetwork::open(&self.network, Place::Loopback, &self.processes);
        ArtiClient::fresh(&self.processes, "arti", &self.path("arti"), &network).await
    }

    /// Returns the public descriptor as decoded by stem.
    pub async fn descriptor(&self) -> Result<Descriptor> {
        let client = self.client().await?;
        let descriptor = Descriptor::fetch(client.tor(), self.onion()).await?;
        client.remove().await?;
        Ok(descriptor)
    }

    /// Returns the newest descriptors as decoded by stem. The result is keyed by the fingerprint of
    /// the relay that holds the descriptor, and omits relays that hold no descriptor or an older
    /// one.
    pub async fn newest_descriptors(&self, client: &TorClient) -> Result<BTreeMap<String, Descriptor>> {
        self.newest_descriptors_of(client, self.relays.keys()).await
    }

    /// Works like [`Self::newest_descriptors`], but queries only the given relays.
    pub async fn newest_descriptors_of(
        &self,
        client: &TorClient,
        relays: impl IntoIterator<Item = &String>,
    ) -> Result<BTreeMap<String, Descriptor>> {
        let mut held = Descriptor::fetch_each(client.tor(), self.onion(), relays).await?;
        let newest = held.values().map(|held| held.revision_counter).max();
        held.retain(|_, held| Some(held.revision_counter) == newest);
        Ok(held)
    }

    /// Asks every relay for the descriptor of an onion address. Returns, by fingerprint, `HELD` or
    /// tor's reason for the failure, such as `NOT_FOUND`.
    pub async fn answers(&self, client: &TorClient, onion: &str) -> Result<BTreeMap<String, String>> {
        Descriptor::answers(client.tor(), onion, self.relays.keys()).await
    }

    /// Returns the descriptor that an external backend published itself, as decoded by stem.
    pub async fn descriptor_of(&self, address: &str) -> Result<Descriptor> {
        let client = self.client().await?;
        let descriptor = Descriptor::fetch(client.tor(), address).await?;
        client.remove().await?;
        Ok(descriptor)
    }

    /// Returns the descriptor that a backend's agent reports, or `None` if it has none yet.
    pub async fn backends_descriptor(&self, backend: usize) -> Result<Option<Descriptor>> {
        let Backend { uid, api } = &self.backends[backend];
        agent::descriptor_at(api, uid, &self.token).await
    }

    /// Returns the authentication keys of the introduction points that a backend's tor has.
    pub async fn points(&self, backend: usize) -> Result<BTreeSet<String>> {
        let Backend { uid, api } = &self.backends[backend];
        agent::points_at(api, uid, &self.token).await
    }

    /// Returns the values of one of the publisher's metrics, by label.
    pub async fn metric(&self, name: &str) -> Result<BTreeMap<String, u64>> {
        figure(&self.metrics, &format!("onionbalance_publisher_{name}")).await
    }

    /// Returns the values of a metric of one backend's agent, by label.
    pub async fn agents_metric(&self, backend: usize, name: &str) -> Result<BTreeMap<String, u64>> {
        let address = format!("{}:{METRICS_PORT}", backend_address(backend));
        figure(&address, &format!("onionbalance_agent_{name}")).await
    }

    /// Makes the frontend's tor log what it does as a client of onion services. Returns the path of
    /// the log.
    pub async fn log_introductions(&self) -> Result<PathBuf> {
        let log = self.path("introductions.log");
        let command = format!("SETCONF Log=\"[rend]info notice file {}\"", log.display());
        ensure!(self.frontend_control().await?.command(&command).await?, "tor rejected {command}");
        Ok(log)
    }

    /// Returns what the relays have logged about onion services, and their notices. Only a network
    /// of [`Self::start_with`] has this log.
    pub fn relays_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("relays.log"))?)
    }
}

/// Returns the values of a metric that is served at an address, by label.
async fn figure(address: &str, name: &str) -> Result<BTreeMap<String, u64>> {
    let mut stream = TcpStream::connect(address).await?;
    let text = get(&mut stream, "metrics", "/metrics").await?;
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    let sample = |(label, value): (&str, &str)| Ok((label.to_owned(), value.parse()?));
    samples.filter(|(label, _)| label.is_empty() || label.starts_with('{')).map(sample).collect()
}
