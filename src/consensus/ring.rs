//! The HSDir hash ring (rend-spec-v3, section 2.2.3). H is SHA3-256, and `INT_8` is a big-endian
//! 64-bit number.

use sha3::{Digest, Sha3_256};

use super::Fingerprint;
use super::types::{Placement, ServicePeriod};
use crate::onion::{BlindedPublicKey, TimePeriod};

/// A relay that can be on the ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct HsDir {
    pub(super) fingerprint: Fingerprint,
    pub(super) ed25519: [u8; 32],
}

/// The HSDir ring of a time period, which lists the relays in the order of their indexes. The
/// indexes themselves are not kept, because few of them are needed later.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    period: ServicePeriod,
    /// The positions of the relays in the list from which the ring was made.
    order: Vec<u32>,
}

impl Ring {
    pub(super) fn new(hsdirs: &[HsDir], period: &ServicePeriod) -> Self {
        let indexes = hsdirs.iter().map(|hsdir| hsdir_index(hsdir, &period.shared_random, period.period));
        let mut places: Vec<_> = indexes.zip(0..).collect();
        places.sort_unstable();
        Self { period: period.clone(), order: places.into_iter().map(|(_, place)| place).collect() }
    }

    /// Returns, for each replica, the `spread` relays that follow the descriptor's index on the
    /// ring. Relays that are already assigned are skipped. `hsdirs` is the list from which the ring
    /// was made.
    pub(super) fn responsible(
        &self,
        hsdirs: &[HsDir],
        blinded: &BlindedPublicKey,
        replicas: u8,
        spread: u8,
    ) -> Vec<Placement> {
        let ServicePeriod { period, shared_random, .. } = &self.period;
        let relay = |place: &u32| usize::try_from(*place).ok().and_then(|place| hsdirs.get(place));
        let is_before = |place: &u32, index: &[u8; 32]| {
            relay(place).is_some_and(|hsdir| hsdir_index(hsdir, shared_random, *period) < *index)
        };
        let mut placements: Vec<Placement> = Vec::new();
        for replica in 1..=replicas {
            let index = hs_index(blinded, replica, *period);
            let (before, after) = self.order.split_at(self.order.partition_point(|place| is_before(place, &index)));
            let mut positions = 0..spread;
            for relay in after.iter().chain(before).filter_map(relay).map(|hsdir| hsdir.fingerprint) {
                if placements.iter().any(|placement| placement.relay == relay) {
                    continue;
                }
                let Some(position) = positions.next() else { break };
                placements.push(Placement { relay, replica, position });
            }
        }
        placements
    }
}

/// Computes the index of a service's descriptor for one replica:
///
/// ```text
/// hs_index(replicanum) = H("store-at-idx" | blinded_public_key | INT_8(replicanum)
///                          | INT_8(period_length) | INT_8(period_num))
/// ```
fn hs_index(blinded: &BlindedPublicKey, replica: u8, period: TimePeriod) -> [u8; 32] {
    Sha3_256::new()
        .chain_update("store-at-idx")
        .chain_update(blinded.0)
        .chain_update(u64::from(replica).to_be_bytes())
        .chain_update(period.length_minutes.to_be_bytes())
        .chain_update(period.number.to_be_bytes())
        .finalize()
        .into()
}

/// Computes the index of a relay:
///
/// ```text
/// hsdir_index(node) = H("node-idx" | node_identity | shared_random_value
///                       | INT_8(period_num) | INT_8(period_length))
/// ```
pub(super) fn hsdir_index(hsdir: &HsDir, shared_random: &[u8; 32], period: TimePeriod) -> [u8; 32] {
    Sha3_256::new()
        .chain_update("node-idx")
        .chain_update(hsdir.ed25519)
        .chain_update(shared_random)
        .chain_update(period.number.to_be_bytes())
        .chain_update(period.length_minutes.to_be_bytes())
        .finalize()
        .into()
}

/// Computes the disaster value, which replaces a shared random value that is missing from the
/// consensus:
///
/// `disaster_srv = H("shared-random-disaster" | INT_8(period_length) | INT_8(period_num))`
pub(super) fn disaster_shared_random(period: TimePeriod) -> [u8; 32] {
    Sha3_256::new()
        .chain_update("shared-random-disaster")
        .chain_update(period.length_minutes.to_be_bytes())
        .chain_update(period.number.to_be_bytes())
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use data_encoding::{HEXLOWER, HEXUPPER};
    use proptest::prelude::*;

    use super::*;

    const PERIOD: TimePeriod = TimePeriod { number: 42, length_minutes: 1440 };

    fn hsdir(byte: u8) -> HsDir {
        HsDir { fingerprint: Fingerprint([byte; 20]), ed25519: [byte; 32] }
    }

    fn responsible(hsdirs: &[HsDir], blinded: [u8; 32], replicas: u8, spread: u8) -> Vec<Placement> {
        let period = ServicePeriod { period: PERIOD, shared_random: [0x43; 32], srv_start: UNIX_EPOCH };
        Ring::new(hsdirs, &period).responsible(hsdirs, &BlindedPublicKey(blinded), replicas, spread)
    }

    /// The test vectors of `test_hs_indexes` in C tor's `test_hs_common.c`.
    #[test]
    fn matches_the_indexes_of_c_tor() {
        assert_eq!(
            HEXLOWER.encode(&hs_index(&BlindedPublicKey([0x42; 32]), 1, PERIOD)),
            "37e5cbbd56a22823714f18f1623ece5983a0d64c78495a8cfab854245e5f9a8a"
        );
        assert_eq!(
            HEXLOWER.encode(&hsdir_index(&hsdir(0x42), &[0x43; 32], PERIOD)),
            "db475361014a09965e7e5e4d4a25b8f8d4b8f16cb1d8a7e95eed50249cc1a2d5"
        );
    }

    /// The first value is from `test_disaster_srv` in C tor's `test_hs_service.c`, the others from
    /// Onionbalance's `test_v3_consensus.py`.
    #[test]
    fn matches_the_disaster_values_of_c_tor_and_onionbalance() {
        for (number, expected) in (1..).zip([
            "F8A4948707653837FA44ABB5BBC75A12F6F101E7F8FAF699B9715F4965D3507D",
            "C17966DF8B4834638E1B7BF38944C4995B92E89749D1623E417A44938D08FD67",
            "A3BAB4327F9C2F8B30A126DAD3ABCCE12DD813169A5D924244B57987AEE413C2",
            "C79ABE7116FCF7810F7A5C76198B97339990C738B456EFDBC1399189927BADEC",
            "941D5FE4289FBF2F853766EAC4B948B51C81A4137A44516342ABC80518E0183D",
        ]) {
            let value = disaster_shared_random(TimePeriod { number, length_minutes: 1440 });
            assert_eq!(HEXUPPER.encode(&value), expected, "period {number}");
        }
    }

    #[test]
    fn an_empty_ring_has_no_responsible_hsdirs() {
        assert_eq!(responsible(&[], [1; 32], 2, 4), []);
    }

    #[test]
    fn a_small_ring_assigns_each_relay_once() {
        let hsdirs: Vec<_> = (1..=6).map(hsdir).collect();
        let placements = responsible(&hsdirs, [1; 32], 2, 4);
        let places: Vec<_> = placements.iter().map(|p| (p.replica, p.position)).collect();
        assert_eq!(places, [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)]);
    }

    proptest! {
        /// Compares the result with a direct implementation of the definition, which walks the
        /// whole ring from the descriptor's index onwards.
        #[test]
        fn the_nearest_unassigned_relays_are_responsible(
            relays in 0..40_u8, blinded: [u8; 32], replicas in 1..5_u8, spread in 1..9_u8,
        ) {
            let hsdirs: Vec<_> = (0..relays).map(hsdir).collect();
            let mut expected = Vec::new();
            for replica in 1..=replicas {
                let start = hs_index(&BlindedPublicKey(blinded), replica, PERIOD);
                let mut left: Vec<_> = hsdirs
                    .iter()
                    .map(|hsdir| (hsdir_index(hsdir, &[0x43; 32], PERIOD), hsdir.fingerprint))
                    .filter(|(_, relay)| !expected.contains(relay))
                    .collect();
                left.sort_by_key(|(index, _)| (*index < start, *index));
                expected.extend(left.iter().take(spread.into()).map(|(_, relay)| *relay));
            }
            let got = responsible(&hsdirs, blinded, replicas, spread);
            let got: Vec<_> = got.iter().map(|placement| placement.relay).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
