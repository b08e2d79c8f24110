//! The three-layer v3 descriptor (rend-spec-v3, sections 2.4 and 2.5).
//!
//! ```text
//! outer:   plain text, signed by the descriptor signing key, which the blinded key certifies
//! layer 1: client authorization, or 16 dummies; encrypted for clients that know the address
//! layer 2: the introduction points; encrypted for authorized clients, or for the same clients
//!          as layer 1 if there is no client authorization
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

/// The exclusive upper limit on the length of a descriptor in bytes, which is the default of the
/// consensus parameter `HSV3MaxDescriptorSize`.
pub const MAX_LEN: usize = 50_000;
/// The maximum number of introduction points in a descriptor. Clients reject a descriptor that has
/// more.
pub const MAX_INTRODUCTION_POINTS: usize = 20;
/// The maximum number of authorized clients of a service. A descriptor with few introduction points
/// has room for more clients, but the set of admitted clients must not depend on the current number
/// of introduction points.
pub const MAX_AUTHORIZED_CLIENTS: usize = 128;

/// Returns the number of introduction points that always fit into a descriptor with this many
/// authorized clients, of which there may be up to [`MAX_AUTHORIZED_CLIENTS`].
///
/// Layer 1 is padded to a multiple of 10,000 bytes, and a layer 1 of 40,000 bytes would make the
/// descriptor too long. The result allows each point 96 bytes of link specifiers (tor writes at
/// most 85) and leaves about 400 bytes of layer 2 for everything else.
pub fn max_points_beside(clients: usize) -> usize {
    if clients > 112 { MAX_INTRODUCTION_POINTS - 1 } else { MAX_INTRODUCTION_POINTS }
}

/// An introduction point as its service published it, without the certificates of the original
/// descriptor. The certificates are reissued with the signing key of each new descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IntroductionPoint {
    /// The encoded link specifiers (a count, then the type, length and data of each), which are
    /// always well-formed.
    pub link_specifiers: Vec<u8>,
    /// The ntor onion key of the relay.
    pub onion_key: [u8; 32],
    /// The ed25519 introduction authentication key.
    pub auth_key: [u8; 32],
    /// The x25519 encryption key.
    pub enc_key: [u8; 32],
    /// The key that `enc-key-cert` certifies, which is the ed25519 equivalent of `enc_key`.
    pub enc_key_ed25519: [u8; 32],
    /// True if the point has a `legacy-key`, which the network no longer uses. A point with a
    /// `legacy-key` is not merged.
    pub legacy: bool,
}

/// The RSA identity of an introduction point's relay. Clients use it to recognize introduction
/// circuits that they have already opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayIdentity(pub [u8; 20]);

impl IntroductionPoint {
    /// Returns the relay's RSA identity digest from the link specifiers, or zeros if they are
    /// malformed.
    pub fn relay(&self) -> RelayIdentity {
        RelayIdentity(link_specifiers::rsa_identity(&self.link_specifiers).unwrap_or_default())
    }
}

/// The content of layer 2 of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceContent {
    /// The handshake types of `create2-formats`.
    pub create2_formats: Vec<u16>,
    /// The `flow-control` item, if present.
    pub flow_control: Option<FlowControl>,
    /// True if `single-onion-service` is present.
    pub single_onion_service: bool,
    /// The arguments of `intro-auth-required`.
    pub intro_auth_required: Vec<String>,
    /// True if `pow-params` is present. The item is never written, because a merged descriptor
    /// cannot carry it.
    pub pow_params: bool,
    /// The introduction points, in their original order.
    pub introduction_points: Vec<IntroductionPoint>,
}

#[cfg(test)]
impl ServiceContent {
    /// Returns service content with these introduction points and without optional items.
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

/// A descriptor with verified signatures and decrypted layers.
#[derive(Debug, Clone)]
pub struct Descriptor {
    /// The blinded key that signed the descriptor.
    pub blinded_key: BlindedPublicKey,
    /// The `revision-counter` item.
    pub revision_counter: u64,
    /// The `descriptor-lifetime` item, in minutes.
    pub lifetime_minutes: u32,
    /// The time at which the signing-key certificate expires.
    pub expires: SystemTime,
    /// The content of layer 2.
    pub content: ServiceContent,
}

/// An error that explains why a descriptor is rejected or cannot be built. The message names the
/// faulty item.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum DescriptorError {
    /// The descriptor is at least 50,000 bytes long.
    #[error("a descriptor must be shorter than {MAX_LEN} bytes")]
    TooLong,
    /// A layer does not follow Tor's document format.
    #[error("not a descriptor: {0}")]
    Document(#[from] DocumentError),
    /// A mandatory item is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An item that may appear only once is repeated.
    #[error("{0} is repeated")]
    Repeated(&'static str),
    /// The arguments or the object of an item are malformed.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// An item that must be the last one is followed by more data.
    #[error("{0} must be the last item")]
    Trailing(&'static str),
    /// The certificate in this item is invalid.
    #[error("{0}: {1}")]
    Certificate(&'static str, CertError),
    /// The descriptor belongs to a different blinded key, and hence to a different service or time
    /// period.
    #[error("the descriptor was made for another blinded key")]
    BlindedKey,
    /// The signature is not a valid signature by the descriptor signing key.
    #[error("the signature of the descriptor is wrong")]
    Signature,
    /// A layer cannot be decrypted, because it belongs to a different address or is damaged. In the
    /// case of the `encrypted` layer, the client may also be unauthorized.
    #[error("{0} cannot be decrypted")]
    Decryption(&'static str),
    /// The descriptor has more than 20 introduction points.
    #[error("a descriptor can have at most {MAX_INTRODUCTION_POINTS} introduction points")]
    TooManyPoints,
    /// An introduction point has a legacy key, so its certificates cannot be reissued.
    #[error("an introduction point with a legacy key cannot be put into a descriptor")]
    LegacyPoint,
    /// The key of the time period does not certify the descriptor signing key, or its last
    /// certificate has expired.
    #[error("the descriptor signing key has no certificate that is valid now")]
    NotCertified,
}

fn random<const N: usize>(rng: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Stores the value of an item that may appear only once. Fails if the item is repeated or
/// malformed.
fn set_once<T>(place: &mut Option<T>, name: &'static str, value: Option<T>) -> Result<(), DescriptorError> {
    if place.is_some() {
        return Err(DescriptorError::Repeated(name));
    }
    *place = Some(value.ok_or(DescriptorError::Malformed(name))?);
    Ok(())
}
