//! The three-layer v3 descriptor (rend-spec-v3, section 2.4 and 2.5).

use std::time::SystemTime;

use rand::CryptoRng;

use super::{BlindedKeypair, BlindedPublicKey, OnionAddress};

/// One introduction point, as its service made it (the certificates of the descriptor that it came in are left out:
/// they are made anew for each descriptor's signing key).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IntroductionPoint {
    /// The encoded link specifiers (count, then type, length and data of each), checked to be well-formed.
    pub link_specifiers: Vec<u8>,
    /// The relay's ntor onion key.
    pub onion_key: [u8; 32],
    /// The ed25519 introduction authentication key.
    pub auth_key: [u8; 32],
    /// The x25519 encryption key.
    pub enc_key: [u8; 32],
    /// The certified key of `enc-key-cert`: the ed25519 equivalent of `enc_key`.
    pub enc_key_ed25519: [u8; 32],
    /// Has a `legacy-key` (long gone from the network): such a point is not merged.
    pub legacy: bool,
}

/// Who a relay is, as far as link specifiers tell: what a client matches an opened introduction circuit by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayIdentity(pub [u8; 20]);

impl IntroductionPoint {
    /// The relay's RSA identity digest, from its link specifiers.
    pub fn relay(&self) -> RelayIdentity {
        todo!()
    }
}

/// What layer 2 of a descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceContent {
    /// `create2-formats`.
    pub create2_formats: Vec<u16>,
    /// `flow-control`'s two arguments (protocol version range, sendme-inc), as in "1-2 31".
    pub flow_control: Option<String>,
    /// `single-onion-service` is there.
    pub single_onion_service: bool,
    /// `intro-auth-required`'s arguments.
    pub intro_auth_required: Vec<String>,
    /// `pow-params` is there.
    pub pow_params: bool,
    /// The points, in order.
    pub introduction_points: Vec<IntroductionPoint>,
}

/// A descriptor's outer layer, parsed but trusted in nothing.
#[derive(Debug, Clone)]
pub struct UncheckedDescriptor {
    _private: (),
}

/// A descriptor whose signatures are checked and whose layers are open.
#[derive(Debug, Clone)]
pub struct Descriptor {
    /// The blinded key that signed it.
    pub blinded_key: BlindedPublicKey,
    /// `revision-counter`.
    pub revision_counter: u64,
    /// `descriptor-lifetime`, minutes.
    pub lifetime_minutes: u32,
    /// When its signing-key certificate expires.
    pub expires: SystemTime,
    /// Layer 2.
    pub content: ServiceContent,
}

/// Why a descriptor is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DescriptorError {
    // … form, signature, blinded key, expiry, decryption
}

impl UncheckedDescriptor {
    /// Parses the outer layer; trailing data is an error.
    pub fn parse(_text: &str) -> Result<Self, DescriptorError> {
        todo!()
    }

    /// The blinded key it claims to be signed with.
    pub fn blinded_key(&self) -> BlindedPublicKey {
        todo!()
    }

    /// Checks every signature and certificate and opens both encrypted layers (no client authorization).
    /// `blinded` is the key that the caller expects for this address and period.
    pub fn check(
        self,
        _address: &OnionAddress,
        _blinded: &BlindedPublicKey,
        _now: SystemTime,
    ) -> Result<Descriptor, DescriptorError> {
        todo!()
    }
}

/// Builds, encrypts and signs a descriptor exactly as a C tor would lay it out. `now` dates the certificates.
pub fn build(
    _key: &BlindedKeypair,
    _address: &OnionAddress,
    _content: &ServiceContent,
    _revision_counter: u64,
    _now: SystemTime,
    _rng: &mut impl CryptoRng,
) -> Result<String, DescriptorError> {
    todo!()
}
