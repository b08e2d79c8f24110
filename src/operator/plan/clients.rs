//! The authorized clients of a service with restricted discovery, and the problems that keep some
//! of them from connecting.

use crate::crd::clients::{ClientList, authorize};
use crate::crd::{Reason, RestrictedDiscovery};
use crate::onion::descriptor::MAX_AUTHORIZED_CLIENTS;
use crate::operator::conditions::Finding;

/// The maximum number of clients or problems that a message lists. If there are more, the message
/// ends with the number of the remaining ones.
const NAMED: usize = 10;

/// Returns the finding about the authorized clients, or `None` if discovery is not restricted.
/// `secret` is the content of the Secret that the spec names, if that Secret exists.
pub(super) fn finding(restricted: Option<&RestrictedDiscovery>, secret: Option<&ClientList>) -> Option<Finding> {
    let restricted = restricted?;
    let in_spec = ClientList::of_spec(&restricted.clients);
    if let (Some(name), None) = (&restricted.secret_name, secret) {
        return Some(Finding::no(
            Reason::ClientsSecretNotFound,
            format!(
                "Secret {name}, named by spec.restrictedDiscovery.secretName, is missing; create it with an entry \
                 <name>.auth for each client. Until then, only {} from spec.restrictedDiscovery.clients may connect, \
                 along with the clients that a running publisher knows from the Secret.",
                people(in_spec.clients.len())
            ),
        ));
    }
    let lists = [Some(&in_spec), secret];
    let authorized = authorize(lists.into_iter().flatten());
    let admitted = people(authorized.keys.len());
    if !authorized.left_out.is_empty() {
        let names = listed(&authorized.left_out, ", ");
        let message =
            format!("A descriptor holds at most {MAX_AUTHORIZED_CLIENTS} clients; these cannot connect: {names}.");
        return Some(Finding::no(Reason::TooManyClients, message));
    }
    let mut problems = in_spec.problems;
    if let (Some(name), Some(secret)) = (&restricted.secret_name, secret) {
        problems.extend(secret.problems.iter().map(|problem| format!("Secret {name}: {problem}")));
    }
    if !problems.is_empty() {
        let message = format!("{}. {admitted} may connect.", listed(&problems, "; "));
        return Some(Finding::no(Reason::ClientsInvalid, message));
    }
    if authorized.keys.is_empty() {
        return Some(Finding::no(
            Reason::NoClients,
            "Nobody may connect; add clients to spec.restrictedDiscovery, or remove it to admit everyone.",
        ));
    }
    Some(Finding::yes(Reason::Restricted, format!("{admitted} may connect.")))
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

    use super::*;
    use crate::crd::{OnionBalancedService, OnionBalancedServiceStatus};
    use crate::onion::ClientSecretKey;
    use crate::operator::plan::Observed;
    use crate::operator::plan::tests::support::{concluded, condition, healthy, with};

    fn key(number: u8) -> String {
        ClientSecretKey::from_bytes([number; 32]).public().to_string()
    }

    fn secret(entries: &[(&str, &str)]) -> ClientList {
        let data: BTreeMap<String, ByteString> =
            entries.iter().map(|(name, text)| ((*name).to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
        ClientList::of_secret(&data)
    }

    /// Returns a healthy service with restricted discovery. Its publisher reports the number of
    /// clients that can decrypt the descriptor.
    fn restricted(spec: Value, published_for: Value) -> Arc<OnionBalancedService> {
        let object = with(&healthy().object, "spec/restrictedDiscovery", spec);
        with(&object, "status/published/0/authorizedClients", published_for)
    }

    fn status(spec: Value, clients_secret: Option<ClientList>) -> OnionBalancedServiceStatus {
        concluded(&Observed { object: restricted(spec, json!(1)), clients_secret, ..healthy() }).1
    }

    #[test]
    fn an_open_service_has_no_condition_about_clients() {
        let status = concluded(&healthy()).1;
        assert!(status.conditions.iter().all(|condition| condition.type_ != "ClientsReady"));
    }

    #[test]
    fn clients_of_the_spec_and_the_secret_are_counted_together() {
        let spec = json!({"clients": [{"name": "a", "publicKey": key(1)}], "secretName": "clients"});
        let status = status(spec, Some(secret(&[("b.auth", &key(2))])));
        assert_eq!(condition(&status, "ClientsReady"), "True Restricted: 2 clients may connect.");
        assert!(condition(&status, "Ready").starts_with("True"), "{}", condition(&status, "Ready"));
    }

    #[test]
    fn a_service_without_clients_is_not_ready() {
        for spec in [json!({}), json!({"clients": []})] {
            let status = status(spec, None);
            assert_eq!(
                condition(&status, "Ready"),
                "False NoClients: Nobody may connect; add clients to spec.restrictedDiscovery, or remove it to admit everyone."
            );
        }
    }

    #[test]
    fn a_missing_secret_is_named() {
        let found = condition(&status(json!({"secretName": "clients"}), None), "ClientsReady");
        assert!(
            found.starts_with(
                "False ClientsSecretNotFound: Secret clients, named by spec.restrictedDiscovery.secretName"
            )
        );
        assert!(found.contains("only 0 clients from spec.restrictedDiscovery.clients may connect"), "{found}");
    }

    #[test]
    fn a_bad_entry_is_named_and_the_others_may_connect() {
        let secret = secret(&[("a.auth", &key(1)), ("b.auth", "descriptor:x25519:geheim"), ("c", "x")]);
        assert_eq!(
            condition(&status(json!({"secretName": "clients"}), Some(secret)), "ClientsReady"),
            "False ClientsInvalid: Secret clients: b.auth: is not of the form descriptor:x25519:<52 base32 characters>; \
             Secret clients: entries whose names do not end in .auth: 1. 1 client may connect."
        );
    }

    #[test]
    fn clients_that_do_not_fit_are_named() {
        let entries: Vec<(String, String)> =
            (1..=140).map(|number| (format!("client-{number}.auth"), key(number))).collect();
        let entries: Vec<(&str, &str)> = entries.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
        let found = condition(&status(json!({"secretName": "clients"}), Some(secret(&entries))), "ClientsReady");
        assert!(found.starts_with(
            "False TooManyClients: A descriptor holds at most 128 clients; these cannot connect: client-"
        ));
        assert!(found.ends_with(", and 2 more."), "{found}");
    }

    #[test]
    fn an_open_descriptor_of_a_restricted_service_is_reported() {
        let object = restricted(json!({"clients": [{"name": "a", "publicKey": key(1)}]}), Value::Null);
        let status = concluded(&Observed { object, ..healthy() }).1;
        assert!(
            condition(&status, "Published").starts_with("False NotRestricted: "),
            "{}",
            condition(&status, "Published")
        );
    }
}
