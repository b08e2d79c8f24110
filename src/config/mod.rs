//! The `config.yaml` of the stand-alone daemon. The file has the format of Python Onionbalance's
//! configuration for v3 services, with one more setting. This module performs no IO.
//!
//! ```yaml
//! services:
//! - key: <file, relative to config.yaml>      # PEM, or Tor's hs_ed25519_secret_key
//!   instances:
//!   - address: <onion address>
//!     name: <human-readable name>             # optional
//!     max-introduction-points: <1 to 20>      # optional; by default, 3
//! status-socket-location: <path>              # optional
//! ```

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;

use crate::onion::OnionAddress;

pub use read::explain_yaml;
pub use write::{PLACEHOLDER, write};

/// The content of a `config.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The services. There is at least one.
    pub services: Vec<ServiceConfig>,
    /// The path of the status socket, or None to run without one.
    pub status_socket: Option<PathBuf>,
    /// Warnings about ignored settings, which the caller should log.
    pub warnings: Vec<String>,
}

/// A service, which is identified by its master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// The path of the master key file as written in the configuration file. A relative path is
    /// relative to the directory of that file.
    pub key: PathBuf,
    /// The backends of the service. There is at least one, and each address appears once.
    pub instances: Vec<Instance>,
}

/// A backend, an onion service that runs with `HiddenServiceOnionBalanceInstance 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The onion address of the instance itself.
    pub address: OnionAddress,
    /// The human-readable name of the instance, if it has one.
    pub name: Option<String>,
    /// The largest number of the instance's introduction points that are published. None selects
    /// the default.
    pub max_introduction_points: Option<usize>,
}

/// An error that explains why a `config.yaml` is rejected and where the problem is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not valid YAML.
    #[error("not valid YAML: {0}")]
    Yaml(String),
    /// A field is missing or has an invalid value.
    #[error("{field}: {problem}")]
    Field {
        /// The path of the field, for example `services[0].instances[1].address`.
        field: String,
        /// A description of the problem and its solution.
        problem: String,
    },
}

impl Config {
    /// Parses the text of a `config.yaml`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        read::parse(text)
    }
}
