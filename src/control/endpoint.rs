//! Endpoints of control connections.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The endpoint at which tor listens for control connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlEndpoint {
    /// The unix socket of tor's `ControlSocket`.
    Unix(PathBuf),
    /// The host and port of tor's `ControlPort`. The host is a name or an IP address, and an IPv6
    /// address has no brackets.
    Tcp(String, u16),
}

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
    fn reads_and_formats_endpoints() {
        let tcp = |host: &str| ControlEndpoint::Tcp(host.to_owned(), 9051);
        for (endpoint, text) in [
            (ControlEndpoint::Unix("/run/tor/control".into()), "unix:/run/tor/control"),
            (tcp("tor.example"), "tor.example:9051"),
            (tcp("::1"), "[::1]:9051"),
        ] {
            assert_eq!(endpoint.to_string(), text);
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
    }
}
