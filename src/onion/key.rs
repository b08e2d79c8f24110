//! The master identity key, and Tor's key files (`hs_ed25519_secret_key`, `hs_ed25519_public_key`
//! and `hostname`).

use std::fmt;

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Signature, VerifyingKey};
use hkdf::Hkdf;
use rand::CryptoRng;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::key_damage::KeyDamage;
use super::key_form::{self, KeyForm, PEM_BEGIN, SECRET_KEY_TAG};
use super::{BlindedKeypair, OnionAddress, TimePeriod};

const PUBLIC_KEY_TAG: &[u8; 32] = b"== ed25519v1-public: type0 ==\0\0\0";
const SECRET_KEY_FILE_LEN: usize = 96;
const PUBLIC_KEY_FILE_LEN: usize = 64;

/// The long-term identity key of a service in its 64-byte expanded form, a scalar and a prefix. It
/// is zeroized on drop and never printed.
pub struct MasterKey {
    /// The expanded key, on the heap, because moving it within the stack would leave copies behind
    /// that nobody erases.
    secret: Box<Expanded>,
    address: OnionAddress,
}

/// The expanded key: `SHA-512(seed)` with the first half clamped. The clamped half can also have
/// been reduced modulo the group order.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
struct Expanded {
    scalar: [u8; 32],
    prefix: [u8; 32],
}

impl Expanded {
    /// Sets both halves of the key in place.
    fn set(&mut self, scalar: &[u8], prefix: &[u8]) {
        for (to, from) in [(&mut self.scalar, scalar), (&mut self.prefix, prefix)] {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    }
}

/// An error that explains why the bytes of a key file cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// The `hs_ed25519_secret_key` file is not 96 bytes long.
    #[error("hs_ed25519_secret_key must be 96 bytes long but is {0} bytes long")]
    Length(usize),
    /// The first 32 bytes of the secret key file are not Tor's tag.
    #[error("hs_ed25519_secret_key must begin with \"== ed25519v1-secret: type0 ==\"")]
    Tag,
    /// The secret scalar cannot be the result of ed25519 key generation.
    #[error(
        "hs_ed25519_secret_key does not contain a valid ed25519 key: its scalar is neither clamped nor reduced. The file \
         is damaged, or the program that wrote it does not clamp keys; restore it from a backup"
    )]
    Scalar,
    /// The file is damaged in a way that reveals the likely cause.
    #[error("hs_ed25519_secret_key is damaged: {0}")]
    Damaged(KeyDamage),
    /// The content is a PEM key instead of tor's file.
    #[error(
        "hs_ed25519_secret_key holds a PEM key instead of tor's 96 bytes; convert it with kubectl-onionbalance key \
         convert"
    )]
    Pem,
    /// The content is a key in another form than tor's file.
    #[error("instead of tor's 96 bytes, hs_ed25519_secret_key holds {0}; run {remedy}", remedy = .0.remedy())]
    Form(KeyForm),
    /// The content is tor's public key file.
    #[error("hs_ed25519_secret_key holds tor's hs_ed25519_public_key; use the file hs_ed25519_secret_key instead")]
    Public,
    /// The `hs_ed25519_public_key` file is not 64 bytes long.
    #[error("hs_ed25519_public_key must be 64 bytes long but is {0} bytes long")]
    PublicLength(usize),
    /// The first 32 bytes of the public key file are not Tor's tag.
    #[error("hs_ed25519_public_key must begin with \"== ed25519v1-public: type0 ==\"")]
    PublicTag,
    /// The public key file belongs to a different key.
    #[error("hs_ed25519_public_key does not match hs_ed25519_secret_key")]
    PublicMismatch,
    /// The `hostname` file belongs to a different key.
    #[error("the hostname file does not match hs_ed25519_secret_key, whose address is {0}")]
    HostnameMismatch(OnionAddress),
}

impl MasterKey {
    /// Generates a new master key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        loop {
            let mut seed = Zeroizing::new([0; 32]);
            rng.fill_bytes(seed.as_mut());
            // Every clamped scalar yields a valid point, so the loop ends after one iteration.
            if let Ok(key) = Self::from_seed(&seed) {
                return key;
            }
        }
    }

    /// Expands a seed (the 32-byte private key of RFC 8032) to `SHA-512(seed)` with the first half
    /// clamped.
    pub(super) fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        let hash: Zeroizing<[u8; 64]> = Zeroizing::new(Sha512::digest(seed).into());
        let mut secret = Box::<Expanded>::default();
        secret.set(&hash[..32], &hash[32..]);
        secret.scalar = clamp_integer(secret.scalar);
        Self::new(secret)
    }

    /// Copies an expanded key to the heap and validates the copy.
    fn copy(scalar: &[u8; 32], prefix: &[u8; 32]) -> Result<Self, KeyError> {
        let mut secret = Box::<Expanded>::default();
        secret.set(scalar, prefix);
        Self::new(secret)
    }

    /// Validates an expanded key. A clamped and a reduced scalar are the same key for tor and for
    /// everything else that uses the key.
    fn new(secret: Box<Expanded>) -> Result<Self, KeyError> {
        if !key_form::is_secret_scalar(&secret.scalar) {
            return Err(KeyError::Scalar);
        }
        let reduced = Zeroizing::new(Scalar::from_bytes_mod_order(secret.scalar));
        let public_key = EdwardsPoint::mul_base(&reduced).compress().to_bytes();
        let address = OnionAddress::from_public_key(public_key).map_err(|_| KeyError::Scalar)?;
        Ok(Self { secret, address })
    }

    /// Parses Tor's 96-byte `hs_ed25519_secret_key` file, which consists of a 32-byte tag and the
    /// expanded key. An error names the likely cause where the content reveals it.
    pub fn from_tor_secret_key_file(bytes: &[u8]) -> Result<Self, KeyError> {
        let parse = || {
            let ([tag, scalar, prefix], []) = bytes.as_chunks::<32>() else {
                return Err(KeyError::Length(bytes.len()));
            };
            if tag != SECRET_KEY_TAG {
                return Err(KeyError::Tag);
            }
            Self::copy(scalar, prefix)
        };
        parse().map_err(|error| diagnose(bytes).unwrap_or(error))
    }

    /// Parses the 64 bytes of an expanded key without tor's tag. Many other values of 64 bytes pass
    /// the check, so the caller must compare the address with an expected one.
    pub fn from_expanded(bytes: &[u8]) -> Result<Self, KeyError> {
        match bytes.as_chunks::<32>() {
            ([scalar, prefix], []) => Self::copy(scalar, prefix),
            _ => Err(KeyError::Scalar),
        }
    }

    /// Returns the 96 bytes of the `hs_ed25519_secret_key` file.
    pub fn to_tor_secret_key_file(&self) -> Zeroizing<Vec<u8>> {
        let mut file = Zeroizing::new(Vec::with_capacity(SECRET_KEY_FILE_LEN));
        for part in [SECRET_KEY_TAG, &self.secret.scalar, &self.secret.prefix] {
            file.extend_from_slice(part);
        }
        file
    }

    /// Returns the 64 bytes of the `hs_ed25519_public_key` file.
    pub fn to_tor_public_key_file(&self) -> Vec<u8> {
        [*PUBLIC_KEY_TAG, *self.address.public_key()].concat()
    }

    /// Returns the content of the `hostname` file, which is the address and a newline.
    pub fn to_tor_hostname_file(&self) -> String {
        format!("{}\n", self.address)
    }

    /// Checks that an `hs_ed25519_public_key` file (a 32-byte tag followed by the 32-byte key)
    /// belongs to this key.
    pub fn check_tor_public_key_file(&self, bytes: &[u8]) -> Result<(), KeyError> {
        let bytes: &[u8; PUBLIC_KEY_FILE_LEN] = bytes.try_into().map_err(|_| KeyError::PublicLength(bytes.len()))?;
        match bytes.as_chunks::<32>() {
            ([tag, _], []) if tag != PUBLIC_KEY_TAG => Err(KeyError::PublicTag),
            ([_, public_key], []) if public_key == self.address.public_key() => Ok(()),
            _ => Err(KeyError::PublicMismatch),
        }
    }

    /// Checks that a `hostname` file (the address and a newline) belongs to this key.
    pub fn check_tor_hostname_file(&self, bytes: &[u8]) -> Result<(), KeyError> {
        let named = str::from_utf8(bytes).ok().and_then(|text| text.trim_ascii_end().parse().ok());
        if named == Some(self.address) { Ok(()) } else { Err(KeyError::HostnameMismatch(self.address)) }
    }

    /// Returns the onion address of the service.
    pub fn address(&self) -> OnionAddress {
        self.address
    }

    /// Derives 32 bytes for another purpose from the expanded key, using HKDF-SHA256 with `label`
    /// as the info.
    pub fn derive(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut input = Zeroizing::new([0; 64]);
        input[..32].copy_from_slice(&self.secret.scalar);
        input[32..].copy_from_slice(&self.secret.prefix);
        let mut output = Zeroizing::new([0; 32]);
        let expanded = Hkdf::<Sha256>::new(None, input.as_slice()).expand(label, output.as_mut_slice());
        debug_assert!(expanded.is_ok(), "HKDF-SHA256 can output up to 255 * 32 bytes");
        output
    }

    /// Derives the blinded key pair for a time period (rend-spec-v3, appendix A).
    pub fn blind(&self, period: TimePeriod) -> BlindedKeypair {
        BlindedKeypair::derive(&self.address, &self.secret.scalar, &self.secret.prefix, period)
    }

    /// Signs `message` with the identity key itself (RFC 8032, section 5.1.6). Publishing needs no
    /// such signature; a certificate request does.
    pub(super) fn sign(&self, message: &[u8]) -> Signature {
        let scalar = Zeroizing::new(Scalar::from_bytes_mod_order(self.secret.scalar));
        let secret = ExpandedSecretKey { scalar: *scalar, hash_prefix: self.secret.prefix };
        raw_sign::<Sha512>(&secret, message, &VerifyingKey::from(&secret))
    }
}

/// Returns an error that says what the content is instead of tor's secret key file, if that is
/// known.
fn diagnose(bytes: &[u8]) -> Option<KeyError> {
    if bytes.starts_with(b"== ed25519v1-public") {
        return Some(KeyError::Public);
    }
    if let Some(damage) = KeyDamage::of(bytes) {
        return Some(KeyError::Damaged(damage));
    }
    if str::from_utf8(bytes).is_ok_and(|text| text.contains(PEM_BEGIN)) {
        return Some(KeyError::Pem);
    }
    KeyForm::of(bytes).map(KeyError::Form)
}

/// Compares two master keys in constant time.
impl PartialEq for MasterKey {
    fn eq(&self, other: &Self) -> bool {
        let equal = self.secret.scalar.ct_eq(&other.secret.scalar) & self.secret.prefix.ct_eq(&other.secret.prefix);
        equal.into()
    }
}

impl Eq for MasterKey {}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    /// The clamped SHA-512 of the secret key in test 1 of RFC 8032, section 7.1. `RFC_PUBLIC` is
    /// the public key of that test.
    const RFC_EXPANDED: &str = "307c83864f2833cb427a2ef1c00a013cfdff2768d980c0a3a520f006904de94f\
                                9b4f0afe280b746a778684e75442502057b7473a03f08f96f5a38e9287e01f8f";
    const RFC_PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    /// The signature of the empty message in that test.
    const RFC_SIGNATURE: &str = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555f\
                                 b8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";

    fn secret_file(expanded: &[u8]) -> Vec<u8> {
        [SECRET_KEY_TAG.as_slice(), expanded].concat()
    }

    fn rfc_file() -> Vec<u8> {
        secret_file(&HEXLOWER.decode(RFC_EXPANDED.as_bytes()).unwrap())
    }

    fn rfc_key() -> MasterKey {
        MasterKey::from_tor_secret_key_file(&rfc_file()).unwrap()
    }

    #[test]
    fn reads_and_writes_key_files() {
        let key = rfc_key();
        assert_eq!(HEXLOWER.encode(key.address().public_key()), RFC_PUBLIC);
        assert_eq!(*key.to_tor_secret_key_file(), rfc_file());
        let public_file = key.to_tor_public_key_file();
        assert_eq!(&public_file[..29], b"== ed25519v1-public: type0 ==");
        assert_eq!(&public_file[29..32], [0; 3]);
        assert_eq!(HEXLOWER.encode(&public_file[32..]), RFC_PUBLIC);
        assert_eq!(key.check_tor_public_key_file(&public_file), Ok(()));
        let hostname = key.to_tor_hostname_file();
        assert_eq!(hostname, "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion\n");
        assert_eq!(key.check_tor_hostname_file(hostname.as_bytes()), Ok(()));
    }

    #[test]
    fn rejects_malformed_secret_key_files() {
        let read = |bytes: &[u8]| MasterKey::from_tor_secret_key_file(bytes).err();
        assert_eq!(read(b""), Some(KeyError::Length(0)));
        assert_eq!(read(&rfc_file()[..95]), Some(KeyError::Damaged(KeyDamage::Truncated(95))));
        assert_eq!(read(&[rfc_file().as_slice(), b"\n"].concat()), Some(KeyError::Damaged(KeyDamage::LineBreakAtEnd)));
        assert_eq!(read(&[rfc_file().as_slice(), b"more"].concat()), Some(KeyError::Length(100)));
        assert_eq!(read(b"-----BEGIN PRIVATE KEY-----\n"), Some(KeyError::Pem));
        assert_eq!(read(&rfc_key().to_tor_public_key_file()), Some(KeyError::Public));
        assert_eq!(read(&rfc_file()[32..]), Some(KeyError::Form(KeyForm::Expanded)));
        let mut tagged = rfc_file();
        tagged[31] = b' ';
        assert_eq!(read(&tagged), Some(KeyError::Tag));
        // Scalars that are neither clamped (bits 0 to 2 and 255 clear, bit 254 set) nor below the
        // order of the group.
        for (byte, bit) in [(32, 0x01), (32, 0x04), (63, 0x80)] {
            let mut unclamped = rfc_file();
            unclamped[byte] ^= bit;
            assert_eq!(read(&unclamped), Some(KeyError::Scalar), "byte {byte}, bit {bit:#x}");
        }
        assert_eq!(read(&secret_file(&[0; 64])), Some(KeyError::Damaged(KeyDamage::Zeros)));
        assert_eq!(read(&secret_file(&[&[0; 32][..], &[1; 32]].concat())), Some(KeyError::Scalar));
    }

    /// A key that moves, for example into an `Arc`, must not leave a copy behind.
    #[test]
    fn moving_a_key_does_not_copy_its_secret() {
        let key = rfc_key();
        let before: *const Expanded = &raw const *key.secret;
        let moved = std::sync::Arc::new(key);
        assert!(std::ptr::eq(before, &raw const *moved.secret));
        assert!(size_of::<MasterKey>() <= size_of::<usize>() + size_of::<OnionAddress>());
    }

    #[test]
    fn a_reduced_scalar_is_the_same_key_and_is_written_unchanged() {
        let mut reduced = rfc_file();
        let scalar: [u8; 32] = reduced[32..64].try_into().unwrap();
        reduced[32..64].copy_from_slice(Scalar::from_bytes_mod_order(scalar).as_bytes());
        assert_ne!(reduced, rfc_file());
        let key = MasterKey::from_tor_secret_key_file(&reduced).unwrap();
        assert_eq!(*key.to_tor_secret_key_file(), reduced);
        assert_eq!(key.address(), rfc_key().address());
        let period = TimePeriod { number: 20_000, length_minutes: 1440 };
        let [ours, tors] = [key, rfc_key()].map(|key| key.blind(period));
        assert_eq!((ours.public(), ours.sign(b"message")), (tors.public(), tors.sign(b"message")));
        assert_eq!(ours.revision_counter(1), tors.revision_counter(1));
    }

    #[test]
    fn rejects_public_key_and_hostname_files_of_other_keys() {
        let key = rfc_key();
        let other = MasterKey::generate(&mut StdRng::from_seed([1; 32]));
        let check = |bytes: &[u8]| key.check_tor_public_key_file(bytes);
        assert_eq!(check(&other.to_tor_public_key_file()), Err(KeyError::PublicMismatch));
        assert_eq!(check(&[0; 63]), Err(KeyError::PublicLength(63)));
        assert_eq!(check(&[0; 64]), Err(KeyError::PublicTag));
        let mismatch = Err(KeyError::HostnameMismatch(key.address()));
        assert_eq!(key.check_tor_hostname_file(other.to_tor_hostname_file().as_bytes()), mismatch);
        assert_eq!(key.check_tor_hostname_file(b"\xff"), mismatch);
    }

    #[test]
    fn signs_as_rfc_8032_does() {
        assert_eq!(HEXLOWER.encode(&rfc_key().sign(b"").to_bytes()), RFC_SIGNATURE);
    }

    #[test]
    fn derived_bytes_depend_on_the_label() {
        // Computed with Python's cryptography package: HKDF(SHA256(), 32, salt=None,
        // info=b"label").derive(expanded key)
        let expected = "4feb0909d5e045f80456c1338e10b232fe73b616968ed479c84de833122b92c0";
        assert_eq!(HEXLOWER.encode(rfc_key().derive(b"label").as_slice()), expected);
        assert_ne!(rfc_key().derive(b"label"), rfc_key().derive(b"other"));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        assert_eq!(
            format!("{:?}", rfc_key()),
            "MasterKey { address: 25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion, .. }"
        );
    }

    proptest! {
        #[test]
        fn generated_keys_round_trip(seed: [u8; 32]) {
            let key = MasterKey::generate(&mut StdRng::from_seed(seed));
            let read = MasterKey::from_tor_secret_key_file(&key.to_tor_secret_key_file()).unwrap();
            prop_assert!(read == key);
            prop_assert_eq!(read.address(), key.address());
        }

        #[test]
        fn reading_key_files_never_panics(bytes in proptest::collection::vec(any::<u8>(), 90..100)) {
            let _ = MasterKey::from_tor_secret_key_file(&bytes);
            let _ = MasterKey::from_tor_secret_key_file(&secret_file(&bytes));
        }
    }
}
