//! Logging to standard error, as text or JSON, with onion addresses shortened by default.
//!
//! Logs are read by more people, and kept in more places, than the cluster's objects. Addresses are
//! therefore shortened when a line is written, whether they come from a field, a condition's
//! message, or a library.

use std::io::{self, IsTerminal as _, Stderr, Write};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The default log filter for the Kubernetes client, which would otherwise log every failed request
/// as an error. The programs log the relevant failures themselves, and only once.
const QUIET: &str = "kube_client=off,kube_runtime=off";
/// The module of the Kubernetes client that logs the whole text of a response that it cannot parse,
/// at the level WARN. The response can be a Secret, so no filter may enable this module.
const NO_RESPONSES: &str = "kube_client::client=off";

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// The form of onion addresses in log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Addresses {
    /// Only the first characters of an address.
    Short,
    /// Complete addresses.
    Full,
}

/// Returns the name that `tracing` uses for a level of Python's `logging`, in upper or lower case.
/// `tracing` has no level above ERROR. Python's NOTSET lets the root logger decide, whose level is
/// WARNING. Returns None for any other text.
pub fn level_of_python(name: &str) -> Option<&'static str> {
    match name.to_ascii_lowercase().as_str() {
        "debug" => Some("debug"),
        "info" => Some("info"),
        "warning" | "warn" | "notset" => Some("warn"),
        "error" | "critical" | "fatal" => Some("error"),
        _ => None,
    }
}

/// Returns the filter for messages of the given level.
pub fn filter(level: &str) -> String {
    format!("{level},{QUIET}")
}

/// Starts logging at `level`, unless `RUST_LOG` sets another filter.
pub fn start(format: Format, addresses: Addresses, level: &str) {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let log = tracing_subscriber::fmt()
        .with_env_filter(safe(&wanted, level))
        .with_writer(move || Lines { out: io::stderr(), addresses });
    match format {
        Format::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        Format::Json => log.json().init(),
    }
}

/// Returns the filter `wanted`, without the messages that can contain secrets. An empty or invalid
/// filter stands for messages of the given level.
fn safe(wanted: &str, level: &str) -> EnvFilter {
    let wanted = Some(wanted).filter(|wanted| !wanted.is_empty());
    let given = wanted.and_then(|wanted| EnvFilter::try_new(format!("{wanted},{NO_RESPONSES}")).ok());
    given.unwrap_or_else(|| EnvFilter::new(filter(level)))
}

/// A writer for log lines. `tracing_subscriber` passes each complete line in a single write.
struct Lines {
    out: Stderr,
    addresses: Addresses,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match (self.addresses, std::str::from_utf8(line)) {
            (Addresses::Short, Ok(text)) => self.out.write_all(shortened(text).as_bytes())?,
            _ => self.out.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The number of characters of an onion address before `.onion`.
const LENGTH: usize = 56;
/// The number of characters that remain in a shortened address, which are enough to identify it.
const KEPT: usize = 8;

/// Shortens each v3 onion address in the text to `abcdefgh….onion`. An address without `.onion` is
/// also shortened, unless a letter or digit directly precedes or follows it.
fn shortened(text: &str) -> String {
    let is_base32 = |byte: &u8| byte.is_ascii_alphabetic() || (b'2'..=b'7').contains(byte);
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.bytes().position(|byte| is_base32(&byte)) {
        let length = rest.bytes().skip(start).take_while(is_base32).count();
        let (before, run, after) = (&rest[..start], &rest[start..start + length], &rest[start + length..]);
        // The end of an ANSI color code may precede the address, so only the last characters count.
        let named = length >= LENGTH && starts_with(after, ".onion");
        // The last character encodes the version, 3.
        let alone = length == LENGTH
            && run.ends_with(['d', 'D'])
            && !before.ends_with(|before: char| before.is_ascii_alphanumeric())
            && !after.starts_with(|after: char| after.is_ascii_alphanumeric());
        let kept = if named || alone { length - LENGTH + KEPT } else { length };
        out.push_str(before);
        out.push_str(&run[..kept]);
        if kept < length {
            out.push('…');
        }
        rest = after;
    }
    out + rest
}

fn starts_with(text: &str, beginning: &str) -> bool {
    text.get(..beginning.len()).is_some_and(|text| text.eq_ignore_ascii_case(beginning))
}

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled};

    use super::*;

    const ADDRESS: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid";

    #[test]
    fn no_filter_shows_what_the_kubernetes_client_receives() {
        for (wanted, ours, client) in [
            ("", false, false),
            ("debug,[", false, false),
            ("debug", true, true),
            ("trace", true, true),
            ("info,kube_client=debug", false, true),
            ("onionbalance_operator=debug", true, false),
            ("debug,kube_client::client=trace", true, true),
        ] {
            let log = tracing_subscriber::fmt().with_env_filter(safe(wanted, "info")).with_writer(io::sink);
            let shown = tracing::subscriber::with_default(log.finish(), || {
                [
                    enabled!(target: "onionbalance_operator::merge", Level::DEBUG),
                    enabled!(target: "kube_client::config", Level::DEBUG),
                    enabled!(target: "kube_client::client", Level::ERROR),
                ]
            });
            assert_eq!(shown, [ours, client, false], "{wanted}");
        }
    }

    #[test]
    fn an_address_is_shortened_anywhere_in_a_line() {
        for (text, expected) in [
            ("A.onion", "2gzyxa5i….onion"),
            ("address=A.onion master=A.onion\n", "address=2gzyxa5i….onion master=2gzyxa5i….onion\n"),
            ("{\"message\":\"The key of A.onion is used.\"}", "{\"message\":\"The key of 2gzyxa5i….onion is used.\"}"),
            (
                "\u{1b}[3maddress\u{1b}[0m\u{1b}[2m=\u{1b}[0mA.onion",
                "\u{1b}[3maddress\u{1b}[0m\u{1b}[2m=\u{1b}[0m2gzyxa5i….onion",
            ),
            ("http://www.A.onion:80/", "http://www.2gzyxa5i….onion:80/"),
            ("GETINFO hs/service/desc/id/A", "GETINFO hs/service/desc/id/2gzyxa5i…"),
            ("ä A ö", "ä 2gzyxa5i… ö"),
        ] {
            assert_eq!(shortened(&text.replace('A', ADDRESS)), expected);
        }
        assert_eq!(shortened(&format!("{}.ONION", ADDRESS.to_uppercase())), "2GZYXA5I….ONION");
    }

    #[test]
    fn other_text_is_unchanged() {
        let digest = "e".repeat(64);
        let key = format!("descriptor:x25519:{}", "a".repeat(52));
        for text in ["", "\n", "web.onion", &digest, &key, &ADDRESS[1..], &format!("9{ADDRESS}"), "grüße … 56"] {
            assert_eq!(shortened(text), text);
        }
    }
}
