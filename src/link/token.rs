//! The token shared by a publisher and its agents, and the MACs that are computed with this token.

use std::fmt;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::onion::kit::AGENT_TOKEN_LABEL;
use crate::onion::{Kits, MasterKey, ServiceKey};

const TOKEN_BYTES: usize = 32;
/// The block size of SHA-256 in bytes.
const BLOCK_BYTES: usize = 64;

/// The agent token of a service, 32 bytes derived from the master key. It is zeroized on drop and
/// never printed.
#[derive(Clone)]
pub struct AgentToken(Zeroizing<[u8; TOKEN_BYTES]>);

/// An error that explains why a message or a token is rejected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LinkError {
    /// The MAC is missing, malformed or wrong.
    #[error("the message is not authentic; check that the agent token is current and belongs to this service")]
    NotAuthentic,
    /// The token is not 32 bytes in hexadecimal.
    #[error("an agent token must have 64 hexadecimal digits")]
    TokenForm,
}

impl AgentToken {
    /// Derives the token with HKDF-SHA256 from the master key. The label is
    /// `onionbalance.dev/agent-token/v1`.
    pub fn derive(key: &MasterKey) -> Self {
        Self(key.derive(AGENT_TOKEN_LABEL))
    }

    /// Returns the token that signing kits contain. It equals the token that
    /// [`AgentToken::derive`] returns for the master key.
    pub fn of_kits(kits: &Kits) -> Self {
        Self(kits.agent_token())
    }

    /// Returns the token of a service with this key.
    pub fn of(key: &ServiceKey) -> Self {
        match key {
            ServiceKey::Master(key) => Self::derive(key),
            ServiceKey::Kits(kits) => Self::of_kits(kits),
        }
    }

    /// Parses the `token` entry of the Secret: 64 hexadecimal digits and an optional newline.
    pub fn from_hex(text: &[u8]) -> Result<Self, LinkError> {
        let digits = text.strip_suffix(b"\n").unwrap_or(text);
        let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
        if digits.len() != 2 * TOKEN_BYTES {
            return Err(LinkError::TokenForm);
        }
        let mut token = Zeroizing::new([0; TOKEN_BYTES]);
        HEXLOWER_PERMISSIVE.decode_mut(digits, token.as_mut_slice()).map_err(|_| LinkError::TokenForm)?;
        Ok(Self(token))
    }

    /// Returns the token as 64 hexadecimal digits.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(HEXLOWER.encode(self.0.as_slice()))
    }

    /// Returns the MAC of a request in hexadecimal.
    pub fn request_mac(&self, pod_uid: &str, method: &str, path: &str, nonce: &str, body: &[u8]) -> String {
        self.mac(&[b"request", pod_uid.as_bytes(), method.as_bytes(), path.as_bytes(), nonce.as_bytes(), body])
    }

    /// Returns the MAC of a response in hexadecimal.
    pub fn response_mac(
        &self,
        pod_uid: &str,
        method: &str,
        path: &str,
        nonce: &str,
        status: u16,
        body: &[u8],
    ) -> String {
        self.mac(&[
            b"response",
            pod_uid.as_bytes(),
            method.as_bytes(),
            path.as_bytes(),
            nonce.as_bytes(),
            status.to_string().as_bytes(),
            body,
        ])
    }

    /// Compares two MACs in constant time. A missing MAC is rejected.
    pub fn verify(expected: &str, got: Option<&str>) -> Result<(), LinkError> {
        let got = got.ok_or(LinkError::NotAuthentic)?;
        if bool::from(expected.as_bytes().ct_eq(got.as_bytes())) { Ok(()) } else { Err(LinkError::NotAuthentic) }
    }

    /// Returns the MAC of a copy of authorized clients in hexadecimal. `keys` is `None` if the
    /// copied Secret does not exist.
    pub fn clients_mac(&self, object: &str, secret: &str, keys: Option<&str>) -> String {
        let fields = [b"clients".as_slice(), object.as_bytes(), secret.as_bytes()];
        self.mac(&fields.into_iter().chain(keys.map(str::as_bytes)).collect::<Vec<_>>())
    }

    /// Returns the token with which the app authenticates its requests to close circuits, as 64
    /// hexadecimal digits. The token cannot be used for anything else.
    pub fn circuit_token(&self) -> Zeroizing<String> {
        Zeroizing::new(self.mac(&[b"circuit-token".as_slice()]))
    }

    /// Returns the MAC of the lines of a shared sample of guards in hexadecimal.
    pub fn guards_mac(&self, lines: &str) -> String {
        self.mac(&[b"guards", lines.as_bytes()])
    }

    /// Returns the MAC of the text of shared vanguards in hexadecimal.
    pub fn vanguards_mac(&self, text: &str) -> String {
        self.mac(&[b"vanguards", text.as_bytes()])
    }

    /// Computes HMAC-SHA256 over the length (8 bytes, big-endian) and the bytes of each field, so
    /// that different lists of fields never produce the same input.
    fn mac(&self, fields: &[&[u8]]) -> String {
        // RFC 2104 pads a short key with zeros to the block size of the hash. Padding the key here
        // means that the constructor cannot fail.
        let mut key = Zeroizing::new([0; BLOCK_BYTES]);
        key[..TOKEN_BYTES].copy_from_slice(self.0.as_slice());
        let mut mac = Hmac::<Sha256>::new((&*key).into());
        for field in fields {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        HEXLOWER.encode(&mac.finalize().into_bytes())
    }
}

impl fmt::Debug for AgentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NONCE: &str = "00112233445566778899aabbccddeeff";

    fn token() -> AgentToken {
        AgentToken::from_hex(HEX.as_bytes()).unwrap()
    }

    /// The expected MACs were computed with Python's `hmac`, following the description in the
    /// module documentation.
    #[test]
    fn matches_the_macs_of_an_independent_implementation() {
        let body = br#"{"a":1}"#;
        assert_eq!(
            token().request_mac("uid-1", "POST", "/v1/sync", NONCE, body),
            "6258c369937e00b601f217ce9f9d3b37cabb31db817fd6d3f45c637ff094dd6a"
        );
        assert_eq!(
            token().response_mac("uid-1", "POST", "/v1/sync", NONCE, 200, body),
            "d6a1c5ef04a10e68509451321f7e844325c0a197b14b909e7eb766df502edc56"
        );
    }

    #[test]
    fn the_mac_covers_every_field_and_every_boundary() {
        let base = token().request_mac("ab", "POST", "/p", NONCE, b"body");
        let other_token = AgentToken::from_hex(&[b'0'; 64]).unwrap();
        let differing = [
            other_token.request_mac("ab", "POST", "/p", NONCE, b"body"),
            token().request_mac("aB", "POST", "/p", NONCE, b"body"),
            token().request_mac("a", "bPOST", "/p", NONCE, b"body"),
            token().request_mac("ab", "PUT", "/p", NONCE, b"body"),
            token().request_mac("ab", "POST/", "p", NONCE, b"body"),
            token().request_mac("ab", "POST", "/p", &NONCE[1..], b"body"),
            token().request_mac("ab", "POST", "/p", NONCE, b"bodY"),
            token().request_mac("ab", "POST", "/p", NONCE, b""),
            token().response_mac("ab", "POST", "/p", NONCE, 200, b"body"),
        ];
        for (index, mac) in differing.iter().enumerate() {
            assert_eq!(AgentToken::verify(&base, Some(mac)), Err(LinkError::NotAuthentic), "variant {index}");
        }
        let ok = token().response_mac("ab", "POST", "/p", NONCE, 200, b"");
        assert_ne!(ok, token().response_mac("ab", "POST", "/p", NONCE, 401, b""));
    }

    #[test]
    fn accepts_only_the_complete_mac() {
        let mac = token().request_mac("u", "POST", "/", NONCE, b"");
        assert_eq!(AgentToken::verify(&mac, Some(&mac.clone())), Ok(()));
        for wrong in [None, Some(""), Some(&mac[..63]), Some(&format!("{mac}0"))] {
            assert_eq!(AgentToken::verify(&mac, wrong), Err(LinkError::NotAuthentic), "{wrong:?}");
        }
    }

    #[test]
    fn parses_a_token_with_a_newline_or_uppercase_digits() {
        for text in [HEX.to_owned(), format!("{HEX}\n"), format!("{HEX}\r\n"), HEX.to_uppercase()] {
            assert_eq!(*AgentToken::from_hex(text.as_bytes()).unwrap().to_hex(), HEX, "{text:?}");
        }
    }

    #[test]
    fn rejects_malformed_tokens() {
        let wrong =
            [String::new(), HEX[1..].to_owned(), format!("{HEX}00"), format!("{HEX}\n\n"), format!(" {}", &HEX[1..])];
        for text in wrong {
            assert_eq!(AgentToken::from_hex(text.as_bytes()).unwrap_err(), LinkError::TokenForm, "{text:?}");
        }
        assert_eq!(AgentToken::from_hex("é".repeat(32).as_bytes()).unwrap_err(), LinkError::TokenForm);
    }

    #[test]
    fn the_apps_token_depends_on_the_agent_token_and_is_no_mac_of_a_message() {
        let circuit_token = token().circuit_token();
        assert_eq!(circuit_token.len(), 64);
        assert_ne!(circuit_token, token().to_hex());
        assert_ne!(circuit_token, AgentToken::from_hex(&[b'0'; 64]).unwrap().circuit_token());
    }

    #[test]
    fn debug_output_shows_no_secret() {
        assert_eq!(format!("{:?}", token()), "AgentToken(…)");
    }
}
