//! The operator's failing watches. A failure is logged once, and shown by the probes and metrics
//! until it ends. It cannot be reported in a status, because nothing is reconciled until every
//! watch has listed all objects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt as _};
use kube::runtime::watcher::{Error, Event};

use crate::common::complaint::{Complaint, cause};

/// The operator's failing watches, by name, with the causes of the failures.
#[derive(Debug, Clone, Default)]
pub struct Watches(Arc<Mutex<BTreeMap<Name, String>>>);

/// The name of a watch: its resource and its namespace, or `None` for all namespaces.
type Name = (String, Option<String>);

impl Watches {
    /// Returns the monitor for the watch on a resource, in one namespace or in all namespaces.
    pub fn of(&self, resource: &str, namespace: Option<&str>) -> Watch {
        let name = (resource.to_owned(), namespace.map(ToOwned::to_owned));
        Watch { name, failing: self.clone(), complaint: Complaint::default() }
    }

    /// Returns the failing watches by resource and namespace, with the causes of the failures.
    pub fn failing(&self) -> BTreeMap<Name, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The monitor of one watch, which records in [`Watches`] whether the watch is failing.
#[derive(Debug)]
pub struct Watch {
    name: Name,
    failing: Watches,
    complaint: Complaint,
}

impl Watch {
    /// Inspects the events of the watch and passes them on unchanged.
    pub fn monitor<K>(
        mut self,
        events: impl Stream<Item = Result<Event<K>, Error>>,
    ) -> impl Stream<Item = Result<Event<K>, Error>> {
        events.inspect(move |event| self.inspect(event.as_ref().map(|event| matches!(event, Event::Init))))
    }

    /// Records that the server has refused the watch.
    #[cfg(test)]
    pub(super) fn fail_for_tests(mut self) {
        let status = kube::core::Status::failure("forbidden", "Forbidden").with_code(403);
        self.inspect(Err(&Error::WatchError(Box::new(status))));
    }

    /// Records an event or a failure. `Ok(true)` stands for an event that only announces a new
    /// listing.
    fn inspect(&mut self, event: Result<bool, &Error>) {
        let mut failing = self.failing.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(true) => {}
            Ok(false) => {
                self.complaint.settle();
                failing.remove(&self.name);
            }
            // The API server has discarded the requested version, so the watch lists all objects
            // again.
            Err(Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => {
                let (resource, namespace) = &self.name;
                let place =
                    namespace.as_ref().map_or_else(|| "all namespaces".to_owned(), |name| format!("namespace {name}"));
                let cause = cause(error);
                let problem = format!(
                    "cannot watch {resource} in {place}; retrying (check that the CRD and the permissions in \
                     deploy/rbac.yaml are installed)"
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
