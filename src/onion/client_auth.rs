//! Client authorization (rend-spec-v3, appendix G): the x25519 keys of clients, in tor's file
//! formats.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, BASE64};
use rand::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::OnionAddress;

/// The only authorization type and key type that rend-spec-v3 defines.
const PREFIX: [&str; 2] = ["descriptor", "x25519"];

/// The set of clients that can find the introduction points of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Discovery {
    /// Anyone who knows the address can find the service.
    #[default]
    Open,
    /// Only clients that know the address and hold one of these keys can find the service. An empty
    /// set admits no client, whereas C tor would admit every client.
    Restricted(BTreeSet<ClientPublicKey>),
}

/// A client's public key. C tor's `authorized_clients/<name>.auth` files contain it in the form
/// `descriptor:x25519:<base32>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientPublicKey([u8; 32]);

/// A client's secret key. It is zeroized on drop and never printed.
#[derive(Clone)]
pub struct ClientSecretKey(StaticSecret);

/// An error that explains why a string is not a client's public key. It never repeats the string,
/// which may be a secret that was pasted by mistake.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum ClientKeyError {
    /// The string does not have the form `descriptor:x25519:<base32>`.
    #[error("is not of the form descriptor:x25519:<52 base32 characters>")]
    Form,
    /// The string is `<address>:descriptor:x25519:<key>`, the line that belongs in the client's own
    /// `ClientOnionAuthDir`.
    #[error("is a client's private key; use the public key instead, descriptor:x25519:<52 base32 characters>")]
    Private,
    /// The key is a point of low order, so anyone can decrypt data that is encrypted to it.
    #[error("is a weak key that protects nothing; generate a new one")]
    LowOrder,
}

impl ClientPublicKey {
    /// Creates a public key from its 32 bytes. Fails if they encode a point of low order.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, ClientKeyError> {
        // Any secret works for this check, because a point of low order yields zero for every
        // secret.
        let shared = StaticSecret::from([1; 32]).diffie_hellman(&PublicKey::from(bytes));
        if shared.was_contributory() { Ok(Self(bytes)) } else { Err(ClientKeyError::LowOrder) }
    }

    /// Returns the 32 bytes of the public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for ClientPublicKey {
    type Err = ClientKeyError;

    /// Parses every form that C tor accepts, including spaces around the fields and letters in
    /// either case.
    fn from_str(text: &str) -> Result<Self, ClientKeyError> {
        let fields: Vec<&str> = text.split(':').map(str::trim).collect();
        match fields.as_slice() {
            [_, auth, kind, _] if [*auth, *kind] == PREFIX => Err(ClientKeyError::Private),
            [auth, kind, key] if [*auth, *kind] == PREFIX => {
                let bytes = BASE32_NOPAD.decode(key.to_ascii_uppercase().as_bytes()).ok();
                let bytes = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(ClientKeyError::Form)?;
                Self::from_bytes(bytes)
            }
            _ => Err(ClientKeyError::Form),
        }
    }
}

impl fmt::Display for ClientPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", PREFIX.join(":"), BASE32_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for ClientPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ClientSecretKey {
    /// Generates a new client secret key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(StaticSecret::random_from_rng(rng))
    }

    /// Creates a client secret key from its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// Returns the public key, which the service needs to authorize this client.
    pub fn public(&self) -> ClientPublicKey {
        ClientPublicKey(PublicKey::from(&self.0).to_bytes())
    }

    /// Returns the line for the `<name>.auth_private` file in the client's `ClientOnionAuthDir`,
    /// without a newline.
    pub fn to_auth_private(&self, address: &OnionAddress) -> Zeroizing<String> {
        let address = address.to_string();
        let address = address.trim_end_matches(".onion");
        let key = Zeroizing::new(BASE32_NOPAD.encode(self.0.as_bytes()));
        Zeroizing::new(format!("{address}:{}:{}", PREFIX.join(":"), *key))
    }

    /// Returns the key in the form `x25519:<base64>`, which tor's control protocol uses
    /// (control-spec, `ONION_CLIENT_AUTH_ADD`).
    pub fn to_control_key(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(BASE64.encode(self.0.as_bytes()));
        Zeroizing::new(format!("x25519:{}", *key))
    }

    /// Computes the shared secret `x25519(secret, key)`.
    pub(super) fn shared_with(&self, key: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.diffie_hellman(&PublicKey::from(*key)).to_bytes())
    }
}

impl fmt::Debug for ClientSecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSecretKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::onion::MasterKey;

    fn parse(text: &str) -> Result<ClientPublicKey, ClientKeyError> {
        text.parse()
    }

    #[test]
    fn parses_every_form_that_c_tor_accepts() {
        let key = ClientSecretKey::generate(&mut StdRng::from_seed([1; 32])).public();
        let text = key.to_string();
        assert_eq!(text.len(), "descriptor:x25519:".len() + 52);
        assert_eq!(parse(&text), Ok(key));
        let base32 = text.rsplit(':').next().unwrap();
        assert_eq!(parse(&format!(" descriptor:x25519 :{}\r\n", base32.to_lowercase())), Ok(key));
    }

    #[test]
    fn rejects_other_texts_without_repeating_them() {
        let key = ClientSecretKey::generate(&mut StdRng::from_seed([1; 32]));
        let text = key.public().to_string();
        for bad in ["", "x", &text[1..], &text[..text.len() - 1], &format!("{text}===="), &format!("{text}A")] {
            assert_eq!(parse(bad), Err(ClientKeyError::Form), "{bad}");
        }
        assert_eq!(parse(&text.replace("x25519", "x448")), Err(ClientKeyError::Form));
        let address = MasterKey::generate(&mut StdRng::from_seed([2; 32])).address();
        let private = key.to_auth_private(&address);
        assert_eq!(parse(&private), Err(ClientKeyError::Private));
        assert!(private.starts_with(&address.to_string()[..56]) && private[56..].starts_with(":descriptor:x25519:"));
        assert_eq!(format!("{key:?}"), "ClientSecretKey { .. }");
        let control = ClientSecretKey::from_bytes([0; 32]).to_control_key();
        assert_eq!(*control, format!("x25519:{}=", "A".repeat(43)));
    }

    #[test]
    fn rejects_points_of_low_order() {
        let one = std::array::from_fn(|index| u8::from(index == 0));
        for bytes in [[0; 32], one] {
            assert_eq!(ClientPublicKey::from_bytes(bytes), Err(ClientKeyError::LowOrder));
        }
        assert_eq!(parse(&format!("descriptor:x25519:{}", "a".repeat(52))), Err(ClientKeyError::LowOrder));
    }
}
