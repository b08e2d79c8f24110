//! A control connection: commands in, replies and events out.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::onion::OnionAddress;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Tor refused: status code and text.
    #[error("tor answered {code}: {message}")]
    Refused {
        /// Three-digit status.
        code: u16,
        /// Its text.
        message: String,
    },
    /// The connection is gone.
    #[error("the control connection is closed")]
    Closed,
    // … Io, Protocol, Authentication, Timeout
}

/// A handle on a connection; clones share it, commands are answered in order.
#[derive(Debug, Clone)]
pub struct Client {
    _private: (),
}

/// An asynchronous event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// HS_DESC.
    HsDesc(HsDescEvent),
    /// NEWCONSENSUS: a new consensus came (its body is left out: ask with GETINFO).
    NewConsensus,
    /// NEWDESC: descriptors came.
    NewDescriptors,
    /// STATUS_CLIENT BOOTSTRAP: percent.
    Bootstrap(u8),
    /// Any other: its name and the rest of its first line.
    Other(String, String),
}

/// What a HS_DESC event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsDescEvent {
    /// What happened.
    pub action: HsDescAction,
    /// The onion address; None for UNKNOWN.
    pub address: Option<OnionAddress>,
    /// The HSDir's fingerprint, 20 bytes, where the event names one.
    pub hsdir: Option<[u8; 20]>,
    /// The descriptor id (blinded key, base64), where told.
    pub descriptor_id: Option<String>,
    /// REASON=.
    pub reason: Option<String>,
}

/// HS_DESC's actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HsDescAction {
    /// REQUESTED
    Requested,
    /// UPLOAD
    Upload,
    /// RECEIVED
    Received,
    /// UPLOADED
    Uploaded,
    /// IGNORE
    Ignore,
    /// FAILED
    Failed,
    /// CREATED
    Created,
}

impl Client {
    /// Connects to a unix control socket and authenticates with the cookie that PROTOCOLINFO names (or `cookie`).
    /// Events that arrive go to the receiver; a slow reader never blocks replies (bounded; overflow closes the connection).
    pub async fn connect_unix(
        _socket: &Path,
        _cookie: Option<PathBuf>,
    ) -> Result<(Self, mpsc::Receiver<Event>), ControlError> {
        todo!()
    }

    /// GETINFO of one key; data replies come whole, dot-unstuffed, with `\n` line ends.
    pub async fn get_info(&self, _key: &str) -> Result<String, ControlError> {
        todo!()
    }

    /// GETCONF of one option: all its values; an option at its default gives none.
    pub async fn get_conf(&self, _option: &str) -> Result<Vec<String>, ControlError> {
        todo!()
    }

    /// SETEVENTS.
    pub async fn set_events(&self, _events: &[&str]) -> Result<(), ControlError> {
        todo!()
    }

    /// HSPOST to the given HSDirs. Ok means tor accepted the command; each upload's fate comes as HS_DESC events.
    pub async fn hs_post(
        &self,
        _servers: &[[u8; 20]],
        _address: &OnionAddress,
        _descriptor: &str,
    ) -> Result<(), ControlError> {
        todo!()
    }

    /// SIGNAL.
    pub async fn signal(&self, _signal: &str) -> Result<(), ControlError> {
        todo!()
    }

    /// Resolves when the connection is gone.
    pub async fn closed(&self) {
        todo!()
    }
}
