//! Which points go into a descriptor: a fair and stable matching of backends and relays.

use std::collections::{BTreeMap, BTreeSet};

use crate::onion::descriptor::RelayIdentity;

/// A point that a backend offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// Where the point is. A client maps an opened circuit to the first point with that relay: one relay, one point.
    pub(super) relay: RelayIdentity,
    /// It is in the selection already.
    pub(super) kept: bool,
}

/// Chooses at most `limit` points: for each backend the indices of its chosen offers.
///
/// No relay is used twice, and the smallest share is as great as it can be, then the second smallest, and so on: shares
/// differ by more than one only where the relays leave no other way. What is kept stays wherever that is as fair; with
/// the same offers, and what was chosen marked as kept, the choice is the same again.
pub(super) fn choose(offers: &[Vec<Offer>], limit: usize) -> Vec<Vec<usize>> {
    let mut matching = Matching { offers, holders: BTreeMap::new() };
    let kept: Vec<usize> = offers.iter().map(|all| all.iter().filter(|offer| offer.kept).count()).collect();
    let mut open: Vec<usize> = (0..offers.len()).collect();

    // Every backend gets its first point before one gets its second. A backend that finds none now never will: the
    // others only come to hold more.
    let mut share = 1;
    while !open.is_empty() && matching.holders.len() < limit {
        open.sort_by_key(|backend| (kept.get(*backend).is_some_and(|kept| *kept < share), *backend));
        open.retain(|backend| matching.holders.len() < limit && matching.give(*backend, &mut BTreeSet::new()));
        share += 1;
    }

    let mut chosen = vec![Vec::new(); offers.len()];
    for (backend, offer) in matching.holders.into_values() {
        if let Some(of_backend) = chosen.get_mut(backend) {
            of_backend.push(offer);
        }
    }
    for of_backend in &mut chosen {
        of_backend.sort_unstable();
    }
    chosen
}

/// Who holds which relay.
struct Matching<'a> {
    offers: &'a [Vec<Offer>],
    /// Backend and offer, by relay.
    holders: BTreeMap<RelayIdentity, (usize, usize)>,
}

impl<'a> Matching<'a> {
    /// Gives `backend` one more relay, if need be by moving others to other relays; nobody ends up with fewer.
    fn give(&mut self, backend: usize, visited: &mut BTreeSet<&'a RelayIdentity>) -> bool {
        let offers: &'a [Offer] = self.offers.get(backend).map_or(&[], Vec::as_slice);
        let wanted = || {
            let indexed = offers.iter().enumerate();
            indexed.clone().filter(|(_, offer)| offer.kept).chain(indexed.filter(|(_, offer)| !offer.kept))
        };
        if let Some((index, offer)) = wanted().find(|(_, offer)| !self.holders.contains_key(&offer.relay)) {
            self.holders.insert(offer.relay.clone(), (backend, index));
            return true;
        }
        for (index, offer) in wanted() {
            let Some(&(holder, _)) = self.holders.get(&offer.relay) else { continue };
            if holder != backend && visited.insert(&offer.relay) && self.give(holder, visited) {
                self.holders.insert(offer.relay.clone(), (backend, index));
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offers(relays: &[&[u8]]) -> Vec<Vec<Offer>> {
        let offer = |relay: &u8| Offer { relay: RelayIdentity([*relay; 20]), kept: false };
        relays.iter().map(|of_backend| of_backend.iter().map(offer).collect()).collect()
    }

    fn shares(chosen: &[Vec<usize>]) -> Vec<usize> {
        chosen.iter().map(Vec::len).collect()
    }

    fn keep(offers: &mut [Vec<Offer>], chosen: &[Vec<usize>]) {
        for (of_backend, chosen) in offers.iter_mut().zip(chosen) {
            for (index, offer) in of_backend.iter_mut().enumerate() {
                offer.kept = chosen.contains(&index);
            }
        }
    }

    #[test]
    fn without_clashes_everything_goes_in() {
        let chosen = choose(&offers(&[&[1, 2, 3], &[4, 5], &[]]), 20);
        assert_eq!(chosen, [vec![0, 1, 2], vec![0, 1], vec![]]);
    }

    #[test]
    fn the_limit_is_shared_evenly() {
        let all: Vec<Vec<u8>> = (0..7).map(|b| (0..3).map(|p| b * 3 + p).collect()).collect();
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        let chosen = choose(&offers(&all), 20);
        assert_eq!(shares(&chosen), [3, 3, 3, 3, 3, 3, 2]);
        assert_eq!(shares(&choose(&offers(&all), 4)), [1, 1, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn a_clash_starves_nobody() {
        // The first backend must leave relay 1 to the second, and the second relay 2 to the third.
        let chosen = choose(&offers(&[&[1, 3], &[1, 2], &[2]]), 20);
        assert_eq!(shares(&chosen), [1, 1, 1]);
    }

    #[test]
    fn a_backend_uses_a_relay_once() {
        assert_eq!(shares(&choose(&offers(&[&[1, 1, 2]]), 20)), [2]);
    }

    #[test]
    fn who_got_the_odd_point_keeps_it() {
        let mut all = offers(&[&[1, 2], &[3, 4], &[5, 6]]);
        all[2][0].kept = true;
        all[2][1].kept = true;
        all[0][1].kept = true;
        all[1][1].kept = true;
        assert_eq!(choose(&all, 4), [vec![1], vec![1], vec![0, 1]]);
    }

    #[test]
    fn a_newcomer_takes_only_what_it_needs() {
        let mut all = offers(&[&[1, 2, 3], &[4, 5, 6]]);
        let before = choose(&all, 6);
        keep(&mut all, &before);
        all.push(offers(&[&[7, 8, 9]]).remove(0));
        let after = choose(&all, 6);
        assert_eq!(shares(&after), [2, 2, 2]);
        assert!(after.iter().zip(&before).all(|(after, before)| after.iter().all(|i| before.contains(i))));
    }

    /// Every way to choose, as sorted shares.
    fn all_shares(offers: &[Vec<Offer>], limit: usize) -> Vec<Vec<usize>> {
        fn go(
            flat: &[(usize, &RelayIdentity)],
            used: &mut Vec<RelayIdentity>,
            shares: &mut Vec<usize>,
            limit: usize,
            found: &mut Vec<Vec<usize>>,
        ) {
            let Some(((backend, relay), rest)) = flat.split_first() else {
                let mut sorted = shares.clone();
                sorted.sort_unstable();
                found.push(sorted);
                return;
            };
            go(rest, used, shares, limit, found);
            if used.len() < limit && !used.contains(relay) {
                used.push((*relay).clone());
                shares[*backend] += 1;
                go(rest, used, shares, limit, found);
                shares[*backend] -= 1;
                used.pop();
            }
        }
        let flat: Vec<_> =
            offers.iter().enumerate().flat_map(|(backend, all)| all.iter().map(move |o| (backend, &o.relay))).collect();
        let mut found = Vec::new();
        go(&flat, &mut Vec::new(), &mut vec![0; offers.len()], limit, &mut found);
        found
    }

    fn any_offers(backends: usize, relays: u8) -> impl Strategy<Value = Vec<Vec<Offer>>> {
        let offer = (0..relays, any::<bool>()).prop_map(|(r, kept)| Offer { relay: RelayIdentity([r; 20]), kept });
        prop::collection::vec(prop::collection::vec(offer, 0..4), 0..=backends)
    }

    proptest! {
        #[test]
        fn the_choice_is_the_fairest(all in any_offers(4, 5), limit in 0..6_usize) {
            let mut found = shares(&choose(&all, limit));
            found.sort_unstable();
            let best = all_shares(&all, limit).into_iter().max().unwrap();
            prop_assert_eq!(found, best);
        }

        #[test]
        fn the_choice_is_within_limits_and_stable(mut all in any_offers(30, 40)) {
            let chosen = choose(&all, 20);
            let relays: Vec<_> = all.iter().zip(&chosen)
                .flat_map(|(all, chosen)| chosen.iter().map(|index| &all[*index].relay)).collect();
            prop_assert!(relays.len() <= 20);
            prop_assert_eq!(relays.iter().collect::<BTreeSet<_>>().len(), relays.len());
            keep(&mut all, &chosen);
            prop_assert_eq!(choose(&all, 20), chosen);
        }
    }
}
