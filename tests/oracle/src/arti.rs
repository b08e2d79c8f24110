//! Our keys and periods as arti's types.

use onionbalance_operator::onion::{self, MasterKey, OnionAddress};
use tor_hscrypto::Subcredential;
use tor_hscrypto::pk::{HsBlindIdKey, HsBlindIdKeypair, HsId, HsIdKey, HsIdKeypair};
use tor_hscrypto::time::TimePeriod;
use tor_llcrypto::pk::curve25519;
use tor_llcrypto::pk::ed25519::{ExpandedKeypair, PublicKey};
use tor_llcrypto::pk::keymanip::convert_curve25519_to_ed25519_public;

/// What arti makes of an identity key in a period.
pub struct Blinded {
    /// The blinded key.
    pub keypair: HsBlindIdKeypair,
    /// Its public half.
    pub public: HsBlindIdKey,
    /// The subcredential.
    pub subcredential: Subcredential,
}

/// The period; its offset from the epoch does not matter for keys.
pub fn period(period: onion::TimePeriod) -> TimePeriod {
    let length = u32::try_from(period.length_minutes).expect("a period is shorter than ten days");
    TimePeriod::from_parts(length, period.number, 12 * 3600)
}

/// The identity key pair, from our key file.
pub fn identity(key: &MasterKey) -> HsIdKeypair {
    let file = key.to_tor_secret_key_file();
    let secret = file[32..].try_into().expect("a key file ends with 64 bytes of key");
    ExpandedKeypair::from_secret_key_bytes(secret).expect("a key").into()
}

/// The identity key that an address says.
pub fn address(address: &OnionAddress) -> HsIdKey {
    PublicKey::from_bytes(address.public_key()).expect("an address is a valid key").into()
}

/// Blinds the key with arti.
pub fn blind(key: &MasterKey, in_period: onion::TimePeriod) -> Blinded {
    let (public, keypair, subcredential) =
        identity(key).compute_blinded_key(period(in_period)).expect("the key can be blinded");
    Blinded { keypair, public, subcredential }
}

/// The ed25519 key that `enc-key-cert` certifies for an x25519 key.
pub fn ed25519_equivalent(x25519: &curve25519::PublicKey) -> [u8; 32] {
    convert_curve25519_to_ed25519_public(x25519, 0).expect("the key is on the curve").to_bytes()
}

/// Whether an address that arti parsed also says a key that could be a service's; it checks that where it needs the key.
pub fn is_key(id: &HsId) -> bool {
    HsIdKey::try_from(*id).is_ok()
}
