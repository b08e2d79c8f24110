//! Assigns the subsets of introduction points to the HSDirs.

use std::collections::{BTreeMap, BTreeSet};

use crate::consensus::{Fingerprint, Placement};

/// The HSDirs of a time period, each with the index of its subset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    subset_of: BTreeMap<Fingerprint, usize>,
    subsets: usize,
}

impl Layout {
    /// Assigns the subsets to the HSDirs. Each HSDir from which clients fetch (`fetched`) gets its
    /// own subset. Every other responsible HSDir gets the same subset as one of these HSDirs,
    /// preferably one of the same replica. A client with a different consensus may fetch from such
    /// an HSDir; because of the repeated subset, few introduction points are out of its reach.
    /// Where possible, HSDirs keep the subsets that they have in `before`.
    pub(super) fn new(responsible: &[Placement], fetched: &[Placement], before: &Self) -> Self {
        let is_responsible: BTreeSet<Fingerprint> = responsible.iter().map(|placement| placement.relay).collect();
        let fetched: Vec<&Placement> = fetched.iter().filter(|to| is_responsible.contains(&to.relay)).collect();
        let mut subset_of: BTreeMap<Fingerprint, usize> = BTreeMap::new();
        let mut open: BTreeSet<usize> = (0..fetched.len()).collect();
        for placement in &fetched {
            if let Some(subset) = before.subset_of.get(&placement.relay).filter(|subset| open.remove(subset)) {
                subset_of.insert(placement.relay, *subset);
            }
        }
        for placement in &fetched {
            if !subset_of.contains_key(&placement.relay)
                && let Some(subset) = open.pop_first()
            {
                subset_of.insert(placement.relay, subset);
            }
        }
        let subsets = subset_of.len();
        let mut repeated: BTreeMap<usize, usize> = BTreeMap::new();
        for placement in responsible {
            if subset_of.contains_key(&placement.relay) {
                continue;
            }
            let choices = fetched.iter().filter_map(|to| Some((to, *subset_of.get(&to.relay)?)));
            let rank =
                |to: &Placement, subset: usize| (repeated.get(&subset).copied(), to.replica != placement.replica);
            if let Some((_, subset)) = choices.min_by_key(|(to, subset)| rank(to, *subset)) {
                *repeated.entry(subset).or_default() += 1;
                subset_of.insert(placement.relay, subset);
            }
        }
        Self { subset_of, subsets }
    }

    /// Returns the number of subsets in the layout.
    pub(super) fn subsets(&self) -> usize {
        self.subsets
    }

    /// Returns all HSDirs of the layout.
    pub(super) fn hsdirs(&self) -> BTreeSet<Fingerprint> {
        self.subset_of.keys().copied().collect()
    }

    /// Returns the index of the subset that is assigned to an HSDir.
    pub(super) fn subset(&self, hsdir: &Fingerprint) -> Option<usize> {
        self.subset_of.get(hsdir).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hsdir(number: u8) -> Fingerprint {
        Fingerprint([number; 20])
    }

    fn placements(replicas: [&[u8]; 2]) -> Vec<Placement> {
        let mut all = Vec::new();
        for (replica, relays) in (1..).zip(replicas) {
            let places = (0..).zip(relays);
            all.extend(places.map(|(position, relay)| Placement { relay: hsdir(*relay), replica, position }));
        }
        all
    }

    fn of(layout: &Layout, relays: impl IntoIterator<Item = u8>) -> Vec<usize> {
        relays.into_iter().map(|relay| layout.subset(&hsdir(relay)).unwrap()).collect()
    }

    #[test]
    fn each_hsdir_that_clients_ask_has_its_own_subset_and_the_others_repeat_one() {
        let responsible = placements([&[1, 2, 3, 4], &[5, 6, 7, 8]]);
        let layout = Layout::new(&responsible, &placements([&[1, 2, 3], &[5, 6, 7]]), &Layout::default());
        assert_eq!((layout.subsets(), layout.hsdirs().len()), (6, 8));
        assert_eq!(of(&layout, [1, 2, 3, 5, 6, 7]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(of(&layout, [4, 8]), [0, 3]);
    }

    #[test]
    fn the_fourth_hsdir_of_one_replica_can_be_asked_for_the_other() {
        let responsible = placements([&[1, 2, 3, 4], &[5, 6, 7, 8]]);
        let layout = Layout::new(&responsible, &placements([&[1, 2, 3], &[4, 5, 6]]), &Layout::default());
        assert_eq!(of(&layout, [1, 2, 3, 4, 5, 6]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(of(&layout, [7, 8]), [3, 4]);
    }

    #[test]
    fn hsdirs_keep_their_subsets() {
        let before = placements([&[1, 2, 3, 4], &[5, 6, 7, 8]]);
        let before = Layout::new(&before, &placements([&[1, 2, 3], &[5, 6, 7]]), &Layout::default());
        // HSDirs 1 and 5 are gone, and clients now fetch from HSDirs 4 and 9.
        let after = placements([&[2, 3, 4, 10], &[9, 6, 7, 8]]);
        let after = Layout::new(&after, &placements([&[2, 3, 4], &[9, 6, 7]]), &before);
        assert_eq!(of(&after, [2, 3, 4, 9, 6, 7]), [1, 2, 0, 3, 4, 5]);
    }

    #[test]
    fn a_small_network_has_fewer_subsets() {
        let layout = Layout::new(&placements([&[1, 2], &[]]), &placements([&[1, 2], &[]]), &Layout::default());
        assert_eq!((layout.subsets(), of(&layout, [1, 2])), (2, vec![0, 1]));
        assert_eq!(Layout::new(&[], &[], &layout), Layout::default());
        // In this network, clients fetch from more HSDirs than are responsible for the service.
        let layout = Layout::new(&placements([&[1], &[2]]), &placements([&[1, 3], &[2, 4]]), &layout);
        assert_eq!((layout.subsets(), of(&layout, [1, 2])), (2, vec![0, 1]));
    }
}
