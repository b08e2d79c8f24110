//! The newest reports on the guards of the backends' tors, and how they are merged. This module is
//! pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::frontend::pods::Pods;
use crate::link::{GuardReport, GuardReports, GuardSample};
use crate::merge::BackendId;

/// The newest report of each backend.
#[derive(Debug, Default)]
pub(super) struct SharedGuards(BTreeMap<BackendId, GuardSample>);

impl SharedGuards {
    /// Records a report. An unreadable report replaces the backend's previous one, too.
    pub(super) fn take(&mut self, backend: BackendId, report: &GuardReport) {
        match GuardSample::parse(&report.lines) {
            Ok(sample) => _ = self.0.insert(backend, sample),
            Err(error) => {
                // This is only a debug message, because a faulty agent can trigger it at any time.
                tracing::debug!(%error, "ignored an agent's report on its guards");
                self.0.remove(&backend);
            }
        }
    }

    /// Forgets the reports of pods that no longer exist.
    pub(super) fn retain(&mut self, pods: &Pods) {
        self.0.retain(|backend, _| pods.contains_key(backend));
    }

    /// Merges the reports of the existing pods and of the publisher's own tor into the stored
    /// sample, and forgets the reports of other pods. `now` is in seconds since the Unix epoch.
    pub(super) fn merged(&mut self, stored: &GuardSample, own: &GuardSample, pods: &Pods, now: u64) -> GuardSample {
        self.retain(pods);
        let agents: Vec<_> = self.0.values().collect();
        // A tor that has just started has no guards yet, which says nothing about the shared ones.
        let own = Some(own).filter(|own| !own.is_empty());
        stored.merged(GuardReports { own, agents: &agents }, now)
    }

    /// Returns the number of distinct guards that the backends' tors and the publisher's own tor
    /// try first.
    pub(super) fn preferred(&self, own: &GuardSample) -> usize {
        let first = self.0.values().chain([own]).filter_map(|sample| Some(sample.preferred()?.identity));
        first.collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::pods::Pod;
    use crate::link::Guard;

    const NOW: u64 = 1_790_000_000;

    fn sample(confirmed: &[u8]) -> GuardSample {
        let guard = |number: u8| Guard {
            identity: [number; 20],
            nickname: String::new(),
            sampled_on: NOW - 1000,
            sampled_by: String::new(),
            unlisted_since: None,
            confirmed_on: confirmed.contains(&number).then_some(NOW - 10),
        };
        GuardSample::new((1..=3).map(guard).collect()).unwrap()
    }

    fn pods(names: &[&str]) -> Pods {
        let pod = |name: &&str| {
            let pod = Pod { name: (*name).to_owned(), agent: None, ready: true, terminating: false };
            (BackendId((*name).to_owned()), pod)
        };
        names.iter().map(pod).collect()
    }

    #[test]
    fn reports_of_pods_that_are_gone_do_not_count() {
        let mut shared = SharedGuards::default();
        for name in ["a", "b"] {
            shared.take(BackendId(name.to_owned()), &GuardReport::new(&sample(&[2])));
        }
        let (stored, none) = (sample(&[]), GuardSample::default());
        let confirmed = |sample: &GuardSample| sample.guards()[1].confirmed_on.is_some();
        assert!(confirmed(&shared.merged(&stored, &none, &pods(&["a", "b"]), NOW)));
        assert!(!confirmed(&shared.merged(&stored, &stored, &pods(&["b"]), NOW)), "half of the tors are not most");
        assert!(!confirmed(&shared.merged(&stored, &none, &pods(&[]), NOW)));
        assert!(shared.0.is_empty());
    }

    #[test]
    fn tors_that_try_different_guards_first_are_counted() {
        let mut shared = SharedGuards::default();
        assert_eq!(shared.preferred(&GuardSample::default()), 0);
        shared.take(BackendId("a".to_owned()), &GuardReport::new(&sample(&[1])));
        assert_eq!(shared.preferred(&sample(&[])), 1, "an unconfirmed sample begins with the same guard");
        shared.take(BackendId("b".to_owned()), &GuardReport::new(&sample(&[3])));
        assert_eq!(shared.preferred(&sample(&[1, 2])), 1, "the order counts, even if a later guard is confirmed");
        let reversed = GuardSample::new(sample(&[]).guards().iter().rev().cloned().collect()).unwrap();
        shared.take(BackendId("b".to_owned()), &GuardReport::new(&reversed));
        assert_eq!(shared.preferred(&sample(&[1, 2])), 2);
    }

    #[test]
    fn an_unreadable_report_does_not_count() {
        let mut shared = SharedGuards::default();
        let backend = || BackendId("a".to_owned());
        shared.take(backend(), &GuardReport::new(&sample(&[1])));
        shared.take(backend(), &GuardReport { id: 1, lines: "Guard in=default\n".to_owned() });
        let stored = sample(&[]);
        assert_eq!(shared.merged(&stored, &GuardSample::default(), &pods(&["a"]), NOW), stored);
    }

    #[test]
    fn a_tor_that_has_just_started_does_not_empty_the_sample() {
        let stored = sample(&[1]);
        let merged = SharedGuards::default().merged(&stored, &GuardSample::default(), &pods(&[]), NOW);
        assert_eq!(merged, stored);
    }
}
