//! The facts about the Secret of the master key. The private key is dropped as soon as its address
//! is known.

use std::time::SystemTime;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use zeroize::Zeroize as _;

use crate::onion::{Kit, Kits, MasterKey};

/// The entry with the master key, in the format of tor's file of this name.
const SECRET_KEY_FILE: &str = "hs_ed25519_secret_key";
/// The entry with the signing kits of a delegated service.
const SIGNING_KIT_FILE: &str = "signing.kit";

/// What is known about the Secret of the master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// The type of the Secret, for example `Opaque`.
    pub type_: String,
    /// What the Secret holds, or why its content cannot be used.
    pub content: Result<KeyContent, String>,
}

/// The public part of the content of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyContent {
    /// The onion address of the key.
    pub address: String,
    /// The time until which the signing kits last. None if the Secret holds the master key.
    pub kits_until: Option<Timestamp>,
}

impl KeyFacts {
    /// Reads the content of the Secret, and then overwrites it in memory.
    pub fn of(mut secret: Secret, delegated: bool, now: Timestamp) -> Self {
        let content = if delegated { kits(&secret, now) } else { master_key(&secret) };
        for bytes in secret.data.iter_mut().flat_map(|data| data.values_mut()) {
            bytes.0.zeroize();
        }
        Self { type_: secret.type_.unwrap_or_else(|| "Opaque".to_owned()), content }
    }
}

fn entry<'a>(secret: &'a Secret, name: &str) -> Result<&'a [u8], String> {
    let found = secret.data.as_ref().and_then(|data| data.get(name));
    found.map(|bytes| bytes.0.as_slice()).ok_or_else(|| format!("the entry {name} is missing"))
}

fn master_key(secret: &Secret) -> Result<KeyContent, String> {
    let key =
        MasterKey::from_tor_secret_key_file(entry(secret, SECRET_KEY_FILE)?).map_err(|error| error.to_string())?;
    if let Ok(file) = entry(secret, "hs_ed25519_public_key") {
        key.check_tor_public_key_file(file).map_err(|error| error.to_string())?;
    }
    if let Ok(file) = entry(secret, "hostname") {
        key.check_tor_hostname_file(file).map_err(|error| error.to_string())?;
    }
    Ok(KeyContent { address: key.address().to_string(), kits_until: None })
}

fn kits(secret: &Secret, now: Timestamp) -> Result<KeyContent, String> {
    if entry(secret, SECRET_KEY_FILE).is_ok() {
        return Err(format!("the entry {SECRET_KEY_FILE} holds a master key, but spec.masterKey.delegated is true"));
    }
    let kit = Kit::parse(entry(secret, SIGNING_KIT_FILE)?).map_err(|error| error.to_string())?;
    let kits = Kits::from(kit);
    let until = kits.covered_until(SystemTime::from(now)).and_then(|until| Timestamp::try_from(until).ok());
    Ok(KeyContent { address: kits.address().to_string(), kits_until: Some(until.unwrap_or(Timestamp::UNIX_EPOCH)) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn secret(entries: &[(&str, &[u8])]) -> Secret {
        let data: BTreeMap<_, _> =
            entries.iter().map(|(name, bytes)| ((*name).to_owned(), ByteString(bytes.to_vec()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn a_key_shows_its_address_and_nothing_else() {
        let key = MasterKey::generate(&mut StdRng::seed_from_u64(1));
        let file = key.to_tor_secret_key_file();
        let facts = KeyFacts::of(secret(&[(SECRET_KEY_FILE, &file)]), false, Timestamp::UNIX_EPOCH);
        let content = KeyContent { address: key.address().to_string(), kits_until: None };
        assert_eq!(facts, KeyFacts { type_: "Opaque".to_owned(), content: Ok(content) });
    }

    #[test]
    fn a_key_that_cannot_be_used_is_explained() {
        let of = |entries: &[(&str, &[u8])], delegated| {
            KeyFacts::of(secret(entries), delegated, Timestamp::UNIX_EPOCH).content.unwrap_err()
        };
        assert_eq!(of(&[], false), "the entry hs_ed25519_secret_key is missing");
        assert_eq!(of(&[], true), "the entry signing.kit is missing");
        assert!(of(&[(SECRET_KEY_FILE, b"short")], false).contains("96"));
        assert!(of(&[(SECRET_KEY_FILE, b"short")], true).contains("delegated is true"));
        let key = MasterKey::generate(&mut StdRng::seed_from_u64(1)).to_tor_secret_key_file();
        let other = MasterKey::generate(&mut StdRng::seed_from_u64(2)).to_tor_hostname_file();
        let error = of(&[(SECRET_KEY_FILE, &key), ("hostname", other.as_bytes())], false);
        assert!(error.contains("hostname"), "{error}");
    }
}
