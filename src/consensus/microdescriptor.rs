//! A parser for concatenated microdescriptors (dir-spec, section 3.3), as C tor's `GETINFO md/all`
//! returns them.
//!
//! The reply consists of the documents that tor has for the relays in its consensus, without
//! annotations. A document begins with its `onion-key` line and is identified by the SHA-256 digest
//! of its text.

use sha2::{Digest, Sha256};

use super::{ConsensusError, MAX_DOCUMENT_BYTES, base64_array};

/// The digest of a microdescriptor and the relay's ed25519 identity. The identity is `None` if the
/// document does not have exactly one well-formed identity.
pub(super) type Identity = ([u8; 32], Option<[u8; 32]>);

/// Returns the identities of all microdescriptors in `text`, in order.
pub(super) fn identities(text: &str) -> Result<Vec<Identity>, ConsensusError> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(ConsensusError::TooLong);
    }
    if !text.is_empty() && !begins_document(text) {
        return Err(ConsensusError::Missing("onion-key"));
    }
    Ok(documents(text).map(|document| (digest(document), identity(document))).collect())
}

fn begins_document(text: &str) -> bool {
    text.strip_prefix("onion-key").is_some_and(|rest| rest.starts_with(['\n', ' ']))
}

fn documents(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let next = text
            .match_indices("\nonion-key")
            .map(|(at, _)| at + 1)
            .find(|&at| text.get(at..).is_some_and(begins_document));
        let (document, rest) = text.split_at(next.unwrap_or(text.len()));
        text = rest;
        Some(document)
    })
}

/// Returns the SHA-256 digest of a microdescriptor, which covers the text from `onion-key` to the
/// final newline. This newline may be missing at the end of a data reply.
fn digest(document: &str) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(document);
    if !document.ends_with('\n') {
        hash.update("\n");
    }
    hash.finalize().into()
}

/// Parses `"id" SP "ed25519" SP identity`, where the identity is 43 characters of base64.
fn identity(document: &str) -> Option<[u8; 32]> {
    let mut identities = document.lines().filter_map(|line| line.strip_prefix("id ed25519 "));
    let identity = base64_array(identities.next()?.split_ascii_whitespace().next()?)?;
    identities.next().is_none().then_some(identity)
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64_NOPAD;
    use proptest::prelude::*;

    use super::*;
    use crate::consensus::testdata;

    #[test]
    fn finds_the_digests_and_identities_of_a_private_network() {
        let identities = identities(testdata::MICRODESCRIPTORS).unwrap();
        assert_eq!(identities.len(), 17);
        for (digest, identity) in identities {
            let line = format!("\nm {}\n", BASE64_NOPAD.encode(&digest));
            assert!(testdata::captures().iter().all(|capture| capture.consensus.contains(&line)), "{line}");
            assert!(identity.is_some());
        }
    }

    #[test]
    fn the_last_newline_may_be_missing() {
        let text = testdata::MICRODESCRIPTORS;
        assert_eq!(identities(text.trim_end()), identities(text));
    }

    #[test]
    fn an_empty_text_contains_no_microdescriptor() {
        assert_eq!(identities(""), Ok(Vec::new()));
    }

    #[test]
    fn text_before_the_first_document_is_an_error() {
        for text in ["\n", "@last-listed 2026-01-01 00:00:00\nonion-key\n", "onion-keys\n"] {
            assert_eq!(identities(text), Err(ConsensusError::Missing("onion-key")), "{text:?}");
        }
    }

    #[test]
    fn a_document_without_exactly_one_well_formed_identity_has_no_identity() {
        let id = format!("id ed25519 {}\n", "A".repeat(43));
        for text in [
            String::from("onion-key\n"),
            format!("onion-key\n{id}{id}"),
            "onion-key\nid ed25519 AAAA\n".to_owned(),
            "onion-key\nid ed25519 \n".to_owned(),
        ] {
            assert_eq!(identities(&text).unwrap()[0].1, None, "{text:?}");
        }
        assert_eq!(identities(&format!("onion-key\nid rsa1024 AAAA\n{id}")).unwrap()[0].1, Some([0; 32]));
    }

    /// Formats a microdescriptor as tor does, with or without the optional lines.
    fn write(onion_key: &str, identity: Option<[u8; 32]>, family: bool) -> String {
        let mut text = format!("onion-key\n{onion_key}ntor-onion-key {}\n", "A".repeat(43));
        if family {
            text.push_str("family $AAAA onion-key\np accept 80,443\n");
        }
        let identity = identity.map(|identity| format!("id ed25519 {}\n", BASE64_NOPAD.encode(&identity)));
        text + &identity.unwrap_or_default()
    }

    proptest! {
        #[test]
        fn parses_every_microdescriptor_that_the_test_writes(
            relays in prop::collection::vec((any::<bool>(), any::<Option<[u8; 32]>>(), any::<bool>()), 0..10),
        ) {
            let rsa = "-----BEGIN RSA PUBLIC KEY-----\nMIGJAoGBAMhPQtZPaxP3\n-----END RSA PUBLIC KEY-----\n";
            let texts: Vec<String> = relays
                .iter()
                .map(|(legacy, identity, family)| write(if *legacy { rsa } else { "" }, *identity, *family))
                .collect();
            let expected: Vec<Identity> =
                texts.iter().zip(&relays).map(|(text, relay)| (Sha256::digest(text).into(), relay.1)).collect();
            prop_assert_eq!(identities(&texts.concat()), Ok(expected));
        }

        #[test]
        fn parsing_never_panics(text in "(onion-key[\n x]|id ed25519 |\n|A{43}|é){0,12}") {
            let _ = identities(&text);
        }
    }
}
