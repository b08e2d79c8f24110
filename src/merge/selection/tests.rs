use super::*;
use proptest::prelude::*;

const ONE: Shape = Shape { subsets: 1, points: 20 };
const SIX: Shape = Shape { subsets: 6, points: 20 };

fn offers(relays: &[&[u8]]) -> Vec<Vec<Offer>> {
    let offer = |relay: &u8| Offer { relay: RelayIdentity([*relay; 20]), turns: 0 };
    relays.iter().map(|of_backend| of_backend.iter().map(offer).collect()).collect()
}

/// Returns the offers of this many backends, each with three introduction points, all at different
/// relays.
fn threes(backends: u16) -> Vec<Vec<Offer>> {
    let offer = |number: u16| {
        let mut relay = [0; 20];
        relay[..2].copy_from_slice(&number.to_be_bytes());
        Offer { relay: RelayIdentity(relay), turns: 0 }
    };
    (0..backends).map(|backend| (3 * backend..3 * backend + 3).map(offer).collect()).collect()
}

fn one(points: usize) -> Shape {
    Shape { subsets: 1, points }
}

/// Returns the number of points that each backend has in one subset.
fn shares_in(backends: usize, subset: &[Pick]) -> Vec<usize> {
    (0..backends).map(|backend| subset.iter().filter(|pick| pick.backend == backend).count()).collect()
}

/// Returns the number of points that each backend has in all subsets together.
fn shares(backends: usize, subsets: &[Vec<Pick>]) -> Vec<usize> {
    shares_in(backends, &subsets.concat())
}

/// Returns the picks of each subset as a set.
fn sorted(subsets: &[Vec<Pick>]) -> Vec<BTreeSet<Pick>> {
    subsets.iter().map(|subset| subset.iter().copied().collect()).collect()
}

/// Returns the number of picks in `after` that are not in `before`.
fn moved(before: &[Vec<Pick>], after: &[Vec<Pick>]) -> usize {
    let before = sorted(before);
    sorted(after).iter().enumerate().map(|(index, after)| after.difference(&before[index]).count()).sum()
}

fn spread(shares: &[usize]) -> usize {
    shares.iter().max().unwrap() - shares.iter().min().unwrap()
}

#[test]
fn without_clashes_all_points_are_selected() {
    let chosen = choose(&offers(&[&[1, 2, 3], &[4, 5], &[]]), &[], ONE);
    assert_eq!(shares(3, &chosen), [3, 2, 0]);
}

#[test]
fn the_limit_is_shared_evenly() {
    assert_eq!(shares(7, &choose(&threes(7), &[], ONE)), [3, 3, 3, 3, 3, 3, 2]);
    assert_eq!(shares(7, &choose(&threes(7), &[], one(4))), [1, 1, 1, 1, 0, 0, 0]);
    assert_eq!(choose(&threes(7), &[], one(0)), Vec::<Vec<Pick>>::new());
}

#[test]
fn a_clash_leaves_no_backend_without_a_point() {
    // The first backend must leave relay 1 to the second, which must leave relay 2 to the third.
    let chosen = choose(&offers(&[&[1, 3], &[1, 2], &[2]]), &[], ONE);
    assert_eq!(shares(3, &chosen), [1, 1, 1]);
}

#[test]
fn a_clashing_point_goes_into_another_subset() {
    let two = Shape { subsets: 2, points: 20 };
    let chosen = choose(&offers(&[&[1], &[1]]), &[], two);
    assert_eq!((chosen[0].len(), chosen[1].len(), shares(2, &chosen)), (1, 1, vec![1, 1]));
}

#[test]
fn a_backend_uses_a_relay_once() {
    assert_eq!(shares(1, &choose(&offers(&[&[1, 1, 2]]), &[], ONE)), [2]);
}

#[test]
fn the_backend_with_the_odd_point_keeps_it() {
    let pick = |backend, offer| Pick { backend, offer };
    let before = vec![vec![pick(2, 0), pick(2, 1), pick(0, 1), pick(1, 1)]];
    let after = choose(&offers(&[&[1, 2], &[3, 4], &[5, 6]]), &before, one(4));
    assert_eq!(sorted(&after), sorted(&before));
}

#[test]
fn a_new_backend_gets_a_slot_of_one_that_has_all() {
    let all_of_one = [0, 1, 2].map(|offer| vec![Pick { backend: 0, offer }]);
    let after = choose(&offers(&[&[1, 2, 3], &[4]]), &all_of_one, Shape { subsets: 3, points: 1 });
    assert_eq!(shares(2, &after), [2, 1]);
}

#[test]
fn the_point_with_the_fewest_turns_comes_first() {
    let mut all = offers(&[&[1, 2, 3]]);
    for (offer, turns) in all[0].iter_mut().zip([2, 1, 3]) {
        offer.turns = turns;
    }
    assert_eq!(choose(&all, &[], one(1)), [[Pick { backend: 0, offer: 1 }]]);
}

/// If there are a few more points than fit into one descriptor, each subset contains every backend,
/// and each point is in at least one subset.
#[test]
fn slightly_too_many_points_are_repeated_evenly() {
    for backends in 7..=40 {
        let chosen = choose(&threes(backends), &[], SIX);
        let backends = usize::from(backends);
        assert!(chosen.iter().all(|subset| subset.len() == 20), "{backends} backends");
        assert!(spread(&shares(backends, &chosen)) <= 1, "{backends} backends");
        for subset in &chosen {
            assert!(
                spread(&shares_in(backends, subset)) <= 1,
                "{backends} backends: {:?}",
                shares_in(backends, subset)
            );
        }
        let points: BTreeSet<Pick> = chosen.concat().into_iter().collect();
        assert_eq!(points.len(), 3 * backends);
        let uses = |point: &Pick| chosen.iter().filter(|subset| subset.contains(point)).count();
        let uses: Vec<usize> = points.iter().map(uses).collect();
        assert!(spread(&uses) <= 2, "{backends} backends: {uses:?}");
    }
}

#[test]
fn sixty_backends_have_two_slots_each() {
    let chosen = choose(&threes(60), &[], SIX);
    assert_eq!(shares(60, &chosen), [2; 60]);
    assert!(chosen.iter().all(|subset| subset.len() == 20 && spread(&shares_in(60, subset)) == 1));
    let points: BTreeSet<Pick> = chosen.concat().into_iter().collect();
    assert_eq!(points.len(), 120, "no point is used twice");
}

#[test]
fn a_new_or_lost_backend_moves_few_other_points() {
    for backends in [7, 8, 13, 20, 40, 60, 100, 119] {
        let before = choose(&threes(backends), &[], SIX);
        let each = 120_usize.div_ceil(backends.into());
        // A new backend takes its share from other backends, which sometimes have to make room for
        // each other.
        let few = |number: usize| number + number.div_ceil(4);
        let after = choose(&threes(backends + 1), &before, SIX);
        assert!(
            moved(&before, &after) <= few(each),
            "{} of {each} points moved with {backends} backends",
            moved(&before, &after)
        );
        // When that backend is lost again, the other backends regain as many slots.
        let left: Vec<Vec<Pick>> = after
            .iter()
            .map(|subset| subset.iter().copied().filter(|p| p.backend < backends.into()).collect())
            .collect();
        let gone = after.concat().len() - left.concat().len();
        let again = choose(&threes(backends), &left, SIX);
        assert!(
            moved(&left, &again) <= few(gone),
            "{} of {gone} points moved with {backends} backends",
            moved(&left, &again)
        );
        assert_eq!(again.concat().len(), 120);
    }
}

/// Returns every combination of backend shares that a subset of at most `limit` points can have,
/// without duplicates.
fn all_shares(offers: &[Vec<Offer>], limit: usize) -> Vec<Vec<usize>> {
    fn extend(
        flat: &[(usize, &RelayIdentity)],
        used: &mut Vec<RelayIdentity>,
        shares: &mut Vec<usize>,
        limit: usize,
        found: &mut Vec<Vec<usize>>,
    ) {
        let Some(((backend, relay), rest)) = flat.split_first() else {
            found.push(shares.clone());
            return;
        };
        extend(rest, used, shares, limit, found);
        if used.len() < limit && !used.contains(relay) {
            used.push((*relay).clone());
            shares[*backend] += 1;
            extend(rest, used, shares, limit, found);
            shares[*backend] -= 1;
            used.pop();
        }
    }
    let flat: Vec<_> =
        offers.iter().enumerate().flat_map(|(backend, all)| all.iter().map(move |o| (backend, &o.relay))).collect();
    let mut found = Vec::new();
    extend(&flat, &mut Vec::new(), &mut vec![0; offers.len()], limit, &mut found);
    found.sort();
    found.dedup();
    found
}

/// Returns the fairest shares that subsets of this shape can give the backends, in ascending order.
fn fairest(offers: &[Vec<Offer>], shape: Shape) -> Vec<usize> {
    let one = all_shares(offers, shape.points);
    let mut sums: BTreeSet<Vec<usize>> = BTreeSet::from([vec![0; offers.len()]]);
    for _ in 0..shape.subsets {
        let add = |sum: &Vec<usize>, more: &Vec<usize>| sum.iter().zip(more).map(|(a, b)| a + b).collect();
        sums = sums.iter().flat_map(|sum| one.iter().map(move |more| add(sum, more))).collect();
    }
    let sort = |mut sum: Vec<usize>| {
        sum.sort_unstable();
        sum
    };
    sums.into_iter().map(sort).max().unwrap()
}

fn any_offers(backends: usize, relays: u8) -> impl Strategy<Value = Vec<Vec<Offer>>> {
    let offer = (0..relays, 0..3_u64).prop_map(|(r, turns)| Offer { relay: RelayIdentity([r; 20]), turns });
    prop::collection::vec(prop::collection::vec(offer, 0..4), 0..=backends)
}

fn any_picks(backends: usize) -> impl Strategy<Value = Vec<Vec<Pick>>> {
    let pick = (0..backends, 0..4_usize).prop_map(|(backend, offer)| Pick { backend, offer });
    prop::collection::vec(prop::collection::vec(pick, 0..8), 0..4)
}

fn any_shape() -> impl Strategy<Value = Shape> {
    (1..4_usize, 1..4_usize).prop_map(|(subsets, points)| Shape { subsets, points })
}

/// Returns picks of the backend's offers with these indexes.
fn picks(backend: usize, offers: std::ops::Range<usize>) -> Vec<Pick> {
    offers.map(|offer| Pick { backend, offer }).collect()
}

#[test]
fn an_unused_point_replaces_a_repeated_one() {
    let shape = Shape { subsets: 2, points: 1 };
    for relays in [[1, 2], [1, 1]] {
        let chosen = choose(&offers(&[&relays]), &[picks(0, 0..1), picks(0, 0..1)], shape);
        let mut used: Vec<Pick> = chosen.into_iter().flatten().collect();
        used.sort_unstable();
        assert_eq!(used, picks(0, 0..2), "{relays:?}");
    }
}

#[test]
fn backends_exchange_slots_until_their_numbers_are_even_in_every_subset() {
    for (here, there) in [(3, 0), (5, 3)] {
        let points = here + there;
        let before = [
            [picks(0, 0..here), picks(1, 0..there)].concat(),
            [picks(0, here..points), picks(1, there..points)].concat(),
        ];
        let relays: Vec<u8> = (0..16).collect();
        let offers = offers(&[&relays[..points], &relays[points..2 * points]]);
        let chosen = choose(&offers, &before, Shape { subsets: 2, points });
        for subset in &chosen {
            let shares = shares_in(2, subset);
            assert!(shares[0].abs_diff(shares[1]) <= 1, "{shares:?}");
        }
    }
}

proptest! {
    #[test]
    fn the_selection_is_the_fairest_possible(all in any_offers(4, 5), before in any_picks(4), shape in any_shape()) {
        let mut found = shares(all.len(), &choose(&all, &before, shape));
        found.sort_unstable();
        prop_assert_eq!(found, fairest(&all, shape));
    }

    #[test]
    fn the_selection_is_within_limits_and_stable(all in any_offers(60, 40), before in any_picks(60), subsets in 1..9_usize) {
        let shape = Shape { subsets, points: 20 };
        let chosen = choose(&all, &before, shape);
        prop_assert_eq!(chosen.len(), subsets);
        for subset in &chosen {
            let relays: BTreeSet<_> = subset.iter().map(|pick| &all[pick.backend][pick.offer].relay).collect();
            prop_assert!(subset.len() <= 20);
            prop_assert_eq!(relays.len(), subset.len());
        }
        prop_assert_eq!(sorted(&choose(&all, &chosen, shape)), sorted(&chosen));
    }
}
