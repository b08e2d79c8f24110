//! The copy of a service's authorized clients. The operator copies their public keys from the
//! Secret that the user names into a `ConfigMap` of its own, so that the publishers need no
//! permission to read a Secret. The copy names its source, so that a publisher never uses the
//! clients of another object or Secret.

use std::collections::BTreeMap;

use super::token::{AgentToken, LinkError};
use crate::onion::ClientPublicKey;

/// The `ConfigMap`'s entry with the UID of the object for which the copy was made.
const OBJECT: &str = "object";
/// The `ConfigMap`'s entry with the name of the Secret that was copied.
const SECRET: &str = "secret";
/// The `ConfigMap`'s entry with the keys, one on each line. It is absent if the Secret does not
/// exist.
const KEYS: &str = "keys";
/// The `ConfigMap`'s entry with the MAC of the other entries.
const MAC: &str = "mac";

/// The public keys of the authorized clients in a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientsCopy {
    /// The UID of the object that names the Secret.
    pub object: String,
    /// The name of the Secret.
    pub secret: String,
    /// The keys in the Secret, in their order. `None` if the Secret does not exist.
    pub keys: Option<Vec<ClientPublicKey>>,
}

impl ClientsCopy {
    /// Returns the data of the `ConfigMap`, with a MAC that only the holders of the agent token can
    /// compute.
    pub fn to_data(&self, token: &AgentToken) -> BTreeMap<String, String> {
        let keys = self.keys.as_ref().map(|keys| keys.iter().map(|key| key.to_string() + "\n").collect::<String>());
        let mac = token.clients_mac(&self.object, &self.secret, keys.as_deref());
        let (object, secret) = (self.object.clone(), self.secret.clone());
        let entries = [(OBJECT, Some(object)), (SECRET, Some(secret)), (KEYS, keys), (MAC, Some(mac))];
        entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// Reads the data of the `ConfigMap`. Returns an error if the operator has not written them,
    /// because anyone who may write a `ConfigMap` could otherwise authorize clients. A line that is
    /// not a key is left out.
    pub fn of_data(data: &BTreeMap<String, String>, token: &AgentToken) -> Result<Self, LinkError> {
        let entry = |name: &str| data.get(name).map(String::as_str);
        let (object, secret) = entry(OBJECT).zip(entry(SECRET)).ok_or(LinkError::NotAuthentic)?;
        AgentToken::verify(&token.clients_mac(object, secret, entry(KEYS)), entry(MAC))?;
        let keys = entry(KEYS).map(|lines| lines.lines().filter_map(|line| line.parse().ok()).collect());
        Ok(Self { object: object.to_owned(), secret: secret.to_owned(), keys })
    }

    /// Returns true if this is a copy of the Secret with this name for the object with this UID.
    pub fn is_of(&self, object: &str, secret: &str) -> bool {
        self.object == object && self.secret == secret
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::onion::ClientSecretKey;

    fn key(number: u8) -> ClientPublicKey {
        ClientSecretKey::from_bytes([number; 32]).public()
    }

    fn token() -> AgentToken {
        AgentToken::from_hex(&[b'7'; 64]).unwrap()
    }

    #[test]
    fn a_copy_holds_only_its_source_public_keys_and_a_mac() {
        let copy = ClientsCopy { object: "u".to_owned(), secret: "s".to_owned(), keys: Some(vec![key(2), key(1)]) };
        let mut data = copy.to_data(&token());
        assert_eq!(data.remove("mac").unwrap().len(), 64);
        let expected =
            [("keys", format!("{}\n{}\n", key(2), key(1))), ("object", "u".to_owned()), ("secret", "s".to_owned())];
        assert_eq!(data, expected.map(|(name, value)| (name.to_owned(), value)).into());
        let missing = ClientsCopy { keys: None, ..copy.clone() };
        assert!(!missing.to_data(&token()).contains_key("keys"));
        assert!(copy.is_of("u", "s") && !copy.is_of("v", "s") && !copy.is_of("u", "t"));
    }

    #[test]
    fn a_bad_line_is_left_out() {
        let lines = format!("x\n\n{}\r\ndescriptor:x25519:AAAA\n", key(1));
        let mac = token().clients_mac("u", "s", Some(&lines));
        let data = [("object", "u"), ("secret", "s"), ("keys", &lines), ("mac", &mac), ("newer", "x")];
        let data = data.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(ClientsCopy::of_data(&data, &token()).unwrap().keys, Some(vec![key(1)]));
    }

    #[test]
    fn a_copy_that_somebody_has_made_or_changed_is_not_authentic() {
        let copy = ClientsCopy { object: "u".to_owned(), secret: "s".to_owned(), keys: Some(vec![key(1)]) };
        let good = copy.to_data(&token());
        let forged = copy.to_data(&AgentToken::from_hex(&[b'8'; 64]).unwrap());
        let mut forgeries = vec![forged, BTreeMap::new()];
        for name in ["object", "secret", "keys", "mac"] {
            let mut without = good.clone();
            without.remove(name);
            let mut changed = good.clone();
            changed.insert(name.to_owned(), key(2).to_string());
            forgeries.extend([without, changed]);
        }
        for forgery in forgeries {
            assert_eq!(ClientsCopy::of_data(&forgery, &token()), Err(LinkError::NotAuthentic), "{forgery:?}");
        }
    }

    proptest! {
        #[test]
        fn a_copy_is_read_as_it_was_written(
            object in "\\PC{0,40}", secret in "\\PC{0,40}", numbers in option::of(vec(any::<u8>(), 0..5)),
        ) {
            let keys = numbers.map(|numbers| numbers.into_iter().map(key).collect());
            let copy = ClientsCopy { object, secret, keys };
            prop_assert_eq!(ClientsCopy::of_data(&copy.to_data(&token()), &token()), Ok(copy));
        }

        #[test]
        fn reading_never_panics(data in btree_map("object|secret|keys|mac|\\PC{0,6}", "(\\PC|\n|descriptor:x25519:[A-Z2-7]{50,54}){0,80}", 0..5)) {
            let _ = ClientsCopy::of_data(&data, &token());
        }
    }
}
