//! Decides when a publisher that cannot publish leaves the Lease to one that can.
//!
//! No publisher can know whether another publisher's tor can reach the network, and an outage may
//! affect all of them. Therefore, an annotation of the Lease lists the publishers that gave it up
//! because they could not reach the network. They do not get the Lease back until a holder reaches
//! an HSDir or until [`PATIENCE`] has passed. In an outage that affects all publishers, each of
//! them leads once, and after that, the Lease moves at most once every ten minutes.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::common::election::Decision;

/// The annotation that lists the publishers that gave up the Lease because they could not reach the
/// network.
pub(super) const ANNOTATION: &str = "onionbalance.dev/cut-off";

/// The time for which a publisher that cannot reach the network keeps the Lease if all other
/// publishers have given it up for the same reason.
const PATIENCE: Duration = Duration::from_secs(600);

/// The ability of a publisher to publish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fitness {
    /// Tor is bootstrapped, and HSDirs answer or nothing is due.
    Fit,
    /// Tor has been unavailable, or has not been bootstrapped yet, but only for a short time. The
    /// publisher leaves a free Lease to a fit standby.
    #[default]
    Waiting,
    /// Tor has been unavailable for a long time. The publisher also gives up a Lease that it holds.
    Unfit,
    /// Tor is bootstrapped, but no HSDir has answered for a long time. The publisher gives up the
    /// Lease in favour of publishers that have not given it up for the same reason.
    CutOff,
}

impl Fitness {
    /// Returns true if a publisher in this state is allowed to leave the Lease to another publisher
    /// instead of carrying out the decision.
    pub(super) fn yields(self, decision: Decision) -> bool {
        match decision {
            Decision::Renew => matches!(self, Self::Unfit | Self::CutOff),
            Decision::Acquire => self != Self::Fit,
            Decision::StandBy => false,
        }
    }

    /// Returns true if this publisher leaves the Lease to another publisher.
    ///
    /// `ready` contains the other publishers whose pods are Ready, which requires a bootstrapped
    /// tor. `held` is the time since this publisher acquired the Lease. Even if no publisher can
    /// reach the network, one of them always takes a free Lease: only a publisher that is listed in
    /// `cut_off` leaves it, and only to one that is not listed.
    pub(super) fn yields_to(
        self,
        decision: Decision,
        identity: &str,
        ready: &BTreeSet<String>,
        cut_off: &CutOff,
        held: Duration,
    ) -> bool {
        let to_another = ready.iter().any(|other| !cut_off.0.contains(other));
        self.yields(decision)
            && match (self, decision) {
                (Self::CutOff, Decision::Renew) => to_another || (held >= PATIENCE && !ready.is_empty()),
                (Self::CutOff, _) => to_another && cut_off.0.contains(identity),
                _ => !ready.is_empty(),
            }
    }
}

/// The publishers that gave up the Lease because they could not reach the network. The annotation
/// lists their identities, comma-separated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CutOff(BTreeSet<String>);

impl CutOff {
    /// Parses the annotation of the Lease.
    pub(super) fn parse(text: &str) -> Self {
        Self(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// Adds a publisher that held the Lease for the time `held`. If `held` is at least
    /// [`PATIENCE`], all other publishers are removed.
    pub(super) fn and(mut self, identity: &str, held: Duration) -> Self {
        if held >= PATIENCE {
            self.0.clear();
        }
        self.0.insert(identity.to_owned());
        self
    }
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(String::as_str).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::Decision::{Acquire, Renew, StandBy};
    use super::Fitness::{Fit, Unfit, Waiting};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Returns one value for each decision (Renew, Acquire, StandBy): true if publisher `a` leaves
    /// the Lease to one of the publishers in `ready`.
    fn left(fitness: Fitness, ready: &[&str], cut_off: &str, held: Duration) -> [bool; 3] {
        [Renew, Acquire, StandBy]
            .map(|decision| fitness.yields_to(decision, "a", &names(ready), &CutOff::parse(cut_off), held))
    }

    #[test]
    fn a_publisher_without_tor_leaves_a_free_lease_at_once_and_a_held_one_later() {
        for cut_off in ["", "b"] {
            assert_eq!(left(Fit, &["b"], cut_off, SECOND), [false, false, false]);
            assert_eq!(left(Waiting, &["b"], cut_off, SECOND), [false, true, false]);
            assert_eq!(left(Unfit, &["b"], cut_off, SECOND), [true, true, false]);
        }
    }

    #[test]
    fn a_lone_publisher_always_leads() {
        for fitness in [Fit, Waiting, Unfit, Fitness::CutOff] {
            assert_eq!(left(fitness, &[], "", PATIENCE), [false, false, false]);
        }
    }

    #[test]
    fn a_publisher_without_network_leaves_the_lease_to_publishers_that_are_not_listed() {
        let left = |ready: &[&str], cut_off, held| left(Fitness::CutOff, ready, cut_off, held);
        assert_eq!(left(&["b"], "", SECOND), [true, false, false]);
        assert_eq!(left(&["b"], "a", SECOND), [true, true, false]);
        assert_eq!(left(&["b"], "b", SECOND), [false, false, false]);
        assert_eq!(left(&["b"], "a,b", SECOND), [false, false, false]);
        assert_eq!(left(&["b", "c"], "a,b", SECOND), [true, true, false]);
        assert_eq!(left(&["b"], "a,b", PATIENCE), [true, false, false]);
    }

    #[test]
    fn the_annotation_is_parsed_as_it_is_written() {
        let one = CutOff::default().and("a_1", SECOND);
        assert_eq!(one.to_string(), "a_1");
        let two = one.and("b_2", SECOND).and("a_1", SECOND);
        assert_eq!(two.to_string(), "a_1,b_2");
        assert_eq!(CutOff::parse(&two.to_string()), two);
        assert_eq!(CutOff::parse(" , b_2,,a_1 "), two);
        assert_eq!(two.and("b_2", PATIENCE).to_string(), "b_2");
    }

    /// Simulates an hour in which no publisher can reach the network. Each publisher notices this a
    /// minute after it acquired the Lease.
    #[test]
    fn an_outage_for_all_does_not_move_the_lease_back_and_forth() {
        for publishers in [["a", "b"].as_slice(), &["a", "b", "c"]] {
            let (mut holder, mut cut_off, mut held, mut changes) = ("a", CutOff::default(), Duration::ZERO, 0);
            for _ in 0..3600 {
                held += SECOND;
                let others = |one: &str| names(publishers).into_iter().filter(|name| name != one).collect();
                let found_out = held >= Duration::from_secs(60);
                if found_out && Fitness::CutOff.yields_to(Renew, holder, &others(holder), &cut_off, held) {
                    cut_off = cut_off.and(holder, held);
                    let takes = |one: &&&str| !Fitness::CutOff.yields_to(Acquire, one, &others(one), &cut_off, held);
                    holder = publishers.iter().rev().find(takes).expect("a publisher takes the Lease");
                    (held, changes) = (Duration::ZERO, changes + 1);
                }
            }
            assert!((1..=12).contains(&changes), "{changes}");
        }
    }
}
