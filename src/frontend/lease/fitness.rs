//! Who leaves the Lease to whom: a publisher that cannot publish, to one that can.
//!
//! Of a publisher whose tor is cut off from the network nobody else can tell how it fares, and an outage may be everybody's. So
//! the Lease's annotation names those that gave it up for that, and they are not given it again, until a publisher that holds
//! it reaches HSDirs, or [`PATIENCE`] has passed. In an outage for all, each leads once, and then one every ten minutes.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::common::election::Decision;

/// The annotation.
pub(super) const ANNOTATION: &str = "onionbalance.dev/cut-off";

/// So long a publisher that is cut off keeps the Lease where all others gave it up before, for the same reason.
const PATIENCE: Duration = Duration::from_secs(600);

/// Whether a publisher could publish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::frontend) enum Fitness {
    /// There is a bootstrapped tor.
    Fit,
    /// There is none yet, or not for long: a free Lease is left to a standby that is fit.
    #[default]
    Waiting,
    /// There has been none for long: a Lease that is ours, too.
    Unfit,
    /// There is one, and no HSDir has answered it for long: likewise, but not to those that fared the same.
    CutOff,
}

impl Fitness {
    /// Whether it matters, for what is to be done about the Lease, if there are others.
    pub(super) fn yields(self, decision: Decision) -> bool {
        match decision {
            Decision::Renew => matches!(self, Self::Unfit | Self::CutOff),
            Decision::Acquire => self != Self::Fit,
            Decision::StandBy => false,
        }
    }

    /// Whether the Lease is left to one of the others. `ready`: those whose pods are Ready, which only a publisher with a
    /// bootstrapped tor is; `held`: for how long it has been ours. Of those that are cut off one always takes a free Lease: only
    /// who is named leaves it, and only to who is not.
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

/// Who gave the Lease up for want of the network, as the annotation has it: identities, comma-separated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CutOff(BTreeSet<String>);

impl CutOff {
    pub(super) fn parse(text: &str) -> Self {
        Self(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// One more gives it up, after this time. Whoever waited for `PATIENCE` begins anew with the others.
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

    /// What a publisher leaves to these, of what is to be done.
    fn left(fitness: Fitness, ready: &[&str], cut_off: &str, held: Duration) -> [bool; 3] {
        [Renew, Acquire, StandBy]
            .map(|decision| fitness.yields_to(decision, "a", &names(ready), &CutOff::parse(cut_off), held))
    }

    #[test]
    fn who_has_no_tor_leaves_a_free_lease_at_once_and_its_own_in_time() {
        for cut_off in ["", "b"] {
            assert_eq!(left(Fit, &["b"], cut_off, SECOND), [false, false, false]);
            assert_eq!(left(Waiting, &["b"], cut_off, SECOND), [false, true, false]);
            assert_eq!(left(Unfit, &["b"], cut_off, SECOND), [true, true, false]);
        }
    }

    #[test]
    fn alone_everybody_leads() {
        for fitness in [Fit, Waiting, Unfit, Fitness::CutOff] {
            assert_eq!(left(fitness, &[], "", PATIENCE), [false, false, false]);
        }
    }

    #[test]
    fn who_is_cut_off_leaves_it_to_those_that_are_not_known_to_be() {
        let left = |ready: &[&str], cut_off, held| left(Fitness::CutOff, ready, cut_off, held);
        assert_eq!(left(&["b"], "", SECOND), [true, false, false]);
        assert_eq!(left(&["b"], "a", SECOND), [true, true, false]);
        assert_eq!(left(&["b"], "b", SECOND), [false, false, false]);
        assert_eq!(left(&["b"], "a,b", SECOND), [false, false, false]);
        assert_eq!(left(&["b", "c"], "a,b", SECOND), [true, true, false]);
        assert_eq!(left(&["b"], "a,b", PATIENCE), [true, false, false]);
    }

    #[test]
    fn the_annotation() {
        let one = CutOff::default().and("a_1", SECOND);
        assert_eq!(one.to_string(), "a_1");
        let two = one.and("b_2", SECOND).and("a_1", SECOND);
        assert_eq!(two.to_string(), "a_1,b_2");
        assert_eq!(CutOff::parse(&two.to_string()), two);
        assert_eq!(CutOff::parse(" , b_2,,a_1 "), two);
        assert_eq!(two.and("b_2", PATIENCE).to_string(), "b_2");
    }

    /// An hour in which no publisher reaches the network; each finds out a minute after it took the Lease.
    #[test]
    fn an_outage_for_all_does_not_pass_the_lease_to_and_fro() {
        for publishers in [["a", "b"].as_slice(), &["a", "b", "c"]] {
            let (mut holder, mut cut_off, mut held, mut changes) = ("a", CutOff::default(), Duration::ZERO, 0);
            for _ in 0..3600 {
                held += SECOND;
                let others = |one: &str| names(publishers).into_iter().filter(|name| name != one).collect();
                let found_out = held >= Duration::from_secs(60);
                if found_out && Fitness::CutOff.yields_to(Renew, holder, &others(holder), &cut_off, held) {
                    cut_off = cut_off.and(holder, held);
                    let takes = |one: &&&str| !Fitness::CutOff.yields_to(Acquire, one, &others(one), &cut_off, held);
                    holder = publishers.iter().rev().find(takes).expect("somebody takes it");
                    (held, changes) = (Duration::ZERO, changes + 1);
                }
            }
            assert!((1..=12).contains(&changes), "{changes}");
        }
    }
}
