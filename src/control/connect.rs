//! How a connection is made: the socket, then the cookie (control-spec, sections 3.5, 3.21 and 5.1).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::codec::Message;
use super::text::keywords;
use super::{Client, ControlError, Event};

/// How long tor may leave a command unanswered, unless told otherwise.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// A cookie's bytes.
const COOKIE_LENGTH: usize = 32;
/// How often a cookie file that is not there yet is looked for.
const COOKIE_POLL: Duration = Duration::from_millis(50);

/// Where tor's control socket is, and how to use it. (TCP would be another kind of place here.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// The unix socket.
    pub socket: PathBuf,
    /// The cookie file; None takes the one that PROTOCOLINFO names.
    pub cookie: Option<PathBuf>,
    /// A command that is unanswered for this long ends the connection. Also bounds the wait for the cookie file.
    pub command_timeout: Duration,
}

/// What PROTOCOLINFO tells about authentication.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    /// Comma-separated.
    methods: String,
    cookie_file: Option<PathBuf>,
}

impl Connector {
    /// The socket with all else at its default.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), cookie: None, command_timeout: COMMAND_TIMEOUT }
    }

    /// Connects and authenticates.
    pub async fn connect(&self) -> Result<(Client, mpsc::Receiver<Event>), ControlError> {
        let stream = timeout(self.command_timeout, UnixStream::connect(&self.socket))
            .await
            .map_err(|_| ControlError::Timeout(self.command_timeout))?
            .map_err(|error| ControlError::io(format!("connecting to {}", self.socket.display()), error))?;
        let (client, events) = Client::over(stream, self.command_timeout);
        self.authenticate(&client).await?;
        Ok((client, events))
    }

    /// Chooses the method and proves that we may. (SAFECOOKIE would be chosen here, before COOKIE.)
    pub(super) async fn authenticate(&self, client: &Client) -> Result<(), ControlError> {
        // A restarted tor opens its socket before it replaces an old cookie file, but it answers only afterwards: so the
        // file is read after the answer, also where PROTOCOLINFO's path is not needed.
        let offer = Offer::parse(&client.protocol_info().await?)?;
        if !offer.methods.split(',').any(|method| method == "COOKIE") {
            return Err(ControlError::Authentication(format!("tor offers {}, not COOKIE", offer.methods)));
        }
        let path = self.cookie.as_ref().or(offer.cookie_file.as_ref());
        let path = path.ok_or_else(|| ControlError::Authentication("tor names no cookie file".to_owned()))?;
        let cookie = await_cookie(path, self.command_timeout).await?;
        client.authenticate(&cookie).await.map_err(|error| match error {
            ControlError::Refused { message, .. } => ControlError::Authentication(message),
            other => other,
        })
    }
}

impl Offer {
    /// Reads `AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE="/path"` among the lines.
    fn parse(message: &Message) -> Result<Self, ControlError> {
        let malformed = || ControlError::Protocol("PROTOCOLINFO has no readable AUTH line".to_owned());
        let line = message.lines.iter().find_map(|line| line.text.strip_prefix("AUTH ")).ok_or_else(malformed)?;
        let (mut methods, mut cookie_file) = (None, None);
        for (word, value) in keywords(line).ok_or_else(malformed)? {
            match word {
                "METHODS" => methods = value.and_then(|value| String::from_utf8(value).ok()),
                "COOKIEFILE" => cookie_file = value.map(|value| PathBuf::from(OsString::from_vec(value))),
                _ => {}
            }
        }
        Ok(Self { methods: methods.ok_or_else(malformed)?, cookie_file })
    }
}

/// Reads the cookie; waits for a file that is not there, or not whole, for up to `patience`.
async fn await_cookie(path: &Path, patience: Duration) -> Result<Zeroizing<Vec<u8>>, ControlError> {
    let deadline = Instant::now() + patience;
    loop {
        let fault = match read_cookie(path).await {
            Ok(cookie) if cookie.len() == COOKIE_LENGTH => return Ok(cookie),
            Ok(_) => format!("{} does not hold {COOKIE_LENGTH} bytes", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => format!("{} is not there", path.display()),
            Err(error) => return Err(ControlError::io(format!("reading {}", path.display()), error)),
        };
        if Instant::now() >= deadline {
            return Err(ControlError::Authentication(fault));
        }
        sleep(COOKIE_POLL).await;
    }
}

async fn read_cookie(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // One byte more than a cookie tells a longer file; the capacity is never exceeded, so no copy stays behind.
    let mut cookie = Zeroizing::new(Vec::with_capacity(2 * COOKIE_LENGTH));
    File::open(path).await?.take(COOKIE_LENGTH as u64 + 1).read_to_end(&mut cookie).await?;
    Ok(cookie)
}
