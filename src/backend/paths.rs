//! The files that agent and tor share, by the names of `docs/internals.md`.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::onion::OnionAddress;

/// The run directory, `/run/onionbalance`.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control/socket")
    }

    /// Tor's `HiddenServiceDir`.
    pub fn onion_service(&self) -> PathBuf {
        self.0.join("hs")
    }

    pub fn hostname(&self) -> PathBuf {
        self.onion_service().join("hostname")
    }

    pub fn forward(&self) -> PathBuf {
        self.0.join("forward")
    }

    pub fn forward_socket(&self, port: u16) -> PathBuf {
        self.forward().join(format!("{port}.sock"))
    }

    /// The backend's own address, which `init` wrote.
    pub fn read_hostname(&self) -> Result<OnionAddress, Failure> {
        let path = self.hostname();
        let complain = |error: &dyn std::fmt::Display| format!("{}: {error}", display(&path));
        let text = std::fs::read_to_string(&path).map_err(|error| complain(&error))?;
        Ok(text.trim_end().parse().map_err(|error| complain(&error))?)
    }
}

fn display(path: &Path) -> impl std::fmt::Display + '_ {
    path.display()
}
