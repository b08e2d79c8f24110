//! The errors of control connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::codec::DecodeError;

/// The reason why a command failed or a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// Tor replied to a command with an error.
    #[error("tor answered {code}: {message}")]
    Refused {
        /// The three-digit status code, 400 to 599.
        code: u16,
        /// The text of the reply. Several lines are joined with `; `.
        message: String,
    },
    /// The connection has ended, because tor closed it or this side dropped its last handle.
    #[error("the control connection is closed")]
    Closed,
    /// Tor did not reply to a command within this time and is considered frozen. The connection is
    /// closed, because a late reply would be mistaken for the reply to the next command.
    #[error("tor did not answer within {0:?}")]
    Timeout(Duration),
    /// Tor sent data that violates the control protocol or does not match the command.
    #[error("unexpected data on the control connection: {0}")]
    Protocol(String),
    /// Tor rejected the authentication, or the cookie could not be read.
    #[error("authentication failed: {0}")]
    Authentication(String),
    /// An argument contains characters that would corrupt the command. Nothing was sent.
    #[error("invalid argument for a control command: {0:?}")]
    Argument(String),
    /// Events arrived faster than they were read. The connection is closed, so that no event is
    /// lost silently.
    #[error("more than {0} events are waiting to be read")]
    EventOverflow(usize),
    /// An IO operation failed.
    #[error("{what}: {source}")]
    Io {
        /// A description of the failed operation.
        what: String,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
}

impl ControlError {
    /// Creates an IO error with a description of the failed operation.
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source) }
    }
}

impl From<DecodeError> for ControlError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}
