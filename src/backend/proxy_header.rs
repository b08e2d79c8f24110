//! The PROXY protocol version 1 header, which tor writes at the start of each stream with
//! `HiddenServiceExportCircuitID haproxy`. Its source address identifies the client's circuit, so
//! that an application can limit the use of one circuit.
//!
//! ```text
//! PROXY TCP6 fc00:dead:beef:4dad::0:2a ::1 42 80\r\n
//! ```
//!
//! The last 32 bits of the source address are tor's circuit number, and the last port is the port
//! of the onion address. Every tor numbers its circuits from 1, but a target serves several
//! backends. The agent therefore writes the beginning of its backend's onion key into the preceding
//! 32 bits, so that circuits of different backends have different addresses.

use std::fmt;
use std::io;
use std::net::Ipv6Addr;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::onion::OnionAddress;

/// The length of the longest version 1 header in bytes, including the line ending (PROXY protocol,
/// section 2.1).
pub const MAX_BYTES: usize = 107;

/// A parsed PROXY header with IPv6 addresses (`TCP6`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    source_port: u16,
    destination_port: u16,
}

/// The error for a stream that does not begin with a header in tor's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream does not begin with tor's PROXY header")]
pub struct NoHeader;

impl ProxyHeader {
    /// Parses a header without its line ending.
    pub fn parse(line: &[u8]) -> Result<Self, NoHeader> {
        let line = str::from_utf8(line).map_err(|_| NoHeader)?;
        let mut fields = line.strip_prefix("PROXY TCP6 ").ok_or(NoHeader)?.split(' ');
        let mut next = || fields.next().ok_or(NoHeader);
        let header = Self {
            source: address(next()?)?,
            destination: address(next()?)?,
            source_port: port(next()?)?,
            destination_port: port(next()?)?,
        };
        if fields.next().is_some() { Err(NoHeader) } else { Ok(header) }
    }

    /// Returns tor's number of the client's circuit.
    pub fn circuit(self) -> u32 {
        let [.., c0, c1, c2, c3] = self.source.octets();
        u32::from_be_bytes([c0, c1, c2, c3])
    }

    /// Returns the header with a mark of the backend in the source address. The mark is the
    /// beginning of the backend's onion key.
    pub fn marked(self, backend: &OnionAddress) -> Self {
        let [prefix @ .., _, _, _, _, c0, c1, c2, c3] = self.source.octets();
        let [m0, m1, m2, m3, ..] = *backend.public_key();
        let [p0, p1, p2, p3, p4, p5, p6, p7] = prefix;
        let source = [p0, p1, p2, p3, p4, p5, p6, p7, m0, m1, m2, m3, c0, c1, c2, c3].into();
        Self { source, ..self }
    }
}

/// Formats the header with its line ending.
impl fmt::Display for ProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, source_port, destination_port } = self;
        write!(f, "PROXY TCP6 {source} {destination} {source_port} {destination_port}\r\n")
    }
}

fn address(text: &str) -> Result<Ipv6Addr, NoHeader> {
    text.parse().map_err(|_| NoHeader)
}

fn port(text: &str) -> Result<u16, NoHeader> {
    // `u16::from_str` would accept a plus sign.
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().map_err(|_| NoHeader) } else { Err(NoHeader) }
}

/// Reads the header from a stream. Returns the header and the client's first bytes, which may have
/// been read along with the header.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(ProxyHeader, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(MAX_BYTES);
    let mut limited = stream.take(MAX_BYTES as u64);
    loop {
        if let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
            let rest = bytes.split_off(end + 2);
            bytes.truncate(end);
            return Ok((ProxyHeader::parse(&bytes).map_err(io::Error::other)?, rest));
        }
        if limited.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::other(NoHeader));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the header in the form in which `export_hs_client_circuit_id` of tor 0.4.9 writes
    /// it.
    fn line_of_tor(circuit: u32, port: u16) -> String {
        let (high, low) = (circuit >> 16, circuit & 0xffff);
        format!("PROXY TCP6 fc00:dead:beef:4dad::{high:x}:{low:x} ::1 {low} {port}\r\n")
    }

    fn backend() -> OnionAddress {
        "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap()
    }

    #[test]
    fn the_mark_of_the_backend_precedes_the_circuit_number() {
        let line = line_of_tor(0x0001_002a, 80);
        let header = ProxyHeader::parse(line.trim_end().as_bytes()).unwrap();
        assert_eq!(header.to_string(), "PROXY TCP6 fc00:dead:beef:4dad::1:2a ::1 42 80\r\n");
        // The address begins with the key's first bytes, d1 b3 8b 83.
        let marked = header.marked(&backend()).to_string();
        assert_eq!(marked, "PROXY TCP6 fc00:dead:beef:4dad:d1b3:8b83:1:2a ::1 42 80\r\n");
    }

    #[test]
    fn other_lines_are_rejected() {
        for line in [
            "",
            "GET / HTTP/1.1",
            "PROXY UNKNOWN",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2",
            "PROXY TCP6 192.0.2.1 ::1 1 2",
            "PROXY TCP6 ::2 ::1 1",
            "PROXY TCP6 ::2 ::1 1 2 3",
            "PROXY TCP6 ::2 ::1 1 2 ",
            "PROXY TCP6 ::2 ::1 +1 2",
            "PROXY TCP6 ::2 ::1 1 65536",
            "PROXY TCP6 ::2 ::1 1 ",
            "PROXY TCP6  ::2 ::1 1 2",
            "proxy TCP6 ::2 ::1 1 2",
            "PROXY TCP6 fe80::1%lo ::1 1 2",
            "PROXY TCP6 ::2 ::1 1 2\n",
        ] {
            assert_eq!(ProxyHeader::parse(line.as_bytes()), Err(NoHeader), "{line:?}");
        }
        assert_eq!(ProxyHeader::parse(b"PROXY TCP6 ::2 ::1 1 2\xff"), Err(NoHeader));
    }

    #[test]
    fn the_longest_header_fits() {
        let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let header = ProxyHeader::parse(format!("PROXY TCP6 {all} {all} 65535 65535").as_bytes()).unwrap();
        assert!(header.to_string().len() <= MAX_BYTES, "{}", header.to_string().len());
    }

    /// Reads from a stream that returns its bytes in pieces of the given sizes, and then byte by
    /// byte.
    fn read_in_pieces(bytes: &[u8], sizes: &[usize]) -> io::Result<(ProxyHeader, Vec<u8>)> {
        let mut stream = in_pieces(bytes, sizes);
        futures::executor::block_on(read(&mut stream))
    }

    fn in_pieces(bytes: &[u8], sizes: &[usize]) -> Pieces {
        Pieces { bytes: bytes.to_vec(), sizes: sizes.iter().rev().copied().collect(), given: 0 }
    }

    struct Pieces {
        bytes: Vec<u8>,
        sizes: Vec<usize>,
        given: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let size = self.sizes.pop().unwrap_or(1).clamp(1, buffer.remaining().max(1));
            let left = &self.bytes[self.given..];
            let piece = left[..size.min(left.len()).min(buffer.remaining())].to_vec();
            buffer.put_slice(&piece);
            self.given += piece.len();
            std::task::Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn every_header_that_tor_writes_is_read_and_the_clients_bytes_are_kept(
            circuit: u32, port: u16, payload in prop::collection::vec(any::<u8>(), 0..300),
            sizes in prop::collection::vec(1..120_usize, 0..20),
        ) {
            let line = line_of_tor(circuit, port);
            let mut stream = in_pieces(&[line.as_bytes(), &payload].concat(), &sizes);
            let (header, mut rest) = futures::executor::block_on(read(&mut stream)).unwrap();
            prop_assert_eq!(header.circuit(), circuit);
            prop_assert_eq!(header.destination_port, port);
            rest.extend_from_slice(&stream.bytes[stream.given..]);
            prop_assert_eq!(rest, payload);
            let marked = header.marked(&backend()).to_string();
            prop_assert!(marked.len() <= MAX_BYTES);
            prop_assert_eq!(ProxyHeader::parse(marked.trim_end().as_bytes()), Ok(header.marked(&backend())));
            prop_assert_eq!(header.marked(&backend()).circuit(), circuit);
            // The publisher finds the backend and the circuit in the address.
            let address: crate::link::CircuitAddress = header.marked(&backend()).source.to_string().parse().unwrap();
            prop_assert!(address.is_of(&backend()));
            prop_assert_eq!(address.circuit, circuit);
        }

        #[test]
        fn no_stream_is_read_beyond_the_longest_header(
            bytes in prop::collection::vec(any::<u8>(), 0..400), sizes in prop::collection::vec(1..120_usize, 0..20),
        ) {
            let mut stream = in_pieces(&bytes, &sizes);
            let result = futures::executor::block_on(read(&mut stream));
            prop_assert!(stream.given <= MAX_BYTES);
            if let Ok((header, rest)) = result {
                prop_assert!(bytes.starts_with(b"PROXY TCP6 "), "{header}");
                prop_assert!(rest.len() < MAX_BYTES);
            }
        }

        #[test]
        fn a_header_that_parses_is_written_unchanged(line in "PROXY TCP6 [0-9a-f:]{0,40} [0-9a-f:]{0,40} [0-9+-]{0,6} [0-9]{0,6}(\r\n)?.{0,9}") {
            if let Ok((header, _)) = read_in_pieces(line.as_bytes(), &[]) {
                prop_assert_eq!(ProxyHeader::parse(header.to_string().trim_end().as_bytes()), Ok(header));
            }
        }
    }
}
