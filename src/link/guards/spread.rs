//! The guards that a tor tries before all others, and how the pods of a service spread over them.

use sha2::{Digest as _, Sha256};

use super::sample::{Guard, GuardSample};

/// The name of the environment variable with the number of guards over which the pods spread.
pub const GUARDS_IN_USE: &str = "GUARDS_IN_USE";
/// The number of guards that a tor tries before all others (guard-spec, `N_PRIMARY_GUARDS`).
const PRIMARY: usize = 3;

impl GuardSample {
    /// Returns the guard that a tor with this sample tries first.
    pub fn preferred(&self) -> Option<&Guard> {
        self.primary().first().copied()
    }

    /// Returns the sample for the pod with this UID, if the pods spread over the first `in_use`
    /// guards: the pod's own guard comes first, and the rest of these guards follow. All pods have
    /// the same three primary guards, so that a pod that loses its guard uses one of the others'.
    pub fn spread(&self, in_use: usize, pod_uid: &str) -> Self {
        let mut primary: Vec<_> = self.primary().into_iter().cloned().collect();
        let used = in_use.min(primary.len());
        if used < 2 {
            return self.clone();
        }
        primary[..used].rotate_left(turn(pod_uid, used));
        let others = self.guards().iter().filter(|guard| !primary.contains(guard)).cloned().collect();
        Self::new([primary, others].concat()).unwrap_or_else(|_| self.clone())
    }

    /// Returns the primary guards in tor's order. Tor takes confirmed guards before others, but
    /// tries all of them in the order of the sample (C tor's `entry_guards_update_primary`).
    fn primary(&self) -> Vec<&Guard> {
        let listed = || self.guards().iter().enumerate().filter(|(_, guard)| guard.is_listed());
        let (confirmed, others): (Vec<_>, Vec<_>) = listed().partition(|(_, guard)| guard.confirmed_on.is_some());
        let mut primary: Vec<_> = confirmed.into_iter().chain(others).take(PRIMARY).collect();
        primary.sort_by_key(|(index, _)| *index);
        primary.into_iter().map(|(_, guard)| guard).collect()
    }
}

/// Returns a number below `count` that depends on the pod. The numbers of many pods are about
/// evenly distributed.
fn turn(pod_uid: &str, count: usize) -> usize {
    let digest = Sha256::digest(pod_uid);
    digest.iter().fold(0, |rest, byte| (rest * 256 + usize::from(*byte)) % count)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::sample::tests::{any_sample, guard};
    use super::*;

    fn sample(guards: &[(u8, bool)]) -> GuardSample {
        let guards = guards
            .iter()
            .map(|(number, is_confirmed)| Guard { confirmed_on: is_confirmed.then_some(2000), ..guard(*number, 1000) });
        GuardSample::new(guards.collect()).unwrap()
    }

    fn numbers(sample: &GuardSample) -> Vec<u8> {
        sample.guards().iter().map(|guard| guard.identity[0]).collect()
    }

    fn primary(sample: &GuardSample) -> Vec<u8> {
        sample.primary().into_iter().map(|guard| guard.identity[0]).collect()
    }

    #[test]
    fn tor_takes_confirmed_guards_first_but_tries_them_in_the_order_of_the_sample() {
        let all = sample(&[(1, false), (2, true), (3, false), (4, true), (5, true)]);
        assert_eq!(primary(&all), [2, 4, 5]);
        let few = sample(&[(1, false), (2, false), (3, true), (4, false)]);
        assert_eq!(primary(&few), [1, 2, 3]);
        assert_eq!(few.preferred().unwrap().identity[0], 1);
        let mut guards = few.guards().to_vec();
        guards[0].unlisted_since = Some(1500);
        assert_eq!(primary(&GuardSample::new(guards).unwrap()), [2, 3, 4]);
        assert_eq!(GuardSample::default().preferred(), None);
    }

    #[test]
    fn the_pods_spread_about_evenly_over_the_guards_in_use() {
        let shared = sample(&[(1, true), (2, false), (3, false), (4, false)]);
        for in_use in 1..=3 {
            let mut pods: BTreeMap<u8, usize> = BTreeMap::new();
            for pod in 0..300 {
                let spread = shared.spread(in_use, &format!("0f8fad5b-d9cb-469f-a165-{pod:012}"));
                *pods.entry(numbers(&spread)[0]).or_default() += 1;
            }
            assert_eq!(pods.len(), in_use);
            assert!(pods.values().all(|count| count * in_use > 200), "{pods:?}");
        }
        assert_eq!(shared.spread(1, "pod"), shared);
        let one = sample(&[(1, true)]);
        assert_eq!((one.spread(3, "pod"), GuardSample::default().spread(3, "pod")), (one, GuardSample::default()));
    }

    proptest! {
        #[test]
        fn every_pod_has_the_same_primary_guards(
            shared in any_sample(2_000_000_000), in_use in 0..5_usize, pod in "[0-9a-f-]{0,36}",
        ) {
            let spread = shared.spread(in_use, &pod);
            let set = |sample: &GuardSample| primary(sample).into_iter().collect::<BTreeSet<_>>();
            prop_assert_eq!(set(&spread), set(&shared));
            let sorted = |sample: &GuardSample| {
                let mut guards = sample.guards().to_vec();
                guards.sort_by_key(|guard| guard.identity);
                guards
            };
            prop_assert_eq!(sorted(&spread), sorted(&shared), "no guard or date changes");
            let place = primary(&shared).iter().position(|number| Some(number) == primary(&spread).first());
            prop_assert!(place.is_none_or(|place| place < in_use.max(1)));
        }
    }
}
