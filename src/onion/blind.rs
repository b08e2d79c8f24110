//! Key blinding and subcredentials (rend-spec-v3, sections 2.1 and 2.5 and appendix A).

use std::fmt;

use curve25519_dalek::scalar::{Scalar, clamp_integer};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::Sha512;
use sha3::{Digest, Sha3_256};
use zeroize::Zeroizing;

use super::{OnionAddress, TimePeriod, ope};

/// The ed25519 base point B (appendix A), as the string that tor hashes.
const BASEPOINT: &str = "(15112221349535400772501151409588531511454012693041857206046113283949847762202, \
                         46316835694926478169428394003475163141307993866256225615783033603165251855960)";

/// The label with which the nonce prefix of a blinded key is derived from that of the identity key.
pub(super) const PREFIX_LABEL: &[u8] = b"Derive temporary signing key hash input";

/// A blinded identity key. It replaces the identity key for one time period, so that HSDirs do not
/// learn the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlindedPublicKey(pub [u8; 32]);

/// A blinded key pair, which is zeroized on drop and never printed.
pub struct BlindedKeypair {
    secret: ExpandedSecretKey,
    public: VerifyingKey,
}

/// The subcredential `N_hs_subcred`, which binds the encryption of a descriptor to its address and
/// time period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subcredential(pub [u8; 32]);

impl BlindedKeypair {
    /// Derives the blinded key pair for a time period:
    ///
    /// ```text
    /// a' = h a mod l
    /// RH' = SHA-512("Derive temporary signing key hash input" | RH)[:32]
    /// ```
    ///
    /// `scalar` is the identity key's secret scalar as stored, either clamped or reduced. `prefix`
    /// is the identity key's `RH`.
    pub(super) fn derive(address: &OnionAddress, scalar: &[u8; 32], prefix: &[u8; 32], period: TimePeriod) -> Self {
        Self::with_factor(scalar, prefix, blinding_factor(address, period))
    }

    fn with_factor(scalar: &[u8; 32], prefix: &[u8; 32], factor: Scalar) -> Self {
        let identity = Zeroizing::new(Scalar::from_bytes_mod_order(*scalar));
        let hash: Zeroizing<[u8; 64]> =
            Zeroizing::new(Sha512::new().chain_update(PREFIX_LABEL).chain_update(prefix).finalize().into());
        let mut secret = ExpandedSecretKey { scalar: *identity * factor, hash_prefix: [0; 32] };
        secret.hash_prefix.copy_from_slice(&hash[..32]);
        let public = VerifyingKey::from(&secret);
        Self { secret, public }
    }

    /// Returns the public half of the key pair.
    pub fn public(&self) -> BlindedPublicKey {
        BlindedPublicKey(self.public.to_bytes())
    }

    /// Returns the order-preserving revision counter for `seconds_since_srv_start`, the same value
    /// that C tor's `set_descriptor_revision_counter` computes.
    pub fn revision_counter(&self, seconds_since_srv_start: u64) -> u64 {
        ope::revision_counter(&self.ope_key(), seconds_since_srv_start)
    }

    /// Signs `message` with the blinded secret key. The result is an ed25519 signature that
    /// verifies under the blinded public key.
    pub(super) fn sign(&self, message: &[u8]) -> Signature {
        raw_sign::<Sha512>(&self.secret, message, &self.public)
    }

    /// Computes the key that encrypts revision counters,
    /// `H("rev-counter-generation" | 0x00 | a' | RH')`. C tor hashes the string including its
    /// terminating zero byte.
    pub(super) fn ope_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(
            Sha3_256::new()
                .chain_update(b"rev-counter-generation\0")
                .chain_update(self.secret.scalar.as_bytes())
                .chain_update(self.secret.hash_prefix)
                .finalize()
                .into(),
        )
    }
}

impl fmt::Debug for BlindedKeypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlindedKeypair").field("public", &self.public()).finish_non_exhaustive()
    }
}

impl OnionAddress {
    /// Returns the blinded public key for a time period, `A' = h A`, which any client can compute.
    pub fn blind(&self, period: TimePeriod) -> BlindedPublicKey {
        let point = blinding_factor(self, period) * self.point();
        BlindedPublicKey(point.compress().to_bytes())
    }

    /// Returns the subcredential for a blinded key.
    ///
    /// `N_hs_cred = H("credential" | A)`, `N_hs_subcred = H("subcredential" | N_hs_cred | A')`
    pub fn subcredential(&self, blinded: &BlindedPublicKey) -> Subcredential {
        let credential = Sha3_256::new().chain_update(b"credential").chain_update(self.public_key()).finalize();
        Subcredential(
            Sha3_256::new()
                .chain_update(b"subcredential")
                .chain_update(credential)
                .chain_update(blinded.0)
                .finalize()
                .into(),
        )
    }
}

/// Computes the blinding factor for a time period. The optional secret `s` is empty.
///
/// ```text
/// h = clamp(H(BLIND_STRING | A | s | B | N))
/// BLIND_STRING = "Derive temporary signing key" | INT_1(0)
/// N = "key-blind" | INT_8(period-number) | INT_8(period-length)
/// ```
pub(super) fn blinding_factor(address: &OnionAddress, period: TimePeriod) -> Scalar {
    let hash = Sha3_256::new()
        .chain_update(b"Derive temporary signing key\0")
        .chain_update(address.public_key())
        .chain_update(BASEPOINT)
        .chain_update(b"key-blind")
        .chain_update(period.number.to_be_bytes())
        .chain_update(period.length_minutes.to_be_bytes())
        .finalize();
    clamped(hash.into())
}

fn clamped(bytes: [u8; 32]) -> Scalar {
    Scalar::from_bytes_mod_order(clamp_integer(bytes))
}

#[cfg(test)]
mod tests;
