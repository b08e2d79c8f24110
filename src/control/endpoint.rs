//! Where a control port is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where tor listens for controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// tor's `ControlSocket`.
    Unix(PathBuf),
    /// tor's `ControlPort`: a name or an IP address (IPv6 without brackets), and the port.
    Tcp(String, u16),
}

/// Why a text is no [`Place`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no control port: write unix:/path, HOST:PORT or [IPv6]:PORT")]
pub struct PlaceError(String);

impl FromStr for Place {
    type Err = PlaceError;

    /// `unix:/path`, `/path`, `host:port`, `[ipv6]:port`.
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let error = || PlaceError(text.to_owned());
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Unix(path.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').ok_or_else(error)?,
            // A bare IPv6 address: which of its colons is the port's?
            None if host.contains(':') => return Err(error()),
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        if host.is_empty() { Err(error()) } else { Ok(Self::Tcp(host.to_owned(), port)) }
    }
}

impl fmt::Display for Place {
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
    fn places_are_read_and_written() {
        let tcp = |host: &str| Place::Tcp(host.to_owned(), 9051);
        for (text, place, written) in [
            ("unix:/run/tor/control", Place::Unix("/run/tor/control".into()), "unix:/run/tor/control"),
            ("/run/tor/a:b", Place::Unix("/run/tor/a:b".into()), "unix:/run/tor/a:b"),
            ("127.0.0.1:9051", tcp("127.0.0.1"), "127.0.0.1:9051"),
            ("tor.example:9051", tcp("tor.example"), "tor.example:9051"),
            ("[::1]:9051", tcp("::1"), "[::1]:9051"),
        ] {
            assert_eq!(text.parse(), Ok(place.clone()), "{text}");
            assert_eq!(place.to_string(), written);
        }
        for text in ["", ":9051", "[]:9051", "host", "host:", "host:0", "host:65536", "::1:9051", "[::1:9051", "unix:x"]
        {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
