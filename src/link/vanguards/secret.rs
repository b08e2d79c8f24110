//! The vanguards in the Secret of the service's guards.

use super::sets::{Vanguards, VanguardsError};
use crate::link::sealed::authentic;
use crate::link::token::{AgentToken, LinkError};

/// The Secret's entry with the vanguards.
pub const VANGUARDS_ENTRY: &str = "vanguards";
/// The Secret's entry with the MAC of the vanguards.
pub const VANGUARDS_MAC_ENTRY: &str = "vanguards-mac";

/// An error that explains why the vanguards in the Secret cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VanguardsSecretError {
    /// The publishers of this service have not written the content.
    #[error("the vanguards were not written by a publisher of this service, or have been changed")]
    NotAuthentic,
    /// The publishers have written the content, but in another format.
    #[error("the vanguards cannot be read: {0}")]
    Format(#[from] VanguardsError),
}

/// Returns the entries of the Secret, with a MAC that only the holders of the agent token can
/// compute.
pub fn vanguards_to_data(vanguards: &Vanguards, token: &AgentToken) -> [(&'static str, String); 2] {
    let text = vanguards.to_string();
    let mac = token.vanguards_mac(&text);
    [(VANGUARDS_ENTRY, text), (VANGUARDS_MAC_ENTRY, mac)]
}

/// Reads the entries of the Secret. A Secret without them has no vanguards. Returns an error if the
/// content was not written by [`vanguards_to_data`] with the same token, because anyone who may
/// write a Secret could otherwise choose the service's vanguards.
pub fn vanguards_of_data(
    vanguards: Option<&[u8]>,
    mac: Option<&[u8]>,
    token: &AgentToken,
) -> Result<Vanguards, VanguardsSecretError> {
    let found = authentic(vanguards, mac, |text| token.vanguards_mac(text));
    let found = found.map_err(|_: LinkError| VanguardsSecretError::NotAuthentic)?;
    Ok(found.map(Vanguards::parse).transpose()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::sets::tests::{any_vanguards, relay};
    use super::*;

    fn token(digit: u8) -> AgentToken {
        AgentToken::from_hex(&[digit; 64]).unwrap()
    }

    #[test]
    fn a_foreign_or_edited_secret_is_not_authentic() {
        let vanguards = Vanguards::new(vec![relay(1, 5), relay(2, 6)], vec![relay(3, 7)]).unwrap();
        let [(_, text), (_, mac)] = vanguards_to_data(&vanguards, &token(b'7'));
        let read = |text: &[u8], mac: &[u8], digit| vanguards_of_data(Some(text), Some(mac), &token(digit));
        assert_eq!(read(text.as_bytes(), mac.as_bytes(), b'7'), Ok(vanguards));
        assert_eq!(
            read(text.as_bytes(), mac.as_bytes(), b'8'),
            Err(VanguardsSecretError::NotAuthentic),
            "another service"
        );
        let edited = text.replacen("0101", "0404", 1);
        let guards = token(b'7').guards_mac(&text);
        for (text, mac) in [
            (Some(edited.as_bytes()), Some(mac.as_bytes())),
            (Some(text.as_bytes()), Some(guards.as_bytes())),
            (Some(text.as_bytes()), None),
            (Some(text.as_bytes()), Some(&mac.as_bytes()[1..])),
            (Some(b"\xff".as_slice()), Some(mac.as_bytes())),
            (Some(b"".as_slice()), Some(b"".as_slice())),
            (None, Some(mac.as_bytes())),
        ] {
            assert_eq!(vanguards_of_data(text, mac, &token(b'7')), Err(VanguardsSecretError::NotAuthentic));
        }
        assert_eq!(vanguards_of_data(None, None, &token(b'7')), Ok(Vanguards::default()));
    }

    #[test]
    fn content_of_a_later_format_is_an_error() {
        let text = "onionbalance-vanguards 2\n";
        let mac = token(b'7').vanguards_mac(text);
        let read = vanguards_of_data(Some(text.as_bytes()), Some(mac.as_bytes()), &token(b'7'));
        assert_eq!(read, Err(VanguardsSecretError::Format(VanguardsError::Header)));
    }

    proptest! {
        #[test]
        fn a_secret_is_read_as_it_was_written(vanguards in any_vanguards(2_000_000_000)) {
            let [(_, text), (_, mac)] = vanguards_to_data(&vanguards, &token(b'7'));
            let read = vanguards_of_data(Some(text.as_bytes()), Some(mac.as_bytes()), &token(b'7'));
            prop_assert_eq!(read, Ok(vanguards));
        }

        #[test]
        fn reading_never_panics(
            text in option::of(vec(any::<u8>(), 0..80)), mac in option::of(vec(any::<u8>(), 0..70)),
        ) {
            let _ = vanguards_of_data(text.as_deref(), mac.as_deref(), &token(b'7'));
        }
    }
}
