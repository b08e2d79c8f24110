//! Text in a Secret with a MAC that only the holders of the agent token can compute.

use std::str;

use super::token::{AgentToken, LinkError};

/// Returns the text if `mac` is the MAC that `expected` computes of it, or None if the Secret has
/// neither. Returns an error if a publisher of this service has not written exactly this text.
pub(super) fn authentic<'a>(
    text: Option<&'a [u8]>,
    mac: Option<&[u8]>,
    expected: impl FnOnce(&str) -> String,
) -> Result<Option<&'a str>, LinkError> {
    let Some(text) = text else {
        return if mac.is_none() { Ok(None) } else { Err(LinkError::NotAuthentic) };
    };
    let text = str::from_utf8(text).map_err(|_| LinkError::NotAuthentic)?;
    AgentToken::verify(&expected(text), mac.and_then(|mac| str::from_utf8(mac).ok()))?;
    Ok(Some(text))
}
