//! The clients of a service with restricted discovery: who may connect, and who should but cannot.

use crate::crd::RestrictedDiscovery;
use crate::crd::clients::{ClientList, authorize};
use crate::onion::descriptor::MAX_AUTHORIZED_CLIENTS;
use crate::operator::conditions::Verdict;

/// Problems that a message names; the others are counted.
const NAMED: usize = 10;

/// None where discovery is open. `secret` is what the named Secret holds, if it is there.
pub(super) fn verdict(restricted: Option<&RestrictedDiscovery>, secret: Option<&ClientList>) -> Option<Verdict> {
    let restricted = restricted?;
    let in_spec = ClientList::of_spec(&restricted.clients);
    if let (Some(name), None) = (&restricted.secret_name, secret) {
        return Some(Verdict::no(
            "ClientsSecretNotFound",
            format!(
                "Secret {name}, named by spec.restrictedDiscovery.secretName, is not there; create it with an entry <name>.auth \
                 for each client. Until then only {} of spec.restrictedDiscovery.clients may connect, and those whom the \
                 publisher read from the Secret before.",
                people(in_spec.clients.len())
            ),
        ));
    }
    let lists = [Some(&in_spec), secret];
    let authorized = authorize(lists.into_iter().flatten());
    let admitted = people(authorized.keys.len());
    if !authorized.left_out.is_empty() {
        let names = listed(&authorized.left_out, ", ");
        let message = format!("A descriptor holds {MAX_AUTHORIZED_CLIENTS} clients; these cannot connect: {names}.");
        return Some(Verdict::no("TooManyClients", message));
    }
    let mut problems = in_spec.problems;
    if let (Some(name), Some(secret)) = (&restricted.secret_name, secret) {
        problems.extend(secret.problems.iter().map(|problem| format!("Secret {name}: {problem}")));
    }
    if !problems.is_empty() {
        let message = format!("{}. {admitted} may connect.", listed(&problems, "; "));
        return Some(Verdict::no("ClientsInvalid", message));
    }
    if authorized.keys.is_empty() {
        return Some(Verdict::no(
            "NoClients",
            "Nobody may connect; name clients in spec.restrictedDiscovery, or remove it to admit everybody.",
        ));
    }
    Some(Verdict::yes("Restricted", format!("{admitted} may connect.")))
}

fn people(count: usize) -> String {
    if count == 1 { "1 client".to_owned() } else { format!("{count} clients") }
}

fn listed(items: &[String], separator: &str) -> String {
    let named: Vec<&str> = items.iter().take(NAMED).map(String::as_str).collect();
    match items.len() - named.len() {
        0 => named.join(separator),
        others => format!("{}{separator}and {others} more", named.join(separator)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use k8s_openapi::ByteString;
    use serde_json::{Value, json};

    use super::super::testing::{healthy, planned, said, with};
    use super::*;
    use crate::crd::{OnionBalancedService, OnionBalancedServiceStatus};
    use crate::onion::ClientSecretKey;

    fn key(number: u8) -> String {
        ClientSecretKey::from_bytes([number; 32]).public().to_string()
    }

    fn secret(entries: &[(&str, &str)]) -> ClientList {
        let data: BTreeMap<String, ByteString> =
            entries.iter().map(|(name, text)| ((*name).to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
        ClientList::of_secret(&data)
    }

    /// A healthy service whose publisher says that so many clients can open its descriptor.
    fn restricted(spec: Value, published_for: Value) -> Arc<OnionBalancedService> {
        let object = with(&healthy().object, "spec/restrictedDiscovery", spec);
        with(&object, "status/published/0/authorizedClients", published_for)
    }

    fn status(spec: Value, clients_secret: Option<ClientList>) -> OnionBalancedServiceStatus {
        planned(&super::super::Observed { object: restricted(spec, json!(1)), clients_secret, ..healthy() }).1
    }

    #[test]
    fn an_open_service_has_no_such_condition() {
        let status = planned(&healthy()).1;
        assert!(status.conditions.iter().all(|condition| condition.type_ != "ClientsReady"));
    }

    #[test]
    fn clients_of_both_sources() {
        let spec = json!({"clients": [{"name": "a", "publicKey": key(1)}], "secretName": "clients"});
        let status = status(spec, Some(secret(&[("b.auth", &key(2))])));
        assert_eq!(said(&status, "ClientsReady"), "True Restricted: 2 clients may connect.");
        assert!(said(&status, "Ready").starts_with("True"), "{}", said(&status, "Ready"));
    }

    #[test]
    fn nobody_is_told() {
        for spec in [json!({}), json!({"clients": []})] {
            let status = status(spec, None);
            assert_eq!(
                said(&status, "Ready"),
                "False NoClients: Nobody may connect; name clients in spec.restrictedDiscovery, or remove it to admit everybody."
            );
        }
    }

    #[test]
    fn a_missing_secret_is_told() {
        let said = said(&status(json!({"secretName": "clients"}), None), "ClientsReady");
        assert!(
            said.starts_with(
                "False ClientsSecretNotFound: Secret clients, named by spec.restrictedDiscovery.secretName"
            )
        );
        assert!(said.contains("only 0 clients of spec.restrictedDiscovery.clients may connect"), "{said}");
    }

    #[test]
    fn a_bad_entry_is_named_and_the_others_work() {
        let secret = secret(&[("a.auth", &key(1)), ("b.auth", "descriptor:x25519:geheim"), ("c", "x")]);
        assert_eq!(
            said(&status(json!({"secretName": "clients"}), Some(secret)), "ClientsReady"),
            "False ClientsInvalid: Secret clients: b.auth: is not of the form descriptor:x25519:<52 base32 characters>; \
             Secret clients: 1 entries have names that do not end in .auth. 1 client may connect."
        );
    }

    #[test]
    fn who_does_not_fit_is_named() {
        let entries: Vec<(String, String)> =
            (1..=140).map(|number| (format!("client-{number}.auth"), key(number))).collect();
        let entries: Vec<(&str, &str)> = entries.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
        let said = said(&status(json!({"secretName": "clients"}), Some(secret(&entries))), "ClientsReady");
        assert!(
            said.starts_with("False TooManyClients: A descriptor holds 128 clients; these cannot connect: client-")
        );
        assert!(said.ends_with(", and 2 more."), "{said}");
    }

    #[test]
    fn a_descriptor_that_is_still_open_is_told() {
        let object = restricted(json!({"clients": [{"name": "a", "publicKey": key(1)}]}), Value::Null);
        let status = planned(&super::super::Observed { object, ..healthy() }).1;
        assert!(said(&status, "Published").starts_with("False NotRestricted: "), "{}", said(&status, "Published"));
    }
}
