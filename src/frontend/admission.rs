//! Who may find the service, by what is known of its object and of the Secret that this may name.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;

use super::object::Object;
use super::trouble::Trouble;
use crate::crd::AuthorizedClient;
use crate::crd::clients::{ClientList, authorize};
use crate::onion::Discovery;

/// `spec.restrictedDiscovery`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Restriction {
    pub(super) clients: ClientList,
    pub(super) secret_name: Option<String>,
}

impl Restriction {
    /// Read leniently as the object is, and never as less than a restriction.
    pub(super) fn of(restricted: &Value) -> Self {
        let entries = restricted.get("clients").and_then(Value::as_array);
        let entries = entries.into_iter().flatten().map(|entry| serde_json::from_value(entry.clone()));
        let clients: Vec<AuthorizedClient> = entries.filter_map(Result::ok).collect();
        let secret_name = restricted.get("secretName").and_then(Value::as_str).map(ToOwned::to_owned);
        Self { clients: ClientList::of_spec(&clients), secret_name }
    }
}

/// What is known of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenSecret {
    name: String,
    /// None: it is not there.
    clients: Option<ClientList>,
}

/// Decides who may find the service.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// What was last read of the named Secret. It stays when that is gone: a Secret may be made anew.
    from_secret: Option<ClientList>,
}

impl Admission {
    /// None: that is not known yet, and nothing may be published.
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

/// Keeps `seen` as the API server tells of the Secret that the object names, for ever.
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
        let goes_on = match &name {
            None => renamed.await,
            Some(name) => tokio::select! {
                renamed = renamed => renamed,
                () = watch_one(&api, name, &seen) => true,
            },
        };
        if !goes_on {
            return;
        }
    }
}

fn secret_name(object: Option<&Object>) -> Option<String> {
    object?.restriction.as_ref()?.secret_name.clone()
}

async fn watch_one(api: &Api<Secret>, name: &str, seen: &watch::Sender<Option<SeenSecret>>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(60);
    let mut events = pin!(watcher::watcher(api.clone(), config));
    let mut trouble = Trouble::new("cannot watch the Secret of the authorized clients");
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
                trouble.wait_out(&error).await;
                continue;
            }
        };
        trouble.over();
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
    use crate::onion::{ClientPublicKey, ClientSecretKey};

    fn key(number: u8) -> ClientPublicKey {
        ClientSecretKey::from_bytes([number; 32]).public()
    }

    /// An object with these clients, and this Secret named.
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
    fn open_only_where_nothing_restricts_it() {
        let mut admission = Admission::default();
        assert_eq!(admission.decide(None, None), None, "the object is not known");
        assert_eq!(admission.decide(Some(&Object::default()), None), Some(Discovery::Open));
        assert_eq!(admission.decide(Some(&object(&[], None)), None), Some(only(&[])));
        assert_eq!(admission.decide(Some(&object(&[1, 2], None)), None), Some(only(&[1, 2])));
    }

    #[test]
    fn a_restriction_of_another_version_is_one() {
        for restricted in [json!({}), json!("yes"), json!({"clients": "all"}), json!({"clients": [{"key": "x"}, 1]})] {
            assert_eq!(Restriction::of(&restricted), Restriction::default());
        }
        let newer = json!({"clients": [{"name": "a", "publicKey": key(1).to_string(), "until": "x"}]});
        assert_eq!(Restriction::of(&newer).clients.clients, [("a".to_owned(), key(1))]);
    }

    #[test]
    fn a_secret_is_waited_for_and_its_last_clients_stay() {
        let mut admission = Admission::default();
        let both = object(&[1], Some("clients"));
        assert_eq!(admission.decide(Some(&both), None), None, "not read yet");
        assert_eq!(admission.decide(Some(&both), Some(&secret("other", Some(&[9])))), None, "not this one");
        assert_eq!(admission.decide(Some(&both), Some(&secret("clients", Some(&[2, 3])))), Some(only(&[1, 2, 3])));
        assert_eq!(admission.decide(Some(&both), Some(&secret("clients", None))), Some(only(&[1, 2, 3])), "it is gone");
        let fewer = object(&[], Some("clients"));
        assert_eq!(
            admission.decide(Some(&fewer), Some(&secret("clients", None))),
            Some(only(&[2, 3])),
            "revoked meanwhile"
        );
        assert_eq!(admission.decide(Some(&fewer), Some(&secret("clients", Some(&[])))), Some(only(&[])), "emptied");
        assert_eq!(admission.decide(Some(&object(&[1], None)), None), Some(only(&[1])));
        assert_eq!(admission.decide(Some(&both), None), None, "named again, and not read yet");
    }

    #[test]
    fn a_secret_that_never_was_admits_nobody() {
        let named = object(&[1], Some("clients"));
        assert_eq!(Admission::default().decide(Some(&named), Some(&secret("clients", None))), Some(only(&[1])));
    }
}
