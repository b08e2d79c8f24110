//! Conversions from our keys and time periods to arti's types.

use onionbalance_operator::onion::{self, MasterKey, OnionAddress};
use tor_hscrypto::Subcredential;
use tor_hscrypto::pk::{HsBlindIdKey, HsBlindIdKeypair, HsId, HsIdKey, HsIdKeypair};
use tor_hscrypto::time::TimePeriod;
use tor_llcrypto::pk::curve25519;
use tor_llcrypto::pk::ed25519::{ExpandedKeypair, PublicKey};
use tor_llcrypto::pk::keymanip::convert_curve25519_to_ed25519_public;

/// The keys that arti derives from an identity key for a time period.
pub struct Blinded {
    /// The blinded key pair of the service in the time period.
    pub keypair: HsBlindIdKeypair,
    /// The public half of the blinded key pair.
    pub public: HsBlindIdKey,
    /// The subcredential of the service in the time period.
    pub subcredential: Subcredential,
}

/// Converts a time period. The offset from the epoch is fixed, because it does not affect keys.
pub fn period(period: onion::TimePeriod) -> TimePeriod {
    let length = u32::try_from(period.length_minutes).expect("the period's length exceeds 32 bits");
    TimePeriod::from_parts(length, period.number, 12 * 3600)
}

/// Converts our master key to arti's identity key pair.
pub fn identity(key: &MasterKey) -> HsIdKeypair {
    let file = key.to_tor_secret_key_file();
    let secret = file[32..].try_into().expect("the key file does not end with 64 bytes of key");
    ExpandedKeypair::from_secret_key_bytes(secret).expect("arti rejects the key").into()
}

/// Returns the identity key of an onion address.
pub fn address(address: &OnionAddress) -> HsIdKey {
    PublicKey::from_bytes(address.public_key()).expect("arti rejects the address's key").into()
}

/// Blinds a master key with arti.
pub fn blind(key: &MasterKey, in_period: onion::TimePeriod) -> Blinded {
    let (public, keypair, subcredential) =
        identity(key).compute_blinded_key(period(in_period)).expect("arti cannot blind the key");
    Blinded { keypair, public, subcredential }
}

/// Returns the ed25519 key that `enc-key-cert` must certify for an x25519 key.
pub fn ed25519_equivalent(x25519: &curve25519::PublicKey) -> [u8; 32] {
    convert_curve25519_to_ed25519_public(x25519, 0).expect("the key is not on the curve").to_bytes()
}

/// Returns true if an address that arti has parsed contains a valid key. arti itself checks the key
/// only when it uses the key.
pub fn is_key(id: &HsId) -> bool {
    HsIdKey::try_from(*id).is_ok()
}
