//! Echoes: watch events that our own writes cause. The reconciliation that made the write already
//! knows its result, so an echo does not trigger another reconciliation. Creating a single service
//! causes more than a dozen echoes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc::UnboundedSender;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;

use super::guarded::Guarded;

/// The record of our own writes, which distinguishes echoes from changes. An event that arrives
/// while its service is being reconciled is held back until that reconciliation ends, because an
/// echo often arrives before the API server's response to the write. This causes no delay: the next
/// reconciliation could not begin earlier anyway.
#[derive(Debug, Clone, Default)]
pub struct Echoes(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The writes whose echoes have not arrived yet. The key is an object's UID. The value is the
    /// resource version that our last write gave the object. If an echo never arrives, because the
    /// write changed nothing or the watch was restarted, the entry stays until the object is
    /// written again or deleted.
    expected: HashMap<String, String>,
    /// The changes that have arrived for services that are being reconciled.
    waiting: HashMap<ObjectRef<Guarded>, Vec<SeenChange>>,
}

/// A change to an object, as reported by a watch event.
#[derive(Debug)]
struct SeenChange {
    uid: Option<String>,
    version: Option<String>,
    kind: ChangeKind,
}

/// The kind of change that a watch event reports.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ChangeKind {
    Written,
    /// The object is part of a new listing. This event is never an echo, because a listing can
    /// include earlier changes that were not reported individually.
    Listed,
    Deleted,
}

impl Echoes {
    /// Records a write from the metadata in the API server's response, so that its echo is
    /// recognised.
    pub fn expect(&self, written: &ObjectMeta) {
        if let (Some(uid), Some(version)) = (&written.uid, &written.resource_version) {
            self.state().expected.insert(uid.clone(), version.clone());
        }
    }

    /// Marks the beginning of a service's reconciliation. When the reconciliation ends, the service
    /// is sent to `again` if changes have arrived in the meantime.
    pub fn begin(&self, object: ObjectRef<Guarded>, again: UnboundedSender<ObjectRef<Guarded>>) -> Reconciliation {
        self.state().waiting.insert(object.clone(), Vec::new());
        Reconciliation { object, again, echoes: self.clone() }
    }

    /// Returns true if an event of a service or of one of its objects is known to be a change
    /// rather than an echo.
    pub fn is_change<K: Resource>(&self, event: &Event<K>, object: &ObjectRef<Guarded>) -> bool {
        let (metadata, kind) = match event {
            Event::Apply(touched) => (touched.meta(), ChangeKind::Written),
            Event::InitApply(touched) => (touched.meta(), ChangeKind::Listed),
            Event::Delete(touched) => (touched.meta(), ChangeKind::Deleted),
            Event::Init | Event::InitDone => return false,
        };
        let found = SeenChange { uid: metadata.uid.clone(), version: metadata.resource_version.clone(), kind };
        let mut state = self.state();
        if let Some(waiting) = state.waiting.get_mut(object) {
            waiting.push(found);
            return false;
        }
        !state.is_echo(&found)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns true if a change is an expected echo. An echo is expected only once.
    fn is_echo(&mut self, found: &SeenChange) -> bool {
        let Some(uid) = &found.uid else { return false };
        let is_expected = self.expected.get(uid).is_some_and(|version| found.version.as_ref() == Some(version));
        let is_echo = is_expected && found.kind == ChangeKind::Written;
        if is_expected || found.kind == ChangeKind::Deleted {
            self.expected.remove(uid);
        }
        is_echo
    }
}

/// The guard of a running reconciliation, which ends when the guard is dropped.
#[derive(Debug)]
pub struct Reconciliation {
    object: ObjectRef<Guarded>,
    again: UnboundedSender<ObjectRef<Guarded>>,
    echoes: Echoes,
}

impl Drop for Reconciliation {
    fn drop(&mut self) {
        let mut state = self.echoes.state();
        let waiting = state.waiting.remove(&self.object).unwrap_or_default();
        // Each change must be checked, because an echo is expected only once.
        if waiting.iter().filter(|found| !state.is_echo(found)).count() > 0 {
            // Sending fails only if the operator is stopping.
            let _ = self.again.unbounded_send(self.object.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
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

    fn web() -> ObjectRef<Guarded> {
        ObjectRef::new("web").within("shop")
    }

    #[test]
    fn only_the_version_that_we_wrote_is_an_echo_and_only_once() {
        let echoes = Echoes::default();
        let is_change = |event| echoes.is_change(&event, &web());
        echoes.expect(&secret("a", "7").metadata);
        assert!(is_change(Event::Apply(secret("b", "7"))));
        assert!(is_change(Event::Apply(secret("a", "6"))), "a change before our write");
        assert!(!is_change(Event::Apply(secret("a", "7"))));
        assert!(is_change(Event::Apply(secret("a", "7"))));
        echoes.expect(&secret("a", "8").metadata);
        assert!(is_change(Event::InitApply(secret("a", "8"))), "a new listing");
        assert!(echoes.state().expected.is_empty());
    }

    #[test]
    fn a_deleted_object_is_forgotten() {
        let echoes = Echoes::default();
        echoes.expect(&secret("a", "7").metadata);
        assert!(echoes.is_change(&Event::Delete(secret("a", "7")), &web()), "a deletion is a change");
        assert!(echoes.state().expected.is_empty());
    }

    #[test]
    fn an_event_that_precedes_the_response_to_a_write_is_still_an_echo() {
        let echoes = Echoes::default();
        let (again, mut queue) = mpsc::unbounded();
        let reconciliation = echoes.begin(web(), again.clone());
        assert!(!echoes.is_change(&Event::Apply(secret("a", "7")), &web()));
        assert!(echoes.is_change(&Event::Apply(secret("b", "1")), &ObjectRef::new("other").within("shop")));
        echoes.expect(&secret("a", "7").metadata);
        drop(reconciliation);
        assert!(queue.try_recv().is_err(), "only an echo");
        assert!(echoes.state().expected.is_empty() && echoes.state().waiting.is_empty());

        let reconciliation = echoes.begin(web(), again);
        echoes.expect(&secret("a", "8").metadata);
        for version in ["8", "9"] {
            assert!(!echoes.is_change(&Event::Apply(secret("a", version)), &web()));
        }
        drop(reconciliation);
        assert_eq!(queue.try_recv().unwrap(), web(), "somebody else changed our object");
        assert!(queue.try_recv().is_err(), "once");
    }
}
