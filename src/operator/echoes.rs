//! What we wrote comes back to us through the watches. It tells nothing that the look that wrote it did not know, so it leads to
//! no other look: of a new object's children alone there are more than a dozen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::Event;

/// What was written and did not come back yet: UIDs, with the resource version of the last write. One that came back before the
/// API server's answer did stays until that object is written or deleted.
#[derive(Debug, Clone, Default)]
pub struct Echoes(Arc<Mutex<HashMap<String, String>>>);

impl Echoes {
    /// This was written, and is as the API server answered.
    pub fn expect(&self, written: &ObjectMeta) {
        if let (Some(uid), Some(version)) = (&written.uid, &written.resource_version) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone(), version.clone());
        }
    }

    /// Whether an event is no more than that. What was listed anew never is: changes before ours may be in it, which were not seen
    /// one by one.
    pub fn has<K: Resource>(&self, event: &Event<K>) -> bool {
        let (metadata, deleted) = match event {
            Event::Apply(object) => (object.meta(), false),
            Event::Delete(object) => (object.meta(), true),
            Event::InitApply(_) | Event::Init | Event::InitDone => return false,
        };
        let Some(uid) = &metadata.uid else { return false };
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_echo =
            !deleted && expected.get(uid).is_some_and(|version| metadata.resource_version.as_ref() == Some(version));
        if is_echo || deleted {
            expected.remove(uid);
        }
        is_echo
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;

    use super::*;

    fn secret(uid: &str, version: &str) -> Secret {
        let metadata = ObjectMeta {
            uid: Some(uid.to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        Secret { metadata, ..Secret::default() }
    }

    #[test]
    fn only_the_very_version_that_we_wrote_is_an_echo_and_only_once() {
        let echoes = Echoes::default();
        echoes.expect(&secret("a", "7").metadata);
        assert!(!echoes.has(&Event::Apply(secret("b", "7"))));
        assert!(!echoes.has(&Event::Apply(secret("a", "6"))), "a change before ours");
        assert!(!echoes.has(&Event::InitApply(secret("a", "7"))), "listed anew");
        assert!(echoes.has(&Event::Apply(secret("a", "7"))));
        assert!(!echoes.has(&Event::Apply(secret("a", "7"))));
    }

    #[test]
    fn what_is_deleted_is_forgotten() {
        let echoes = Echoes::default();
        echoes.expect(&secret("a", "7").metadata);
        assert!(!echoes.has(&Event::Delete(secret("a", "7"))), "its end brings us back");
        assert!(echoes.0.lock().unwrap().is_empty());
    }
}
