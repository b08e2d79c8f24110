//! The key with which a service publishes in one time period: the blinded key pair itself, or a
//! delegated key, which certifies only one descriptor signing key.

use std::time::{Duration, SystemTime};

use ed25519_dalek::SigningKey;

use super::cert::{self, CertType};
use super::{BlindedKeypair, BlindedPublicKey};

/// The key of a service in one time period, as far as the service needs it to publish descriptors.
///
/// Descriptors from all implementations look the same to HSDirs and clients.
pub trait PeriodKey: Send + Sync {
    /// Returns the blinded public key of the time period.
    fn public(&self) -> BlindedPublicKey;

    /// Returns the order-preserving revision counter for `seconds_since_srv_start`. All keys of a
    /// service and a time period return the same counter.
    fn revision_counter(&self, seconds_since_srv_start: u64) -> u64;

    /// Returns the only descriptor signing key that [`Self::certify`] accepts, or None if it
    /// accepts every key.
    fn signing_key(&self) -> Option<SigningKey>;

    /// Returns the certificate of a descriptor signing key. The certificate is valid for at least
    /// `lifetime` after `now`, if possible. Returns None if this key cannot certify the signing
    /// key, or can no longer do so.
    fn certify(&self, signing_key: &[u8; 32], now: SystemTime, lifetime: Duration) -> Option<Vec<u8>>;
}

impl PeriodKey for BlindedKeypair {
    fn public(&self) -> BlindedPublicKey {
        Self::public(self)
    }

    fn revision_counter(&self, seconds_since_srv_start: u64) -> u64 {
        Self::revision_counter(self, seconds_since_srv_start)
    }

    fn signing_key(&self) -> Option<SigningKey> {
        None
    }

    fn certify(&self, signing_key: &[u8; 32], now: SystemTime, lifetime: Duration) -> Option<Vec<u8>> {
        let kind = CertType::DescriptorSigningKey;
        let blinded = Self::public(self);
        Some(cert::encode(kind, signing_key, (now, lifetime), &blinded.0, |message| self.sign(message)))
    }
}
