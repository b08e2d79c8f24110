//! Chooses vanguards and replaces them (vanguards-spec, "Full vanguards" and "Path construction").
//!
//! A relay stays in its layer until its date, unless it leaves the consensus or loses the flags
//! that a vanguard needs. The layers are chosen independently of each other, and neither families
//! nor subnets restrict the choice: both would tell something about the other hops.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rand::{Rng, RngExt as _};

use super::sets::{Layer, Vanguard, Vanguards};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// A relay that can be a vanguard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The relay's RSA identity digest.
    pub identity: [u8; 20],
    /// The relay's weight in the middle position.
    pub weight: u64,
}

/// An error that explains why a network has too few relays for vanguards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the consensus lists only {0} relays that can be vanguards, but {MIN} are needed", MIN = Layer::Third.least())]
pub struct TooFewRelays(pub usize);

impl Layer {
    /// Returns the number of relays in the layer (`NUM_LAYER2_GUARDS` and `NUM_LAYER3_GUARDS`).
    pub fn size(self) -> usize {
        match self {
            Self::Second => 4,
            Self::Third => 6,
        }
    }

    /// Returns the least number of usable relays with which tor always finds a path. Tor does not
    /// use the guard, the last hop or, in the third layer, the second hop of the same circuit.
    pub fn least(self) -> usize {
        match self {
            Self::Second => 3,
            Self::Third => 4,
        }
    }

    /// Returns the limits of the time in seconds for which a relay stays in the layer
    /// (`MIN_SECOND_GUARD_LIFETIME` and so on).
    pub fn lifetimes(self) -> RangeInclusive<u64> {
        match self {
            Self::Second => 30 * DAY..=60 * DAY,
            Self::Third => HOUR..=48 * HOUR,
        }
    }

    /// Returns a random lifetime in seconds. In the second layer, all lifetimes are equally likely.
    /// In the third one, the lifetime is the greater of two such times, `max(X,X)`.
    fn lifetime(self, rng: &mut impl Rng) -> u64 {
        let mut draw = || rng.random_range(self.lifetimes());
        match self {
            Self::Second => draw(),
            Self::Third => draw().max(draw()),
        }
    }
}

impl Vanguards {
    /// Returns the vanguards at the time `now` (in seconds since the Unix epoch), with replacements
    /// for the relays whose time is over and for those that are not among the candidates any more.
    /// Each new relay is chosen at random by its weight. In a network with few relays, a layer
    /// contains all of them. A date that is later than any lifetime allows is brought forward, as
    /// it was written while the clock was wrong.
    pub fn maintained(&self, candidates: &[Candidate], now: u64, rng: &mut impl Rng) -> Result<Self, TooFewRelays> {
        let candidates: BTreeMap<_, _> = candidates.iter().map(|relay| (relay.identity, relay.weight)).collect();
        if candidates.len() < Layer::Third.least() {
            return Err(TooFewRelays(candidates.len()));
        }
        let mut vanguards = self.clone();
        for layer in Layer::ALL {
            let relays = vanguards.of_mut(layer);
            relays.retain(|relay| relay.expires > now && candidates.contains_key(&relay.identity));
            relays.truncate(layer.size());
            for relay in relays.iter_mut() {
                relay.expires = relay.expires.min(now.saturating_add(*layer.lifetimes().end()));
            }
            while relays.len() < layer.size() {
                let free =
                    candidates.iter().filter(|(identity, _)| relays.iter().all(|relay| relay.identity != **identity));
                let free: Vec<_> = free.map(|(identity, weight)| (*identity, *weight)).collect();
                let Some(identity) = choose(&free, rng) else { break };
                relays.push(Vanguard { identity, expires: now.saturating_add(layer.lifetime(rng)) });
            }
            relays.sort_unstable();
        }
        Ok(vanguards)
    }
}

/// Chooses a relay at random by the weights. If all of them are 0, every relay is equally likely,
/// as in tor. Returns None if there are no relays.
fn choose(relays: &[([u8; 20], u64)], rng: &mut impl Rng) -> Option<[u8; 20]> {
    let total: u128 = relays.iter().map(|(_, weight)| u128::from(*weight)).sum();
    if total == 0 {
        let any = (!relays.is_empty()).then(|| rng.random_range(0..relays.len()))?;
        return relays.get(any).map(|(identity, _)| *identity);
    }
    let mut left = rng.random_range(0..total);
    relays.iter().find_map(|(identity, weight)| match left.checked_sub(u128::from(*weight)) {
        Some(rest) => {
            left = rest;
            None
        }
        None => Some(*identity),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::btree_map;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::super::sets::tests::{any_vanguards, relay};
    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn rng(seed: u64) -> StdRng {
        StdRng::seed_from_u64(seed)
    }

    fn candidates(numbers: impl IntoIterator<Item = u8>) -> Vec<Candidate> {
        numbers.into_iter().map(|number| Candidate { identity: [number; 20], weight: 1 }).collect()
    }

    fn numbers(vanguards: &Vanguards, layer: Layer) -> Vec<u8> {
        vanguards.of(layer).iter().map(|relay| relay.identity[0]).collect()
    }

    #[test]
    fn the_layers_have_the_sizes_and_lifetimes_of_the_specification() {
        let (mut second, mut third) = (Vec::new(), Vec::new());
        for seed in 0..2000 {
            let drawn = Vanguards::default().maintained(&candidates(0..100), NOW, &mut rng(seed)).unwrap();
            assert_eq!((drawn.of(Layer::Second).len(), drawn.of(Layer::Third).len()), (4, 6));
            second.extend(drawn.of(Layer::Second).iter().map(|relay| relay.expires - NOW));
            third.extend(drawn.of(Layer::Third).iter().map(|relay| relay.expires - NOW));
        }
        assert!(second.iter().all(|time| (30 * DAY..=60 * DAY).contains(time)));
        assert!(third.iter().all(|time| (HOUR..=48 * HOUR).contains(time)));
        // The means are 45 days and about 32 hours, (1 h + 2 * 48 h) / 3.
        let mean = |times: &[u64]| times.iter().sum::<u64>() / times.len() as u64;
        assert!((44 * DAY..46 * DAY).contains(&mean(&second)), "{}", mean(&second));
        assert!((31 * HOUR..34 * HOUR).contains(&mean(&third)), "{}", mean(&third));
    }

    #[test]
    fn a_relay_is_chosen_by_its_weight() {
        let mut heavy = candidates(0..100);
        heavy[7].weight = 99;
        let chosen = (0..1000).filter(|seed| {
            let relays: Vec<_> = heavy.iter().map(|relay| (relay.identity, relay.weight)).collect();
            choose(&relays, &mut rng(*seed)) == Some([7; 20])
        });
        let share = chosen.count();
        assert!((450..550).contains(&share), "half of the weight, but {share} of 1000");
        let none = [([1; 20], 0), ([2; 20], 0)];
        let found: BTreeSet<_> = (0..50).filter_map(|seed| choose(&none, &mut rng(seed))).collect();
        assert_eq!(found.len(), 2, "without weights, any relay");
        assert_eq!(choose(&[([1; 20], 0), ([2; 20], 5)], &mut rng(1)), Some([2; 20]));
        assert_eq!(choose(&[], &mut rng(1)), None);
    }

    #[test]
    fn only_the_relay_whose_time_is_over_is_replaced() {
        let old = Vanguards::new(
            vec![relay(1, NOW), relay(2, NOW + 1), relay(3, NOW + 1), relay(4, NOW + 1)],
            (5..11).map(|number| relay(number, NOW + 1)).collect(),
        );
        let old = old.unwrap();
        let before = old.maintained(&candidates(0..100), NOW - 1, &mut rng(1));
        assert_eq!(before, Ok(old.clone()));
        let new = old.maintained(&candidates(0..100), NOW, &mut rng(1)).unwrap();
        assert_eq!(new.of(Layer::Third), old.of(Layer::Third));
        let kept = new.of(Layer::Second).iter().filter(|relay| old.of(Layer::Second).contains(relay));
        assert_eq!(kept.map(|relay| relay.identity[0]).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(new.of(Layer::Second).len(), 4);
        assert_ne!(new.id(), old.id());
    }

    #[test]
    fn a_relay_that_leaves_the_consensus_is_replaced() {
        let all = candidates(0..100);
        let old = Vanguards::default().maintained(&all, NOW, &mut rng(3)).unwrap();
        for layer in Layer::ALL {
            let gone = numbers(&old, layer)[1];
            let left: Vec<_> = all.iter().filter(|relay| relay.identity[0] != gone).copied().collect();
            let new = old.maintained(&left, NOW, &mut rng(4)).unwrap();
            assert!(!numbers(&new, layer).contains(&gone));
            assert_eq!(new.of(layer).len(), layer.size());
            let kept = old.of(layer).iter().filter(|relay| new.of(layer).contains(relay)).count();
            assert_eq!(kept, layer.size() - 1);
        }
    }

    #[test]
    fn in_a_small_network_a_layer_has_all_relays() {
        let drawn = |count| Vanguards::default().maintained(&candidates(0..count), NOW, &mut rng(5));
        let sizes = |count| drawn(count).map(|drawn| Layer::ALL.map(|layer| drawn.of(layer).len()));
        assert_eq!(sizes(6), Ok([4, 6]));
        assert_eq!(sizes(5), Ok([4, 5]));
        assert_eq!(sizes(4), Ok([4, 4]));
        assert_eq!(sizes(3), Err(TooFewRelays(3)));
        assert!(drawn(0).unwrap_err().to_string().contains("only 0 relays that can be vanguards, but 4 are needed"));
    }

    #[test]
    fn dates_of_a_wrong_clock_are_brought_forward() {
        let far = Vanguards::new((0..4).map(|number| relay(number, u64::MAX)).collect(), Vec::new()).unwrap();
        let new = far.maintained(&candidates(0..100), NOW, &mut rng(6)).unwrap();
        assert_eq!(numbers(&new, Layer::Second), [0, 1, 2, 3]);
        assert!(new.of(Layer::Second).iter().all(|relay| relay.expires == NOW + 60 * DAY));
    }

    #[test]
    fn different_services_have_different_vanguards() {
        let drawn = |seed| Vanguards::default().maintained(&candidates(0..100), NOW, &mut rng(seed)).unwrap();
        assert_ne!(drawn(1).id(), drawn(2).id());
    }

    proptest! {
        #[test]
        fn maintained_layers_are_complete_and_stable(
            old in any_vanguards(NOW + 90 * DAY),
            weights in btree_map(0..40_u8, 0..1000_u64, 0..30),
            now in NOW - 10 * DAY..NOW + 80 * DAY,
            seed: u64,
        ) {
            let candidates: Vec<_> =
                weights.iter().map(|(number, weight)| Candidate { identity: [*number; 20], weight: *weight }).collect();
            let new = old.maintained(&candidates, now, &mut rng(seed));
            if candidates.len() < Layer::Third.least() {
                prop_assert_eq!(new, Err(TooFewRelays(candidates.len())));
                return Ok(());
            }
            let new = new.unwrap();
            for layer in Layer::ALL {
                let relays = new.of(layer);
                prop_assert_eq!(relays.len(), layer.size().min(candidates.len()));
                for relay in relays {
                    prop_assert!(weights.contains_key(&relay.identity[0]));
                    prop_assert!(relay.expires > now && relay.expires <= now + layer.lifetimes().end());
                }
                let usable = old.of(layer).iter().filter(|relay| relay.expires > now);
                let usable = usable.filter(|relay| weights.contains_key(&relay.identity[0])).take(layer.size());
                for relay in usable {
                    prop_assert!(relays.iter().any(|kept| kept.identity == relay.identity), "a good relay stays");
                }
            }
            prop_assert_eq!(Vanguards::parse(&new.to_string()), Ok(new.clone()));
            prop_assert_eq!(new.maintained(&candidates, now, &mut rng(seed ^ 1)), Ok(new));
        }
    }
}
