//! Authentication (control-spec, sections 3.5, 3.21, 3.24 and 5.1).
//!
//! ```text
//! SAFECOOKIE       both sides prove that they know the cookie, none tells it
//! COOKIE           tells the cookie: only where nobody else can have asked for it
//! HASHEDPASSWORD   tells the password: where no cookie serves
//! NULL             tor asks for nothing
//! ```

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use data_encoding::HEXUPPER_PERMISSIVE;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::Rng as _;
use sha2::Sha256;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::codec::Message;
use super::text::{is_quotable, keywords};
use super::{Client, Connector, ControlError, Place};

/// A cookie's bytes.
const COOKIE_LENGTH: usize = 32;
/// A nonce's bytes: tor's own number, and ours.
const NONCE_LENGTH: usize = 32;
/// How often a cookie file that is not there yet is looked for.
const COOKIE_POLL: Duration = Duration::from_millis(50);
const SERVER_LABEL: &[u8] = b"Tor safe cookie authentication server-to-controller hash";
const CLIENT_LABEL: &[u8] = b"Tor safe cookie authentication controller-to-server hash";

/// A control port's password. Zeroized with its last clone, never printed.
#[derive(Clone)]
pub struct Password(Arc<Zeroizing<String>>);

/// A text that cannot be a password: it holds a line end or a NUL, which the protocol has no form for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a control password has no line ends and no NUL: choose another one (tor --hash-password)")]
pub struct PasswordError;

/// Which methods are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Methods {
    All,
    /// After the cookie failed.
    Password,
}

/// Why authentication failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no other way.
    Final(ControlError),
    /// The cookie is not this tor's, but there is a password that tor would take over another connection.
    CookieRefused(ControlError),
}

/// What PROTOCOLINFO tells about authentication.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    /// Comma-separated.
    methods: String,
    cookie_file: Option<PathBuf>,
}

impl Password {
    /// Takes any text without line ends and NULs.
    pub fn new(password: Zeroizing<String>) -> Result<Self, PasswordError> {
        if is_quotable(&password) { Ok(Self(Arc::new(password))) } else { Err(PasswordError) }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Failure {
    pub(super) fn into_error(self) -> ControlError {
        match self {
            Self::Final(error) | Self::CookieRefused(error) => error,
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::Final(error)
    }
}

impl Connector {
    /// Chooses the method and proves that we may.
    pub(super) async fn authenticate(&self, client: &Client, methods: Methods) -> Result<(), Failure> {
        // A restarted tor opens its socket before it replaces an old cookie file, but it answers only afterwards: so the
        // file is read after the answer, also where PROTOCOLINFO's path is not needed.
        let offer = Offer::parse(&client.protocol_info().await?)?;
        let password = self.password.as_ref().filter(|_| offer.has("HASHEDPASSWORD"));
        let fault = match self.cookie_file(&offer).filter(|_| methods == Methods::All) {
            None => None,
            // Where a password would do, a cookie that is not there is not waited for.
            Some(path) => match await_cookie(path, password.map_or(self.command_timeout, |_| Duration::ZERO)).await {
                Ok(cookie) => {
                    return self.by_cookie(client, &offer, path, &cookie).await.map_err(|error| match error {
                        ControlError::Authentication(_) if password.is_some() => Failure::CookieRefused(error),
                        other => Failure::Final(other),
                    });
                }
                Err(fault) => Some(fault),
            },
        };
        let told = match password {
            Some(password) => client.authenticate_by_password(&password.0).await,
            None if offer.has("NULL") => client.authenticate(&[]).await,
            None => return Err(ControlError::Authentication(self.no_way(&offer, fault)).into()),
        };
        told.map_err(|error| refused("the password", error).into())
    }

    /// The cookie file, if it is to be used at all.
    fn cookie_file<'a>(&'a self, offer: &'a Offer) -> Option<&'a Path> {
        // Over TCP anyone may answer and name any file of ours: it is told to nobody that cannot prove to know it.
        let local = matches!(self.place, Place::Unix(_)) || self.cookie.is_some();
        let usable = offer.has("SAFECOOKIE") || (offer.has("COOKIE") && local);
        self.cookie.as_deref().or(offer.cookie_file.as_deref()).filter(|_| usable)
    }

    async fn by_cookie(&self, client: &Client, offer: &Offer, path: &Path, cookie: &[u8]) -> Result<(), ControlError> {
        let what = || format!("the cookie in {}", path.display());
        if !offer.has("SAFECOOKIE") {
            return client.authenticate(cookie).await.map_err(|error| refused(&what(), error));
        }
        let ours = nonce();
        let challenge = client.auth_challenge(&ours).await.map_err(|error| refused(&what(), error))?;
        let answer = answer_challenge(cookie, &ours, &challenge)?.ok_or_else(|| {
            let text = format!("{} is not that of the tor at {}: is it another tor's file?", what(), self.place);
            ControlError::Authentication(text)
        })?;
        client.authenticate(&answer).await.map_err(|error| refused(&what(), error))
    }

    /// What tor offers, why that is of no use, and what would be.
    fn no_way(&self, offer: &Offer, fault: Option<String>) -> String {
        let offers = format!("tor at {} offers {}", self.place, offer.methods);
        let cookies = offer.has("COOKIE") || offer.has("SAFECOOKIE");
        let help = match (offer.has("HASHEDPASSWORD"), cookies) {
            (true, _) => "give the control port's password",
            (false, true) => {
                "let this user read the cookie file (CookieAuthFileGroupReadable 1), or set HashedControlPassword and give the password"
            }
            (false, false) => "set CookieAuthentication 1 or HashedControlPassword in torrc",
        };
        match fault {
            Some(fault) => format!("{offers}, but {fault}; {help}"),
            None if cookies && self.cookie.is_none() && offer.cookie_file.is_none() => {
                format!("{offers}, but names no cookie file; name it, or {help}")
            }
            None if cookies => {
                format!("{offers}, but a cookie is not sent over TCP in the clear; name its file, or {help}")
            }
            None => format!("{offers}; {help}"),
        }
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

    fn has(&self, method: &str) -> bool {
        self.methods.split(',').any(|offered| offered == method)
    }
}

fn refused(what: &str, error: ControlError) -> ControlError {
    match error {
        ControlError::Refused { message, .. } => ControlError::Authentication(format!("tor refuses {what}: {message}")),
        other => other,
    }
}

#[allow(clippy::disallowed_methods, reason = "the shell makes the generator")]
fn nonce() -> [u8; NONCE_LENGTH] {
    let mut nonce = [0; NONCE_LENGTH];
    rand::rng().fill_bytes(&mut nonce);
    nonce
}

/// Checks `AUTHCHALLENGE SERVERHASH=… SERVERNONCE=…`; gives what AUTHENTICATE is to tell. None where the other side does not
/// know the cookie.
///
/// `SERVERHASH = HMAC-SHA256(SERVER_LABEL, cookie | client nonce | server nonce)`, and the answer likewise under
/// `CLIENT_LABEL`.
fn answer_challenge(cookie: &[u8], ours: &[u8], challenge: &Message) -> Result<Option<[u8; 32]>, ControlError> {
    let malformed =
        || ControlError::Protocol("AUTHCHALLENGE is not answered with SERVERHASH and SERVERNONCE".to_owned());
    let line =
        challenge.lines.first().and_then(|line| line.text.strip_prefix("AUTHCHALLENGE ")).ok_or_else(malformed)?;
    let (mut hash, mut theirs) = (None, None);
    for (word, value) in keywords(line).ok_or_else(malformed)? {
        let bytes = value.and_then(|digits| HEXUPPER_PERMISSIVE.decode(&digits).ok());
        match word {
            "SERVERHASH" => hash = bytes,
            "SERVERNONCE" => theirs = bytes.filter(|nonce| nonce.len() == NONCE_LENGTH),
            _ => {}
        }
    }
    let (hash, theirs) = (hash.ok_or_else(malformed)?, theirs.ok_or_else(malformed)?);
    let mac = |label| keyed(label).chain_update(cookie).chain_update(ours).chain_update(&theirs);
    // Compares in constant time.
    if mac(SERVER_LABEL).verify_slice(&hash).is_err() {
        return Ok(None);
    }
    Ok(Some(mac(CLIENT_LABEL).finalize().into_bytes().into()))
}

/// RFC 2104 pads a short key with zeros up to the hash's block: done here, the constructor cannot fail.
fn keyed(label: &[u8]) -> Hmac<Sha256> {
    let mut key = [0; 64];
    for (byte, of_label) in key.iter_mut().zip(label) {
        *byte = *of_label;
    }
    Hmac::new(&key.into())
}

/// Reads the cookie; waits for a file that is not there, or not whole, for up to `patience`. Else tells what is wrong.
async fn await_cookie(path: &Path, patience: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
    let deadline = Instant::now() + patience;
    loop {
        let fault = match read_cookie(path).await {
            Ok(cookie) if cookie.len() == COOKIE_LENGTH => return Ok(cookie),
            Ok(_) => format!("its cookie file {} does not hold {COOKIE_LENGTH} bytes", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                format!("its cookie file {} is not there", path.display())
            }
            Err(error) => return Err(format!("its cookie file {} cannot be read ({error})", path.display())),
        };
        if Instant::now() >= deadline {
            return Err(fault);
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

#[cfg(test)]
mod tests;
