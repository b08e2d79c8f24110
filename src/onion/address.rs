//! Parses and formats v3 onion addresses (rend-spec-v3, section 6).

use std::fmt;
use std::str::FromStr;

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use data_encoding::BASE32;
use serde::{Deserialize, Serialize};
use sha3::{Digest, Sha3_256};

/// The number of base32 characters in an address, without the `.onion` suffix.
const ENCODED_LEN: usize = 56;
const SUFFIX: &str = ".onion";
const VERSION: u8 = 3;

/// A v3 onion address, which wraps the service's ed25519 identity key. The key is always a valid
/// point on the curve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OnionAddress {
    /// The canonical encoding of the identity key, which is a point of prime order.
    public_key: [u8; 32],
}

/// An error that explains why a string is not a v3 onion address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// The string does not consist of 56 base32 characters and an optional `.onion` suffix.
    #[error("a v3 onion address has 56 base32 characters, with or without \".onion\"")]
    Form,
    /// The address has a version other than 3. The last character encodes the version.
    #[error("the onion address has version {0}; only version 3 is supported")]
    Version(u8),
    /// The checksum does not match the key, most likely because of a typo.
    #[error("the checksum of the onion address is wrong; check the address for typos")]
    Checksum,
    /// The key is not a point on the ed25519 curve, or the point is not of prime order.
    #[error("the onion address does not contain a valid ed25519 key")]
    Key,
}

impl OnionAddress {
    /// Returns the onion address for an identity key. Fails if the key is not the canonical
    /// encoding of a point of prime order.
    pub fn from_public_key(public_key: [u8; 32]) -> Result<Self, AddressError> {
        let point = CompressedEdwardsY(public_key).decompress().ok_or(AddressError::Key)?;
        // Decompression also accepts a few non-canonical encodings, but tor hashes the key exactly
        // as it is encoded.
        let canonical = point.compress().to_bytes() == public_key;
        if canonical && point.is_torsion_free() && !point.is_small_order() {
            Ok(Self { public_key })
        } else {
            Err(AddressError::Key)
        }
    }

    /// Returns the 32 bytes of the ed25519 identity key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// Decompresses the identity key into a curve point for arithmetic.
    pub(super) fn point(&self) -> EdwardsPoint {
        // The constructor has already decompressed this key, so the default is never used.
        CompressedEdwardsY(self.public_key).decompress().unwrap_or_default()
    }

    /// Returns the 56 characters before `.onion`, the form that the control protocol uses.
    pub fn identifier(&self) -> String {
        let mut bytes = [0; 35];
        bytes[..32].copy_from_slice(&self.public_key);
        bytes[32..34].copy_from_slice(&checksum(&self.public_key));
        bytes[34] = VERSION;
        BASE32.encode(&bytes).to_ascii_lowercase()
    }
}

/// Computes the checksum of an address: `CHECKSUM = H(".onion checksum" | PUBKEY | VERSION)[:2]`.
fn checksum(public_key: &[u8; 32]) -> [u8; 2] {
    let hash =
        Sha3_256::new().chain_update(b".onion checksum").chain_update(public_key).chain_update([VERSION]).finalize();
    [hash[0], hash[1]]
}

/// Parses `onion_address = base32(PUBKEY | CHECKSUM | VERSION) + ".onion"`. The `.onion` suffix is
/// optional and the case of the letters does not matter.
impl FromStr for OnionAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = match text.split_at_checked(ENCODED_LEN) {
            Some((encoded, rest)) if rest.is_empty() || rest.eq_ignore_ascii_case(SUFFIX) => encoded,
            _ => return Err(AddressError::Form),
        };
        let bytes = BASE32.decode(encoded.to_ascii_uppercase().as_bytes()).map_err(|_| AddressError::Form)?;
        let (public_key, rest) = bytes.split_first_chunk::<32>().ok_or(AddressError::Form)?;
        match *rest {
            [first, second, VERSION] if [first, second] == checksum(public_key) => Self::from_public_key(*public_key),
            [_, _, VERSION] => Err(AddressError::Checksum),
            [_, _, version] => Err(AddressError::Version(version)),
            _ => Err(AddressError::Form),
        }
    }
}

impl TryFrom<String> for OnionAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OnionAddress> for String {
    fn from(address: OnionAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for OnionAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SUFFIX}", self.identifier())
    }
}

impl fmt::Debug for OnionAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    /// A test vector from C tor's `src/test/hs_build_address.py`.
    const TOR_KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const TOR_ADDRESS: &str = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid";

    fn key(hex: &str) -> [u8; 32] {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    /// Encodes any 32 bytes as an address, even if they are not a valid key.
    fn encode(public_key: [u8; 32], version: u8) -> String {
        let mut bytes = public_key.to_vec();
        bytes.extend(checksum(&public_key));
        bytes.push(version);
        BASE32.encode(&bytes)
    }

    #[test]
    fn matches_the_address_that_c_tor_builds() {
        let address = OnionAddress::from_public_key(key(TOR_KEY)).unwrap();
        assert_eq!(address.identifier(), TOR_ADDRESS);
        assert_eq!(address.to_string(), format!("{TOR_ADDRESS}.onion"));
        assert_eq!(format!("{address:?}"), address.to_string());
    }

    #[test]
    fn parses_addresses_with_and_without_suffix_in_any_case() {
        let address = OnionAddress::from_public_key(key(TOR_KEY)).unwrap();
        for text in [TOR_ADDRESS.to_owned(), format!("{TOR_ADDRESS}.onion"), format!("{TOR_ADDRESS}.Onion")] {
            assert_eq!(text.parse(), Ok(address));
            assert_eq!(text.to_uppercase().parse(), Ok(address));
        }
        let json = serde_json::to_string(&address).unwrap();
        assert_eq!(json, format!("\"{TOR_ADDRESS}.onion\""));
        assert_eq!(serde_json::from_str::<OnionAddress>(&json).unwrap(), address);
    }

    #[test]
    fn rejects_malformed_addresses() {
        let dotted = format!("{TOR_ADDRESS}.");
        let nested = format!("www.{TOR_ADDRESS}.onion");
        let spaced = format!(" {TOR_ADDRESS}");
        for text in ["", ".onion", &TOR_ADDRESS[1..], &dotted, &nested, &spaced, &TOR_ADDRESS.replace('5', "1")] {
            assert_eq!(text.parse::<OnionAddress>(), Err(AddressError::Form), "{text}");
        }
        // The two-byte last character straddles the length limit.
        assert_eq!(format!("{}é", &TOR_ADDRESS[1..]).parse::<OnionAddress>(), Err(AddressError::Form));
    }

    #[test]
    fn rejects_a_wrong_checksum_or_version() {
        let mistyped = format!("3{}", &TOR_ADDRESS[1..]);
        assert_eq!(mistyped.parse::<OnionAddress>(), Err(AddressError::Checksum));
        assert_eq!(encode(key(TOR_KEY), 4).parse::<OnionAddress>(), Err(AddressError::Version(4)));
    }

    #[test]
    fn rejects_keys_that_cannot_be_an_identity_key() {
        let identity = {
            let mut bytes = [0; 32];
            bytes[0] = 1;
            bytes
        };
        // The identity point, with its y coordinate of 1 in the non-canonical encoding p + 1.
        let unreduced = key("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
        // The key from C tor's `test_crypto_ed25519_blinding_fail`, which is not a point on the
        // curve.
        let off_curve = key("e19c65de75c68cf3b7643ea732ba9eb1a3d20d6d57ba223c2ece1df66feb5af0");
        // The sum of a point of prime order and a point of order two.
        let mixed = (OnionAddress::from_public_key(key(TOR_KEY)).unwrap().point()
            + curve25519_dalek::constants::EIGHT_TORSION[4])
            .compress()
            .to_bytes();
        for bytes in [identity, [0; 32], unreduced, off_curve, mixed] {
            assert_eq!(OnionAddress::from_public_key(bytes), Err(AddressError::Key), "{bytes:02x?}");
            assert_eq!(encode(bytes, VERSION).parse::<OnionAddress>(), Err(AddressError::Key));
        }
    }

    proptest! {
        #[test]
        fn parses_the_address_that_it_formats(seed: [u8; 32]) {
            let public_key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes();
            let address = OnionAddress::from_public_key(public_key).unwrap();
            prop_assert_eq!(address.to_string().parse(), Ok(address));
            prop_assert_eq!(address.public_key(), &public_key);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{50,70}") {
            let _ = text.parse::<OnionAddress>();
        }
    }
}
