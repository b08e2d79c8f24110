//! The master identity key, and Tor's key files (`hs_ed25519_secret_key`, `hs_ed25519_public_key`, `hostname`).

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::{BlindedKeypair, OnionAddress, TimePeriod};

/// A service's long-term identity key in expanded form (scalar and prefix, 64 bytes). Zeroized on drop, never printed.
pub struct MasterKey {
    _private: (),
}

/// Why bytes are no usable key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not the 96 bytes of a `hs_ed25519_secret_key` file.
    #[error("hs_ed25519_secret_key must have 96 bytes, it has {0}")]
    Length(usize),
    // … more
}

impl MasterKey {
    /// A fresh key.
    pub fn generate(_rng: &mut impl CryptoRng) -> Self {
        todo!()
    }

    /// Reads Tor's `hs_ed25519_secret_key` (96 bytes: a 32-byte tag, then the expanded key).
    pub fn from_tor_secret_key_file(_bytes: &[u8]) -> Result<Self, KeyError> {
        todo!()
    }

    /// The `hs_ed25519_secret_key` file, 96 bytes.
    pub fn to_tor_secret_key_file(&self) -> Zeroizing<Vec<u8>> {
        todo!()
    }

    /// The `hs_ed25519_public_key` file, 64 bytes.
    pub fn to_tor_public_key_file(&self) -> Vec<u8> {
        todo!()
    }

    /// The service's address.
    pub fn address(&self) -> OnionAddress {
        todo!()
    }

    /// 32 bytes for another purpose: HKDF-SHA256 of the expanded key with `label` as info.
    pub fn derive(&self, _label: &[u8]) -> Zeroizing<[u8; 32]> {
        todo!()
    }

    /// The signing keypair of a time period (rend-spec-v3, appendix A).
    pub fn blind(&self, _period: TimePeriod) -> BlindedKeypair {
        todo!()
    }
}
