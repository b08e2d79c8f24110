//! Layer 1 (rend-spec-v3, section 2.5.1): client authorization around layer 2.

use std::fmt::Write;

use data_encoding::{BASE64, BASE64_NOPAD};

use super::outer::MESSAGE_TAG;
use super::{DescriptorError, set_once};
use crate::onion::document::{Items, base64_array, push_object};

const AUTH_TYPE: &str = "desc-auth-type";
const AUTH_EPHEMERAL_KEY: &str = "desc-auth-ephemeral-key";
const AUTH_CLIENT: &str = "auth-client";
pub(super) const ENCRYPTED: &str = "encrypted";

const AUTH_TYPE_X25519: &str = "x25519";
/// C tor fills up to a multiple of this many `auth-client` items with dummies; without authorization, it writes these only.
pub(super) const AUTH_CLIENTS: usize = 16;
/// Layer 1 is padded with zeros to a multiple of this.
const PADDING: usize = 10_000;

/// What an `auth-client` item holds: a client's id, an IV and the encrypted descriptor cookie; or random bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct AuthClient {
    pub id: [u8; 8],
    pub iv: [u8; 16],
    pub cookie: [u8; 16],
}

/// The encrypted layer 2, from layer 1's text (without its padding).
pub(super) fn parse(text: &str) -> Result<Vec<u8>, DescriptorError> {
    let (mut auth_type, mut ephemeral_key, mut auth_clients) = (None, None, 0_usize);
    for item in Items::new(text) {
        let item = item?;
        let mut arguments = item.arguments();
        match item.keyword {
            AUTH_TYPE => {
                let known = arguments.next().filter(|name| *name == AUTH_TYPE_X25519);
                set_once(&mut auth_type, AUTH_TYPE, known)?;
            }
            AUTH_EPHEMERAL_KEY => {
                let key = arguments.next().and_then(base64_array::<32>);
                set_once(&mut ephemeral_key, AUTH_EPHEMERAL_KEY, key)?;
            }
            AUTH_CLIENT => {
                let id = arguments.next().and_then(base64_array::<8>);
                let iv = arguments.next().and_then(base64_array::<16>);
                let cookie = arguments.next().and_then(base64_array::<16>);
                id.zip(iv).zip(cookie).ok_or(DescriptorError::Malformed(AUTH_CLIENT))?;
                auth_clients += 1;
            }
            ENCRYPTED => {
                let encrypted = item.object_bytes(MESSAGE_TAG).ok_or(DescriptorError::Malformed(ENCRYPTED))?;
                auth_type.ok_or(DescriptorError::Missing(AUTH_TYPE))?;
                ephemeral_key.ok_or(DescriptorError::Missing(AUTH_EPHEMERAL_KEY))?;
                return match (auth_clients, item.end == text.len()) {
                    (0, _) => Err(DescriptorError::Missing(AUTH_CLIENT)),
                    (_, false) => Err(DescriptorError::Trailing(ENCRYPTED)),
                    (_, true) => Ok(encrypted),
                };
            }
            _ => {}
        }
    }
    Err(DescriptorError::Missing(ENCRYPTED))
}

/// Layer 1 with its padding.
pub(super) fn write(ephemeral_key: &[u8; 32], clients: &[AuthClient; AUTH_CLIENTS], encrypted: &[u8]) -> Vec<u8> {
    let mut text = format!("{AUTH_TYPE} {AUTH_TYPE_X25519}\n{AUTH_EPHEMERAL_KEY} {}\n", BASE64.encode(ephemeral_key));
    for AuthClient { id, iv, cookie } in clients {
        let [id, iv, cookie] = [id.as_slice(), iv, cookie].map(|bytes| BASE64_NOPAD.encode(bytes));
        let _ = writeln!(text, "{AUTH_CLIENT} {id} {iv} {cookie}");
    }
    text.push_str(ENCRYPTED);
    text.push('\n');
    push_object(&mut text, MESSAGE_TAG, encrypted);
    // C tor ends layer 1 without a line end.
    text.pop();
    let mut padded = text.into_bytes();
    padded.resize(padded.len().next_multiple_of(PADDING), 0);
    padded
}
