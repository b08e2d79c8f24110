//! Determines which clients are authorized to discover the service, based on its object and the
//! Secret that the object names.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;

use super::object::{Object, secret_name};
use super::watch_backoff::WatchBackoff;
use crate::crd::clients::{ClientList, authorize};
use crate::onion::Discovery;

/// The last known state of the Secret with the authorized clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenSecret {
    name: String,
    /// The clients that the Secret authorizes. None if the Secret does not exist.
    clients: Option<ClientList>,
}

/// The rule that decides which clients are authorized to discover the service.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// The clients that the named Secret listed when it was last read. They remain authorized after
    /// the Secret is deleted, because the Secret may be created again.
    from_secret: Option<ClientList>,
}

impl Admission {
    /// Returns the authorized clients. None while they are unknown; nothing may be published then.
    pub(super) fn decide(&mut self, object: Option<&Object>, secret: Option<&SeenSecret>) -> Option<Discovery> {
        let Some(restriction) = object?.restriction.as_ref() else {
            self.from_secret = None;
            return Some(Discovery::Open);
        };
        match &restriction.secret_name {
            None => self.from_secret = None,
            Some(name) => match secret.filter(|secret| secret.name == *name) {
                Some(SeenSecret { clients: Some(clients), .. }) => self.from_secret = Some(clients.clone()),
                Some(SeenSecret { clients: None, .. }) => {}
                None => _ = self.from_secret.as_ref()?,
            },
        }
        Some(authorize([&restriction.clients].into_iter().chain(&self.from_secret)).discovery())
    }
}

/// Watches the Secret that the object names, and keeps `seen` up to date. Returns when the sender
/// of `object` is dropped.
pub(super) async fn watch(
    client: Client,
    namespace: &str,
    mut object: watch::Receiver<Option<Arc<Object>>>,
    seen: watch::Sender<Option<SeenSecret>>,
) {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    loop {
        let name = secret_name(object.borrow_and_update().as_deref());
        let renamed = async {
            let changed = object.wait_for(|object| secret_name(object.as_deref()) != name).await;
            changed.is_ok()
        };
        let continues = match &name {
            None => renamed.await,
            Some(name) => tokio::select! {
                renamed = renamed => renamed,
                () = watch_one(&api, name, &seen) => true,
            },
        };
        if !continues {
            return;
        }
    }
}

async fn watch_one(api: &Api<Secret>, name: &str, seen: &watch::Sender<Option<SeenSecret>>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(60);
    let mut events = pin!(watcher::watcher(api.clone(), config));
    let mut backoff = WatchBackoff::new("cannot watch the Secret of the authorized clients");
    let mut listed = None;
    while let Some(event) = events.next().await {
        let clients = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(secret)) => {
                listed = Some(read(secret));
                continue;
            }
            Ok(Event::InitDone) => listed.take(),
            Ok(Event::Apply(secret)) => Some(read(secret)),
            Ok(Event::Delete(_)) => None,
            Err(error) => {
                backoff.wait(&error).await;
                continue;
            }
        };
        backoff.reset();
        let now = Some(SeenSecret { name: name.to_owned(), clients });
        seen.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

fn read(secret: Secret) -> ClientList {
    let data: BTreeMap<String, ByteString> = secret.data.unwrap_or_default();
    ClientList::of_secret(&data)
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
        Object { restriction: Some(restriction), ..Object::default() }
    }

    fn secret(name: &str, numbers: Option<&[u8]>) -> SeenSecret {
        let entry = |number: &u8| (format!("{number}.auth"), ByteString(key(*number).to_string().into_bytes()));
        let clients = numbers.map(|numbers| ClientList::of_secret(&numbers.iter().map(entry).collect()));
        SeenSecret { name: name.to_owned(), clients }
    }

    fn only(numbers: &[u8]) -> Discovery {
        Discovery::Restricted(numbers.iter().map(|number| key(*number)).collect::<BTreeSet<_>>())
    }

    #[test]
    fn discovery_is_open_only_without_a_restriction() {
        let mut admission = Admission::default();
        assert_eq!(admission.decide(None, None), None, "the object is not known");
        assert_eq!(admission.decide(Some(&Object::default()), None), Some(Discovery::Open));
        assert_eq!(admission.decide(Some(&object(&[], None)), None), Some(only(&[])));
        assert_eq!(admission.decide(Some(&object(&[1, 2], None)), None), Some(only(&[1, 2])));
    }

    #[test]
    fn the_secret_is_awaited_and_its_last_clients_stay_authorized() {
        let mut admission = Admission::default();
        let both = object(&[1], Some("clients"));
        assert_eq!(admission.decide(Some(&both), None), None, "the Secret has not been read yet");
        assert_eq!(admission.decide(Some(&both), Some(&secret("other", Some(&[9])))), None, "another Secret was read");
        assert_eq!(admission.decide(Some(&both), Some(&secret("clients", Some(&[2, 3])))), Some(only(&[1, 2, 3])));
        assert_eq!(
            admission.decide(Some(&both), Some(&secret("clients", None))),
            Some(only(&[1, 2, 3])),
            "the Secret was deleted"
        );
        let fewer = object(&[], Some("clients"));
        assert_eq!(
            admission.decide(Some(&fewer), Some(&secret("clients", None))),
            Some(only(&[2, 3])),
            "a client was revoked in the meantime"
        );
        assert_eq!(admission.decide(Some(&fewer), Some(&secret("clients", Some(&[])))), Some(only(&[])), "emptied");
        assert_eq!(admission.decide(Some(&object(&[1], None)), None), Some(only(&[1])));
        assert_eq!(admission.decide(Some(&both), None), None, "the Secret is named again but has not been read yet");
    }

    #[test]
    fn a_secret_that_never_existed_admits_no_client() {
        let named = object(&[1], Some("clients"));
        assert_eq!(Admission::default().decide(Some(&named), Some(&secret("clients", None))), Some(only(&[1])));
    }
}
