//! v3 onion addresses (rend-spec-v3, section 6: encoding onion addresses).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A v3 onion address; it is the service's ed25519 identity key, checked to be a valid curve point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OnionAddress {
    public_key: [u8; 32],
}

/// Why a text is no v3 onion address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Not 56 base32 characters, with or without `.onion`.
    #[error("a v3 onion address has 56 base32 characters, with or without \".onion\"")]
    Form,
}

impl OnionAddress {
    /// The address of an identity key.
    pub fn from_public_key(_public_key: [u8; 32]) -> Result<Self, AddressError> {
        todo!()
    }

    /// The ed25519 identity key, 32 bytes.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The 56 characters before `.onion`, as the control protocol wants them.
    pub fn identifier(&self) -> String {
        todo!()
    }
}

impl FromStr for OnionAddress {
    type Err = AddressError;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
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
        write!(f, "{}.onion", self.identifier())
    }
}

impl fmt::Debug for OnionAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
