//! What can go wrong on a control connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::codec::DecodeError;

/// Why a command failed, or why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// Tor refused: status code and text.
    #[error("tor answered {code}: {message}")]
    Refused {
        /// Three-digit status, 400 to 599.
        code: u16,
        /// Its text; several lines are joined with `; `.
        message: String,
    },
    /// The connection is gone: tor closed it, or this side dropped its last handle.
    #[error("the control connection is closed")]
    Closed,
    /// Tor left a command unanswered for this long: it is frozen. The connection is closed, since a late answer would be
    /// taken for the next command's.
    #[error("tor did not answer within {0:?}")]
    Timeout(Duration),
    /// What tor sent is not the control protocol, or no answer to the command.
    #[error("tor does not speak the control protocol: {0}")]
    Protocol(String),
    /// Tor does not let us in, or its cookie cannot be read.
    #[error("authentication failed: {0}")]
    Authentication(String),
    /// An argument that would break the command's line; nothing was sent.
    #[error("not an argument for a control command: {0:?}")]
    Argument(String),
    /// Events came faster than they were read. The connection is closed, so that no event is missed unnoticed.
    #[error("more than {0} events wait to be read")]
    EventOverflow(usize),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Its answer.
        source: Arc<io::Error>,
    },
}

impl ControlError {
    /// An input or output error, and what was tried.
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source) }
    }
}

impl From<DecodeError> for ControlError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}
