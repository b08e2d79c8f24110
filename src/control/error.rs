//! The errors of control connections.

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use super::ControlEndpoint;
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
    /// The peer sent data that violates the control protocol or does not match the command.
    #[error("unexpected data on the control connection: {0}")]
    Protocol(String),
    /// The peer is not tor's control port, or seems not to be.
    #[error("{0}")]
    NotTor(String),
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
        match error {
            DecodeError::SocksPort | DecodeError::WebServer => Self::NotTor(error.to_string()),
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// The reason why there is no control connection, and the endpoint concerned.
#[derive(Debug, Clone)]
pub struct NoConnection {
    /// The endpoint of the failed attempt or of the lost connection.
    pub endpoint: ControlEndpoint,
    /// The reason for the failure or the loss.
    pub reason: ControlError,
    /// The endpoint that was tried before `endpoint`, and the reason why it could not be reached.
    /// Somebody who has set up only that endpoint needs to know this reason.
    pub unreachable: Option<Box<(ControlEndpoint, ControlError)>>,
}

impl NoConnection {
    /// Creates the error about an endpoint, before which no other endpoint was tried.
    pub fn at(endpoint: ControlEndpoint, reason: ControlError) -> Self {
        Self { endpoint, reason, unreachable: None }
    }
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(unreachable) = &self.unreachable {
            write!(f, "{}: {}; ", unreachable.0, unreachable.1)?;
        }
        write!(f, "{}: {}", self.endpoint, self.reason)
    }
}

impl std::error::Error for NoConnection {}
