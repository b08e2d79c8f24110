//! Determines which clients are authorized to discover the service, based on its object and the
//! operator's copy of the Secret that the object names.

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;

use super::object::Object;
use super::watch_backoff::WatchBackoff;
use crate::common::log_limit::{Line, LogLimit};
use crate::crd::clients::{ClientList, authorize};
use crate::crd::names;
use crate::link::{AgentToken, ClientsCopy};
use crate::onion::Discovery;

/// The rule that decides which clients are authorized to discover the service.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// The last copy of the Secret that the object names. Its clients remain authorized after the
    /// Secret is deleted, because the Secret may be created again.
    known: Option<ClientsCopy>,
    /// The last decision, which was logged.
    decided: Option<Discovery>,
}

impl Admission {
    /// Returns the authorized clients. None while they are unknown; nothing may be published then.
    /// A copy of another Secret, or for another object of the same name, does not count: the
    /// operator may not have made the right one yet. Logs each new decision.
    pub(super) fn decide(&mut self, object: Option<&Object>, copy: Option<&ClientsCopy>) -> Option<Discovery> {
        let discovery = self.judge(object?, copy)?;
        if self.decided.as_ref() != Some(&discovery) {
            match &discovery {
                Discovery::Open => tracing::info!("restricted discovery is off; any client can connect"),
                Discovery::Restricted(clients) => {
                    let clients = clients.len();
                    tracing::info!(clients, "restricted discovery is on; only authorized clients can connect");
                }
            }
            self.decided = Some(discovery.clone());
        }
        Some(discovery)
    }

    fn judge(&mut self, object: &Object, copy: Option<&ClientsCopy>) -> Option<Discovery> {
        let secret = object.restriction.as_ref().and_then(|restriction| restriction.secret_name.as_deref());
        let is_right = |copy: &ClientsCopy| secret.is_some_and(|secret| copy.is_of(&object.uid, secret));
        self.known = self.known.take().filter(is_right);
        if let Some(copy) = copy.filter(|copy| is_right(copy))
            && (copy.keys.is_some() || self.known.is_none())
        {
            self.known = Some(copy.clone());
        }
        let Some(restriction) = &object.restriction else { return Some(Discovery::Open) };
        let in_secret = match secret {
            None => ClientList::default(),
            Some(_) => clients_in(self.known.as_ref()?),
        };
        Some(authorize([&restriction.clients, &in_secret]).discovery())
    }
}

/// Returns the clients in a copy, which does not contain their names.
fn clients_in(copy: &ClientsCopy) -> ClientList {
    let clients = copy.keys.iter().flatten().map(|key| (String::new(), *key));
    ClientList { clients: clients.collect(), problems: Vec::new() }
}

/// Returns true if the object names a Secret, which the operator then copies.
fn names_secret(object: Option<&Object>) -> bool {
    let restriction = object.and_then(|object| object.restriction.as_ref());
    restriction.is_some_and(|restriction| restriction.secret_name.is_some())
}

/// Watches the operator's copy while the object names a Secret, and keeps `seen` up to date.
/// Returns when the sender of `object` is dropped.
pub(super) async fn watch(
    client: Client,
    namespace: &str,
    service: &str,
    token: AgentToken,
    mut object: watch::Receiver<Option<Arc<Object>>>,
    seen: watch::Sender<Option<ClientsCopy>>,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let name = names::authorized_clients(service);
    while object.wait_for(|object| names_secret(object.as_deref())).await.is_ok() {
        let is_over = tokio::select! {
            unnamed = object.wait_for(|object| !names_secret(object.as_deref())) => unnamed.is_err(),
            () = watch_one(&api, &name, &token, &seen) => false,
        };
        // The copy is no longer watched, so it is outdated when it is needed again.
        seen.send_replace(None);
        if is_over {
            return;
        }
    }
}

async fn watch_one(api: &Api<ConfigMap>, name: &str, token: &AgentToken, seen: &watch::Sender<Option<ClientsCopy>>) {
    let forgeries = LogLimit::default();
    let read = |config_map: ConfigMap| {
        let copy = ClientsCopy::of_data(&config_map.data.unwrap_or_default(), token).ok();
        if copy.is_none()
            && let Some(Line { suppressed }) = forgeries.line()
        {
            tracing::warn!(
                config_map = name,
                suppressed,
                "ignored a copy of the authorized clients that the operator has not written; delete the ConfigMap, so \
                 that the operator writes it again"
            );
        }
        copy
    };
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(60);
    let mut events = pin!(watcher::watcher(api.clone(), config));
    let mut backoff = WatchBackoff::new("cannot watch the copy of the authorized clients");
    let mut listed = None;
    while let Some(event) = events.next().await {
        let now = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(config_map)) => {
                listed = read(config_map);
                continue;
            }
            Ok(Event::InitDone) => listed.take(),
            Ok(Event::Apply(config_map)) => read(config_map),
            Ok(Event::Delete(_)) => None,
            Err(error) => {
                backoff.wait(&error).await;
                continue;
            }
        };
        backoff.reset();
        seen.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::frontend::object::Restriction;
    use crate::onion::{ClientPublicKey, ClientSecretKey};

    fn key(number: u8) -> ClientPublicKey {
        ClientSecretKey::from_bytes([number; 32]).public()
    }

    /// Returns an object that lists these clients and names this Secret.
    fn object(clients: &[u8], secret_name: Option<&str>) -> Object {
        let clients: Vec<_> = clients
            .iter()
            .map(|number| json!({"name": number.to_string(), "publicKey": key(*number).to_string()}))
            .collect();
        let restriction = Restriction::of(&json!({"clients": clients, "secretName": secret_name}));
        Object { uid: "u".to_owned(), restriction: Some(restriction), ..Object::default() }
    }

    /// Returns a copy of a Secret with these clients, made for the object.
    fn copy(secret: &str, numbers: Option<&[u8]>) -> ClientsCopy {
        let keys = numbers.map(|numbers| numbers.iter().map(|number| key(*number)).collect());
        ClientsCopy { object: "u".to_owned(), secret: secret.to_owned(), keys }
    }

    fn only(numbers: &[u8]) -> Discovery {
        Discovery::Restricted(numbers.iter().map(|number| key(*number)).collect::<BTreeSet<_>>())
    }

    #[test]
    fn discovery_is_open_only_without_a_restriction() {
        let mut admission = Admission::default();
        assert_eq!(admission.decide(None, None), None, "the object is not known");
        assert_eq!(admission.decide(Some(&Object::default()), None), Some(Discovery::Open));
        let left_over = copy("clients", Some(&[1]));
        assert_eq!(admission.decide(Some(&Object::default()), Some(&left_over)), Some(Discovery::Open));
        assert_eq!(admission.decide(Some(&object(&[], None)), Some(&left_over)), Some(only(&[])));
        assert_eq!(admission.decide(Some(&object(&[1, 2], None)), None), Some(only(&[1, 2])));
    }

    #[test]
    fn the_copy_is_awaited_and_its_last_clients_stay_authorized() {
        let mut admission = Admission::default();
        let both = object(&[1], Some("clients"));
        assert_eq!(admission.decide(Some(&both), None), None, "the copy has not been read yet");
        assert_eq!(admission.decide(Some(&both), Some(&copy("other", Some(&[9])))), None, "a copy of another Secret");
        assert_eq!(admission.decide(Some(&both), Some(&copy("clients", Some(&[2, 3])))), Some(only(&[1, 2, 3])));
        for gone in [Some(copy("clients", None)), None] {
            let decided = admission.decide(Some(&both), gone.as_ref());
            assert_eq!(decided, Some(only(&[1, 2, 3])), "the Secret or the copy was deleted");
        }
        let fewer = object(&[], Some("clients"));
        assert_eq!(
            admission.decide(Some(&fewer), Some(&copy("clients", None))),
            Some(only(&[2, 3])),
            "a client was revoked in the meantime"
        );
        assert_eq!(admission.decide(Some(&fewer), Some(&copy("clients", Some(&[])))), Some(only(&[])), "emptied");
        assert_eq!(admission.decide(Some(&object(&[1], None)), None), Some(only(&[1])));
        assert_eq!(admission.decide(Some(&both), None), None, "the Secret is named again but has not been read yet");
    }

    #[test]
    fn a_secret_that_never_existed_admits_no_client() {
        let named = object(&[1], Some("clients"));
        assert_eq!(Admission::default().decide(Some(&named), Some(&copy("clients", None))), Some(only(&[1])));
    }

    #[test]
    fn the_clients_of_another_secret_or_object_are_never_authorized() {
        let mut admission = Admission::default();
        let first = object(&[1], Some("clients"));
        let seen = copy("clients", Some(&[2]));
        assert_eq!(admission.decide(Some(&first), Some(&seen)), Some(only(&[1, 2])));
        let renamed = object(&[1], Some("others"));
        assert_eq!(admission.decide(Some(&renamed), Some(&seen)), None, "the object names another Secret");
        assert_eq!(admission.decide(Some(&renamed), Some(&copy("others", None))), Some(only(&[1])));
        assert_eq!(admission.decide(Some(&first), Some(&seen)), Some(only(&[1, 2])));
        let again = Object { uid: "v".to_owned(), ..first };
        assert_eq!(admission.decide(Some(&again), Some(&seen)), None, "the object was created again");
        assert_eq!(admission.decide(Some(&again), None), None);
    }
}
