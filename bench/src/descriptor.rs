//! Sample input for building a descriptor with twenty introduction points, or for computing only
//! its signatures.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use onionbalance_operator::onion::descriptor::{
    DescriptorKeys, IntroductionPoint, MAX_INTRODUCTION_POINTS, ServiceContent,
};
use onionbalance_operator::onion::kit::DelegatedKey;
use onionbalance_operator::onion::{Kit, Kits, MasterKey, OnionAddress, PeriodCalendar, PeriodKey as _, TimePeriod};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sha2::Sha512;

/// A time period that is as long as those of the public network.
const PERIOD: TimePeriod = TimePeriod { number: 20_000, length_minutes: 1440 };
const NOW: Duration = Duration::from_secs(20_000 * 86_400);
/// A placeholder for the signed part (76 bytes) of a certificate.
const CERTIFICATE: [u8; 76] = [1; 76];
/// The number of certificates per introduction point: one for its authentication key and one for
/// its encryption key.
const CERTIFICATES_PER_POINT: usize = 2;

/// A sample onion service and the content of its descriptor.
#[derive(Debug)]
pub struct SampleService {
    key: MasterKey,
    keys: DescriptorKeys,
    content: ServiceContent,
    rng: StdRng,
}

impl SampleService {
    /// Creates a service with introduction points at twenty relays. Each introduction point has an
    /// IPv4 address, an RSA identity and an ed25519 identity.
    pub fn with_twenty_points() -> Self {
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

    /// Builds a descriptor as a publisher does, including the revision counter, the certificates,
    /// the encryption and the signature.
    pub fn build(&mut self, since_srv_start: Duration) -> Result<String> {
        let blinded = self.key.blind(PERIOD);
        let counter = blinded.revision_counter(since_srv_start.as_secs());
        let now = SystemTime::UNIX_EPOCH + NOW;
        Ok(self.keys.build(&blinded, &self.key.address(), &self.content, counter, now, &mut self.rng)?)
    }

    /// Returns the signing kit of this service for some time periods.
    pub fn signing_kit(&self, periods: u32) -> Result<Kit> {
        Ok(Kit::issue(&self.key, PeriodCalendar::PUBLIC, PERIOD.number, periods)?)
    }

    /// Builds a descriptor as [`Self::build`] does, but with a key from a signing kit. `keys` must
    /// be the keys for the descriptors of `key`.
    pub fn build_delegated(
        &mut self,
        key: &DelegatedKey,
        keys: &DescriptorKeys,
        since_srv_start: Duration,
    ) -> Result<String> {
        let counter = key.revision_counter(since_srv_start.as_secs());
        let now = SystemTime::UNIX_EPOCH + NOW;
        Ok(keys.build(key, &self.key.address(), &self.content, counter, now, &mut self.rng)?)
    }

    /// Returns the key of the time period from a signing kit, and the keys for its descriptors.
    pub fn delegated_keys(&mut self, kit: Kit) -> Result<(DelegatedKey, DescriptorKeys)> {
        let key = Kits::from(kit).period_key(PERIOD).context("the kit does not cover the period")?;
        let keys = DescriptorKeys::for_key(&key, &mut self.rng);
        Ok((key, keys))
    }

    /// Computes only the revision counter of a descriptor.
    pub fn revision_counter(&self, since_srv_start: Duration) -> u64 {
        self.key.blind(PERIOD).revision_counter(since_srv_start.as_secs())
    }

    /// Returns tor's secret key file in hexadecimal, as `py/engine.py` expects it.
    pub fn secret_key_file(&self) -> String {
        HEXLOWER.encode(&self.key.to_tor_secret_key_file())
    }

    /// Returns the service's onion address.
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

/// The keys and the text that are needed to create a descriptor's ed25519 signatures. The
/// descriptor signing key signs the certificates of each introduction point and the descriptor
/// itself. The blinded key signs the certificate of the descriptor signing key.
#[derive(Debug)]
pub struct Signatures {
    signing_key: SigningKey,
    blinded: SigningKey,
    descriptor: String,
}

impl Signatures {
    /// Prepares the signatures for the given descriptor text.
    pub fn of(descriptor: String) -> Self {
        Self { signing_key: SigningKey::from_bytes(&[7; 32]), blinded: SigningKey::from_bytes(&[8; 32]), descriptor }
    }

    /// Creates all signatures of the descriptor.
    pub fn sign(&self) -> Result<Vec<Signature>> {
        let expanded = ExpandedSecretKey::from(self.blinded.as_bytes());
        let text = self.descriptor.rsplit_once("signature ").context("the descriptor has no signature")?.0;
        let certificates = MAX_INTRODUCTION_POINTS * CERTIFICATES_PER_POINT;
        let mut signatures = Vec::with_capacity(certificates + 2);
        signatures.extend((0..certificates).map(|_| self.signing_key.sign(&CERTIFICATE)));
        signatures.push(raw_sign::<Sha512>(&expanded, &CERTIFICATE, &VerifyingKey::from(&self.blinded)));
        signatures.push(self.signing_key.sign(text.as_bytes()));
        Ok(signatures)
    }
}
