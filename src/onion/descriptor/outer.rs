//! The outer layer of a descriptor (rend-spec-v3, section 2.4), and the verification of a whole
//! descriptor.

use std::time::SystemTime;

use data_encoding::BASE64_NOPAD;
use ed25519_dalek::{Signature, VerifyingKey};

use super::client_auth::find_cookie;
use super::crypto::{Layer, LayerSecret, MESSAGE_TAG};
use super::layer1::{self, Layer1};
use super::{Descriptor, DescriptorError, MAX_LEN, layer2, set_once};
use crate::onion::cert::{self, CertType, Certified, UncheckedCert};
use crate::onion::document::{Item, Items};
use crate::onion::known_nonce::PublishedSignature;
use crate::onion::{BlindedPublicKey, ClientSecretKey, OnionAddress};

pub(super) const HS_DESCRIPTOR: &str = "hs-descriptor";
pub(super) const LIFETIME: &str = "descriptor-lifetime";
pub(super) const SIGNING_KEY_CERT: &str = "descriptor-signing-key-cert";
pub(super) const REVISION_COUNTER: &str = "revision-counter";
pub(super) const SUPERENCRYPTED: &str = "superencrypted";
pub(super) const SIGNATURE: &str = "signature";
/// The prefix of the signed data. The descriptor signing key signs this prefix and everything
/// before the `signature` item.
pub(super) const SIGNATURE_PREFIX: &[u8] = b"Tor onion service descriptor sig v3";

const VERSION: &str = "3";
/// The longest descriptor lifetime that C tor accepts, which is twelve hours.
const MAX_LIFETIME_MINUTES: u32 = 12 * 60;

/// A parsed outer layer whose signatures have not been checked.
#[derive(Debug, Clone)]
pub struct UncheckedDescriptor {
    lifetime_minutes: u32,
    signing_key_cert: UncheckedCert,
    blinded_key: BlindedPublicKey,
    revision_counter: u64,
    superencrypted: Vec<u8>,
    /// The signed data: the prefix and everything before the `signature` item.
    signed: Vec<u8>,
    signature: Signature,
}

impl UncheckedDescriptor {
    /// Returns the signature that the blinded key has made, for a search for weaknesses.
    pub fn published_signature(&self) -> PublishedSignature {
        self.signing_key_cert.published_signature(self.blinded_key.0)
    }

    /// Parses the outer layer. Data after the `signature` item is an error.
    pub fn parse(text: &str) -> Result<Self, DescriptorError> {
        if text.len() >= MAX_LEN {
            return Err(DescriptorError::TooLong);
        }
        let mut items = Items::new(text);
        match items.next().transpose()? {
            Some(item) if item.keyword == HS_DESCRIPTOR && item.rest == VERSION => {}
            Some(item) if item.keyword == HS_DESCRIPTOR => return Err(DescriptorError::Malformed(HS_DESCRIPTOR)),
            _ => return Err(DescriptorError::Missing(HS_DESCRIPTOR)),
        }
        let (mut lifetime, mut cert, mut counter, mut superencrypted) = (None, None, None, None);
        for item in items {
            let item = item?;
            match item.keyword {
                HS_DESCRIPTOR => return Err(DescriptorError::Repeated(HS_DESCRIPTOR)),
                LIFETIME => set_once(&mut lifetime, LIFETIME, parse_lifetime(&item))?,
                SIGNING_KEY_CERT => {
                    let object = item.object_bytes(cert::OBJECT_TAG);
                    set_once(&mut cert, SIGNING_KEY_CERT, object)?;
                }
                REVISION_COUNTER => set_once(&mut counter, REVISION_COUNTER, decimal(item.rest))?,
                SUPERENCRYPTED => set_once(&mut superencrypted, SUPERENCRYPTED, item.object_bytes(MESSAGE_TAG))?,
                SIGNATURE => {
                    let signing_key_cert =
                        UncheckedCert::parse(&cert.ok_or(DescriptorError::Missing(SIGNING_KEY_CERT))?)
                            .map_err(|error| DescriptorError::Certificate(SIGNING_KEY_CERT, error))?;
                    let blinded_key = signing_key_cert
                        .signed_with()
                        .map(|key| BlindedPublicKey(*key))
                        .ok_or(DescriptorError::Malformed(SIGNING_KEY_CERT))?;
                    return Ok(Self {
                        lifetime_minutes: lifetime.ok_or(DescriptorError::Missing(LIFETIME))?,
                        signing_key_cert,
                        blinded_key,
                        revision_counter: counter.ok_or(DescriptorError::Missing(REVISION_COUNTER))?,
                        superencrypted: superencrypted.ok_or(DescriptorError::Missing(SUPERENCRYPTED))?,
                        signature: parse_signature(&item, text)?,
                        signed: signed_part(text.get(..item.start).unwrap_or_default()),
                    });
                }
                _ => {}
            }
        }
        Err(DescriptorError::Missing(SIGNATURE))
    }

    /// Returns the blinded key with which the descriptor claims to be signed.
    pub fn blinded_key(&self) -> BlindedPublicKey {
        self.blinded_key
    }

    /// Checks every signature and certificate, and decrypts both layers as a client without
    /// authorization. `blinded` is the blinded key that the caller expects for this address and
    /// time period.
    pub fn check(
        self,
        address: &OnionAddress,
        blinded: &BlindedPublicKey,
        now: SystemTime,
    ) -> Result<Descriptor, DescriptorError> {
        self.check_as(None, address, blinded, now)
    }

    /// Checks the descriptor like [`check`](Self::check), but as a client with this secret key.
    /// Ignores the key if the descriptor has no entry for this client. Layer 2 can then be
    /// decrypted only if the service requires no key.
    pub fn check_as(
        self,
        client: Option<&ClientSecretKey>,
        address: &OnionAddress,
        blinded: &BlindedPublicKey,
        now: SystemTime,
    ) -> Result<Descriptor, DescriptorError> {
        let signing_key = self.signed_by(blinded, now)?;
        let layer2 = self.open_layers(client, address)?.1;
        Ok(Descriptor {
            blinded_key: *blinded,
            revision_counter: self.revision_counter,
            lifetime_minutes: self.lifetime_minutes,
            expires: signing_key.expires,
            content: layer2::parse(&layer2, &signing_key.key, now)?,
        })
    }
}

impl UncheckedDescriptor {
    /// Checks the signatures of the outer layer, and returns its revision counter. No key of a
    /// client is necessary, even if the service restricts discovery.
    pub fn signed_counter(&self, blinded: &BlindedPublicKey, now: SystemTime) -> Result<u64, DescriptorError> {
        self.signed_by(blinded, now)?;
        Ok(self.revision_counter)
    }

    /// Checks the signatures of the outer layer, and returns the descriptor signing key.
    fn signed_by(&self, blinded: &BlindedPublicKey, now: SystemTime) -> Result<Certified, DescriptorError> {
        if self.blinded_key != *blinded {
            return Err(DescriptorError::BlindedKey);
        }
        let signing_key = self
            .signing_key_cert
            .check(CertType::DescriptorSigningKey, &blinded.0, now)
            .map_err(|error| DescriptorError::Certificate(SIGNING_KEY_CERT, error))?;
        VerifyingKey::from_bytes(&signing_key.key)
            .and_then(|key| key.verify_strict(&self.signed, &self.signature))
            .map_err(|_| DescriptorError::Signature)?;
        Ok(signing_key)
    }

    /// Decrypts layers 1 and 2 and returns their unchecked texts, so that the layout of a
    /// descriptor can be inspected.
    pub fn open_layers(
        &self,
        client: Option<&ClientSecretKey>,
        address: &OnionAddress,
    ) -> Result<(String, String), DescriptorError> {
        let secret = self.secret(address);
        let (layer1, Layer1 { ephemeral_key, clients, encrypted }) = self.open_layer1(address)?;
        let cookie = client.and_then(|key| find_cookie(&secret.subcredential, key, &ephemeral_key, &clients));
        let layer2 = open(&secret, Layer::Two(cookie.as_ref()), &encrypted)?;
        Ok((layer1, layer2))
    }

    /// Decrypts layer 1 and returns its text and its parsed content.
    pub(super) fn open_layer1(&self, address: &OnionAddress) -> Result<(String, Layer1), DescriptorError> {
        let text = open(&self.secret(address), Layer::One, &self.superencrypted)?;
        let layer1 = layer1::parse(&text)?;
        Ok((text, layer1))
    }

    fn secret(&self, address: &OnionAddress) -> LayerSecret {
        LayerSecret {
            blinded: self.blinded_key,
            subcredential: address.subcredential(&self.blinded_key),
            revision_counter: self.revision_counter,
        }
    }
}

/// Returns the data that the descriptor signing key signs.
pub(super) fn signed_part(text: &str) -> Vec<u8> {
    [SIGNATURE_PREFIX, text.as_bytes()].concat()
}

/// Decrypts a layer and strips its padding, which must consist of zeros.
fn open(secret: &LayerSecret, layer: Layer<'_>, blob: &[u8]) -> Result<String, DescriptorError> {
    let name = match layer {
        Layer::One => SUPERENCRYPTED,
        Layer::Two(_) => layer1::ENCRYPTED,
    };
    let mut plaintext = secret.decrypt(layer, blob).ok_or(DescriptorError::Decryption(name))?;
    let length = plaintext.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    plaintext.truncate(length);
    let text = String::from_utf8(plaintext).map_err(|_| DescriptorError::Malformed(name))?;
    if text.contains('\0') { Err(DescriptorError::Malformed(name)) } else { Ok(text) }
}

fn parse_lifetime(item: &Item<'_>) -> Option<u32> {
    let minutes = u32::try_from(decimal(item.rest)?).ok()?;
    (minutes <= MAX_LIFETIME_MINUTES).then_some(minutes)
}

fn parse_signature(item: &Item<'_>, text: &str) -> Result<Signature, DescriptorError> {
    if item.object.is_some() || item.end != text.len() {
        return Err(DescriptorError::Trailing(SIGNATURE));
    }
    BASE64_NOPAD
        .decode(item.rest.as_bytes())
        .ok()
        .and_then(|bytes| Signature::from_slice(&bytes).ok())
        .ok_or(DescriptorError::Malformed(SIGNATURE))
}

/// Parses a number that consists only of decimal digits. `u64::from_str` would also accept a
/// leading plus sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
