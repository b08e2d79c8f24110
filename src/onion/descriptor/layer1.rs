//! Layer 1 of a descriptor (rend-spec-v3, section 2.5.1), which wraps layer 2 in client
//! authorization.

use std::fmt::Write;

use data_encoding::{BASE64, BASE64_NOPAD};

use super::client_auth::AuthClient;
use super::crypto::MESSAGE_TAG;
use super::{DescriptorError, set_once};
use crate::onion::document::{Items, base64_array, push_object};

const AUTH_TYPE: &str = "desc-auth-type";
const AUTH_EPHEMERAL_KEY: &str = "desc-auth-ephemeral-key";
const AUTH_CLIENT: &str = "auth-client";
pub(super) const ENCRYPTED: &str = "encrypted";

const AUTH_TYPE_X25519: &str = "x25519";
/// Layer 1 is padded with zeros to a multiple of this number of bytes.
const PADDING: usize = 10_000;

/// The parsed content of layer 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layer1 {
    pub(super) ephemeral_key: [u8; 32],
    pub(super) clients: Vec<AuthClient>,
    /// The encrypted layer 2.
    pub(super) encrypted: Vec<u8>,
}

/// Parses the text of layer 1 without its padding.
pub(super) fn parse(text: &str) -> Result<Layer1, DescriptorError> {
    let (mut auth_type, mut ephemeral_key, mut clients) = (None, None, Vec::new());
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
                let item = id.zip(iv).zip(cookie).map(|((id, iv), cookie)| AuthClient { id, iv, cookie });
                clients.push(item.ok_or(DescriptorError::Malformed(AUTH_CLIENT))?);
            }
            ENCRYPTED => {
                let encrypted = item.object_bytes(MESSAGE_TAG).ok_or(DescriptorError::Malformed(ENCRYPTED))?;
                auth_type.ok_or(DescriptorError::Missing(AUTH_TYPE))?;
                let ephemeral_key = ephemeral_key.ok_or(DescriptorError::Missing(AUTH_EPHEMERAL_KEY))?;
                return match (clients.is_empty(), item.end == text.len()) {
                    (true, _) => Err(DescriptorError::Missing(AUTH_CLIENT)),
                    (_, false) => Err(DescriptorError::Trailing(ENCRYPTED)),
                    (_, true) => Ok(Layer1 { ephemeral_key, clients, encrypted }),
                };
            }
            _ => {}
        }
    }
    Err(DescriptorError::Missing(ENCRYPTED))
}

/// Formats layer 1, including its padding.
pub(super) fn write(ephemeral_key: &[u8; 32], clients: &[AuthClient], encrypted: &[u8]) -> Vec<u8> {
    let mut text = format!("{AUTH_TYPE} {AUTH_TYPE_X25519}\n{AUTH_EPHEMERAL_KEY} {}\n", BASE64.encode(ephemeral_key));
    for AuthClient { id, iv, cookie } in clients {
        let [id, iv, cookie] = [id.as_slice(), iv, cookie].map(|bytes| BASE64_NOPAD.encode(bytes));
        let _ = writeln!(text, "{AUTH_CLIENT} {id} {iv} {cookie}");
    }
    text.push_str(ENCRYPTED);
    text.push('\n');
    push_object(&mut text, MESSAGE_TAG, encrypted);
    // C tor writes no newline after the last line of layer 1.
    text.pop();
    let mut padded = text.into_bytes();
    padded.resize(padded.len().next_multiple_of(PADDING), 0);
    padded
}
