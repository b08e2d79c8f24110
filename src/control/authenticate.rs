//! Authentication of a control connection (control-spec, sections 3.5, 3.21, 3.24 and 5.1).
//!
//! ```text
//! SAFECOOKIE       both sides prove that they know the cookie, and neither reveals it
//! COOKIE           reveals the cookie, so it is used only over a unix socket
//! HASHEDPASSWORD   reveals the password, so it is used only if no cookie works
//! NULL             tor requires no authentication
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
use rustix::fs::OFlags;
use sha2::Sha256;
use tokio::fs::OpenOptions;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::codec::Message;
use super::text::{is_quotable, keywords};
use super::{Client, ControlEndpoint, ControlError};

/// The length of a cookie in bytes.
const COOKIE_LENGTH: usize = 32;
/// The length of a nonce in bytes. Tor's nonce and ours have the same length.
const NONCE_LENGTH: usize = 32;
/// The interval between two checks for a missing cookie file.
const COOKIE_POLL: Duration = Duration::from_millis(50);
const SERVER_LABEL: &[u8] = b"Tor safe cookie authentication server-to-controller hash";
const CLIENT_LABEL: &[u8] = b"Tor safe cookie authentication controller-to-server hash";

/// The password of a control port. It is zeroized when its last clone is dropped, and is never
/// printed.
#[derive(Clone)]
pub struct Password(Arc<Zeroizing<Vec<u8>>>);

/// The error for a password that contains a line break or a NUL, which the control protocol cannot
/// represent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a control password must not contain a line break or a NUL; choose another one (tor --hash-password)")]
pub struct PasswordError;

/// The credentials and limits for one authentication attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Authenticator<'a> {
    /// The endpoint of the connection.
    pub(super) endpoint: &'a ControlEndpoint,
    /// The path of the cookie file, or None to use the file that PROTOCOLINFO names.
    pub(super) cookie: Option<&'a Path>,
    /// The password, if one is configured.
    pub(super) password: Option<&'a Password>,
    /// The longest time to wait for a missing cookie file.
    pub(super) patience: Duration,
}

/// The authentication methods to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Methods {
    All,
    /// The password only, after the cookie has failed.
    Password,
}

/// The reason why authentication failed.
#[derive(Debug)]
pub(super) enum AuthenticationFailure {
    /// Authentication failed, and there is no other method to try.
    Final(ControlError),
    /// The cookie does not belong to this tor, but the password can be tried over a new connection.
    CookieRefused(ControlError),
}

/// The authentication methods that PROTOCOLINFO announces.
#[derive(Debug, PartialEq, Eq)]
struct AuthOffer {
    /// The names of the methods, separated by commas.
    methods: String,
    cookie_file: Option<PathBuf>,
}

impl Password {
    /// Creates a password, which need not be UTF-8. Fails if it contains a line break or a NUL.
    pub fn new(password: Zeroizing<Vec<u8>>) -> Result<Self, PasswordError> {
        if is_quotable(&password) { Ok(Self(Arc::new(password))) } else { Err(PasswordError) }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl AuthenticationFailure {
    pub(super) fn into_error(self) -> ControlError {
        match self {
            Self::Final(error) | Self::CookieRefused(error) => error,
        }
    }
}

impl From<ControlError> for AuthenticationFailure {
    fn from(error: ControlError) -> Self {
        Self::Final(error)
    }
}

impl Authenticator<'_> {
    /// Chooses an authentication method and authenticates the connection.
    pub(super) async fn authenticate(&self, client: &Client, methods: Methods) -> Result<(), AuthenticationFailure> {
        // A restarted tor opens its socket, then replaces the old cookie file, and only then
        // replies to commands. PROTOCOLINFO is therefore sent before the file is read, even if the
        // path in its reply is not needed.
        let offer = AuthOffer::parse(&client.protocol_info().await.map_err(of_first_command)?)?;
        let password = self.password.filter(|_| offer.has("HASHEDPASSWORD"));
        let fault = match self.cookie_file(&offer).filter(|_| methods == Methods::All) {
            None => None,
            // There is no need to wait for a missing cookie file if the password can be used
            // instead.
            Some(path) => match await_cookie(path, password.map_or(self.patience, |_| Duration::ZERO)).await {
                Ok(cookie) => {
                    return self.by_cookie(client, &offer, path, &cookie).await.map_err(|error| match error {
                        ControlError::Authentication(_) if password.is_some() => {
                            AuthenticationFailure::CookieRefused(error)
                        }
                        other => AuthenticationFailure::Final(other),
                    });
                }
                Err(fault) => Some(fault),
            },
        };
        let result = match password {
            Some(password) => client.authenticate_by_password(&password.0).await,
            None if offer.has("NULL") => client.authenticate(&[]).await,
            None => return Err(ControlError::Authentication(self.explain(&offer, fault)).into()),
        };
        result.map_err(|error| refused("the password", error).into())
    }

    /// Returns the path of the cookie file, if a cookie may be used at all.
    fn cookie_file<'a>(&'a self, offer: &'a AuthOffer) -> Option<&'a Path> {
        // Over TCP, the peer may be an impostor that names any of our files, so the cookie is never
        // revealed to a peer that cannot prove that it already knows the cookie.
        let local = matches!(self.endpoint, ControlEndpoint::Unix(_));
        let usable = offer.has("SAFECOOKIE") || (offer.has("COOKIE") && local);
        self.cookie.or(offer.cookie_file.as_deref()).filter(|_| usable)
    }

    async fn by_cookie(
        &self,
        client: &Client,
        offer: &AuthOffer,
        path: &Path,
        cookie: &[u8],
    ) -> Result<(), ControlError> {
        let what = || format!("the cookie in {}", path.display());
        if !offer.has("SAFECOOKIE") {
            return client.authenticate(cookie).await.map_err(|error| refused(&what(), error));
        }
        let ours = nonce();
        let challenge = client.auth_challenge(&ours).await.map_err(|error| refused(&what(), error))?;
        let answer = answer_challenge(cookie, &ours, &challenge)?.ok_or_else(|| {
            let problem = "does not belong to this tor; check that tor listens here, and that it wrote this file";
            ControlError::Authentication(format!("{} {problem}", what()))
        })?;
        client.authenticate(&answer).await.map_err(|error| refused(&what(), error))
    }

    /// Describes which methods tor offers, why none of them works, and how to fix the problem.
    fn explain(&self, offer: &AuthOffer, fault: Option<String>) -> String {
        let offers = format!("tor offers {}", offer.methods);
        let cookies = offer.has("COOKIE") || offer.has("SAFECOOKIE");
        let help = match (offer.has("HASHEDPASSWORD"), cookies) {
            (true, _) => {
                "provide the control port's password (for the stand-alone daemon, with --control-password-file or in \
                 the environment variable ONIONBALANCE_TOR_CONTROL_PASSWORD)"
            }
            (false, true) => {
                "let this user read the cookie file (CookieAuthFileGroupReadable 1), or set HashedControlPassword and provide the password"
            }
            (false, false) => "set CookieAuthentication 1 or HashedControlPassword in torrc",
        };
        match fault {
            Some(fault) => format!("{offers}, but {fault}; {help}"),
            None if cookies && self.cookie.is_none() && offer.cookie_file.is_none() => {
                format!("{offers}, but names no cookie file; {help}")
            }
            None if cookies => format!(
                "{offers} without SAFECOOKIE, which every tor since 0.2.4 offers, and a cookie must not be sent over TCP \
                 in cleartext; check that tor listens here, or use tor's ControlSocket"
            ),
            None => format!("{offers}; {help}"),
        }
    }
}

impl AuthOffer {
    /// Parses the line `AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE="/path"` of a PROTOCOLINFO reply.
    fn parse(message: &Message) -> Result<Self, ControlError> {
        let malformed = || ControlError::Protocol("the reply to PROTOCOLINFO has no valid AUTH line".to_owned());
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

/// Explains why the first command failed. A control port answers it even before authentication.
fn of_first_command(error: ControlError) -> ControlError {
    match error {
        ControlError::Closed => ControlError::NotTor(
            "the connection was closed without an answer; if this persists, check that this is tor's control port and \
             not, for example, its SOCKS port"
                .to_owned(),
        ),
        other => other,
    }
}

fn refused(what: &str, error: ControlError) -> ControlError {
    match error {
        ControlError::Refused { message, .. } => {
            ControlError::Authentication(format!("tor rejected {what}: {message}"))
        }
        other => other,
    }
}

#[allow(clippy::disallowed_methods, reason = "the IO layer provides the generator")]
fn nonce() -> [u8; NONCE_LENGTH] {
    let mut nonce = [0; NONCE_LENGTH];
    rand::rng().fill_bytes(&mut nonce);
    nonce
}

/// Checks `AUTHCHALLENGE SERVERHASH=… SERVERNONCE=…` and returns the proof to send with
/// AUTHENTICATE. Returns None if the peer does not know the cookie.
///
/// `SERVERHASH = HMAC-SHA256(SERVER_LABEL, cookie | client nonce | server nonce)`, and the proof is
/// the same HMAC under `CLIENT_LABEL`.
fn answer_challenge(cookie: &[u8], ours: &[u8], challenge: &Message) -> Result<Option<[u8; 32]>, ControlError> {
    let malformed =
        || ControlError::Protocol("the reply to AUTHCHALLENGE has no valid SERVERHASH and SERVERNONCE".to_owned());
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
    // `verify_slice` compares in constant time.
    if mac(SERVER_LABEL).verify_slice(&hash).is_err() {
        return Ok(None);
    }
    Ok(Some(mac(CLIENT_LABEL).finalize().into_bytes().into()))
}

/// Creates an HMAC with this label as its key. RFC 2104 pads a short key with zeros to the block
/// size of the hash. Padding the key here means that the constructor cannot fail.
fn keyed(label: &[u8]) -> Hmac<Sha256> {
    let mut key = [0; 64];
    for (byte, label_byte) in key.iter_mut().zip(label) {
        *byte = *label_byte;
    }
    Hmac::new(&key.into())
}

/// Reads the cookie file. If the file is missing or incomplete, waits for it for up to `patience`.
/// Returns a description of the problem if this time passes or the file cannot be read.
async fn await_cookie(path: &Path, patience: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
    let deadline = Instant::now() + patience;
    loop {
        let fault = match read_cookie(path).await {
            Ok(cookie) if cookie.len() == COOKIE_LENGTH => return Ok(cookie),
            Ok(_) => format!("its cookie file {} is not {COOKIE_LENGTH} bytes long", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                format!("its cookie file {} does not exist", path.display())
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
    // Reading one byte more than a cookie detects a longer file. The capacity is never exceeded, so
    // no copy of the secret is left behind.
    let mut cookie = Zeroizing::new(Vec::with_capacity(2 * COOKIE_LENGTH));
    // The peer names the file. Opening a named pipe would otherwise block until somebody writes.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).await?;
    file.take(COOKIE_LENGTH as u64 + 1).read_to_end(&mut cookie).await?;
    Ok(cookie)
}

#[cfg(test)]
mod tests;
