//! Recovers blinded private keys from signatures whose nonce is known.
//!
//! An ed25519 signature `(R, s)` uses a secret nonce `r`, which is derived from a secret prefix.
//! Some programs lost the prefix of keys in tor's format, and derived each nonce from a constant
//! instead. Anyone can then compute `r`, from it the blinded private key `a' = (s - r) / k`, and
//! from it the master key, because the blinding factor is public. A single published descriptor is
//! enough.

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::Signature;
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use super::blind::PREFIX_LABEL;

/// A signature that a blinded key made, as HSDirs and clients see it in the certificate of the
/// descriptor signing key.
#[derive(Debug, Clone)]
pub struct PublishedSignature {
    key: [u8; 32],
    message: Vec<u8>,
    nonce_point: [u8; 32],
    s: [u8; 32],
}

/// The reason why a signature betrays the key that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// The nonce was derived from a constant instead of a secret.
    ConstantPrefix,
    /// Two different messages were signed with the same nonce.
    RepeatedNonce,
}

impl PublishedSignature {
    pub(super) fn new(key: [u8; 32], message: &[u8], signature: &Signature) -> Self {
        let bytes = signature.to_bytes();
        let [mut nonce_point, mut s] = [[0; 32]; 2];
        nonce_point.copy_from_slice(&bytes[..32]);
        s.copy_from_slice(&bytes[32..]);
        Self { key, message: message.to_vec(), nonce_point, s }
    }

    /// Returns the blinded public key that made the signature.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Returns the weakness of this signature, alone or together with `others`. None means that
    /// none of the known attacks yields the private key.
    pub fn weakness(&self, others: &[Self]) -> Option<Weakness> {
        if self.recover().is_some() {
            return Some(Weakness::ConstantPrefix);
        }
        let repeats = |other: &&Self| self.recover_with(other).is_some();
        others.iter().find(repeats).map(|_| Weakness::RepeatedNonce)
    }

    /// Returns the private key if the nonce was derived from one of the prefixes that faulty
    /// programs use.
    fn recover(&self) -> Option<Zeroizing<Scalar>> {
        constant_prefixes().into_iter().find_map(|prefix| self.recover_from(&prefix))
    }

    /// Returns the private key if the nonce was derived from this prefix.
    pub(super) fn recover_from(&self, prefix: &[u8]) -> Option<Zeroizing<Scalar>> {
        let nonce = hash(&[prefix, &self.message]);
        let is_used = EdwardsPoint::mul_base(&nonce).compress().to_bytes() == self.nonce_point;
        is_used.then(|| self.solve(self.s() - nonce, self.challenge()))?
    }

    /// Returns the private key if both signatures have the same nonce, but sign different messages.
    fn recover_with(&self, other: &Self) -> Option<Zeroizing<Scalar>> {
        let is_repeated =
            self.key == other.key && self.nonce_point == other.nonce_point && self.message != other.message;
        is_repeated.then(|| self.solve(self.s() - other.s(), self.challenge() - other.challenge()))?
    }

    /// Solves `difference = factor * a'`. Returns None if the result is not the private key.
    fn solve(&self, difference: Scalar, factor: Scalar) -> Option<Zeroizing<Scalar>> {
        let secret = Zeroizing::new(difference * factor.invert());
        (EdwardsPoint::mul_base(&secret).compress().to_bytes() == self.key).then_some(secret)
    }

    fn s(&self) -> Scalar {
        Scalar::from_bytes_mod_order(self.s)
    }

    /// Computes `k = H(R | A' | M)`.
    fn challenge(&self) -> Scalar {
        hash(&[&self.nonce_point, &self.key, &self.message])
    }
}

/// Returns the prefixes without a secret that signers are known to use, or could easily use by
/// mistake: the hash of the label with no prefix of the identity key or with zeros in its place,
/// no prefix at all, and zeros.
fn constant_prefixes() -> [Vec<u8>; 4] {
    [blinded_prefix(&[]).to_vec(), blinded_prefix(&[0; 32]).to_vec(), Vec::new(), vec![0; 32]]
}

/// Derives the nonce prefix of a blinded key from that of the identity key.
pub(super) fn blinded_prefix(prefix: &[u8]) -> [u8; 32] {
    let hash: [u8; 64] = Sha512::new().chain_update(PREFIX_LABEL).chain_update(prefix).finalize().into();
    let mut half = [0; 32];
    half.copy_from_slice(&hash[..32]);
    half
}

fn hash(parts: &[&[u8]]) -> Scalar {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part);
    }
    let bytes: [u8; 64] = hash.finalize().into();
    Scalar::from_bytes_mod_order_wide(&bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, SystemTime};

    use data_encoding::BASE64;
    use ed25519_dalek::VerifyingKey;
    use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::onion::blind::blinding_factor;
    use crate::onion::cert::{self, CertType};
    use crate::onion::{
        DescriptorKeys, Kit, Kits, MasterKey, PeriodCalendar, PeriodKey, ServiceContent, TimePeriod,
        UncheckedDescriptor,
    };

    const PERIOD: TimePeriod = TimePeriod { number: 20_788, length_minutes: 1440 };

    fn now() -> SystemTime {
        PeriodCalendar::PUBLIC.start(PERIOD.number).unwrap()
    }

    fn master() -> MasterKey {
        MasterKey::generate(&mut StdRng::from_seed([5; 32]))
    }

    /// Returns the blinded key of the master key, but with another nonce prefix.
    fn faulty(hash_prefix: [u8; 32]) -> (ExpandedSecretKey, VerifyingKey) {
        let file = master().to_tor_secret_key_file();
        let scalar = Scalar::from_bytes_mod_order(file[32..64].try_into().unwrap());
        let scalar = scalar * blinding_factor(&master().address(), PERIOD);
        let secret = ExpandedSecretKey { scalar, hash_prefix };
        let public = VerifyingKey::from(&secret);
        (secret, public)
    }

    fn sign(hash_prefix: [u8; 32], message: &[u8]) -> PublishedSignature {
        let (secret, public) = faulty(hash_prefix);
        PublishedSignature::new(public.to_bytes(), message, &raw_sign::<Sha512>(&secret, message, &public))
    }

    /// Builds a descriptor and returns its text.
    fn descriptor(key: &dyn PeriodKey) -> String {
        let mut rng = StdRng::from_seed([1; 32]);
        let keys = DescriptorKeys::for_key(key, &mut rng);
        keys.build(key, &master().address(), &ServiceContent::plain(Vec::new()), 7, now(), &mut rng).unwrap()
    }

    fn published(text: &str) -> PublishedSignature {
        UncheckedDescriptor::parse(text).unwrap().published_signature()
    }

    #[test]
    fn a_constant_prefix_betrays_the_master_key() {
        let constant: [u8; 64] = Sha512::digest(PREFIX_LABEL).into();
        for prefix in [*constant.first_chunk().unwrap(), [0; 32]] {
            let signature = sign(prefix, b"message");
            let blinded = signature.recover().unwrap();
            assert_eq!(signature.weakness(&[]), Some(Weakness::ConstantPrefix));
            let identity = *blinded * blinding_factor(&master().address(), PERIOD).invert();
            assert_eq!(EdwardsPoint::mul_base(&identity).compress().as_bytes(), master().address().public_key());
        }
    }

    #[test]
    fn a_repeated_nonce_betrays_the_key() {
        let first = sign([7; 32], b"message");
        let mut other = sign([7; 32], b"other message");
        assert_eq!(first.weakness(std::slice::from_ref(&other)), None);
        // A signer that makes the nonce from the prefix alone.
        let (secret, _) = faulty([7; 32]);
        let nonce = hash(&[&[7; 32]]);
        let mut signatures = [first, other.clone()];
        for signature in &mut signatures {
            signature.nonce_point = EdwardsPoint::mul_base(&nonce).compress().to_bytes();
            signature.s = (nonce + signature.challenge() * secret.scalar).to_bytes();
        }
        other = signatures[1].clone();
        assert_eq!(signatures[0].weakness(&[other]), Some(Weakness::RepeatedNonce));
        assert_eq!(signatures[0].weakness(&signatures[..1]), None, "the same signature reveals nothing");
    }

    #[test]
    fn our_descriptors_do_not_betray_their_key() {
        let online = master().blind(PERIOD);
        let kits: Kits = Kit::issue(&master(), PeriodCalendar::PUBLIC, PERIOD.number, 1).unwrap().into();
        let delegated = kits.period_key(PERIOD).unwrap();
        let mut signatures = vec![published(&descriptor(&online)), published(&descriptor(&delegated))];
        let [from, _] = PeriodCalendar::PUBLIC.publishing_times(PERIOD.number).unwrap();
        let signing_key = delegated.signing_key().unwrap().verifying_key().to_bytes();
        for hour in 0..52 {
            let from = from + Duration::from_secs(3600 * hour);
            let cert = delegated.certify(&signing_key, from, cert::DESCRIPTOR_LIFETIME).unwrap();
            signatures.push(cert::UncheckedCert::parse(&cert).unwrap().published_signature(online.public().0));
        }
        for signature in &signatures {
            assert_eq!(signature.key(), &online.public().0);
            assert_eq!(signature.weakness(&signatures), None);
        }
    }

    /// Returns the text of a descriptor from a program with the constant prefix.
    pub(crate) fn flawed_descriptor() -> String {
        let (secret, public) = faulty(blinded_prefix(&[]));
        let sign = |message: &[u8]| raw_sign::<Sha512>(&secret, message, &public);
        let validity = (now(), cert::DESCRIPTOR_LIFETIME);
        let kind = CertType::DescriptorSigningKey;
        let cert = cert::encode(kind, &[9; 32], validity, &public.to_bytes(), sign);
        let text = descriptor(&master().blind(PERIOD));
        let (before, rest) = text.split_once("-----BEGIN ED25519 CERT-----\n").unwrap();
        let (_, after) = rest.split_once("-----END ED25519 CERT-----").unwrap();
        let lines: Vec<String> = cert.chunks(48).map(|line| BASE64.encode(line)).collect();
        let cert = lines.join("\n");
        format!("{before}-----BEGIN ED25519 CERT-----\n{cert}\n-----END ED25519 CERT-----{after}")
    }

    #[test]
    fn the_flaw_is_found_in_the_text_of_a_descriptor() {
        assert_eq!(published(&flawed_descriptor()).weakness(&[]), Some(Weakness::ConstantPrefix));
    }
}
