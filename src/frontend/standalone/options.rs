//! The options of the stand-alone daemon, which are those of Python Onionbalance's daemon.

use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use zeroize::Zeroizing;

use crate::common::{log, secret_file};
use crate::control::{Connector, ControlEndpoint, Password};
use crate::frontend::RunError;
use crate::merge::Counters;

/// The environment variable that contains the control port's password. There is no flag for the
/// password, because other users can read command lines.
const PASSWORD_VARIABLE: &str = "ONIONBALANCE_TOR_CONTROL_PASSWORD";
/// The environment variable with the log level that an empty `-v` selects.
const LEVEL_VARIABLE: &str = "ONIONBALANCE_LOG_LEVEL";
/// The log level that an empty `-v` selects if the variable is not set.
const LEVEL_WITHOUT_VARIABLE: &str = "warning";

/// The options of the stand-alone daemon. Flags and environment variables are those of Python
/// Onionbalance's daemon.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Configuration file in the format of Python Onionbalance [default: config.yaml]
    #[arg(short, long, env = "ONIONBALANCE_CONFIG", value_name = "FILE", value_parser = path_or_none())]
    config: Option<PathBuf>,
    /// Address of tor's control port, which is used if the control socket does not answer; an IPv6
    /// address may have brackets
    #[arg(short, long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    ip: String,
    /// Tor's control port
    #[arg(short, long, default_value_t = 9051)]
    port: u16,
    /// Tor's control socket, which is tried first; `unix:/path`, as in torrc, is accepted too
    #[arg(
        short,
        long,
        env = "ONIONBALANCE_TOR_CONTROL_SOCKET",
        default_value = "/var/run/tor/control",
        value_name = "FILE",
        value_parser = path_or_none()
    )]
    socket: PathBuf,
    /// File with the control port's password if tor does not use a cookie; alternatively, set
    /// `ONIONBALANCE_TOR_CONTROL_PASSWORD`
    #[arg(long, value_name = "FILE")]
    control_password_file: Option<PathBuf>,
    /// Path of the status socket; overrides status-socket-location in the configuration
    #[arg(long, env = "ONIONBALANCE_STATUS_SOCKET_LOCATION", value_name = "FILE", value_parser = path_or_none())]
    status_socket_location: Option<PathBuf>,
    /// Log level, unless `RUST_LOG` is set: debug, info, warning (also warn, notset), error or
    /// critical (also fatal)
    #[arg(short, long, default_value = "info", value_name = "LEVEL", value_parser = log_level)]
    verbosity: &'static str,
    /// Accepted and ignored: tor reports whether its network is a testing network
    #[arg(long)]
    is_testnet: bool,
    /// Publish with revision counters that no publisher with stolen signing kits reaches by itself
    ///
    /// The option needs the master keys of all services. Use it after signing kits were stolen, on
    /// a machine that the thief cannot reach, until the stolen kits have ended. Publishers with
    /// signing kits, your own included, cannot publish for the same time periods until the
    /// descriptors of this daemon have expired, three hours after it ends.
    #[arg(long)]
    outrun: bool,
    /// Onion service version; only v3 exists
    #[arg(long, default_value = "v3", value_parser = ["v3"], hide = true)]
    hs_version: String,
}

/// Parses a path. An empty path, which an environment variable may contain, means no path.
fn path_or_none() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Parses a log level. Returns the name that `tracing` uses for the level.
fn log_level(text: &str) -> Result<&'static str, String> {
    log_level_or(text, || std::env::var(LEVEL_VARIABLE).ok())
}

/// Parses a log level. An empty text selects the level in the environment variable, whose value
/// `variable` returns. Like Python Onionbalance, the daemon ignores the variable in all other
/// cases, because `-v` has a default value.
fn log_level_or(text: &str, variable: impl Fn() -> Option<String>) -> Result<&'static str, String> {
    let text = match text {
        "" => variable().unwrap_or_else(|| LEVEL_WITHOUT_VARIABLE.to_owned()),
        text => text.to_owned(),
    };
    let unknown = || format!("{text:?} is not a log level; use debug, info, warning, error or critical");
    log::level_of_python(&text).ok_or_else(unknown)
}

impl Options {
    /// Returns the name that `tracing` uses for the lowest level to log.
    pub fn log_level(&self) -> &'static str {
        self.verbosity
    }

    pub(super) fn config_file(&self) -> Result<PathBuf, RunError> {
        let path = self.config.clone().unwrap_or_else(|| "config.yaml".into());
        if path.as_os_str().is_empty() {
            return Err(
                "the path of the configuration is empty; name the file with --config or ONIONBALANCE_CONFIG".into()
            );
        }
        Ok(path)
    }

    pub(super) fn is_testnet(&self) -> bool {
        self.is_testnet
    }

    /// Returns the range of the revision counters.
    pub(super) fn counters(&self) -> Counters {
        if self.outrun { Counters::Outrun } else { Counters::Clock }
    }

    pub(super) fn status_location(&self) -> Option<PathBuf> {
        self.status_socket_location.clone().filter(|path| !path.as_os_str().is_empty())
    }

    pub(super) fn connector(&self) -> Result<Connector, RunError> {
        let tcp = ControlEndpoint::tcp(&self.ip, self.port);
        let (endpoint, fallback) = if self.socket.as_os_str().is_empty() {
            (tcp, None)
        } else {
            (ControlEndpoint::unix(&self.socket), Some(tcp))
        };
        Ok(Connector { fallback, password: self.password()?, ..Connector::new(endpoint) })
    }

    fn password(&self) -> Result<Option<Password>, RunError> {
        let password = match &self.control_password_file {
            Some(file) => {
                let mut bytes = secret_file::read(file)?;
                while bytes.pop_if(|last| matches!(last, b'\r' | b'\n')).is_some() {}
                bytes
            }
            None => Zeroizing::new(std::env::var_os(PASSWORD_VARIABLE).unwrap_or_default().into_vec()),
        };
        if password.is_empty() { Ok(None) } else { Ok(Some(Password::new(password)?)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_log_level_of_python_is_accepted() {
        for (text, expected) in [
            ("debug", "debug"),
            ("INFO", "info"),
            ("warning", "warn"),
            ("warn", "warn"),
            ("notset", "warn"),
            ("Error", "error"),
            ("critical", "error"),
            ("fatal", "error"),
        ] {
            assert_eq!(log_level_or(text, || panic!("the variable was read")), Ok(expected), "{text}");
        }
        let error = log_level_or("loud", || None).unwrap_err();
        assert_eq!(error, "\"loud\" is not a log level; use debug, info, warning, error or critical");
    }

    #[test]
    fn only_an_empty_log_level_selects_the_one_in_the_environment() {
        assert_eq!(log_level_or("", || None), Ok("warn"));
        assert_eq!(log_level_or("", || Some("Debug".to_owned())), Ok("debug"));
        assert!(log_level_or("", || Some(String::new())).is_err());
    }
}
