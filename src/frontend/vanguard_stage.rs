//! Decides which backends get a change of the vanguards first.
//!
//! A tor that gets other vanguards closes its introduction circuits and builds new ones, which
//! takes a second or two. If all backends did this at the same time, clients would find no
//! reachable introduction point. Therefore one half of the backends goes first, and the other half
//! follows when the circuits of the first stand again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::pods::Pods;
use crate::link::Vanguards;
use crate::merge::BackendId;

/// The maximum time for which the second half of the backends waits for the first.
const PATIENCE: Duration = Duration::from_secs(15);

/// The vanguards that each backend uses, by the number that its agent reported last. Clones share
/// the content.
#[derive(Debug, Clone, Default)]
pub(super) struct VanguardBoard(Arc<Mutex<BTreeMap<BackendId, u64>>>);

impl VanguardBoard {
    /// Records an agent's answer.
    pub(super) fn answered(&self, backend: &BackendId, used: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(backend.clone(), used);
    }

    /// Forgets the backends that no longer exist.
    pub(super) fn retain(&self, pods: &Pods) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|backend, _| pods.contains_key(backend));
    }

    /// Returns the backends that use other vanguards than those with this number, or none.
    pub(super) fn others(&self, id: u64) -> BTreeSet<BackendId> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.iter().filter(|(_, used)| **used != id).map(|(backend, _)| backend.clone()).collect()
    }

    /// Returns true if a backend uses vanguards, but not those with this number.
    pub(super) fn knows_others(&self, id: u64) -> bool {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.values().any(|used| ![0, id].contains(used))
    }
}

/// The links between the agents' conversations and the task that keeps the vanguards.
#[derive(Debug, Clone)]
pub(super) struct AgentVanguards {
    /// The vanguards for the backends.
    pub(super) offers: watch::Receiver<Offer>,
    /// The vanguards that the backends use.
    pub(super) board: VanguardBoard,
}

/// The vanguards for the backends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Offer {
    /// The number and the text of the vanguards. None if there are none.
    vanguards: Option<(u64, Arc<str>)>,
    /// The backends that must wait.
    waiting: BTreeSet<BackendId>,
}

impl Offer {
    /// Returns the text of the vanguards if they are meant for a backend that reports the use of
    /// those with the number `used`. Only agents of pods that share vanguards report a number.
    pub(super) fn of(&self, backend: &BackendId, used: Option<u64>) -> Option<Arc<str>> {
        let (id, text) = self.vanguards.as_ref()?;
        let is_due = used.is_some_and(|used| used != *id) && !self.waiting.contains(backend);
        is_due.then(|| text.clone())
    }
}

/// The progress of a change.
#[derive(Debug, Default)]
pub(super) struct Stage {
    offer: Offer,
    /// The backends that go first.
    first: BTreeSet<BackendId>,
    /// The monotonic time at which the second half follows at the latest.
    until: Duration,
}

impl Stage {
    /// Returns the offer at the monotonic time `now`. `vanguards` are the present ones.
    pub(super) fn offer(&mut self, vanguards: &Vanguards, pods: &Pods, board: &VanguardBoard, now: Duration) -> Offer {
        let id = vanguards.id();
        if self.offer.vanguards.as_ref().map(|(id, _)| *id) != Some(id) {
            let ready = pods.iter().filter(|(_, pod)| pod.ready && !pod.terminating).map(|(id, _)| id);
            let (first, waiting) = ready.enumerate().partition::<Vec<_>, _>(|(index, _)| index % 2 == 0);
            let ids = |half: Vec<(usize, &BackendId)>| half.into_iter().map(|(_, id)| id.clone()).collect();
            self.first = ids(first);
            self.offer = Offer { vanguards: Some((id, vanguards.to_string().into())), waiting: ids(waiting) };
            self.until = now + PATIENCE;
        }
        let late = board.others(id);
        if now >= self.until || !self.first.iter().any(|backend| late.contains(backend) && pods.contains_key(backend)) {
            self.offer.waiting.clear();
        }
        self.offer.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::pods::Pod;
    use crate::link::Vanguard;

    fn vanguards(number: u8) -> Vanguards {
        Vanguards::new(vec![Vanguard { identity: [number; 20], expires: 9 }], Vec::new()).unwrap()
    }

    fn id(name: &str) -> BackendId {
        BackendId(name.to_owned())
    }

    fn pods(names: &[&str]) -> Pods {
        let pod = |name: &&str| {
            let pod = Pod { name: (*name).to_owned(), agent: None, ready: !name.starts_with('x'), terminating: false };
            (id(name), pod)
        };
        names.iter().map(pod).collect()
    }

    /// Returns the backends to which the vanguards are sent.
    fn due<'a>(offer: &Offer, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().filter(|name| offer.of(&id(name), Some(7)).is_some()).copied().collect()
    }

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "x"];
    const START: Duration = Duration::from_secs(100);

    #[test]
    fn one_half_of_the_backends_waits_for_the_other() {
        let (pods, board, mut stage) = (pods(&NAMES), VanguardBoard::default(), Stage::default());
        for name in NAMES {
            board.answered(&id(name), 7);
        }
        let offer = stage.offer(&vanguards(1), &pods, &board, START);
        assert_eq!(due(&offer, &NAMES), ["a", "c", "x"], "a backend that serves nobody need not wait");
        board.answered(&id("a"), vanguards(1).id());
        assert_eq!(due(&stage.offer(&vanguards(1), &pods, &board, START), &NAMES).len(), 3);
        board.answered(&id("c"), vanguards(1).id());
        assert_eq!(due(&stage.offer(&vanguards(1), &pods, &board, START), &NAMES), NAMES);
        let offer = stage.offer(&vanguards(2), &pods, &board, START);
        assert_eq!(due(&offer, &NAMES), ["a", "c", "x"], "the next change");
    }

    #[test]
    fn the_second_half_waits_neither_forever_nor_for_deleted_pods() {
        let (all, board, mut stage) = (pods(&NAMES), VanguardBoard::default(), Stage::default());
        for name in NAMES {
            board.answered(&id(name), 7);
        }
        stage.offer(&vanguards(1), &all, &board, START);
        assert_eq!(due(&stage.offer(&vanguards(1), &all, &board, START + PATIENCE / 2), &NAMES).len(), 3);
        assert_eq!(due(&stage.offer(&vanguards(1), &all, &board, START + PATIENCE), &NAMES).len(), 5);
        let mut stage = Stage::default();
        stage.offer(&vanguards(1), &all, &board, START);
        let rest = pods(&["b", "d"]);
        assert_eq!(due(&stage.offer(&vanguards(1), &rest, &board, START), &["b", "d"]), ["b", "d"]);
    }

    #[test]
    fn a_backend_that_uses_the_vanguards_or_shares_none_gets_nothing() {
        let (pods, board) = (pods(&["a"]), VanguardBoard::default());
        let offer = Stage::default().offer(&vanguards(1), &pods, &board, START);
        assert_eq!(offer.of(&id("a"), Some(0)).as_deref(), Some(&*vanguards(1).to_string()));
        assert_eq!(offer.of(&id("a"), Some(vanguards(1).id())), None);
        assert_eq!(offer.of(&id("a"), None), None);
        assert_eq!(Offer::default().of(&id("a"), Some(7)), None);
    }

    #[test]
    fn the_board_forgets_deleted_pods() {
        let board = VanguardBoard::default();
        board.answered(&id("a"), 7);
        board.answered(&id("b"), 0);
        assert!(board.knows_others(8) && !board.knows_others(7));
        assert_eq!(board.others(7), BTreeSet::from([id("b")]));
        board.retain(&pods(&["b"]));
        assert!(!board.knows_others(8));
    }
}
