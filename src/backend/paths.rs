//! The paths of the files that the agent and tor share, as documented in `docs/internals.md`.

use std::path::{Path, PathBuf};

use super::AgentError;
use crate::onion::OnionAddress;

/// The run directory, `/run/onionbalance`.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Wraps the path of the run directory.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the path of the run directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path of tor's control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control/socket")
    }

    /// Returns the path of tor's `HiddenServiceDir`.
    pub fn onion_service(&self) -> PathBuf {
        self.0.join("hs")
    }

    /// Returns the path of the file with the backend's own onion address.
    pub fn hostname(&self) -> PathBuf {
        self.onion_service().join("hostname")
    }

    /// Returns the directory of the forwarding sockets.
    pub fn forward(&self) -> PathBuf {
        self.0.join("forward")
    }

    /// Returns the path of the forwarding socket for a port of the onion address.
    pub fn forward_socket(&self, port: u16) -> PathBuf {
        self.forward().join(format!("{port}.sock"))
    }

    /// Reads the backend's own address, which `init` wrote.
    pub fn read_hostname(&self) -> Result<OnionAddress, AgentError> {
        let path = self.hostname();
        let with_path =
            |error: &dyn std::fmt::Display| format!("cannot read the backend's address {}: {error}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| with_path(&error))?;
        Ok(text.trim_end().parse().map_err(|error| with_path(&error))?)
    }
}
