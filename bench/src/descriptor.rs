//! A service's descriptor of twenty points, and its signatures alone.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use onionbalance_operator::onion::descriptor::{
    DescriptorKeys, IntroductionPoint, MAX_INTRODUCTION_POINTS, ServiceContent,
};
use onionbalance_operator::onion::{MasterKey, OnionAddress, TimePeriod};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sha2::Sha512;

/// Some period of the public network.
const PERIOD: TimePeriod = TimePeriod { number: 20_000, length_minutes: 1440 };
const NOW: Duration = Duration::from_secs(20_000 * 86_400);
/// What a certificate's signature is over: 76 bytes.
const CERTIFICATE: [u8; 76] = [1; 76];
/// An authentication key's and an encryption key's.
const CERTIFICATES_PER_POINT: usize = 2;

/// A service and what its descriptor says.
#[derive(Debug)]
pub struct Service {
    key: MasterKey,
    keys: DescriptorKeys,
    content: ServiceContent,
    rng: StdRng,
}

impl Service {
    /// Twenty points on as many relays, each with IPv4 address, RSA and ed25519 identity.
    pub fn of_twenty_points() -> Self {
        let mut rng = StdRng::from_seed([1; 32]);
        let content = ServiceContent {
            create2_formats: vec![2],
            flow_control: "1-2 31".parse().ok(),
            single_onion_service: false,
            intro_auth_required: Vec::new(),
            pow_params: false,
            introduction_points: (0..MAX_INTRODUCTION_POINTS).filter_map(point).collect(),
        };
        Self { key: MasterKey::generate(&mut rng), keys: DescriptorKeys::generate(&mut rng), content, rng }
    }

    /// What a publisher does for each descriptor: revision counter, certificates, encryption, signature.
    pub fn build(&mut self, since_srv_start: Duration) -> Result<String> {
        let blinded = self.key.blind(PERIOD);
        let counter = blinded.revision_counter(since_srv_start.as_secs());
        let now = SystemTime::UNIX_EPOCH + NOW;
        Ok(self.keys.build(&blinded, &self.key.address(), &self.content, counter, now, &mut self.rng)?)
    }

    /// The revision counter alone.
    pub fn revision_counter(&self, since_srv_start: Duration) -> u64 {
        self.key.blind(PERIOD).revision_counter(since_srv_start.as_secs())
    }

    /// The key as Python reads it (Tor's file, hexadecimal).
    pub fn secret_key_file(&self) -> String {
        HEXLOWER.encode(&self.key.to_tor_secret_key_file())
    }

    /// Its address.
    pub fn address(&self) -> OnionAddress {
        self.key.address()
    }
}

fn point(index: usize) -> Option<IntroductionPoint> {
    let byte = u8::try_from(index).ok()?;
    let auth = SigningKey::from_bytes(&[byte + 100; 32]).verifying_key();
    let enc = SigningKey::from_bytes(&[byte; 32]).verifying_key();
    let link_specifiers =
        [&[3, 0, 6, 127, 0, 0, 1, 0, byte, 2, 20][..], &[byte; 20], &[3, 32], auth.as_bytes()].concat();
    Some(IntroductionPoint {
        link_specifiers,
        onion_key: [byte; 32],
        auth_key: auth.to_bytes(),
        enc_key: enc.to_montgomery().to_bytes(),
        enc_key_ed25519: enc.to_bytes(),
        legacy: false,
    })
}

/// The ed25519 signatures of that descriptor and nothing else: each point's certificates and the descriptor's own by the
/// descriptor signing key, and that key's certificate by the blinded key.
#[derive(Debug)]
pub struct Signatures {
    signing_key: SigningKey,
    blinded: SigningKey,
    descriptor: String,
}

impl Signatures {
    /// Those of a descriptor of this text.
    pub fn of(descriptor: String) -> Self {
        Self { signing_key: SigningKey::from_bytes(&[7; 32]), blinded: SigningKey::from_bytes(&[8; 32]), descriptor }
    }

    /// Makes them all.
    pub fn sign(&self) -> Result<Vec<Signature>> {
        let expanded = ExpandedSecretKey::from(self.blinded.as_bytes());
        let text = self.descriptor.rsplit_once("signature ").context("a descriptor is signed")?.0;
        let certificates = MAX_INTRODUCTION_POINTS * CERTIFICATES_PER_POINT;
        let mut signatures = Vec::with_capacity(certificates + 2);
        signatures.extend((0..certificates).map(|_| self.signing_key.sign(&CERTIFICATE)));
        signatures.push(raw_sign::<Sha512>(&expanded, &CERTIFICATE, &VerifyingKey::from(&self.blinded)));
        signatures.push(self.signing_key.sign(text.as_bytes()));
        Ok(signatures)
    }
}
