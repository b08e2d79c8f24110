//! Ed25519 certificates (cert-spec, section 2.1), in which one key certifies another until an
//! expiration time.

use std::time::{Duration, SystemTime};

use ed25519_dalek::{Signature, VerifyingKey};

use super::known_nonce::PublishedSignature;

/// The tag of a certificate object in a Tor document.
pub(super) const OBJECT_TAG: &str = "ED25519 CERT";

const VERSION: u8 = 1;
const KEY_TYPE_ED25519: u8 = 1;
const EXTENSION_SIGNED_WITH_KEY: u8 = 4;
const EXTENSION_FLAG_AFFECTS_VALIDATION: u8 = 1;
const SECONDS_PER_HOUR: u64 = 3600;

/// The minimum lifetime of a descriptor's certificates, which is C tor's `HS_DESC_CERT_LIFETIME`.
pub(super) const DESCRIPTOR_LIFETIME: Duration = Duration::from_secs(54 * 3600);

/// The purpose of a certificate, encoded as its certificate type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CertType {
    /// A certificate for a descriptor signing key, signed by the blinded key.
    DescriptorSigningKey = 0x08,
    /// A certificate for an introduction point's authentication key, signed by the descriptor
    /// signing key.
    IntroAuthKey = 0x09,
    /// A certificate for the ed25519 equivalent of an introduction point's encryption key, signed
    /// by the descriptor signing key.
    IntroEncKey = 0x0b,
}

/// A parsed certificate whose signature and expiration time have not been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UncheckedCert {
    cert_type: u8,
    expiration_hours: u32,
    key_type: u8,
    certified_key: [u8; 32],
    signed_with: Option<[u8; 32]>,
    signed: Vec<u8>,
    signature: Signature,
}

/// The content of a checked certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certified {
    /// The certified ed25519 key.
    pub key: [u8; 32],
    /// The time at which the certificate expires.
    pub expires: SystemTime,
}

/// An error that explains why a certificate is rejected.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum CertError {
    /// The bytes are not a version 1 certificate, or contain an unknown extension that must not be
    /// ignored.
    #[error("the certificate is malformed")]
    Form,
    /// The certificate is not of the type that the caller expects.
    #[error("the certificate has the unexpected type {0:#04x}")]
    Type(u8),
    /// The certified key is not an ed25519 key.
    #[error("the certificate certifies a key of type {0:#04x} instead of an ed25519 key")]
    KeyType(u8),
    /// The certificate is not signed by the expected key, or does not name its signing key.
    #[error("the certificate is not signed by the expected key")]
    SigningKey,
    /// The signature does not verify.
    #[error("the signature of the certificate is wrong")]
    Signature,
    /// The certificate has expired.
    #[error("the certificate has expired")]
    Expired,
}

impl UncheckedCert {
    /// Parses a certificate without checking it. The format of a certificate is:
    ///
    /// ```text
    /// VERSION[1] CERT_TYPE[1] EXPIRATION_DATE[4] CERT_KEY_TYPE[1] CERTIFIED_KEY[32]
    /// N_EXTENSIONS[1] { ExtLength[2] ExtType[1] ExtFlags[1] ExtData[ExtLength] } SIGNATURE[64]
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<Self, CertError> {
        Self::parse_fields(bytes).ok_or(CertError::Form)
    }

    fn parse_fields(bytes: &[u8]) -> Option<Self> {
        let (signed, signature) = bytes.split_last_chunk::<64>()?;
        let ([version, cert_type], rest) = signed.split_first_chunk()?;
        let (expiration, rest) = rest.split_first_chunk()?;
        let ([key_type], rest) = rest.split_first_chunk()?;
        let (certified_key, rest) = rest.split_first_chunk()?;
        let ([extensions], rest) = rest.split_first_chunk()?;
        let signed_with = parse_extensions(*extensions, rest).ok()?;
        (*version == VERSION).then(|| Self {
            cert_type: *cert_type,
            expiration_hours: u32::from_be_bytes(*expiration),
            key_type: *key_type,
            certified_key: *certified_key,
            signed_with,
            signed: signed.to_vec(),
            signature: Signature::from_bytes(signature),
        })
    }

    /// Returns the key that the certificate claims to be signed with, if it names one.
    pub fn signed_with(&self) -> Option<&[u8; 32]> {
        self.signed_with.as_ref()
    }

    /// Returns the signature for a search for weaknesses. `signing_key` is the key that made it.
    pub(super) fn published_signature(&self, signing_key: [u8; 32]) -> PublishedSignature {
        PublishedSignature::new(signing_key, &self.signed, &self.signature)
    }

    /// Checks a certificate's type, signing key, signature and expiration time. A certificate that
    /// does not name its signing key is rejected.
    pub fn check(&self, cert_type: CertType, signing_key: &[u8; 32], now: SystemTime) -> Result<Certified, CertError> {
        if self.cert_type != cert_type as u8 {
            return Err(CertError::Type(self.cert_type));
        }
        if self.key_type != KEY_TYPE_ED25519 {
            return Err(CertError::KeyType(self.key_type));
        }
        if self.signed_with.as_ref() != Some(signing_key) {
            return Err(CertError::SigningKey);
        }
        VerifyingKey::from_bytes(signing_key)
            .and_then(|key| key.verify_strict(&self.signed, &self.signature))
            .map_err(|_| CertError::Signature)?;
        let lifetime = Duration::from_secs(u64::from(self.expiration_hours) * SECONDS_PER_HOUR);
        let expires = SystemTime::UNIX_EPOCH.checked_add(lifetime).ok_or(CertError::Form)?;
        if now > expires { Err(CertError::Expired) } else { Ok(Certified { key: self.certified_key, expires }) }
    }
}

/// Returns the key from the signed-with-ed25519-key extension, or None if the certificate does not
/// have this extension.
fn parse_extensions(count: u8, mut rest: &[u8]) -> Result<Option<[u8; 32]>, CertError> {
    let mut signed_with = None;
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk().ok_or(CertError::Form)?;
        let ([kind, flags], after) = after.split_first_chunk().ok_or(CertError::Form)?;
        let (data, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(CertError::Form)?;
        rest = after;
        match *kind {
            EXTENSION_SIGNED_WITH_KEY if signed_with.is_none() => {
                signed_with = Some(data.try_into().map_err(|_| CertError::Form)?);
            }
            EXTENSION_SIGNED_WITH_KEY => return Err(CertError::Form),
            _ if flags & EXTENSION_FLAG_AFFECTS_VALIDATION != 0 => return Err(CertError::Form),
            _ => {}
        }
    }
    if rest.is_empty() { Ok(signed_with) } else { Err(CertError::Form) }
}

/// Encodes a certificate as C tor does, including the signed-with-ed25519-key extension. The
/// certificate is valid for at least `lifetime` after `from`, rounded up to the next full hour. The
/// `sign` closure must sign with `signing_key`.
pub(super) fn encode(
    cert_type: CertType,
    certified_key: &[u8; 32],
    (from, lifetime): (SystemTime, Duration),
    signing_key: &[u8; 32],
    sign: impl FnOnce(&[u8]) -> Signature,
) -> Vec<u8> {
    let mut cert = encode_unsigned(cert_type, certified_key, expiration_hours(from, lifetime), signing_key);
    let signature = sign(&cert);
    cert.extend(signature.to_bytes());
    cert
}

/// Returns the expiration time of a certificate that is valid for at least `lifetime` after `from`,
/// in hours since the Unix epoch.
pub(super) fn expiration_hours(from: SystemTime, lifetime: Duration) -> u32 {
    let since_epoch = from.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let hours = since_epoch.saturating_add(lifetime).as_secs().div_ceil(SECONDS_PER_HOUR);
    u32::try_from(hours).unwrap_or(u32::MAX)
}

/// Encodes everything before the signature of a certificate, which is the data that is signed.
pub(super) fn encode_unsigned(
    cert_type: CertType,
    certified_key: &[u8; 32],
    expiration_hours: u32,
    signing_key: &[u8; 32],
) -> Vec<u8> {
    let mut cert = vec![VERSION, cert_type as u8];
    cert.extend(expiration_hours.to_be_bytes());
    cert.push(KEY_TYPE_ED25519);
    cert.extend(certified_key);
    // One extension with 32 bytes of data and no flags.
    cert.extend([1, 0, 32, EXTENSION_SIGNED_WITH_KEY, 0]);
    cert.extend(signing_key);
    cert
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn signer() -> SigningKey {
        SigningKey::from_bytes(&[9; 32])
    }

    fn make(from: SystemTime, lifetime: Duration) -> Vec<u8> {
        let signer = signer();
        encode(CertType::IntroAuthKey, &[5; 32], (from, lifetime), signer.verifying_key().as_bytes(), |m| {
            signer.sign(m)
        })
    }

    /// Signs `body`, which is everything before the signature, and parses the result.
    fn parse_signed(body: &[u8]) -> Result<UncheckedCert, CertError> {
        UncheckedCert::parse(&[body, &signer().sign(body).to_bytes()].concat())
    }

    #[test]
    fn round_trips_and_rounds_the_expiration_up_to_the_hour() {
        let key = signer().verifying_key().to_bytes();
        for (from, lifetime, expires) in [(7200, DAY, 2 + 24), (7201, DAY, 3 + 24), (10_799, DAY, 3 + 24)] {
            let cert = UncheckedCert::parse(&make(at(from), lifetime)).unwrap();
            assert_eq!(cert.signed_with(), Some(&key));
            let expires = at(expires * 3600);
            let certified = Certified { key: [5; 32], expires };
            assert_eq!(cert.check(CertType::IntroAuthKey, &key, at(from)), Ok(certified));
            assert_eq!(cert.check(CertType::IntroAuthKey, &key, expires), Ok(certified));
            let late = expires + Duration::from_secs(1);
            assert_eq!(cert.check(CertType::IntroAuthKey, &key, late), Err(CertError::Expired));
        }
    }

    #[test]
    fn rejects_an_unexpected_type_key_signature_or_time() {
        let key = signer().verifying_key().to_bytes();
        let bytes = make(at(0), DAY);
        let cert = UncheckedCert::parse(&bytes).unwrap();
        assert_eq!(cert.check(CertType::IntroEncKey, &key, at(0)), Err(CertError::Type(9)));
        let other = SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
        assert_eq!(cert.check(CertType::IntroAuthKey, &other, at(0)), Err(CertError::SigningKey));

        let body = &bytes[..bytes.len() - 64];
        let with = |index: usize, byte: u8| {
            let mut body = body.to_vec();
            body[index] = byte;
            parse_signed(&body).and_then(|cert| cert.check(CertType::IntroAuthKey, &key, at(0)).map(|_| ()))
        };
        assert_eq!(with(0, 1), Ok(()));
        assert_eq!(with(0, 2), Err(CertError::Form));
        assert_eq!(with(6, 3), Err(CertError::KeyType(3)));
        // Extension type 5 is unknown, so the signing key is not named. With the flag set, the
        // extension must not be ignored either.
        assert_eq!(with(42, 5), Err(CertError::SigningKey));
        assert_eq!(with(43, 1), Ok(()));
        let mut flagged = body.to_vec();
        (flagged[42], flagged[43]) = (5, 1);
        assert_eq!(parse_signed(&flagged), Err(CertError::Form));
    }

    #[test]
    fn rejects_malformed_extensions() {
        let bytes = make(at(0), DAY);
        let body = &bytes[..bytes.len() - 64];
        let extension = &body[40..];
        let twice = [&body[..39], &[2], extension, extension].concat();
        let longer = [body, &[0]].concat();
        let missing = [&body[..39], &[2], extension].concat();
        for body in [twice.as_slice(), &longer, &missing, &body[..body.len() - 1], &[]] {
            assert_eq!(parse_signed(body), Err(CertError::Form));
        }
        let none = parse_signed(&[&body[..39], &[0]].concat()).unwrap();
        assert_eq!(none.signed_with(), None);
    }

    proptest! {
        #[test]
        fn parses_every_certificate_that_it_encodes(
            cert_type in prop::sample::select(
                [CertType::DescriptorSigningKey, CertType::IntroAuthKey, CertType::IntroEncKey].as_slice(),
            ),
            certified: [u8; 32],
            seed: [u8; 32],
            from in 0_u64..10_000_000_000,
            lifetime in 0_u64..1_000_000,
        ) {
            let signer = SigningKey::from_bytes(&seed);
            let key = signer.verifying_key().to_bytes();
            let validity = (at(from), Duration::from_secs(lifetime));
            let cert = UncheckedCert::parse(&encode(cert_type, &certified, validity, &key, |m| signer.sign(m))).unwrap();
            let end = at(from + lifetime);
            let got = cert.check(cert_type, &key, end).unwrap();
            prop_assert_eq!(got.key, certified);
            prop_assert!(got.expires >= end && got.expires < end + Duration::from_secs(SECONDS_PER_HOUR));
            prop_assert_eq!(cert.check(cert_type, &key, got.expires + Duration::from_secs(1)), Err(CertError::Expired));
        }

        #[test]
        fn any_changed_byte_is_detected(index in 0_usize..140, change in 1_u8..) {
            let mut bytes = make(at(0), DAY);
            prop_assert_eq!(bytes.len(), 140);
            bytes[index] ^= change;
            let checked = UncheckedCert::parse(&bytes)
                .and_then(|cert| cert.check(CertType::IntroAuthKey, signer().verifying_key().as_bytes(), at(0)));
            prop_assert!(checked.is_err());
        }

        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = UncheckedCert::parse(&bytes);
        }
    }
}
