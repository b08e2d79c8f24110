//! The backends, as the status and the metrics show them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::crd::BackendState;

/// A backend, as the status and the metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BackendView {
    /// The name of the backend's pod, or the onion address of an external backend.
    pub(super) name: String,
    /// The backend's own onion address.
    pub(super) onion_address: Option<String>,
    /// The number of the backend's introduction points that are published.
    pub(super) points: usize,
    /// The backend's state.
    pub(super) state: BackendState,
    /// The time at which the backend entered its current state.
    pub(super) since: SystemTime,
    /// The parts of the backend's descriptor that are not published, or the reason why nothing is
    /// published.
    pub(super) message: Option<String>,
    /// The ports whose targets fail at the backend, with the reasons.
    pub(super) failing: BTreeMap<u16, String>,
}

/// The state of each backend, and the time at which the backend entered it.
#[derive(Debug)]
pub(super) struct StateHistory<Id>(BTreeMap<Id, (BackendState, SystemTime)>);

impl<Id> Default for StateHistory<Id> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<Id: Ord> StateHistory<Id> {
    /// Records the current state of a backend. Returns the time at which the backend entered that
    /// state.
    pub(super) fn enter(&mut self, id: Id, state: BackendState, now: SystemTime) -> SystemTime {
        let entry = self.0.entry(id).or_insert((state, now));
        if entry.0 != state {
            *entry = (state, now);
        }
        entry.1
    }

    /// Forgets all backends that no longer exist.
    pub(super) fn retain(&mut self, mut exists: impl FnMut(&Id) -> bool) {
        self.0.retain(|id, _| exists(id));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn since_is_the_time_at_which_the_state_was_entered() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut states = StateHistory::default();
        assert_eq!(states.enter("a", BackendState::Starting, at(10)), at(10));
        assert_eq!(states.enter("a", BackendState::Starting, at(20)), at(10));
        assert_eq!(states.enter("a", BackendState::Ready, at(30)), at(30));
        assert_eq!(states.enter("a", BackendState::Starting, at(40)), at(40), "the backend entered this state again");
        states.retain(|id| *id != "a");
        assert_eq!(states.enter("a", BackendState::Starting, at(50)), at(50));
    }
}
