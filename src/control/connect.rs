//! How a connection is made: to the place, then authentication.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::authenticate::{Failure, Methods, Password};
use super::{Client, ControlError, Event, Place};

/// How long tor may leave a command unanswered, unless told otherwise.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Where tor's control port is, and how to use it.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Where it is.
    pub place: Place,
    /// Where it is when nobody listens there.
    pub otherwise: Option<Place>,
    /// The cookie file; None takes the one that PROTOCOLINFO names.
    pub cookie: Option<PathBuf>,
    /// The password of tor's `HashedControlPassword`. It is used where no cookie serves.
    pub password: Option<Password>,
    /// A command that is unanswered for this long ends the connection. Also bounds the wait for the cookie file.
    pub command_timeout: Duration,
}

impl Connector {
    /// The place with all else at its default.
    pub fn new(place: Place) -> Self {
        Self { place, otherwise: None, cookie: None, password: None, command_timeout: COMMAND_TIMEOUT }
    }

    /// A unix socket with all else at its default.
    pub fn unix(socket: impl Into<PathBuf>) -> Self {
        Self::new(Place::Unix(socket.into()))
    }

    /// Connects and authenticates: by the cookie if tor offers that and it serves (without a proof that the other side is
    /// the tor of this cookie nothing is told), else by password, else with nothing if tor asks for nothing.
    /// Events that arrive go to the receiver; a slow reader never blocks replies (bounded; overflow closes the connection).
    pub async fn connect(&self) -> Result<(Client, mpsc::Receiver<Event>), ControlError> {
        let (client, events) = self.reach().await?;
        match self.authenticate(&client, Methods::All).await {
            Ok(()) => return Ok((client, events)),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::CookieRefused(error)) => {
                tracing::debug!(%error, "the cookie does not serve, the password is tried");
            }
        }
        // Tor hangs up on who failed, and after AUTHCHALLENGE takes nothing but its answer: another connection.
        drop((client, events));
        let (client, events) = self.reach().await?;
        self.authenticate(&client, Methods::Password).await.map_err(Failure::into_error)?;
        Ok((client, events))
    }

    async fn reach(&self) -> Result<(Client, mpsc::Receiver<Event>), ControlError> {
        match (self.reach_place(&self.place).await, &self.otherwise) {
            (Err(error @ ControlError::Io { .. }), Some(otherwise)) => {
                tracing::debug!(%error, "{otherwise} is tried");
                // Who set up only one of the two must learn what is wrong with that one.
                self.reach_place(otherwise).await.map_err(|other| match other {
                    ControlError::Io { what, source } => ControlError::Io { what: format!("{error}; {what}"), source },
                    other => other,
                })
            }
            (result, _) => result,
        }
    }

    async fn reach_place(&self, place: &Place) -> Result<(Client, mpsc::Receiver<Event>), ControlError> {
        match place {
            Place::Unix(path) => self.reach_by(place, UnixStream::connect(path)).await,
            Place::Tcp(host, port) => {
                let stream = async {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    Ok(stream)
                };
                self.reach_by(place, stream).await
            }
        }
    }

    async fn reach_by<S>(
        &self,
        place: &Place,
        stream: impl Future<Output = std::io::Result<S>>,
    ) -> Result<(Client, mpsc::Receiver<Event>), ControlError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let stream = timeout(self.command_timeout, stream)
            .await
            .map_err(|_| ControlError::Timeout(self.command_timeout))?
            .map_err(|error| ControlError::io(format!("connecting to {place}"), error))?;
        Ok(Client::over(stream, self.command_timeout))
    }
}
