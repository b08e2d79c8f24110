//! What keeps watches from their work: logged once, and told to probes and metrics. While one has not listed everything, no object
//! is looked at, so no status can tell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt as _};
use kube::runtime::watcher::{Error, Event};

use crate::common::complaint::{Complaint, cause};

/// All watches of the operator.
#[derive(Debug, Clone, Default)]
pub struct Watches(Arc<Mutex<BTreeMap<Name, String>>>);

/// Resource and namespace; none: all.
type Name = (String, Option<String>);

impl Watches {
    /// The watch of a resource in a namespace, or in all.
    pub fn of(&self, resource: &str, namespace: Option<&str>) -> Watch {
        let name = (resource.to_owned(), namespace.map(ToOwned::to_owned));
        Watch { name, failing: self.clone(), complaint: Complaint::default() }
    }

    /// Those that fail, by resource and namespace, with the cause.
    pub fn failing(&self) -> BTreeMap<Name, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One of them.
#[derive(Debug)]
pub struct Watch {
    name: Name,
    failing: Watches,
    complaint: Complaint,
}

impl Watch {
    /// Listens to what comes, and changes nothing of it.
    pub fn listen<K>(
        mut self,
        events: impl Stream<Item = Result<Event<K>, Error>>,
    ) -> impl Stream<Item = Result<Event<K>, Error>> {
        events.inspect(move |event| self.hear(event.as_ref().map(|event| matches!(event, Event::Init))))
    }

    /// That a listing begins says nothing yet.
    fn hear(&mut self, event: Result<bool, &Error>) {
        let mut failing = self.failing.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(true) => {}
            Ok(false) => {
                self.complaint.settle();
                failing.remove(&self.name);
            }
            // The API server forgot what happened since; all is listed anew.
            Err(Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => {
                let (resource, namespace) = &self.name;
                let place =
                    namespace.as_ref().map_or_else(|| "all namespaces".to_owned(), |name| format!("namespace {name}"));
                let cause = cause(error);
                let what = format!(
                    "cannot watch {resource} in {place}, and tries again (are the CRD and the operator's rights of \
                     deploy/rbac.yaml installed?)"
                );
                self.complaint.utter(&what, &cause);
                failing.insert(self.name.clone(), cause);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_watch_fails_until_it_lists() {
        let watches = Watches::default();
        let mut watch = watches.of("secrets", Some("shop"));
        let refused = |code| Error::WatchError(Box::new(Status::failure("secrets is forbidden", "X").with_code(code)));
        watch.hear(Err(&refused(410)));
        assert!(watches.failing().is_empty());
        watch.hear(Err(&refused(403)));
        watch.hear(Ok(true));
        assert_eq!(
            watches.failing().into_keys().collect::<Vec<_>>(),
            [("secrets".to_owned(), Some("shop".to_owned()))]
        );
        watch.hear(Ok(false));
        assert!(watches.failing().is_empty());
    }
}
