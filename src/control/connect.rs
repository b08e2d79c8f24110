//! Establishes control connections: connects to the endpoint and authenticates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::authenticate::{AuthenticationFailure, Authenticator, Methods, Password};
use super::{Client, ControlEndpoint, ControlError, Event, NoConnection};

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

/// A control connection and its endpoint.
#[derive(Debug)]
pub struct Connected {
    /// The handle that sends commands.
    pub client: Client,
    /// The events that tor sends.
    pub events: mpsc::Receiver<Event>,
    /// The endpoint that was reached: the first one or the fallback.
    pub endpoint: ControlEndpoint,
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
    /// to a peer that has not proved that it knows the cookie.
    ///
    /// Events are sent to the returned receiver. The channel is bounded, and an overflow closes the
    /// connection, so that a slow reader never blocks replies.
    pub async fn connect(&self) -> Result<(Client, mpsc::Receiver<Event>), ControlError> {
        match self.open().await {
            Ok(Connected { client, events, .. }) => Ok((client, events)),
            Err(failure) => Err(failure.reason),
        }
    }

    /// Connects and authenticates like [`Self::connect`]. The result names the endpoint.
    pub(super) async fn open(&self) -> Result<Connected, NoConnection> {
        let (reached, unreachable) = self.reach().await?;
        match self.authenticate(&reached, Methods::All).await {
            Ok(()) => return Ok(reached),
            Err(AuthenticationFailure::Final(reason)) => return Err(failed(reached.endpoint, reason, unreachable)),
            Err(AuthenticationFailure::CookieRefused(error)) => {
                tracing::debug!(%error, "tor rejected the cookie; trying the password");
            }
        }
        // Tor closes the connection after a failure, and after AUTHCHALLENGE it accepts only the
        // matching AUTHENTICATE. A second attempt therefore needs a new connection.
        drop(reached);
        let (reached, unreachable) = self.reach().await?;
        match self.authenticate(&reached, Methods::Password).await {
            Ok(()) => Ok(reached),
            Err(failure) => Err(failed(reached.endpoint, failure.into_error(), unreachable)),
        }
    }

    /// Authenticates a connection. The endpoint that was reached decides how far the peer is
    /// trusted.
    async fn authenticate(&self, reached: &Connected, methods: Methods) -> Result<(), AuthenticationFailure> {
        self.authenticator(&reached.endpoint).authenticate(&reached.client, methods).await
    }

    /// Returns the credentials and limits for one authentication attempt at an endpoint.
    pub(super) fn authenticator<'a>(&'a self, endpoint: &'a ControlEndpoint) -> Authenticator<'a> {
        Authenticator {
            endpoint,
            cookie: self.cookie.as_deref(),
            password: self.password.as_ref(),
            patience: self.command_timeout,
        }
    }

    /// Opens a connection to the endpoint, or to the fallback if nothing listens at the endpoint.
    /// For the fallback, the second value is the endpoint and the reason why nobody could reach it.
    async fn reach(&self) -> Result<(Connected, Option<Unreachable>), NoConnection> {
        match (self.reach_endpoint(&self.endpoint).await, &self.fallback) {
            (Ok((client, events)), _) => Ok((Connected { client, events, endpoint: self.endpoint.clone() }, None)),
            (Err(error @ ControlError::Io { .. }), Some(fallback)) => {
                tracing::debug!(%error, endpoint = %fallback, "could not connect; trying the fallback endpoint");
                let unreachable = Some((self.endpoint.clone(), error));
                match self.reach_endpoint(fallback).await {
                    Ok((client, events)) => Ok((Connected { client, events, endpoint: fallback.clone() }, unreachable)),
                    Err(error) => Err(failed(fallback.clone(), error, unreachable)),
                }
            }
            (Err(error), _) => Err(NoConnection::at(self.endpoint.clone(), error)),
        }
    }

    async fn reach_endpoint(
        &self,
        endpoint: &ControlEndpoint,
    ) -> Result<(Client, mpsc::Receiver<Event>), ControlError> {
        match endpoint {
            ControlEndpoint::Unix(path) => self.reach_by(UnixStream::connect(path)).await,
            ControlEndpoint::Tcp(host, port) => {
                let stream = async {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    Ok(stream)
                };
                self.reach_by(stream).await
            }
        }
    }

    async fn reach_by<S>(
        &self,
        stream: impl Future<Output = std::io::Result<S>>,
    ) -> Result<(Client, mpsc::Receiver<Event>), ControlError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let stream = timeout(self.command_timeout, stream)
            .await
            .map_err(|_| ControlError::Timeout(self.command_timeout))?
            .map_err(|error| ControlError::io("could not connect", error))?;
        Ok(Client::over(stream, self.command_timeout))
    }
}

/// An endpoint that could not be reached, and the reason.
type Unreachable = (ControlEndpoint, ControlError);

fn failed(endpoint: ControlEndpoint, reason: ControlError, unreachable: Option<Unreachable>) -> NoConnection {
    NoConnection { endpoint, reason, unreachable: unreachable.map(Box::new) }
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

#[cfg(test)]
mod tests;
