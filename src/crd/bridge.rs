//! The value of tor's option `Bridge`. A tor that uses bridges enters the network through them, so
//! a mistyped line can keep a service from the network, or send its traffic to a stranger.

use core::net::SocketAddr;

/// The pluggable transports whose bridge lines are accepted.
pub(super) const TRANSPORTS: [&str; 4] = ["meek_lite", "obfs4", "snowflake", "webtunnel"];
/// The number of hexadecimal digits of a relay's fingerprint.
const FINGERPRINT: usize = 40;

/// Returns true if a value has the form `[TRANSPORT] ADDRESS:PORT FINGERPRINT [KEY=VALUE …]`, as
/// the Tor Project distributes bridge lines. The address is not a name, because tor does not
/// resolve names of bridges. Tor accepts a line without a fingerprint, but then also any relay at
/// the address. Only a transport has arguments. The value has single spaces and no comment.
pub(super) fn is_bridge(value: &str) -> bool {
    let mut words = value.split(' ').peekable();
    let transport = words.next_if(|word| TRANSPORTS.contains(word));
    let is_address = words.next().is_some_and(|word| word.parse().is_ok_and(|address: SocketAddr| address.port() > 0));
    let is_fingerprint =
        words.next().is_some_and(|word| word.len() == FINGERPRINT && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let mut arguments = words.peekable();
    let has_arguments = arguments.peek().is_some();
    is_address && is_fingerprint && (transport.is_some() || !has_arguments) && arguments.all(is_argument)
}

/// Returns true if a word is an argument of a transport. Tor treats quotes and backslashes
/// specially.
fn is_argument(word: &str) -> bool {
    let has_key = word.split_once('=').is_some_and(|(key, _)| !key.is_empty());
    has_key && word.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\#".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdefABCDEF012345678901234567";

    #[test]
    fn the_lines_that_the_tor_project_distributes_are_accepted() {
        for line in [
            format!("192.0.2.1:443 {KEY}"),
            format!("[2001:db8::1]:9001 {KEY}"),
            format!("obfs4 192.0.2.1:443 {KEY} cert=AbC+/d,e iat-mode=0"),
            format!("webtunnel [2001:db8::1]:443 {KEY} url=https://example.org/path?a=b ver=0.0.1"),
            format!("snowflake 192.0.2.3:80 {KEY} fingerprint={KEY} ice=stun:a.example:3478,stun:b.example:3478"),
        ] {
            assert!(is_bridge(&line), "{line}");
        }
    }

    #[test]
    fn a_damaged_line_is_refused() {
        for line in [
            String::new(),
            "192.0.2.1:443".to_owned(),
            KEY.to_owned(),
            format!("192.0.2.1 {KEY}"),
            format!("192.0.2.1:0 {KEY}"),
            format!("192.0.2.1:65536 {KEY}"),
            format!("2001:db8::1:443 {KEY}"),
            format!("bridge.example.org:443 {KEY}"),
            format!("192.0.2.1:443 ${KEY}"),
            format!("192.0.2.1:443 {}", &KEY[1..]),
            format!("192.0.2.1:443 {}g", &KEY[1..]),
            format!("192.0.2.1:443 {KEY} cert=a"),
            format!("obfs9 192.0.2.1:443 {KEY} cert=a"),
            format!("obfs4 192.0.2.1:443 {KEY} cert"),
            format!("obfs4 192.0.2.1:443 {KEY} =a"),
            format!("obfs4 192.0.2.1:443 {KEY} cert=\"a\""),
            format!("obfs4 192.0.2.1:443 {KEY} cert=a\\"),
            format!("obfs4 obfs4 192.0.2.1:443 {KEY}"),
            format!("obfs4 192.0.2.1:443 {KEY}  cert=a"),
        ] {
            assert!(!is_bridge(&line), "{line}");
        }
    }
}
