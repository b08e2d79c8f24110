//! The three-layer v3 descriptor (rend-spec-v3, sections 2.4 and 2.5).
//!
//! ```text
//! outer:   plain; signed by the descriptor signing key, which the blinded key certifies
//! layer 1: encrypted for who knows the address: client authorization, or 16 dummies in its place
//! layer 2: encrypted for authorized clients (without authorization: for the same as layer 1): the introduction points
//! ```

mod build;
mod client_auth;
mod crypto;
mod flow_control;
mod layer1;
mod layer2;
mod link_specifiers;
mod outer;

#[cfg(test)]
mod tests;

pub use build::DescriptorKeys;
pub use flow_control::FlowControl;
pub use outer::UncheckedDescriptor;

use std::time::SystemTime;

use rand::CryptoRng;

use super::BlindedPublicKey;
use super::cert::CertError;
use super::document::DocumentError;

/// A descriptor's greatest length in bytes, exclusive (the default of the consensus parameter `HSV3MaxDescriptorSize`).
pub const MAX_LEN: usize = 50_000;
/// The most introduction points in a descriptor: clients reject one with more.
pub const MAX_INTRODUCTION_POINTS: usize = 20;
/// The most authorized clients of a service. With fewer points more would fit, but whom a service admits must not hang on
/// how large it is at the moment.
pub const MAX_AUTHORIZED_CLIENTS: usize = 128;

/// How many points always fit beside this many authorized clients, of up to [`MAX_AUTHORIZED_CLIENTS`]. Layer 1 is padded to a
/// multiple of 10,000 bytes, and the fourth would make a descriptor too long. Each point may have 96 bytes of link specifiers
/// (all that tor writes have 85); beside them there is room for some 400 bytes of layer 2.
pub fn max_points_beside(clients: usize) -> usize {
    if clients > 112 { MAX_INTRODUCTION_POINTS - 1 } else { MAX_INTRODUCTION_POINTS }
}

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
    /// The relay's RSA identity digest, from its link specifiers; zeros if these are not well-formed.
    pub fn relay(&self) -> RelayIdentity {
        RelayIdentity(link_specifiers::rsa_identity(&self.link_specifiers).unwrap_or_default())
    }
}

/// What layer 2 of a descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceContent {
    /// `create2-formats`.
    pub create2_formats: Vec<u16>,
    /// `flow-control`.
    pub flow_control: Option<FlowControl>,
    /// `single-onion-service` is there.
    pub single_onion_service: bool,
    /// `intro-auth-required`'s arguments.
    pub intro_auth_required: Vec<String>,
    /// `pow-params` is there. It is never written: a merged descriptor cannot carry it.
    pub pow_params: bool,
    /// The points, in order.
    pub introduction_points: Vec<IntroductionPoint>,
}

#[cfg(test)]
impl ServiceContent {
    /// These points, and of everything else the least that there can be.
    pub(crate) fn plain(introduction_points: Vec<IntroductionPoint>) -> Self {
        Self {
            create2_formats: vec![2],
            flow_control: None,
            single_onion_service: false,
            intro_auth_required: Vec::new(),
            pow_params: false,
            introduction_points,
        }
    }
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

/// Why a descriptor is not accepted, or cannot be built. Texts name the item of the descriptor that is at fault.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum DescriptorError {
    /// 50,000 bytes or more.
    #[error("a descriptor must be shorter than {MAX_LEN} bytes")]
    TooLong,
    /// A layer is no document of Tor's.
    #[error("not a descriptor: {0}")]
    Document(#[from] DocumentError),
    /// An item that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An item that may be there once is there twice.
    #[error("{0} is repeated")]
    Repeated(&'static str),
    /// An item's arguments or object are not of the right form.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// Something follows the item that must be the last.
    #[error("{0} must be the last item")]
    Trailing(&'static str),
    /// A certificate is not accepted.
    #[error("{0}: {1}")]
    Certificate(&'static str, CertError),
    /// It is signed for another blinded key: of another service, or another period.
    #[error("the descriptor is of another blinded key than the expected one")]
    BlindedKey,
    /// The descriptor signing key did not sign this.
    #[error("the descriptor has a wrong signature")]
    Signature,
    /// An encrypted layer does not open: it is of another address, or damaged; `encrypted` also when it is not for
    /// this client.
    #[error("{0} cannot be decrypted")]
    Decryption(&'static str),
    /// More than 20 introduction points.
    #[error("a descriptor has at most {MAX_INTRODUCTION_POINTS} introduction points")]
    TooManyPoints,
    /// An introduction point with a legacy key cannot be certified anew.
    #[error("an introduction point with a legacy key cannot go into a descriptor")]
    LegacyPoint,
}

fn random<const N: usize>(rng: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Puts an item that may come once into its place.
fn set_once<T>(place: &mut Option<T>, name: &'static str, value: Option<T>) -> Result<(), DescriptorError> {
    if place.is_some() {
        return Err(DescriptorError::Repeated(name));
    }
    *place = Some(value.ok_or(DescriptorError::Malformed(name))?);
    Ok(())
}
