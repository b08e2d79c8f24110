//! The agents by the onion addresses of their backends, as they answered last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::link::CircuitAddress;
use crate::merge::BackendId;
use crate::onion::OnionAddress;

/// A directory of the agents that have answered. Clones share the content.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentDirectory(Arc<Mutex<BTreeMap<BackendId, Agent>>>);

/// An agent that has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agent {
    /// The backend's own onion address.
    pub(super) onion_address: OnionAddress,
    /// The address of the agent (`host:port`).
    pub(super) authority: String,
}

impl AgentDirectory {
    /// Records an agent's answer.
    pub(super) fn answered(&self, id: &BackendId, agent: Agent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), agent);
    }

    /// Removes the backends that no longer exist.
    pub(super) fn retain(&self, exists: impl Fn(&BackendId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| exists(id));
    }

    /// Returns the agent of the backend to which a circuit belongs. Returns None if there is none,
    /// or if several backends have the mark in the address.
    pub(super) fn of_circuit(&self, address: CircuitAddress) -> Option<(BackendId, Agent)> {
        let agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = agents.iter().filter(|(_, agent)| address.is_of(&agent.onion_address));
        match (found.next(), found.next()) {
            (Some((id, agent)), None) => Some((id.clone(), agent.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_is_found_by_the_mark_of_its_backend() {
        let directory = AgentDirectory::default();
        let agent = |onion: &str, authority: &str| Agent {
            onion_address: onion.parse().unwrap(),
            authority: authority.to_owned(),
        };
        let first = agent("2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion", "10.0.0.1:9400");
        let second = agent("pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion", "10.0.0.2:9400");
        let circuit = "fc00:dead:beef:4dad:d1b3:8b83:0:2a".parse().unwrap();
        let found = || directory.of_circuit(circuit).map(|(id, agent)| (id.0, agent.authority));
        directory.answered(&BackendId("b".into()), second);
        assert_eq!(found(), None);
        directory.answered(&BackendId("a".into()), first.clone());
        assert_eq!(found(), Some(("a".to_owned(), "10.0.0.1:9400".to_owned())));
        directory.answered(&BackendId("c".into()), first);
        assert_eq!(found(), None, "two backends have the mark");
        directory.retain(|id| id.0 == "c");
        assert_eq!(found().unwrap().0, "c");
    }
}
