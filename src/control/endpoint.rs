//! Endpoints of control connections.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The endpoint at which tor listens for control connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlEndpoint {
    /// The unix socket of tor's `ControlSocket`.
    Unix(PathBuf),
    /// The host and port of tor's `ControlPort`. The host is a name or an IP address, and an IPv6
    /// address has no brackets.
    Tcp(String, u16),
}

/// The error for a string that is not a valid [`ControlEndpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a control port; write unix:/path, HOST:PORT or [IPv6]:PORT")]
pub struct EndpointError(String);

impl ControlEndpoint {
    /// Returns the endpoint of a unix socket. The path may be written as in torrc: `/path`,
    /// `unix:/path` or `unix:"/path"`.
    pub fn unix(written: &Path) -> Self {
        let Some(path) = written.as_os_str().as_bytes().strip_prefix(b"unix:") else {
            return Self::Unix(written.to_owned());
        };
        let unquoted = path.strip_prefix(b"\"").and_then(|path| path.strip_suffix(b"\""));
        Self::Unix(OsStr::from_bytes(unquoted.unwrap_or(path)).into())
    }

    /// Returns the endpoint of a TCP port. An IPv6 address may have brackets.
    pub fn tcp(host: &str, port: u16) -> Self {
        let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        Self::Tcp(unbracketed.unwrap_or(host).to_owned(), port)
    }
}

impl FromStr for ControlEndpoint {
    type Err = EndpointError;

    /// Parses `unix:/path`, `/path`, `host:port` or `[ipv6]:port`.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError(text.to_owned());
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Unix(path.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').ok_or_else(error)?,
            // In an unbracketed IPv6 address, the colon of the port would be ambiguous.
            None if host.contains(':') => return Err(error()),
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        if host.is_empty() { Err(error()) } else { Ok(Self::Tcp(host.to_owned(), port)) }
    }
}

impl fmt::Display for ControlEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_formats_endpoints() {
        let tcp = |host: &str| ControlEndpoint::Tcp(host.to_owned(), 9051);
        for (text, endpoint, written) in [
            ("unix:/run/tor/control", ControlEndpoint::Unix("/run/tor/control".into()), "unix:/run/tor/control"),
            ("/run/tor/a:b", ControlEndpoint::Unix("/run/tor/a:b".into()), "unix:/run/tor/a:b"),
            ("127.0.0.1:9051", tcp("127.0.0.1"), "127.0.0.1:9051"),
            ("tor.example:9051", tcp("tor.example"), "tor.example:9051"),
            ("[::1]:9051", tcp("::1"), "[::1]:9051"),
        ] {
            assert_eq!(text.parse(), Ok(endpoint.clone()), "{text}");
            assert_eq!(endpoint.to_string(), written);
        }
        for (written, path) in [
            ("/run/tor/control", "/run/tor/control"),
            ("unix:/run/tor/control", "/run/tor/control"),
            ("unix:\"/run/tor/a b\"", "/run/tor/a b"),
            ("control", "control"),
            ("unix:\"odd", "\"odd"),
        ] {
            assert_eq!(ControlEndpoint::unix(Path::new(written)), ControlEndpoint::Unix(path.into()));
        }
        for (written, host) in [("[::1]", "::1"), ("::1", "::1"), ("localhost", "localhost"), ("[odd", "[odd")] {
            assert_eq!(ControlEndpoint::tcp(written, 9051), tcp(host));
        }
        for text in ["", ":9051", "[]:9051", "host", "host:", "host:0", "host:65536", "::1:9051", "[::1:9051", "unix:x"]
        {
            assert!(text.parse::<ControlEndpoint>().is_err(), "{text}");
        }
    }
}
