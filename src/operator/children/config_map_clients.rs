//! The `ConfigMap` with the operator's copy of the authorized clients, which the publishers read.
//! It holds only public keys, without the clients' names.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;

use super::Inputs;
use crate::crd::clients::ClientList;
use crate::crd::names::{self, Component};
use crate::link::{AgentToken, ClientsCopy};
use crate::onion::ClientPublicKey;
use crate::onion::descriptor::MAX_AUTHORIZED_CLIENTS;

/// Builds the copy of the authorized clients, or returns `None` if the spec names no Secret.
pub(super) fn config_map(inputs: &Inputs<'_>, token: &AgentToken) -> Option<ConfigMap> {
    let copy = ClientsCopy {
        object: inputs.object.uid().unwrap_or_default(),
        secret: names::clients_secret(inputs.object)?.to_owned(),
        keys: inputs.clients.map(first_keys),
    };
    let name = names::authorized_clients(&inputs.name());
    Some(ConfigMap {
        metadata: inputs.metadata(name, Some(Component::Frontend)),
        data: Some(copy.to_data(token)),
        ..ConfigMap::default()
    })
}

/// Returns the first different keys in their order, as many as a descriptor can hold. The publisher
/// would leave out any further key.
fn first_keys(clients: &ClientList) -> Vec<ClientPublicKey> {
    let mut seen = BTreeSet::new();
    let different = clients.clients.iter().map(|(_, key)| *key).filter(|key| seen.insert(*key));
    different.take(MAX_AUTHORIZED_CLIENTS).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::crd::clients::authorize;
    use crate::onion::ClientSecretKey;
    use crate::operator::children::tests::support::Fixture;

    fn key(number: u8) -> ClientPublicKey {
        ClientSecretKey::from_bytes([number; 32]).public()
    }

    fn list(numbers: &[u8]) -> ClientList {
        let clients = numbers.iter().map(|number| (format!("client-{number}"), key(*number))).collect();
        ClientList { clients, problems: vec!["bob.auth: is not a key".to_owned()] }
    }

    /// Returns the fixture of a service that names the Secret.
    fn restricted() -> Fixture {
        Fixture::of(&json!({"restrictedDiscovery": {"secretName": "clients"}}))
    }

    /// Returns the data of the copy of a Secret with these clients.
    fn data(clients: Option<&ClientList>) -> BTreeMap<String, String> {
        let fixture = restricted();
        let inputs = Inputs { clients, ..fixture.inputs() };
        config_map(&inputs, &fixture.token).unwrap().data.unwrap()
    }

    fn copied(clients: Option<&ClientList>) -> ClientsCopy {
        ClientsCopy::of_data(&data(clients), &restricted().token).unwrap()
    }

    #[test]
    fn the_copy_names_its_source_and_holds_neither_names_nor_problems() {
        let copy = copied(Some(&list(&[2, 1, 2])));
        assert!(copy.is_of("uid-of-web", "clients"));
        assert_eq!(copy.keys, Some(vec![key(2), key(1)]));
        let text = format!("{:?}", data(Some(&list(&[1]))));
        assert!(!text.contains("client-1") && !text.contains("bob"), "{text}");
        assert_eq!(copied(None).keys, None, "the Secret does not exist");
    }

    #[test]
    fn there_is_no_copy_unless_the_spec_names_a_secret() {
        for spec in [json!({}), json!({"restrictedDiscovery": {}})] {
            let fixture = Fixture::of(&spec);
            assert!(config_map(&fixture.inputs(), &fixture.token).is_none(), "{spec}");
        }
    }

    proptest! {
        /// The copy leaves out names and surplus keys, but never a client that would be admitted.
        #[test]
        fn the_copy_admits_the_same_clients_as_the_secret(spec in vec(1_u8.., 0..140), secret in vec(1_u8.., 0..200)) {
            let (spec, secret) = (list(&spec), list(&secret));
            let keys = copied(Some(&secret)).keys.unwrap();
            let copy = ClientList { clients: keys.into_iter().map(|key| (String::new(), key)).collect(), ..ClientList::default() };
            prop_assert_eq!(authorize([&spec, &copy]).keys, authorize([&spec, &secret]).keys);
        }
    }
}
