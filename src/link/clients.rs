//! The copy of a service's authorized clients. The operator copies their public keys from the
//! Secret that the user names into a `ConfigMap` of its own, so that the publishers need no
//! permission to read a Secret. The copy names its source, so that a publisher never uses the
//! clients of another object or Secret.

use std::collections::BTreeMap;

use crate::onion::ClientPublicKey;

/// The `ConfigMap`'s entry with the UID of the object for which the copy was made.
const OBJECT: &str = "object";
/// The `ConfigMap`'s entry with the name of the Secret that was copied.
const SECRET: &str = "secret";
/// The `ConfigMap`'s entry with the keys, one on each line. It is absent if the Secret does not
/// exist.
const KEYS: &str = "keys";

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
    /// Returns the data of the `ConfigMap`.
    pub fn to_data(&self) -> BTreeMap<String, String> {
        let mut data =
            BTreeMap::from([(OBJECT.to_owned(), self.object.clone()), (SECRET.to_owned(), self.secret.clone())]);
        if let Some(keys) = &self.keys {
            data.insert(KEYS.to_owned(), keys.iter().map(|key| key.to_string() + "\n").collect());
        }
        data
    }

    /// Reads the data of the `ConfigMap`. Returns `None` if the source of the copy is not named. A
    /// line that is not a key is left out.
    pub fn of_data(data: &BTreeMap<String, String>) -> Option<Self> {
        let keys = data.get(KEYS).map(|lines| lines.lines().filter_map(|line| line.parse().ok()).collect());
        Some(Self { object: data.get(OBJECT)?.clone(), secret: data.get(SECRET)?.clone(), keys })
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

    #[test]
    fn a_copy_holds_only_its_source_and_public_keys() {
        let copy = ClientsCopy { object: "u".to_owned(), secret: "s".to_owned(), keys: Some(vec![key(2), key(1)]) };
        let expected =
            [("keys", format!("{}\n{}\n", key(2), key(1))), ("object", "u".to_owned()), ("secret", "s".to_owned())];
        assert_eq!(copy.to_data(), expected.map(|(name, value)| (name.to_owned(), value)).into());
        let missing = ClientsCopy { keys: None, ..copy.clone() };
        assert!(!missing.to_data().contains_key("keys"));
        assert!(copy.is_of("u", "s") && !copy.is_of("v", "s") && !copy.is_of("u", "t"));
    }

    #[test]
    fn a_bad_line_is_left_out_and_a_copy_without_a_source_is_unusable() {
        let data = |entries: &[(&str, &str)]| {
            entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let lines = format!("x\n\n{}\r\ndescriptor:x25519:AAAA\n", key(1));
        let read = ClientsCopy::of_data(&data(&[("object", "u"), ("secret", "s"), ("keys", &lines), ("newer", "x")]));
        assert_eq!(read.unwrap().keys, Some(vec![key(1)]));
        for unusable in [data(&[("secret", "s"), ("keys", "")]), data(&[("object", "u"), ("keys", "")]), data(&[])] {
            assert_eq!(ClientsCopy::of_data(&unusable), None);
        }
    }

    proptest! {
        #[test]
        fn a_copy_is_read_as_it_was_written(
            object in "\\PC{0,40}", secret in "\\PC{0,40}", numbers in option::of(vec(any::<u8>(), 0..5)),
        ) {
            let keys = numbers.map(|numbers| numbers.into_iter().map(key).collect());
            let copy = ClientsCopy { object, secret, keys };
            prop_assert_eq!(ClientsCopy::of_data(&copy.to_data()), Some(copy));
        }

        #[test]
        fn reading_never_panics(data in btree_map("object|secret|keys|\\PC{0,6}", "(\\PC|\n|descriptor:x25519:[A-Z2-7]{50,54}){0,80}", 0..5)) {
            let _ = ClientsCopy::of_data(&data);
        }
    }
}
