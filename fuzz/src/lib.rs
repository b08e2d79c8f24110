//! Wraps fuzzer input in correctly encrypted and signed descriptors, so that it passes the MAC and
//! signature checks.
//!
//! This code implements rend-spec-v3 (sections 2.4 and 2.5) and cert-spec independently of the
//! operator's own encoder.

use std::time::{Duration, SystemTime};

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use data_encoding::{BASE64, BASE64_NOPAD};
use ed25519_dalek::{Signer as _, SigningKey};
use onionbalance_operator::onion::{BlindedPublicKey, MasterKey, OnionAddress, UncheckedDescriptor};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sha3::{Digest as _, Sha3_256};
use shake::Shake256;
use shake::digest::{ExtendableOutput as _, Update as _, XofReader as _};

const REVISION: u64 = 7;

/// An onion service with fixed keys.
pub struct FuzzService {
    pub address: OnionAddress,
    /// A substitute for the blinded key. The key does not have to be derived from the address,
    /// because `UncheckedDescriptor::check` leaves this verification to its callers.
    blinded: SigningKey,
    signing_key: SigningKey,
    auth_key: SigningKey,
    enc_key: SigningKey,
}

impl FuzzService {
    pub fn new() -> Self {
        let key = |byte| SigningKey::from_bytes(&[byte; 32]);
        Self {
            address: MasterKey::generate(&mut StdRng::from_seed([3; 32])).address(),
            blinded: key(4),
            signing_key: key(5),
            auth_key: key(6),
            enc_key: key(7),
        }
    }

    pub fn blinded(&self) -> BlindedPublicKey {
        BlindedPublicKey(self.blinded.verifying_key().to_bytes())
    }

    /// Replaces placeholders with valid values that a fuzzer cannot guess:
    ///
    /// ```text
    /// %C  the object of descriptor-signing-key-cert   %A  the object of auth-key
    /// %L  the link specifiers of a point              %E  the object of enc-key-cert
    /// %M  an encrypted layer 1 or 2                   %K  the key of enc-key
    /// ```
    pub fn expand(&self, text: &str) -> String {
        let mut out = String::new();
        let mut pieces = text.split('%');
        out.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            let expansion = match piece.as_bytes().first() {
                Some(b'C') => self.certificate_object(8, &self.blinded, &self.signing_key),
                Some(b'A') => self.certificate_object(9, &self.signing_key, &self.auth_key),
                Some(b'E') => self.certificate_object(11, &self.signing_key, &self.enc_key),
                Some(b'K') => BASE64.encode(&self.enc_key.verifying_key().to_montgomery().to_bytes()),
                Some(b'L') => BASE64.encode(&[&[2, 0, 6, 127, 0, 0, 1, 0, 1, 2, 20][..], &[9; 20]].concat()),
                Some(b'M') => object("MESSAGE", &self.encrypt(1, b"desc-auth-type x25519\n")),
                _ => "%".to_owned(),
            };
            out.push_str(&expansion);
            out.push_str(if expansion == "%" { piece } else { &piece[1..] });
        }
        out
    }

    /// Appends a valid signature to a descriptor's text.
    pub fn signed(&self, text: &str) -> String {
        let message = [b"Tor onion service descriptor sig v3", text.as_bytes()].concat();
        format!("{text}signature {}\n", BASE64_NOPAD.encode(&self.signing_key.sign(&message).to_bytes()))
    }

    /// Builds a signed descriptor whose layer 1 has the given plaintext.
    pub fn with_layer1(&self, plaintext: &[u8]) -> String {
        let layer1 = object("MESSAGE", &self.encrypt(1, plaintext));
        let head = self.expand("hs-descriptor 3\ndescriptor-lifetime 180\ndescriptor-signing-key-cert\n%C");
        self.signed(&format!("{head}revision-counter {REVISION}\nsuperencrypted\n{layer1}"))
    }

    /// Builds a signed descriptor whose layer 2 has the given plaintext.
    pub fn with_layer2(&self, plaintext: &[u8]) -> String {
        let layer2 = object("MESSAGE", &self.encrypt(2, plaintext));
        let (key, client) = ("A".repeat(43), format!("{} {} {}", "A".repeat(11), "A".repeat(22), "A".repeat(22)));
        let head = format!("desc-auth-type x25519\ndesc-auth-ephemeral-key {key}=\nauth-client {client}\n");
        self.with_layer1(format!("{head}encrypted\n{layer2}").as_bytes())
    }

    /// Parses and checks a descriptor of this service.
    pub fn check(
        &self,
        text: &str,
    ) -> Result<onionbalance_operator::onion::Descriptor, onionbalance_operator::onion::descriptor::DescriptorError>
    {
        UncheckedDescriptor::parse(text)?.check(&self.address, &self.blinded(), now())
    }

    fn certificate_object(&self, kind: u8, signer: &SigningKey, certified: &SigningKey) -> String {
        let hours = u32::try_from(NOW_SECONDS / 3600 + 54).unwrap_or(u32::MAX);
        let mut body = vec![1, kind];
        body.extend(hours.to_be_bytes());
        body.push(1);
        body.extend(certified.verifying_key().as_bytes());
        body.extend([1, 0, 32, 4, 0]);
        body.extend(signer.verifying_key().as_bytes());
        object("ED25519 CERT", &sign_certificate(signer, &body))
    }

    /// Encrypts the plaintext of layer 1 or 2. Returns `SALT | ENCRYPTED | MAC`.
    fn encrypt(&self, layer: u8, plaintext: &[u8]) -> Vec<u8> {
        let (salt, blinded) = ([layer; 16], self.blinded());
        let constant: &[u8] = if layer == 1 { b"hsdir-superencrypted-data" } else { b"hsdir-encrypted-data" };
        let mut shake = Shake256::default();
        for part in [&blinded.0[..], &self.address.subcredential(&blinded).0, &REVISION.to_be_bytes(), &salt, constant]
        {
            shake.update(part);
        }
        let mut keys = [0; 80];
        shake.finalize_xof().read(&mut keys);
        let (key, iv, mac_key): ([u8; 32], [u8; 16], [u8; 32]) =
            (keys[..32].try_into().unwrap(), keys[32..48].try_into().unwrap(), keys[48..].try_into().unwrap());
        let mut encrypted = plaintext.to_vec();
        Ctr128BE::<Aes256>::new(&key.into(), &iv.into()).apply_keystream(&mut encrypted);
        let mac = Sha3_256::new()
            .chain_update(32_u64.to_be_bytes())
            .chain_update(mac_key)
            .chain_update(16_u64.to_be_bytes())
            .chain_update(salt)
            .chain_update(&encrypted)
            .finalize();
        [&salt[..], &encrypted, &mac].concat()
    }
}

impl Default for FuzzService {
    fn default() -> Self {
        Self::new()
    }
}

const NOW_SECONDS: u64 = 20_000 * 86_400;

/// Returns the fixed time at which all descriptors and certificates are checked.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS)
}

/// Returns the fixed key that signs certificates.
pub fn certificate_signer() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

/// Appends a signature to a certificate's body.
pub fn sign_certificate(signer: &SigningKey, body: &[u8]) -> Vec<u8> {
    [body, &signer.sign(body).to_bytes()].concat()
}

fn object(tag: &str, bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes.chunks(48).map(|line| BASE64.encode(line) + "\n").collect();
    format!("-----BEGIN {tag}-----\n{}-----END {tag}-----\n", lines.concat())
}
