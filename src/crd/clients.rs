//! The authorized clients of a service with restricted discovery.
//!
//! Both the operator and the publisher read the clients from the spec and from a Secret.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;

use super::AuthorizedClient;
use crate::onion::descriptor::MAX_AUTHORIZED_CLIENTS;
use crate::onion::{ClientPublicKey, Discovery};

/// The suffix of the client entries in a Secret, the same as that of the files in C tor's
/// `authorized_clients` directory.
const ENDING: &str = ".auth";

/// The authorized clients from one source, the spec or a Secret, in the order in which the source
/// lists them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientList {
    /// The name and the public key of each valid client.
    pub clients: Vec<(String, ClientPublicKey)>,
    /// A message for each invalid entry. A message never contains the entry's value, which could be
    /// a private key.
    pub problems: Vec<String>,
}

/// The authorized clients from all sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorized {
    /// The public keys of the authorized clients, at most [`MAX_AUTHORIZED_CLIENTS`].
    pub keys: BTreeSet<ClientPublicKey>,
    /// The names of the clients that are left out because they exceed the limit.
    pub left_out: Vec<String>,
}

impl Authorized {
    /// Returns the discovery mode that admits only these clients. If there are no clients, nobody
    /// can connect.
    pub fn discovery(self) -> Discovery {
        Discovery::Restricted(self.keys)
    }
}

impl ClientList {
    /// Reads the clients in `spec.restrictedDiscovery.clients`.
    pub fn of_spec<'a>(clients: impl IntoIterator<Item = &'a AuthorizedClient>) -> Self {
        let mut list = Self::default();
        for (index, AuthorizedClient { name, public_key }) in clients.into_iter().enumerate() {
            match public_key.parse() {
                Ok(key) => list.clients.push((name.clone(), key)),
                Err(error) => {
                    list.problems.push(format!("spec.restrictedDiscovery.clients[{index}].publicKey: {error}"));
                }
            }
        }
        list
    }

    /// Reads the clients in the Secret that `spec.restrictedDiscovery.secretName` names. Like C
    /// tor's `authorized_clients` directory, the Secret has an entry `<name>.auth` for each client.
    pub fn of_secret(data: &BTreeMap<String, ByteString>) -> Self {
        let mut list = Self::default();
        let mut others = 0;
        for (entry, ByteString(bytes)) in data {
            let Some(name) = entry.strip_suffix(ENDING) else {
                others += 1;
                continue;
            };
            match str::from_utf8(bytes).unwrap_or_default().parse() {
                Ok(key) => list.clients.push((name.to_owned(), key)),
                Err(error) => list.problems.push(format!("{entry}: {error}")),
            }
        }
        if others > 0 {
            list.problems.push(format!("entries whose names do not end in {ENDING}: {others}"));
        }
        list
    }
}

/// Combines the lists in their order and keeps the first [`MAX_AUTHORIZED_CLIENTS`] clients.
///
/// The operator and the publisher therefore keep the same clients. A client that is removed from
/// the lists always loses its access, even if the remaining clients still exceed the limit.
pub fn authorize<'a>(lists: impl IntoIterator<Item = &'a ClientList>) -> Authorized {
    let mut authorized = Authorized { keys: BTreeSet::new(), left_out: Vec::new() };
    for (name, key) in lists.into_iter().flat_map(|list| &list.clients) {
        if authorized.keys.len() < MAX_AUTHORIZED_CLIENTS || authorized.keys.contains(key) {
            authorized.keys.insert(*key);
        } else {
            authorized.left_out.push(name.clone());
        }
    }
    authorized
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onion::ClientSecretKey;

    fn key(number: u8) -> ClientPublicKey {
        ClientSecretKey::from_bytes([number; 32]).public()
    }

    fn list(numbers: impl IntoIterator<Item = u8>) -> ClientList {
        let clients = numbers.into_iter().map(|number| (format!("client-{number}"), key(number))).collect();
        ClientList { clients, problems: Vec::new() }
    }

    #[test]
    fn a_secret_has_the_format_of_authorized_clients() {
        let data: BTreeMap<String, ByteString> = [
            ("alice.auth", format!("{}\n", key(1)).into_bytes()),
            ("bob.auth", b"descriptor:x25519:tooshort".to_vec()),
            ("carol.auth", vec![0xff]),
            ("tls.key", b"secret".to_vec()),
        ]
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), ByteString(bytes)))
        .collect();
        let read = ClientList::of_secret(&data);
        assert_eq!(read.clients, [("alice".to_owned(), key(1))]);
        let form = "is not of the form descriptor:x25519:<52 base32 characters>";
        let expected = [
            format!("bob.auth: {form}"),
            format!("carol.auth: {form}"),
            "entries whose names do not end in .auth: 1".into(),
        ];
        assert_eq!(read.problems, expected);
    }

    #[test]
    fn both_sources_are_combined_and_a_key_counts_once() {
        assert_eq!(authorize([&list([1, 2]), &list([2, 3])]).keys, [key(1), key(2), key(3)].into());
        assert_eq!(authorize([]).discovery(), Discovery::Restricted(BTreeSet::new()));
    }

    #[test]
    fn only_the_first_clients_are_admitted() {
        let authorized = authorize([&list(1..=100), &list(90..=130)]);
        assert_eq!((authorized.keys.len(), authorized.left_out.join(" ")), (128, "client-129 client-130".to_owned()));
        let fewer = authorize([&list(2..=100), &list(90..=130)]);
        assert!(!fewer.keys.contains(&key(1)) && fewer.keys.contains(&key(129)));
    }
}
