//! Parses a consensus and its microdescriptors, and derives the time periods, the shared random
//! values and the HSDir ring from them. The code is pure.
//!
//! The specifications are dir-spec (microdescriptor consensus, microdescriptors), section 2.2 of
//! rend-spec-v3 (HSDir ring, time periods) and srv-spec (shared random values). Signatures are not
//! checked, because the documents come from our own tor, which has already checked them.

mod document;
mod fingerprint;
mod microdescriptor;
mod middles;
mod network;
mod ring;
mod schedule;
#[cfg(test)]
mod testdata;
mod times;
mod types;

pub use fingerprint::Fingerprint;
pub use middles::Middle;
pub use network::Network;
pub use times::{parse_time, service_period};
pub use types::{NetworkKind, Placement, ServicePeriod};

/// An error that explains why a document is rejected. The message names the faulty keyword.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConsensusError {
    /// The document is longer than [`MAX_DOCUMENT_BYTES`].
    #[error("the document is longer than {MAX_DOCUMENT_BYTES} bytes")]
    TooLong,
    /// The document does not begin like a microdescriptor consensus.
    #[error("the document is not a microdescriptor consensus of network status version 3")]
    NotMicrodescConsensus,
    /// A mandatory line is missing, or the document ends before this line.
    #[error("the \"{0}\" line is missing")]
    Missing(&'static str),
    /// A line that may appear only once is repeated.
    #[error("the \"{0}\" line is repeated")]
    Repeated(&'static str),
    /// A line is malformed.
    #[error("the \"{0}\" line is malformed")]
    Malformed(&'static str),
    /// The router entries are not in strictly ascending order of their identity digests.
    #[error("the router entries are not in ascending order")]
    RouterOrder,
    /// The times of the consensus are not in ascending order, or no time period can be computed
    /// from them.
    #[error("no time period can be computed from the times of the consensus")]
    Schedule,
    /// A fingerprint does not have forty hexadecimal digits.
    #[error("a relay fingerprint has forty hexadecimal digits")]
    Fingerprint,
}

/// The maximum length, in bytes, of a consensus, and of all microdescriptors together. The limit is
/// several times the length of these documents on today's network.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// Decodes unpadded base64 to exactly `N` bytes.
fn base64_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let encoding = &data_encoding::BASE64_NOPAD;
    if encoding.decode_len(text.len()) != Ok(N) {
        return None;
    }
    (encoding.decode_mut(text.as_bytes(), &mut bytes) == Ok(N)).then_some(bytes)
}
