//! Signing kits, with which a publisher works without the master key (rend-spec-v3, section 1.7).
//!
//! A kit holds, for each time period, the blinded *public* key, a descriptor signing key pair, the
//! certificates of this key, and the key that encrypts the period's revision counters. It also
//! holds two secrets that are derived one-way from the master key: the agents' token, and the key
//! of the marks on owned objects.
//!
//! A kit must never hold a blinded *private* key. The blinding factor `h` of a period is public, so
//! anyone who has the blinded private key `a' = h a` can compute the master key `a = a' / h`. Nor
//! may a kit hold the prefix from which nonces are derived: a signature and its nonce yield `a'`.
//! All secrets in a kit are therefore outputs of hash functions, and everything that needs `a'`
//! (the signatures of the certificates) is computed in advance.
//!
//! Kits are deterministic: two kits of one master key contain the same keys for the same period.
//! Kits that overlap therefore agree.

mod collection;
mod coverage;
mod format;
mod issue;
#[cfg(test)]
pub(crate) mod tests;

pub use collection::{DelegatedKey, Kits};
pub use coverage::{Coverage, CoverageState};

use std::fmt;
use std::time::SystemTime;

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::cert::{self, CertError, CertType, UncheckedCert};
use super::{BlindedPublicKey, OnionAddress, PeriodCalendar};

/// The maximum length of a kit in bytes. A kit for a year has about 1.2 MiB.
pub const MAX_LEN: u64 = 4 * 1024 * 1024;
/// The label of the key derivation for the agents' token.
pub const AGENT_TOKEN_LABEL: &[u8] = b"onionbalance.dev/agent-token/v1";
/// The label of the key derivation for the marks that a delegated service's objects get.
const MARK_KEY_LABEL: &[u8] = b"onionbalance.dev/delegated-origin/v1";
/// The label of the key derivation for the descriptor signing key of a time period. The number and
/// the length of the period follow.
const SIGNING_KEY_LABEL: &str = "onionbalance.dev/descriptor-signing-key/v1";

/// The signing kit of a service for consecutive time periods. Its secrets are zeroized on drop and
/// never printed.
pub struct Kit {
    address: OnionAddress,
    calendar: PeriodCalendar,
    secrets: Box<ServiceSecrets>,
    first: u64,
    periods: Vec<KitPeriod>,
}

/// The secrets of a kit that do not depend on the time period.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
struct ServiceSecrets {
    agent_token: [u8; 32],
    mark_key: [u8; 32],
}

/// The part of a kit for one time period.
struct KitPeriod {
    blinded: BlindedPublicKey,
    secrets: Box<PeriodSecrets>,
    /// The expiration time of the first certificate, in hours since the Unix epoch. Each further
    /// certificate expires one hour later.
    first_hour: u32,
    /// The signatures of the certificates by the blinded key, at least one. Apart from the
    /// signature and the expiration time, the certificates are the same.
    signatures: Vec<[u8; 64]>,
}

/// The secrets of a time period. They are on the heap, because moving them within the stack would
/// leave copies behind that nobody erases.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
struct PeriodSecrets {
    /// The seed of the descriptor signing key.
    signing_seed: [u8; 32],
    /// The key that encrypts the revision counters.
    counter_key: [u8; 32],
}

/// An error that explains why a signing kit cannot be read, created or used.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum KitError {
    /// The content does not begin with the tag of a signing kit.
    #[error(
        "the content is not a signing kit, because it does not begin with \"== onionbalance signing kit ==\"; create a \
         kit with kubectl-onionbalance key delegate"
    )]
    Tag,
    /// The content is a master key.
    #[error(
        "the content is a master key instead of a signing kit; keep the master key offline, and create a kit from it \
         with kubectl-onionbalance key delegate"
    )]
    MasterKey,
    /// The kit has a version that this program does not know.
    #[error("the signing kit has version {0}, but this program reads only version 1; use a newer program")]
    Version(u16),
    /// The kit ends too early.
    #[error("the signing kit is truncated: it ends after {0} bytes; copy the complete file again")]
    Truncated(usize),
    /// There is more data after the end of the kit.
    #[error("{0} bytes follow the end of the signing kit; copy the file again without conversion")]
    Trailing(usize),
    /// The checksum does not match the content.
    #[error("the signing kit is damaged: its checksum does not match its content; copy the file again")]
    Checksum,
    /// The kit is for an invalid onion address.
    #[error("the signing kit does not contain a valid onion address; create the kit again")]
    Address,
    /// The kit covers no time period, or its time periods are out of range.
    #[error("the time periods of the signing kit are out of range; create the kit again")]
    Periods,
    /// The blinded key of a time period does not belong to the address.
    #[error("the blinded key of time period {0} does not belong to the kit's address; create the signing kit again")]
    BlindedKey(u64),
    /// A certificate of a time period is invalid.
    #[error("a certificate of time period {0} is invalid: {1}; create the signing kit again")]
    Certificate(u64, CertError),
    /// The kit belongs to another service.
    #[error("the signing kit belongs to {0}, but the address of the service is {1}; use the kit of that address")]
    AnotherService(OnionAddress, OnionAddress),
}

impl Kit {
    /// Returns the onion address of the service.
    pub fn address(&self) -> OnionAddress {
        self.address
    }

    /// Returns the number of time periods that the kit covers.
    pub fn periods(&self) -> usize {
        self.periods.len()
    }

    /// Returns the time at which the first covered time period can be published, and the end of the
    /// last covered time period, when clients stop using its descriptors.
    pub fn validity(&self) -> [SystemTime; 2] {
        let after_last = self.first.saturating_add(u64::try_from(self.periods.len()).unwrap_or(u64::MAX));
        let first = self.calendar.publishing_times(self.first).map(|[first, _]| first);
        // Creating and parsing a kit check that its times are in range.
        [first, self.calendar.start(after_last)].map(|time| time.unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// Checks every certificate of the kit. Parsing checks only the first and the last certificate
    /// of each time period.
    pub fn check_all(&self) -> Result<(), KitError> {
        (self.first..).zip(&self.periods).try_for_each(|(number, period)| {
            (0..period.signatures.len()).try_for_each(|index| period.check_certificate(index, number))
        })
    }
}

impl KitPeriod {
    fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.secrets.signing_seed)
    }

    /// Returns the expiration time of a certificate in hours since the Unix epoch.
    fn hour(&self, index: usize) -> u32 {
        self.first_hour.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Returns the certificate with this index, or None if there are fewer certificates.
    fn certificate(&self, index: usize) -> Option<Vec<u8>> {
        let signature = self.signatures.get(index)?;
        let signing_key = self.signing_key().verifying_key();
        let kind = CertType::DescriptorSigningKey;
        let mut cert = cert::encode_unsigned(kind, signing_key.as_bytes(), self.hour(index), &self.blinded.0);
        cert.extend(signature);
        Some(cert)
    }

    fn check_certificate(&self, index: usize, number: u64) -> Result<(), KitError> {
        let cert = self.certificate(index).ok_or(CertError::Form);
        let checked = cert.and_then(|cert| {
            UncheckedCert::parse(&cert)?.check(CertType::DescriptorSigningKey, &self.blinded.0, SystemTime::UNIX_EPOCH)
        });
        checked.map(|_| ()).map_err(|error| KitError::Certificate(number, error))
    }
}

impl fmt::Debug for Kit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let periods = self.periods.len();
        f.debug_struct("Kit")
            .field("address", &self.address)
            .field("first", &self.first)
            .field("periods", &periods)
            .finish_non_exhaustive()
    }
}
