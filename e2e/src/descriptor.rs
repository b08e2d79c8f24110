//! Reads descriptors independently of our code: fetches them from the HSDirs and decodes them with
//! Python's stem.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::command::{command, output, output_with_input};
use crate::state::source_tree;
use crate::tornet::Tor;

/// A decoded descriptor.
#[derive(Debug, Clone, Deserialize)]
pub struct Descriptor {
    /// The service's blinded key for one time period, in hexadecimal.
    pub blinded_key: String,
    /// The revision counter, which increases with every version of the descriptor.
    pub revision_counter: u64,
    /// The time in minutes for which HSDirs keep the descriptor.
    pub lifetime_minutes: u64,
    /// The length of the descriptor's text in bytes.
    pub bytes: usize,
    /// True if the descriptor says that the location of the servers is not hidden.
    pub single_onion_service: bool,
    /// The introduction points in the order in which the descriptor lists them.
    pub points: Vec<Point>,
}

/// An introduction point. All fields except `onion_key` are hexadecimal.
#[derive(Debug, Clone, Deserialize)]
pub struct Point {
    /// The RSA fingerprint of the introduction point's relay.
    pub relay: String,
    /// The ed25519 identity of the introduction point's relay.
    pub relay_ed25519: Option<String>,
    /// The ntor key of the introduction point's relay, in base64.
    pub onion_key: String,
    /// The authentication key, which identifies the introduction point. The backend's tor generates
    /// this key, and the merged descriptor keeps it.
    pub auth_key: String,
    /// The introduction point's x25519 encryption key.
    pub enc_key: String,
}

impl Descriptor {
    /// Uses a client's tor to fetch the descriptor that the HSDirs currently hold.
    pub async fn fetch(tor: &Tor, onion: &str) -> Result<Self> {
        let mut fetch = python().await?;
        fetch.arg("fetch").arg(tor.control_socket()).arg(tor.cookie()).arg(onion);
        Self::from_json(&output(&mut fetch).await?)
    }

    /// Uses a client's tor to fetch the descriptor that each of the given HSDirs currently holds.
    /// The result is keyed by fingerprint and omits HSDirs that hold none.
    pub async fn fetch_each(
        tor: &Tor,
        onion: &str,
        hsdirs: impl IntoIterator<Item = &String>,
    ) -> Result<BTreeMap<String, Self>> {
        let mut fetch = python().await?;
        fetch.arg("fetch-each").arg(tor.control_socket()).arg(tor.cookie()).arg(onion).args(hsdirs);
        let json = output(&mut fetch).await?;
        serde_json::from_str(&json).with_context(|| format!("descriptor.py printed {json:?}"))
    }

    /// Uses a client's tor to ask each of the given HSDirs for the descriptor. Returns, by
    /// fingerprint, `HELD` or tor's reason for the failure. The reason of an HSDir that has no
    /// descriptor is `NOT_FOUND`. HSDirs that tor could not reach are asked again.
    pub async fn answers(
        tor: &Tor,
        onion: &str,
        hsdirs: impl IntoIterator<Item = &String>,
    ) -> Result<BTreeMap<String, String>> {
        let mut ask = python().await?;
        ask.arg("answers").arg(tor.control_socket()).arg(tor.cookie()).arg(onion).args(hsdirs);
        let json = output(&mut ask).await?;
        serde_json::from_str(&json).with_context(|| format!("descriptor.py printed {json:?}"))
    }

    /// Returns a command that asks the given HSDirs repeatedly for the descriptors of two time
    /// periods, and that prints each answer as a line of JSON. The client's tor only provides the
    /// consensus.
    pub async fn watch(tor: &Tor, onion: &str, hsdirs: impl IntoIterator<Item = &String>) -> Result<Command> {
        let mut watch = python().await?;
        watch.arg("watch").arg(tor.control_socket()).arg(tor.cookie()).arg(onion).args(hsdirs);
        Ok(watch)
    }

    /// Returns a command that works like [`Self::watch`], and that floods the service's
    /// introduction points at the rate per second that the last line of its standard input gave. It
    /// prints each answer of an introduction point as a line of JSON, too.
    pub async fn flood(tor: &Tor, onion: &str, hsdirs: impl IntoIterator<Item = &String>) -> Result<Command> {
        let mut flood = python().await?;
        flood.arg("flood").arg(tor.control_socket()).arg(tor.cookie()).arg(onion).args(hsdirs);
        Ok(flood)
    }

    /// Decodes a descriptor's text.
    pub async fn decode(text: &str, onion: &str) -> Result<Self> {
        let mut decode = python().await?;
        decode.args(["decode", onion]);
        Self::from_json(&output_with_input(&mut decode, text).await?)
    }

    /// Returns the introduction points' authentication keys.
    pub fn auth_keys(&self) -> BTreeSet<&str> {
        self.points.iter().map(|point| point.auth_key.as_str()).collect()
    }

    fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).with_context(|| format!("descriptor.py printed {json:?}"))
    }
}

async fn python() -> Result<Command> {
    static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();
    let python = PYTHON.get_or_try_init(make_python).await?;
    let mut command = Command::new(python);
    // Python would store compiled modules in the source tree.
    command.arg("-B").arg(source_tree().join("e2e/py/descriptor.py"));
    Ok(command)
}

async fn make_python() -> Result<PathBuf> {
    let script = source_tree().join("e2e/setup/stem.sh");
    let path = output(&mut command(&script.display().to_string(), [""; 0])).await?;
    Ok(PathBuf::from(path.trim()))
}
