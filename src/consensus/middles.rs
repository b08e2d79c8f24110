//! The relays that can be vanguards, with their weights for the middle position of a circuit
//! (vanguards-spec, "Selecting relays"; dir-spec, section 3.8.4).

use super::Fingerprint;

/// The weight of every kind of relay if the consensus has no usable weights (dir-spec, section
/// 3.8.4: the scale of the weights). The choice then depends on the bandwidths alone.
const EQUAL: u64 = 10_000;

/// A relay that can be a vanguard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Middle {
    /// The fingerprint of the relay.
    pub relay: Fingerprint,
    /// The relay's weight in the middle position: the bandwidth in the consensus, multiplied by the
    /// weight of the relay's kind.
    pub weight: u64,
}

/// The traits of a relay that determine its weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    /// The bandwidth in the consensus, in kilobytes per second.
    pub(super) bandwidth: u64,
    pub(super) guard: bool,
    pub(super) exit: bool,
}

/// The weights of the kinds of relays in the middle position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MiddleWeights {
    /// `Wmm`, the weight of a relay that is neither a guard nor an exit.
    neither: u64,
    /// `Wmg`, the weight of a guard.
    guard: u64,
    /// `Wme`, the weight of an exit.
    exit: u64,
    /// `Wmd`, the weight of a relay that is both.
    both: u64,
}

impl Default for MiddleWeights {
    fn default() -> Self {
        Self { neither: EQUAL, guard: EQUAL, exit: EQUAL, both: EQUAL }
    }
}

impl MiddleWeights {
    /// Reads the weights from the lines after `directory-footer`. Like C tor, this method returns
    /// equal weights if one of them is missing or negative.
    pub(super) fn of_footer<'a>(mut lines: impl Iterator<Item = &'a str>) -> Self {
        let line = lines.find_map(|line| line.strip_prefix("bandwidth-weights "));
        line.and_then(Self::parse).unwrap_or_default()
    }

    fn parse(line: &str) -> Option<Self> {
        let weight = |name: &str| {
            let value = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
            value.parse::<u32>().ok().map(u64::from)
        };
        Some(Self { neither: weight("Wmm")?, guard: weight("Wmg")?, exit: weight("Wme")?, both: weight("Wmd")? })
    }

    /// Returns a relay with its weight.
    pub(super) fn middle(self, relay: Fingerprint, Traits { bandwidth, guard, exit }: Traits) -> Middle {
        let kind = match (guard, exit) {
            (false, false) => self.neither,
            (true, false) => self.guard,
            (false, true) => self.exit,
            (true, true) => self.both,
        };
        Middle { relay, weight: bandwidth.saturating_mul(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testdata;
    use super::*;
    use crate::consensus::{Network, NetworkKind};

    const LINE: &str = "bandwidth-weights Wbd=1 Wmb=10000 Wmd=40 Wme=30 Wmg=20 Wmm=10";

    #[test]
    fn a_relay_has_the_weight_of_its_kind() {
        let weights = MiddleWeights::of_footer(["x", LINE, "directory-signature"].into_iter());
        let relay = Fingerprint([7; 20]);
        let weight = |guard, exit| weights.middle(relay, Traits { bandwidth: 3, guard, exit }).weight;
        assert_eq!(
            [weight(false, false), weight(true, false), weight(false, true), weight(true, true)],
            [30, 60, 90, 120]
        );
    }

    #[test]
    fn without_usable_weights_only_the_bandwidth_counts() {
        for line in ["", "bandwidth-weights", "bandwidth-weights Wmm=1 Wmg=1 Wme=1", &LINE.replace("=20", "=-1")] {
            assert_eq!(MiddleWeights::of_footer([line].into_iter()), MiddleWeights::default(), "{line}");
        }
    }

    #[test]
    fn only_fast_and_stable_relays_can_be_vanguards() {
        for capture in testdata::captures() {
            let network = Network::parse(&capture.consensus, "", NetworkKind::Testing).unwrap();
            let eligible = |line: &&str| line.starts_with("s ") && line.contains(" Fast ") && line.contains(" Stable ");
            let count = capture.consensus.lines().filter(eligible).count();
            assert_eq!(network.middles().len(), count, "{}", capture.name);
            assert!(network.middles().iter().any(|middle| middle.weight > 0));
            assert!(count < network.hsdir_count().0, "some relays lack the flag");
        }
    }

    #[test]
    fn a_relay_without_a_flag_or_a_bandwidth() {
        let capture = &testdata::captures()[0].consensus;
        let network = |text: &str| Network::parse(text, "", NetworkKind::Testing).unwrap();
        let all = network(capture).middles().len();
        for flag in ["Fast", "Stable", "Valid"] {
            let without =
                capture.replace(&format!(" {flag}"), "").replace("known-flags", "known-flags Fast Stable Valid");
            assert_eq!(network(&without).middles(), [], "{flag}");
        }
        let without = network(&capture.replace("\nw Bandwidth=", "\nw Bandwidth=x"));
        assert!(without.middles().len() == all && without.middles().iter().all(|middle| middle.weight == 0));
    }
}
