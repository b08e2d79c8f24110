//! Building a descriptor: layer 2, layer 1, the outer layer and its signature.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use data_encoding::BASE64_NOPAD;
use ed25519_dalek::{Signer, SigningKey};
use rand::CryptoRng;
use x25519_dalek::{EphemeralSecret, PublicKey};

use super::crypto::{Layer, LayerSecret, SALT_LEN};
use super::layer1::{self, AUTH_CLIENTS, AuthClient};
use super::outer::{self, LIFETIME, MESSAGE_TAG, REVISION_COUNTER, SIGNATURE, SIGNING_KEY_CERT, SUPERENCRYPTED};
use super::{DescriptorError, MAX_LEN, ServiceContent, layer2};
use crate::onion::cert::{self, CertType};
use crate::onion::document::push_object;
use crate::onion::{BlindedKeypair, OnionAddress};

const LIFETIME_MINUTES: u32 = 180;
/// C tor's `HS_DESC_CERT_LIFETIME`.
const CERT_LIFETIME: Duration = Duration::from_secs(54 * 3600);
const SECONDS_PER_HOUR: u64 = 3600;

/// What is random in a service's descriptors but stays the same in all of one time period, as C tor keeps it: another
/// descriptor signing key in every upload would tell the publisher from a stock tor. Zeroized on drop, never printed.
pub struct DescriptorKeys {
    signing_key: SigningKey,
    auth_ephemeral_key: [u8; 32],
    auth_clients: [AuthClient; AUTH_CLIENTS],
}

impl DescriptorKeys {
    /// Keys for one time period.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        let signing_key = SigningKey::from_bytes(&seed);
        let auth_ephemeral_key = PublicKey::from(&EphemeralSecret::random_from_rng(rng)).to_bytes();
        let auth_clients =
            std::array::from_fn(|_| AuthClient { id: random(rng), iv: random(rng), cookie: random(rng) });
        Self { signing_key, auth_ephemeral_key, auth_clients }
    }

    /// Builds, encrypts and signs a descriptor exactly as a C tor would lay it out. `now` dates the certificates.
    pub fn build(
        &self,
        key: &BlindedKeypair,
        address: &OnionAddress,
        content: &ServiceContent,
        revision_counter: u64,
        now: SystemTime,
        rng: &mut impl CryptoRng,
    ) -> Result<String, DescriptorError> {
        let blinded = key.public();
        let secret = LayerSecret { blinded, subcredential: address.subcredential(&blinded), revision_counter };
        let layer2 = layer2::write(content, &self.signing_key, (full_hour(now), CERT_LIFETIME))?;
        let layer2 = secret.encrypt(Layer::Two, layer2.as_bytes(), random::<SALT_LEN>(rng));
        let layer1 = layer1::write(&self.auth_ephemeral_key, &self.auth_clients, &layer2);
        let layer1 = secret.encrypt(Layer::One, &layer1, random::<SALT_LEN>(rng));

        let signing_key_cert = cert::encode(
            CertType::DescriptorSigningKey,
            self.signing_key.verifying_key().as_bytes(),
            (now, CERT_LIFETIME),
            &blinded.0,
            |message| key.sign(message),
        );
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

/// The last full hour: what C tor dates the introduction points' certificates from.
fn full_hour(now: SystemTime) -> SystemTime {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds - seconds % SECONDS_PER_HOUR)
}

fn random<const N: usize>(rng: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}
