//! Encryption of a descriptor's layers (rend-spec-v3, section 2.5.3).

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use sha3::{Digest, Sha3_256};
use shake::Shake256;
use shake::digest::{ExtendableOutput, Update, XofReader};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::client_auth::Cookie;
use crate::onion::BlindedPublicKey;
use crate::onion::blind::Subcredential;

/// The tag of the object that contains an encrypted layer.
pub(super) const MESSAGE_TAG: &str = "MESSAGE";
pub(super) const SALT_LEN: usize = 16;
const MAC_LEN: usize = 32;

/// An encrypted layer of a descriptor. Each layer has its own keys, so that neither layer can be
/// mistaken for the other.
#[derive(Clone, Copy)]
pub(super) enum Layer<'a> {
    /// Layer 1, in the `superencrypted` object of the outer layer.
    One,
    /// Layer 2, in the `encrypted` object of layer 1. Under client authorization, its keys are also
    /// derived from the descriptor cookie.
    Two(Option<&'a Cookie>),
}

/// The inputs from which the keys of both layers are derived.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerSecret {
    pub blinded: BlindedPublicKey,
    pub subcredential: Subcredential,
    pub revision_counter: u64,
}

/// The keys of one layer for one salt.
#[derive(Zeroize, ZeroizeOnDrop)]
struct LayerKeys {
    secret_key: [u8; 32],
    secret_iv: [u8; 16],
    mac_key: [u8; 32],
}

impl LayerSecret {
    /// Encrypts a layer and returns `SALT | ENCRYPTED | MAC`.
    pub(super) fn encrypt(&self, layer: Layer<'_>, plaintext: &[u8], salt: [u8; SALT_LEN]) -> Vec<u8> {
        let keys = self.keys(layer, &salt);
        let mut encrypted = plaintext.to_vec();
        keys.apply_cipher(&mut encrypted);
        let mac = keys.mac(&salt, &encrypted);
        [salt.as_slice(), &encrypted, &mac].concat()
    }

    /// Decrypts a layer. Returns None if the MAC does not match.
    pub(super) fn decrypt(&self, layer: Layer<'_>, blob: &[u8]) -> Option<Vec<u8>> {
        let (salt, rest) = blob.split_first_chunk::<SALT_LEN>()?;
        let (encrypted, expected_mac) = rest.split_last_chunk::<MAC_LEN>()?;
        let keys = self.keys(layer, salt);
        if !bool::from(keys.mac(salt, encrypted).ct_eq(expected_mac)) {
            return None;
        }
        let mut plaintext = encrypted.to_vec();
        keys.apply_cipher(&mut plaintext);
        Some(plaintext)
    }

    /// Derives the keys of a layer. Only layer 2 uses the descriptor cookie, and only under client
    /// authorization.
    ///
    /// ```text
    /// SECRET_DATA = blinded-public-key | descriptor_cookie
    /// secret_input = SECRET_DATA | N_hs_subcred | INT_8(revision_counter)
    /// SECRET_KEY | SECRET_IV | MAC_KEY = SHAKE-256(secret_input | SALT | STRING_CONSTANT)
    /// ```
    fn keys(&self, layer: Layer<'_>, salt: &[u8; SALT_LEN]) -> LayerKeys {
        let (cookie, constant): (&[u8], &[u8]) = match layer {
            Layer::One => (&[], b"hsdir-superencrypted-data"),
            Layer::Two(cookie) => (cookie.map_or(&[], |cookie| cookie.as_slice()), b"hsdir-encrypted-data"),
        };
        let mut stream = Shake256::default()
            .chain(self.blinded.0)
            .chain(cookie)
            .chain(self.subcredential.0)
            .chain(self.revision_counter.to_be_bytes())
            .chain(salt)
            .chain(constant)
            .finalize_xof();
        let mut keys = LayerKeys { secret_key: [0; 32], secret_iv: [0; 16], mac_key: [0; 32] };
        stream.read(&mut keys.secret_key);
        stream.read(&mut keys.secret_iv);
        stream.read(&mut keys.mac_key);
        keys
    }
}

impl LayerKeys {
    /// Encrypts or decrypts the data with AES-256-CTR.
    fn apply_cipher(&self, data: &mut [u8]) {
        Ctr128BE::<Aes256>::new(&self.secret_key.into(), &self.secret_iv.into()).apply_keystream(data);
    }

    /// Computes the MAC of an encrypted layer:
    /// `H(INT_8(len(MAC_KEY)) | MAC_KEY | INT_8(len(SALT)) | SALT | ENCRYPTED)`.
    fn mac(&self, salt: &[u8; SALT_LEN], encrypted: &[u8]) -> [u8; MAC_LEN] {
        <Sha3_256 as Digest>::new()
            .chain(32_u64.to_be_bytes())
            .chain(self.mac_key)
            .chain(16_u64.to_be_bytes())
            .chain(salt)
            .chain(encrypted)
            .finalize()
            .into()
    }
}
