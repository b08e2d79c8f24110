//! The content of the Secret with the shared sample of guards.

use super::sample::{GuardError, GuardSample};
use crate::link::sealed::authentic;
use crate::link::token::{AgentToken, LinkError};

/// The Secret's entry with the lines of the sample.
pub const SAMPLE_ENTRY: &str = "guards";
/// The Secret's entry with the MAC of the sample.
pub const MAC_ENTRY: &str = "mac";

/// An error that explains why the content of the Secret cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardsSecretError {
    /// The publishers of this service have not written the content.
    #[error("the guards were not written by a publisher of this service, or have been changed")]
    NotAuthentic,
    /// The publishers have written the content, but in another format.
    #[error("the guards cannot be read: {0}")]
    Sample(#[from] GuardError),
}

/// Returns the entries of the Secret, with a MAC that only the holders of the agent token can
/// compute.
pub fn guards_to_data(sample: &GuardSample, token: &AgentToken) -> [(&'static str, String); 2] {
    let lines = sample.to_string();
    let mac = token.guards_mac(&lines);
    [(SAMPLE_ENTRY, lines), (MAC_ENTRY, mac)]
}

/// Reads the entries of the Secret. An empty Secret has an empty sample. Returns an error if the
/// content was not written by [`guards_to_data`] with the same token, because anyone who may write
/// a Secret could otherwise choose the service's guards.
pub fn guards_of_data(
    sample: Option<&[u8]>,
    mac: Option<&[u8]>,
    token: &AgentToken,
) -> Result<GuardSample, GuardsSecretError> {
    let found = authentic(sample, mac, |lines| token.guards_mac(lines));
    let found = found.map_err(|_: LinkError| GuardsSecretError::NotAuthentic)?;
    Ok(found.map(GuardSample::parse).transpose()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::sample::tests::{any_sample, guard};
    use super::*;

    fn token(digit: u8) -> AgentToken {
        AgentToken::from_hex(&[digit; 64]).unwrap()
    }

    fn read(data: &[(&'static str, String); 2], token: &AgentToken) -> Result<GuardSample, GuardsSecretError> {
        let [(_, lines), (_, mac)] = data;
        guards_of_data(Some(lines.as_bytes()), Some(mac.as_bytes()), token)
    }

    #[test]
    fn an_empty_secret_has_no_guards() {
        assert_eq!(guards_of_data(None, None, &token(b'7')), Ok(GuardSample::default()));
    }

    #[test]
    fn a_foreign_or_edited_secret_is_not_authentic() {
        let sample = GuardSample::new(vec![guard(1, 5), guard(2, 6)]).unwrap();
        let good = guards_to_data(&sample, &token(b'7'));
        assert_eq!(read(&good, &token(b'7')), Ok(sample));
        assert_eq!(read(&good, &token(b'8')), Err(GuardsSecretError::NotAuthentic), "another service");
        let [(_, lines), (_, mac)] = &good;
        // Another order means another first guard.
        let swapped: String = lines.lines().rev().flat_map(|line| [line, "\n"]).collect();
        for (lines, mac) in [
            (Some(swapped.as_bytes()), Some(mac.as_bytes())),
            (Some(lines.as_bytes()), None),
            (Some(lines.as_bytes()), Some(&mac.as_bytes()[1..])),
            (Some(&lines.as_bytes()[1..]), Some(mac.as_bytes())),
            (Some(b"\xff".as_slice()), Some(mac.as_bytes())),
            (Some(b"".as_slice()), Some(b"".as_slice())),
            (None, Some(mac.as_bytes())),
        ] {
            assert_eq!(guards_of_data(lines, mac, &token(b'7')), Err(GuardsSecretError::NotAuthentic));
        }
    }

    #[test]
    fn content_in_another_format_is_an_error() {
        let lines = "Guard in=default rsa_id=01\n";
        let mac = token(b'7').guards_mac(lines);
        let read = guards_of_data(Some(lines.as_bytes()), Some(mac.as_bytes()), &token(b'7'));
        assert!(matches!(read, Err(GuardsSecretError::Sample(_))), "{read:?}");
    }

    proptest! {
        #[test]
        fn a_secret_is_read_as_it_was_written(sample in any_sample(2_000_000_000)) {
            prop_assert_eq!(read(&guards_to_data(&sample, &token(b'7')), &token(b'7')), Ok(sample));
        }

        #[test]
        fn reading_never_panics(sample in option::of(vec(any::<u8>(), 0..80)), mac in option::of(vec(any::<u8>(), 0..70))) {
            let _ = guards_of_data(sample.as_deref(), mac.as_deref(), &token(b'7'));
        }
    }
}
