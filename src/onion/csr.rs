//! Certificate requests that prove to a certificate authority (CA) who holds the key of an onion
//! address.
//!
//! The format is method 2.b in appendix B of the CA/Browser Forum's Baseline Requirements, which
//! the ACME challenge `onion-csr-01` uses (RFC 9799, section 3.2): a PKCS #10 request (RFC 2986)
//! that the identity key of the service signs, with a nonce of the CA and one of the applicant.

use std::fmt;
use std::ops::RangeInclusive;

use ed25519_dalek::{Signature, VerifyingKey};
use rand::CryptoRng;
use x509_cert::attr::{Attribute, Attributes};
use x509_cert::der::asn1::{Any, BitString, Ia5String, ObjectIdentifier, OctetString, SetOfVec};
use x509_cert::der::oid::AssociatedOid as _;
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{self, Encode as _, EncodePem as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::known_nonce::PublishedSignature;
use super::{MasterKey, OnionAddress};

/// The algorithm `id-Ed25519` of keys and signatures (RFC 8410, section 3).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// The attribute `cabf-caSigningNonce`.
const CA_SIGNING_NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.140.41");
/// The attribute `cabf-applicantSigningNonce`.
const APPLICANT_SIGNING_NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.140.42");

/// The lengths in bytes of a CA's nonce that are accepted. RFC 9799 requires 64 bits of entropy.
/// The upper limit is ours, because nobody should sign much data of an unknown origin.
pub const CA_NONCE_LEN: RangeInclusive<usize> = 8..=128;
/// The length in bytes of the applicant's nonce. RFC 9799 requires 64 bits of entropy.
const APPLICANT_NONCE_LEN: usize = 16;

/// A signed certificate request for an onion address. It contains nothing secret.
pub struct CertificateRequest {
    request: CertReq,
    address: OnionAddress,
}

/// An error that explains why there is no certificate request.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// The nonce of the CA is too short or too long.
    #[error(
        "the nonce of the CA has {0} bytes, but must have from {first} to {last}; copy the whole nonce, and check its encoding",
        first = CA_NONCE_LEN.start(),
        last = CA_NONCE_LEN.end()
    )]
    NonceLength(usize),
    /// The request cannot be encoded as DER.
    #[error("could not encode the certificate request: {0}")]
    Encoding(#[from] der::Error),
    /// The new signature does not verify, for example after a fault of this machine.
    #[error("the signature of the certificate request is wrong; run the command again on another machine")]
    Signature,
    /// Anyone could compute the key from the new signature.
    #[error(
        "the key has lost the prefix that keeps its signatures secure, so the certificate request would betray the key; \
         use a new key"
    )]
    Weak,
}

impl CertificateRequest {
    /// Creates and signs a certificate request. `ca_nonce` is the decoded nonce of the CA.
    ///
    /// The request names the address in its subject alternative name, because some CAs expect the
    /// name there. The subject is empty, since CAs should not validate it.
    pub fn sign(key: &MasterKey, ca_nonce: &[u8], rng: &mut impl CryptoRng) -> Result<Self, CsrError> {
        if !CA_NONCE_LEN.contains(&ca_nonce.len()) {
            return Err(CsrError::NonceLength(ca_nonce.len()));
        }
        let mut own_nonce = [0; APPLICANT_NONCE_LEN];
        rng.fill_bytes(&mut own_nonce);
        let address = key.address();
        let mut attributes = Attributes::new();
        attributes.insert(nonce_attribute(CA_SIGNING_NONCE, ca_nonce)?)?;
        attributes.insert(nonce_attribute(APPLICANT_SIGNING_NONCE, &own_nonce)?)?;
        attributes.insert(name_attribute(&address)?)?;
        let algorithm = AlgorithmIdentifier { oid: ED25519, parameters: None };
        let public_key = SubjectPublicKeyInfo {
            algorithm: algorithm.clone(),
            subject_public_key: BitString::from_bytes(address.public_key())?,
        };
        let info = CertReqInfo { version: Version::V1, subject: Name::default(), public_key, attributes };
        let message = info.to_der()?;
        let signature = key.sign(&message);
        check(&address, &message, &signature)?;
        let signature = BitString::from_bytes(&signature.to_bytes())?;
        Ok(Self { request: CertReq { info, algorithm, signature }, address })
    }

    /// Returns the address that the request is for.
    pub fn address(&self) -> OnionAddress {
        self.address
    }

    /// Encodes the request as DER.
    pub fn to_der(&self) -> Result<Vec<u8>, CsrError> {
        Ok(self.request.to_der()?)
    }

    /// Encodes the request as PEM.
    pub fn to_pem(&self) -> Result<String, CsrError> {
        Ok(self.request.to_pem(LineEnding::LF)?)
    }
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Returns an attribute whose single value is an OCTET STRING.
fn nonce_attribute(oid: ObjectIdentifier, nonce: &[u8]) -> Result<Attribute, der::Error> {
    let mut values = SetOfVec::new();
    values.insert(Any::encode_from(&OctetString::new(nonce)?)?)?;
    Ok(Attribute { oid, values })
}

/// Returns the attribute that requests a certificate with the address as a DNS name.
fn name_attribute(address: &OnionAddress) -> Result<Attribute, der::Error> {
    let names = SubjectAltName(vec![GeneralName::DnsName(Ia5String::new(&address.to_string())?)]);
    let extension =
        Extension { extn_id: SubjectAltName::OID, critical: false, extn_value: OctetString::new(names.to_der()?)? };
    Attribute::try_from(ExtensionReq(vec![extension]))
}

/// Checks that a signature is valid for the address, and that nobody can compute the key from the
/// signature.
fn check(address: &OnionAddress, message: &[u8], signature: &Signature) -> Result<(), CsrError> {
    let public_key = address.public_key();
    let verified = VerifyingKey::from_bytes(public_key).and_then(|key| key.verify_strict(message, signature));
    verified.map_err(|_| CsrError::Signature)?;
    match PublishedSignature::new(*public_key, message, signature).weakness(&[]) {
        Some(_) => Err(CsrError::Weak),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use x509_cert::der::{Decode as _, DecodePem as _};

    use super::*;

    const CA_NONCE: &[u8] = b"sixteen bytes!!!";

    fn master() -> MasterKey {
        MasterKey::generate(&mut StdRng::from_seed([3; 32]))
    }

    fn sign(key: &MasterKey, ca_nonce: &[u8]) -> Result<CertificateRequest, CsrError> {
        CertificateRequest::sign(key, ca_nonce, &mut StdRng::from_seed([4; 32]))
    }

    /// Returns the single value of an attribute.
    fn attribute(request: &CertReq, oid: &str) -> Any {
        let with_oid: Vec<_> =
            request.info.attributes.iter().filter(|attribute| attribute.oid.to_string() == oid).collect();
        let [attribute] = with_oid[..] else { panic!("{oid}: {with_oid:?}") };
        let [value] = attribute.values.as_slice() else { panic!("{attribute:?}") };
        value.clone()
    }

    #[test]
    fn a_request_has_the_key_the_address_and_both_nonces() {
        let key = master();
        let request = CertReq::from_der(&sign(&key, CA_NONCE).unwrap().to_der().unwrap()).unwrap();
        assert!(request.info.subject.is_empty());
        assert_eq!(request.info.public_key.subject_public_key.raw_bytes(), key.address().public_key());
        assert_eq!(request.info.attributes.len(), 3);
        let nonce = |oid| attribute(&request, oid).decode_as::<OctetString>().unwrap().into_bytes().to_vec();
        assert_eq!(nonce("2.23.140.41"), CA_NONCE);
        assert_eq!(nonce("2.23.140.42").len(), 16);
        let extensions: Vec<Extension> = attribute(&request, "1.2.840.113549.1.9.14").decode_as().unwrap();
        let [extension] = &extensions[..] else { panic!("{extensions:?}") };
        assert_eq!((extension.extn_id, extension.critical), (SubjectAltName::OID, false));
        let names = SubjectAltName::from_der(extension.extn_value.as_bytes()).unwrap();
        assert_eq!(names.0, [GeneralName::DnsName(Ia5String::new(&key.address().to_string()).unwrap())]);
    }

    #[test]
    fn each_request_has_another_nonce_of_the_applicant() {
        let mut rng = StdRng::from_seed([5; 32]);
        let mut nonce = || {
            let request = CertificateRequest::sign(&master(), CA_NONCE, &mut rng).unwrap().request;
            attribute(&request, "2.23.140.42").value().to_vec()
        };
        assert_ne!(nonce(), nonce());
    }

    #[test]
    fn pem_and_der_are_the_same_request() {
        let request = sign(&master(), CA_NONCE).unwrap();
        let pem = request.to_pem().unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{pem}");
        assert_eq!(CertReq::from_pem(&pem).unwrap().to_der().unwrap(), request.to_der().unwrap());
        assert_eq!(request.address(), master().address());
    }

    #[test]
    fn the_nonce_of_the_ca_needs_64_bits() {
        for length in [0, 7, 129] {
            let error = sign(&master(), &vec![1; length]).unwrap_err();
            assert!(matches!(error, CsrError::NonceLength(found) if found == length), "{error}");
        }
        for length in [8, 128] {
            sign(&master(), &vec![1; length]).unwrap();
        }
    }

    /// Anyone could compute such a key from one signature.
    #[test]
    fn a_key_without_its_prefix_signs_no_request() {
        let mut file = master().to_tor_secret_key_file();
        file[64..].fill(0);
        let key = MasterKey::from_tor_secret_key_file(&file).unwrap();
        assert!(matches!(sign(&key, CA_NONCE), Err(CsrError::Weak)));
    }

    #[test]
    fn debug_output_shows_no_key() {
        let (key, request) = (master(), sign(&master(), CA_NONCE).unwrap());
        assert_eq!(format!("{request:?}"), format!("CertificateRequest {{ address: {:?}, .. }}", key.address()));
        let der = HEXLOWER.encode(&request.to_der().unwrap());
        for half in key.to_tor_secret_key_file()[32..].chunks(32) {
            assert!(!der.contains(&HEXLOWER.encode(half)));
        }
    }

    proptest! {
        /// The signature covers the bytes of the request, and verifies under the address's key.
        #[test]
        fn requests_verify(seed: [u8; 32], ca_nonce in prop::collection::vec(any::<u8>(), 8..=128)) {
            let key = MasterKey::generate(&mut StdRng::from_seed(seed));
            let request = CertReq::from_der(&sign(&key, &ca_nonce).unwrap().to_der().unwrap()).unwrap();
            prop_assert_eq!(request.algorithm.oid.to_string(), "1.3.101.112");
            prop_assert!(request.algorithm.parameters.is_none());
            prop_assert_eq!(&request.info.public_key.algorithm, &request.algorithm);
            let signature = Signature::from_slice(request.signature.raw_bytes()).unwrap();
            let public_key = VerifyingKey::from_bytes(key.address().public_key()).unwrap();
            let message = request.info.to_der().unwrap();
            prop_assert!(public_key.verify_strict(&message, &signature).is_ok());
        }
    }
}
