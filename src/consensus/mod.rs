//! The network as a consensus and its microdescriptors tell it: time periods, shared random values, the HSDir ring. Pure.
//!
//! Sources: dir-spec (microdescriptor consensus, microdescriptors), rend-spec-v3 section 2.2 (HSDir ring, time periods),
//! srv-spec (shared random values). Signatures are not checked here: the text comes from our own tor, which did.

mod document;
mod fingerprint;
mod microdescriptor;
mod network;
mod ring;
mod schedule;
#[cfg(test)]
mod testdata;
mod times;

pub use fingerprint::Fingerprint;
pub use network::{Network, NetworkKind, Placement, ServicePeriod};
pub use times::{parse_time, service_period};

/// Why a document is not accepted. The text names the keyword that is at fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConsensusError {
    /// More than [`MAX_DOCUMENT_BYTES`].
    #[error("the document is longer than {MAX_DOCUMENT_BYTES} bytes")]
    TooLong,
    /// It does not begin as a microdescriptor consensus does.
    #[error("not a microdescriptor consensus, network status version 3")]
    NotMicrodescConsensus,
    /// A line that we need is not there, or the document ends before it.
    #[error("no \"{0}\" line where one must be")]
    Missing(&'static str),
    /// A line that may be there once is there again.
    #[error("a second \"{0}\" line")]
    Repeated(&'static str),
    /// A line has not the form that it must have.
    #[error("a \"{0}\" line is malformed")]
    Malformed(&'static str),
    /// Router entries ascend strictly by identity digest; these do not.
    #[error("the router entries are not in order")]
    RouterOrder,
    /// The times do not ascend, or no time period can be computed from them.
    #[error("the consensus's times make no schedule")]
    Schedule,
    /// Not forty hexadecimal digits.
    #[error("a relay fingerprint has forty hexadecimal digits")]
    Fingerprint,
}

/// The longest consensus, and the longest text of microdescriptors, that we read: several times today's network.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// Decodes base64 of exactly `N` bytes, without padding.
fn base64_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let encoding = &data_encoding::BASE64_NOPAD;
    if encoding.decode_len(text.len()) != Ok(N) {
        return None;
    }
    (encoding.decode_mut(text.as_bytes(), &mut bytes) == Ok(N)).then_some(bytes)
}
