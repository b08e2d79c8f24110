//! Establishes control connections: connects to the endpoint and authenticates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::authenticate::{AuthenticationFailure, Authenticator, Methods, Password};
use super::{Client, ControlEndpoint, ControlError, Event};

/// The default time within which tor must reply to a command.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// The location of tor's control port and the settings for using it.
#[derive(Debug, Clone)]
pub struct Connector {
    /// The endpoint to connect to.
    pub endpoint: ControlEndpoint,
    /// The endpoint to connect to if nothing listens at `endpoint`.
    pub fallback: Option<ControlEndpoint>,
    /// The path of the cookie file, or None to use the file that PROTOCOLINFO names.
    pub cookie: Option<PathBuf>,
    /// The password for tor's `HashedControlPassword`. It is used if no cookie works.
    pub password: Option<Password>,
    /// The time within which tor must reply to a command before the connection is closed. It also
    /// limits the wait for the cookie file.
    pub command_timeout: Duration,
}

impl Connector {
    /// Creates a connector for an endpoint, with default settings.
    pub fn new(endpoint: ControlEndpoint) -> Self {
        Self { endpoint, fallback: None, cookie: None, password: None, command_timeout: COMMAND_TIMEOUT }
    }

    /// Creates a connector for a unix socket, with default settings.
    pub fn unix(socket: impl Into<PathBuf>) -> Self {
        Self::new(ControlEndpoint::Unix(socket.into()))
    }

    /// Connects to tor's control port and authenticates.
    ///
    /// Authentication tries the cookie first, if tor offers that method, and then the password.
    /// Neither is needed if tor requires no authentication. The cookie is never revealed over TCP
    /// to a peer that has not proved that it knows the cookie, unless `cookie` names its file.
    ///
    /// Events are sent to the returned receiver. The channel is bounded, and an overflow closes the
    /// connection, so that a slow reader never blocks replies.
    pub async fn connect(&self) -> Result<(Client, mpsc::Receiver<Event>), ControlError> {
        let (client, events) = self.reach().await?;
        match self.authenticator().authenticate(&client, Methods::All).await {
            Ok(()) => return Ok((client, events)),
            Err(AuthenticationFailure::Final(error)) => return Err(error),
            Err(AuthenticationFailure::CookieRefused(error)) => {
                tracing::debug!(%error, "tor rejected the cookie; trying the password");
            }
        }
        // Tor closes the connection after a failure, and after AUTHCHALLENGE it accepts only the
        // matching AUTHENTICATE. A second attempt therefore needs a new connection.
        drop((client, events));
        let (client, events) = self.reach().await?;
        self.authenticator()
            .authenticate(&client, Methods::Password)
            .await
            .map_err(AuthenticationFailure::into_error)?;
        Ok((client, events))
    }

    /// Returns the credentials and limits for one authentication attempt.
    pub(super) fn authenticator(&self) -> Authenticator<'_> {
        Authenticator {
            endpoint: &self.endpoint,
            cookie: self.cookie.as_deref(),
            password: self.password.as_ref(),
            patience: self.command_timeout,
        }
    }

    async fn reach(&self) -> Result<(Client, mpsc::Receiver<Event>), ControlError> {
        match (self.reach_endpoint(&self.endpoint).await, &self.fallback) {
            (Err(error @ ControlError::Io { .. }), Some(fallback)) => {
                tracing::debug!(%error, endpoint = %fallback, "could not connect; trying the fallback endpoint");
                // A user who set up only one of the two endpoints must learn why that endpoint
                // failed.
                self.reach_endpoint(fallback).await.map_err(|other| match other {
                    ControlError::Io { what, source } => ControlError::Io { what: format!("{error}; {what}"), source },
                    other => other,
                })
            }
            (result, _) => result,
        }
    }

    async fn reach_endpoint(
        &self,
        endpoint: &ControlEndpoint,
    ) -> Result<(Client, mpsc::Receiver<Event>), ControlError> {
        match endpoint {
            ControlEndpoint::Unix(path) => self.reach_by(endpoint, UnixStream::connect(path)).await,
            ControlEndpoint::Tcp(host, port) => {
                let stream = async {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    Ok(stream)
                };
                self.reach_by(endpoint, stream).await
            }
        }
    }

    async fn reach_by<S>(
        &self,
        endpoint: &ControlEndpoint,
        stream: impl Future<Output = std::io::Result<S>>,
    ) -> Result<(Client, mpsc::Receiver<Event>), ControlError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let stream = timeout(self.command_timeout, stream)
            .await
            .map_err(|_| ControlError::Timeout(self.command_timeout))?
            .map_err(|error| ControlError::io(format!("could not connect to {endpoint}"), error))?;
        Ok(Client::over(stream, self.command_timeout))
    }
}

impl Client {
    /// Connects to a unix control socket and authenticates with the cookie file at `cookie`, or
    /// with the file that PROTOCOLINFO names if `cookie` is None.
    pub async fn connect_unix(
        socket: &Path,
        cookie: Option<PathBuf>,
    ) -> Result<(Self, mpsc::Receiver<Event>), ControlError> {
        Connector { cookie, ..Connector::unix(socket) }.connect().await
    }
}
