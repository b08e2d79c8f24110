//! The failing watches of the operator. A failure is logged once and shown by the probes and
//! metrics. As long as a watch has not listed all objects, nothing is reconciled, so no status can
//! report it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt as _};
use kube::runtime::watcher::{Error, Event};

use crate::common::complaint::{Complaint, cause};

/// The failing watches of the operator, by name, with the cause.
#[derive(Debug, Clone, Default)]
pub struct Watches(Arc<Mutex<BTreeMap<Name, String>>>);

/// The resource and the namespace of a watch, or `None` for all namespaces.
type Name = (String, Option<String>);

impl Watches {
    /// Returns the monitor of the watch of a resource in a namespace, or in all namespaces.
    pub fn of(&self, resource: &str, namespace: Option<&str>) -> Watch {
        let name = (resource.to_owned(), namespace.map(ToOwned::to_owned));
        Watch { name, failing: self.clone(), complaint: Complaint::default() }
    }

    /// Returns the failing watches by resource and namespace, with the cause.
    pub fn failing(&self) -> BTreeMap<Name, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The monitor of one watch.
#[derive(Debug)]
pub struct Watch {
    name: Name,
    failing: Watches,
    complaint: Complaint,
}

impl Watch {
    /// Inspects the events of the watch, and passes them on unchanged.
    pub fn monitor<K>(
        mut self,
        events: impl Stream<Item = Result<Event<K>, Error>>,
    ) -> impl Stream<Item = Result<Event<K>, Error>> {
        events.inspect(move |event| self.inspect(event.as_ref().map(|event| matches!(event, Event::Init))))
    }

    /// Takes note of an event (true if it only announces a new listing) or of a failure.
    fn inspect(&mut self, event: Result<bool, &Error>) {
        let mut failing = self.failing.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(true) => {}
            Ok(false) => {
                self.complaint.settle();
                failing.remove(&self.name);
            }
            // The API server no longer has the requested version, so the watch lists all objects
            // again.
            Err(Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => {
                let (resource, namespace) = &self.name;
                let place =
                    namespace.as_ref().map_or_else(|| "all namespaces".to_owned(), |name| format!("namespace {name}"));
                let cause = cause(error);
                let problem = format!(
                    "cannot watch {resource} in {place}; retrying (are the CRD and the operator's rights of \
                     deploy/rbac.yaml installed?)"
                );
                self.complaint.utter(&problem, &cause);
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
    fn a_watch_fails_until_it_lists_objects() {
        let watches = Watches::default();
        let mut watch = watches.of("secrets", Some("shop"));
        let refused = |code| Error::WatchError(Box::new(Status::failure("secrets is forbidden", "X").with_code(code)));
        watch.inspect(Err(&refused(410)));
        assert!(watches.failing().is_empty());
        watch.inspect(Err(&refused(403)));
        watch.inspect(Ok(true));
        assert_eq!(
            watches.failing().into_keys().collect::<Vec<_>>(),
            [("secrets".to_owned(), Some("shop".to_owned()))]
        );
        watch.inspect(Ok(false));
        assert!(watches.failing().is_empty());
    }
}
