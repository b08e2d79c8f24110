//! `config.yaml` of the stand-alone daemon: the file of Python Onionbalance, for v3 services. No IO.
//!
//! ```yaml
//! services:
//! - key: <file, relative to config.yaml>      # PEM, or Tor's hs_ed25519_secret_key
//!   instances:
//!   - address: <onion address>
//!     name: <for people>                      # optional
//! status-socket-location: <path>              # optional
//! ```

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;

use crate::onion::OnionAddress;

pub use write::{PLACEHOLDER, write};

/// What `config.yaml` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// One or more.
    pub services: Vec<Service>,
    /// Where the status socket is; None for no socket.
    pub status_socket: Option<PathBuf>,
    /// What is ignored, for the log.
    pub warnings: Vec<String>,
}

/// A service at one master address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The master key's file, as written: relative to the configuration file's directory, or absolute.
    pub key: PathBuf,
    /// One or more, each address once.
    pub instances: Vec<Instance>,
}

/// A backend: an onion service that runs with `HiddenServiceOnionBalanceInstance 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its own address.
    pub address: OnionAddress,
    /// What people call it.
    pub name: Option<String>,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No YAML.
    #[error("it is no YAML: {0}")]
    Yaml(String),
    /// A field with a wrong value, or none.
    #[error("{field}: {problem}")]
    Field {
        /// As in `services[0].instances[1].address`.
        field: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl Config {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        read::parse(text)
    }
}
