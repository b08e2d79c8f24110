//! What we wrote comes back to us through the watches. It tells nothing that the look that wrote it did not know, so it leads to
//! no other look: of a new object's children alone there are more than a dozen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc::UnboundedSender;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;

use super::cache::Guarded;

/// Tells what is news from what is an echo. What comes while its object is looked at waits for the end of that look, which would
/// have to end before another begins anyway: it often comes before the API server's answer to the write that it is an echo of.
#[derive(Debug, Clone, Default)]
pub struct Echoes(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What was written and did not come back yet: UIDs, with the resource version of the last write. What never comes back (it changed
    /// nothing, or the watch began anew meanwhile) stays until the next write of that object, or its end.
    expected: HashMap<String, String>,
    /// What came for the objects that are being looked at.
    waiting: HashMap<ObjectRef<Guarded>, Vec<Sighting>>,
}

/// What an event says of something.
#[derive(Debug)]
struct Sighting {
    uid: Option<String>,
    version: Option<String>,
    change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Written,
    /// Changes before ours may be in it, which were not seen one by one: never an echo.
    ListedAnew,
    Deleted,
}

impl Echoes {
    /// This was written, and is as the API server answered.
    pub fn expect(&self, written: &ObjectMeta) {
        if let (Some(uid), Some(version)) = (&written.uid, &written.resource_version) {
            self.state().expected.insert(uid.clone(), version.clone());
        }
    }

    /// A look at an object begins. At its end the object is sent to `again`, if there was news meanwhile.
    pub fn look(&self, object: ObjectRef<Guarded>, again: UnboundedSender<ObjectRef<Guarded>>) -> Look {
        self.state().waiting.insert(object.clone(), Vec::new());
        Look { object, again, echoes: self.clone() }
    }

    /// Whether an event of an object or its child is known to be news.
    pub fn is_news<K: Resource>(&self, event: &Event<K>, object: &ObjectRef<Guarded>) -> bool {
        let (metadata, change) = match event {
            Event::Apply(touched) => (touched.meta(), Change::Written),
            Event::InitApply(touched) => (touched.meta(), Change::ListedAnew),
            Event::Delete(touched) => (touched.meta(), Change::Deleted),
            Event::Init | Event::InitDone => return false,
        };
        let found = Sighting { uid: metadata.uid.clone(), version: metadata.resource_version.clone(), change };
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
    /// An echo is expected but once.
    fn is_echo(&mut self, found: &Sighting) -> bool {
        let Some(uid) = &found.uid else { return false };
        let is_expected = self.expected.get(uid).is_some_and(|version| found.version.as_ref() == Some(version));
        let is_echo = is_expected && found.change == Change::Written;
        if is_expected || found.change == Change::Deleted {
            self.expected.remove(uid);
        }
        is_echo
    }
}

/// A look that goes on, until it is dropped.
#[derive(Debug)]
pub struct Look {
    object: ObjectRef<Guarded>,
    again: UnboundedSender<ObjectRef<Guarded>>,
    echoes: Echoes,
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut state = self.echoes.state();
        let waiting = state.waiting.remove(&self.object).unwrap_or_default();
        // Each, for echoes are expected but once.
        if waiting.iter().filter(|found| !state.is_echo(found)).count() > 0 {
            // Fails only when we are stopping.
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
    fn only_the_very_version_that_we_wrote_is_an_echo_and_only_once() {
        let echoes = Echoes::default();
        let is_news = |event| echoes.is_news(&event, &web());
        echoes.expect(&secret("a", "7").metadata);
        assert!(is_news(Event::Apply(secret("b", "7"))));
        assert!(is_news(Event::Apply(secret("a", "6"))), "a change before ours");
        assert!(!is_news(Event::Apply(secret("a", "7"))));
        assert!(is_news(Event::Apply(secret("a", "7"))));
        echoes.expect(&secret("a", "8").metadata);
        assert!(is_news(Event::InitApply(secret("a", "8"))), "listed anew");
        assert!(echoes.state().expected.is_empty());
    }

    #[test]
    fn what_is_deleted_is_forgotten() {
        let echoes = Echoes::default();
        echoes.expect(&secret("a", "7").metadata);
        assert!(echoes.is_news(&Event::Delete(secret("a", "7")), &web()), "its end brings us back");
        assert!(echoes.state().expected.is_empty());
    }

    #[test]
    fn what_comes_before_the_answer_is_an_echo_too() {
        let echoes = Echoes::default();
        let (again, mut looks) = mpsc::unbounded();
        let look = echoes.look(web(), again.clone());
        assert!(!echoes.is_news(&Event::Apply(secret("a", "7")), &web()));
        assert!(echoes.is_news(&Event::Apply(secret("b", "1")), &ObjectRef::new("other").within("shop")));
        echoes.expect(&secret("a", "7").metadata);
        drop(look);
        assert!(looks.try_recv().is_err(), "nothing new");
        assert!(echoes.state().expected.is_empty() && echoes.state().waiting.is_empty());

        let look = echoes.look(web(), again);
        echoes.expect(&secret("a", "8").metadata);
        for version in ["8", "9"] {
            assert!(!echoes.is_news(&Event::Apply(secret("a", version)), &web()));
        }
        drop(look);
        assert_eq!(looks.try_recv().unwrap(), web(), "somebody changed what we wrote");
        assert!(looks.try_recv().is_err(), "once");
    }
}
