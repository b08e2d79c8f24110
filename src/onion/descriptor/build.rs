//! Builds descriptors: layer 2, layer 1, the outer layer and its signature.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use data_encoding::BASE64_NOPAD;
use ed25519_dalek::{Signer, SigningKey};
use rand::CryptoRng;

use super::client_auth::ClientAuth;
use super::crypto::{Layer, LayerSecret, MESSAGE_TAG, SALT_LEN};
use super::outer::{self, LIFETIME, REVISION_COUNTER, SIGNATURE, SIGNING_KEY_CERT, SUPERENCRYPTED};
use super::{DescriptorError, MAX_LEN, ServiceContent, layer1, layer2, random};
use crate::onion::cert::{self, DESCRIPTOR_LIFETIME as CERT_LIFETIME};
use crate::onion::document::push_object;
use crate::onion::{Discovery, OnionAddress, PeriodKey};

const LIFETIME_MINUTES: u32 = 180;
const SECONDS_PER_HOUR: u64 = 3600;

/// The random parts of a service's descriptors that stay the same throughout a time period, as in C
/// tor. A new descriptor signing key in every upload would distinguish the publisher from a stock
/// tor. The keys are zeroized on drop and never printed.
pub struct DescriptorKeys {
    signing_key: SigningKey,
    client_auth: ClientAuth,
}

impl DescriptorKeys {
    /// Generates the keys for one time period of a service with open discovery.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self::with_signing_key(SigningKey::from_bytes(&seed), rng)
    }

    /// Generates the keys for a time period, except that the descriptor signing key is the one that
    /// `key` certifies if it certifies only one.
    pub fn for_key(key: &dyn PeriodKey, rng: &mut impl CryptoRng) -> Self {
        match key.signing_key() {
            Some(signing_key) => Self::with_signing_key(signing_key, rng),
            None => Self::generate(rng),
        }
    }

    fn with_signing_key(signing_key: SigningKey, rng: &mut impl CryptoRng) -> Self {
        Self { signing_key, client_auth: ClientAuth::generate(rng) }
    }

    /// Sets which clients can open the descriptors that are built from now on. Setting the current
    /// value again has no effect.
    pub fn set_discovery(
        &mut self,
        key: &dyn PeriodKey,
        address: &OnionAddress,
        discovery: &Discovery,
        rng: &mut impl CryptoRng,
    ) {
        self.client_auth.set(&address.subcredential(&key.public()), discovery, rng);
    }

    /// Builds, encrypts and signs a descriptor with exactly the layout that C tor uses. The
    /// lifetime of the certificates is counted from `now`. A delegated key must be the one for
    /// which these keys were generated.
    pub fn build(
        &self,
        key: &dyn PeriodKey,
        address: &OnionAddress,
        content: &ServiceContent,
        revision_counter: u64,
        now: SystemTime,
        rng: &mut impl CryptoRng,
    ) -> Result<String, DescriptorError> {
        let blinded = key.public();
        let secret = LayerSecret { blinded, subcredential: address.subcredential(&blinded), revision_counter };
        let layer2 = layer2::write(content, &self.signing_key, (full_hour(now), CERT_LIFETIME))?;
        let layer2 = secret.encrypt(Layer::Two(self.client_auth.cookie()), layer2.as_bytes(), random::<SALT_LEN>(rng));
        let layer1 = layer1::write(&self.client_auth.ephemeral_key(), self.client_auth.clients(), &layer2);
        let layer1 = secret.encrypt(Layer::One, &layer1, random::<SALT_LEN>(rng));

        let signing_key_cert = key
            .certify(self.signing_key.verifying_key().as_bytes(), now, CERT_LIFETIME)
            .ok_or(DescriptorError::NotCertified)?;
        let mut text = format!("{} 3\n{LIFETIME} {LIFETIME_MINUTES}\n{SIGNING_KEY_CERT}\n", outer::HS_DESCRIPTOR);
        push_object(&mut text, cert::OBJECT_TAG, &signing_key_cert);
        let _ = writeln!(text, "{REVISION_COUNTER} {revision_counter}");
        let _ = writeln!(text, "{SUPERENCRYPTED}");
        push_object(&mut text, MESSAGE_TAG, &layer1);
        let signature = self.signing_key.sign(&outer::signed_part(&text));
        let _ = writeln!(text, "{SIGNATURE} {}", BASE64_NOPAD.encode(&signature.to_bytes()));
        if text.len() < MAX_LEN { Ok(text) } else { Err(DescriptorError::TooLong) }
    }
}

impl fmt::Debug for DescriptorKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DescriptorKeys").finish_non_exhaustive()
    }
}

/// Rounds a time down to the full hour, from which C tor counts the lifetime of introduction point
/// certificates.
fn full_hour(now: SystemTime) -> SystemTime {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds - seconds % SECONDS_PER_HOUR)
}
