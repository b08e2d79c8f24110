//! The selection of introduction points for each subset: a fair and stable matching of backends and
//! relays.
//!
//! The HSDirs of a time period all hold the same subset of the points, or each HSDir that clients
//! ask holds its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::onion::descriptor::RelayIdentity;

/// An introduction point that a backend offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// The relay of the point. A client maps an open circuit to the first point at its relay, so a
    /// subset may use each relay only once.
    pub(super) relay: RelayIdentity,
    /// The number of earlier turns of the point. Among equal points, those with fewer turns come
    /// first.
    pub(super) turns: u64,
}

/// A point that is selected for a subset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pick {
    /// The index of the backend.
    pub(super) backend: usize,
    /// The index of the point among the backend's offers.
    pub(super) offer: usize,
}

/// The number of subsets and their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// The number of subsets.
    pub(super) subsets: usize,
    /// The largest number of points in a subset.
    pub(super) points: usize,
}

/// Selects the points of all subsets.
///
/// No relay occurs twice in a subset. The share of a backend is the number of its picks in all
/// subsets. The smallest share is as large as possible, then the second smallest, and so on; shares
/// differ by more than one only if the relays or a lack of points require it. Every subset is
/// therefore as full as possible, and points repeat. Within a subset, too, the numbers of the
/// backends' points differ by at most one. Among equal backends, the earlier one comes first.
///
/// The picks of `before` (ordered by subset) are kept wherever that is equally fair, so a fair
/// selection is reproduced unchanged.
pub(super) fn choose(offers: &[Vec<Offer>], before: &[Vec<Pick>], shape: Shape) -> Vec<Vec<Pick>> {
    let mut table = Table::new(offers, shape);
    for (subset, picks) in before.iter().enumerate().take(shape.subsets) {
        for pick in picks {
            table.keep(subset, *pick);
        }
    }
    // The backend with the smallest share comes first. If it cannot gain a place now, it never can,
    // because the other backends only gain more places.
    let mut open: BTreeSet<(usize, usize)> =
        (0..table.offers.len()).map(|backend| (table.share(backend), backend)).collect();
    while let Some((_, backend)) = open.pop_first() {
        match table.gain_place(backend) {
            Gain::None => continue,
            Gain::FreePlace => {}
            Gain::PlaceOf(loser) => {
                if open.remove(&(table.share(loser) + 1, loser)) {
                    open.insert((table.share(loser), loser));
                }
            }
        }
        open.insert((table.share(backend), backend));
    }
    while table.even_out() || table.show_all() {}
    table.subsets.into_iter().map(|subset| subset.into_values().collect()).collect()
}

/// The assignment of relays to backends in all subsets.
struct Table<'a> {
    offers: &'a [Vec<Offer>],
    points: usize,
    subsets: Vec<BTreeMap<&'a RelayIdentity, Pick>>,
    /// The number of places of each backend in all subsets.
    shares: BTreeMap<usize, usize>,
    /// The number of places by subset and backend.
    shares_in: BTreeMap<(usize, usize), usize>,
    /// The number of subsets that contain each point.
    uses: BTreeMap<Pick, usize>,
}

/// A relay in a subset, which has room for one point.
type Place<'a> = (usize, &'a RelayIdentity);

/// A place that a backend could take, with one of its offers.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    place: Place<'a>,
    pick: Pick,
    holder: Option<Pick>,
}

/// The origin of a place that a backend gains.
enum Gain {
    /// No place can be gained.
    None,
    /// The place was free.
    FreePlace,
    /// The place was taken from this backend, which had at least two more than the other.
    PlaceOf(usize),
}

/// A backend in the search that needs one more place, and the reason.
struct SearchStep<'a> {
    backend: usize,
    /// The index of the step whose backend takes the candidate, and the place that this backend
    /// leaves for it.
    after: Option<(usize, Candidate<'a>, Place<'a>)>,
}

impl<'a> Table<'a> {
    fn new(offers: &'a [Vec<Offer>], shape: Shape) -> Self {
        let subsets = vec![BTreeMap::new(); if shape.points == 0 { 0 } else { shape.subsets }];
        let (shares, shares_in, uses) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { offers, points: shape.points, subsets, shares, shares_in, uses }
    }

    fn share(&self, backend: usize) -> usize {
        self.shares.get(&backend).copied().unwrap_or_default()
    }

    fn is_full(&self, subset: usize) -> bool {
        self.subsets.get(subset).is_none_or(|held| held.len() >= self.points)
    }

    /// Takes over a pick of the previous selection if there is room for it.
    fn keep(&mut self, subset: usize, pick: Pick) {
        let offer = self.offers.get(pick.backend).and_then(|offers| offers.get(pick.offer));
        let Some(offer) = offer.filter(|_| !self.is_full(subset)) else { return };
        if self.subsets.get(subset).is_some_and(|subset| !subset.contains_key(&offer.relay)) {
            self.put((subset, &offer.relay), pick);
        }
    }

    fn put(&mut self, (subset, relay): Place<'a>, pick: Pick) {
        if let Some(held) = self.subsets.get_mut(subset) {
            held.insert(relay, pick);
            self.counts(subset, pick).into_iter().for_each(|count| *count += 1);
        }
    }

    fn clear(&mut self, (subset, relay): Place<'a>) {
        if let Some(pick) = self.subsets.get_mut(subset).and_then(|held| held.remove(relay)) {
            self.counts(subset, pick).into_iter().for_each(|count| *count -= 1);
        }
    }

    fn counts(&mut self, subset: usize, pick: Pick) -> [&mut usize; 3] {
        [
            self.shares.entry(pick.backend).or_default(),
            self.shares_in.entry((subset, pick.backend)).or_default(),
            self.uses.entry(pick).or_default(),
        ]
    }

    /// Gives `poor` one more place and moves as few other backends as possible.
    fn gain_place(&mut self, poor: usize) -> Gain {
        let rich = self.share(poor) + 2;
        let no_room = (0..self.subsets.len()).all(|subset| self.is_full(subset));
        if no_room && self.shares.values().all(|share| *share < rich) {
            return Gain::None;
        }
        let mut steps = vec![SearchStep { backend: poor, after: None }];
        let (mut backends, mut places, mut full) = (BTreeSet::from([poor]), BTreeSet::new(), BTreeSet::new());
        let mut next = 0;
        while let Some(step) = steps.get(next) {
            let candidates = self.candidates(step.backend);
            let free = |candidate: &&Candidate| candidate.holder.is_none() && !self.is_full(candidate.place.0);
            if let Some(candidate) = candidates.iter().find(free) {
                self.carry_out(&steps, next, *candidate, None);
                return Gain::FreePlace;
            }
            let richest =
                candidates.iter().flat_map(|candidate| self.in_the_way(candidate).map(move |way| (*candidate, way)));
            let richest =
                richest.map(|(candidate, (left, pick))| (self.share(pick.backend), candidate, left, pick.backend));
            // Of several backends with the same share, the first is chosen.
            let richest = richest.min_by_key(|(share, ..)| Reverse(*share)).filter(|(share, ..)| *share >= rich);
            if let Some((_, candidate, left, loser)) = richest {
                self.carry_out(&steps, next, candidate, Some(left));
                return Gain::PlaceOf(loser);
            }
            for candidate in candidates {
                if !places.insert(candidate.place) || (candidate.holder.is_none() && !full.insert(candidate.place.0)) {
                    continue;
                }
                for (left, pick) in self.in_the_way(&candidate) {
                    if backends.insert(pick.backend) {
                        steps.push(SearchStep { backend: pick.backend, after: Some((next, candidate, left)) });
                    }
                }
            }
            next += 1;
        }
        Gain::None
    }

    /// Returns the places that a backend could take, the best first. The best place is in the
    /// subset with the fewest points of the backend, then in the emptiest subset, then for the
    /// point with the fewest turns, then for the point in the fewest subsets.
    fn candidates(&self, backend: usize) -> Vec<Candidate<'a>> {
        let offers: &'a [Offer] = self.offers.get(backend).map_or(&[], Vec::as_slice);
        let uses: Vec<usize> = (0..offers.len()).map(|offer| self.uses(Pick { backend, offer })).collect();
        let mut candidates = Vec::new();
        for (index, subset) in self.subsets.iter().enumerate() {
            let own = self.share_in(index, backend);
            for (offer, (of, uses)) in offers.iter().zip(&uses).enumerate() {
                let holder = subset.get(&of.relay).copied();
                if holder.is_none_or(|holder| holder.backend != backend) {
                    let candidate = Candidate { place: (index, &of.relay), pick: Pick { backend, offer }, holder };
                    candidates.push(((own, subset.len(), of.turns, *uses), candidate));
                }
            }
        }
        candidates.sort_by_key(|(rank, _)| *rank);
        candidates.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// Returns the places of which one must become free before a candidate can be taken: the
    /// candidate's own place, or any place of a full subset.
    fn in_the_way(&self, candidate: &Candidate<'a>) -> impl Iterator<Item = (Place<'a>, Pick)> {
        let (index, _) = candidate.place;
        let backend = candidate.pick.backend;
        let own = candidate.holder.map(|holder| (candidate.place, holder));
        let subset = self.subsets.get(index).filter(|_| own.is_none());
        let others = subset.into_iter().flatten().map(move |(relay, pick)| ((index, *relay), *pick));
        own.into_iter().chain(others.filter(move |(_, pick)| pick.backend != backend))
    }

    /// Lets two backends exchange places in two subsets if that evens out their numbers in each.
    /// Returns false if there is no such pair.
    fn even_out(&mut self) -> bool {
        for here in 0..self.subsets.len() {
            let most = (0..self.offers.len()).map(|backend| self.share_in(here, backend)).max().unwrap_or_default();
            let (much, little): (Vec<usize>, Vec<usize>) = (
                (0..self.offers.len()).filter(|backend| self.share_in(here, *backend) >= 2).collect(),
                (0..self.offers.len()).filter(|backend| self.share_in(here, *backend) + 2 <= most).collect(),
            );
            for (much, little) in much.iter().flat_map(|much| little.iter().map(move |little| (*much, *little))) {
                if self.share_in(here, much) < self.share_in(here, little) + 2 {
                    continue;
                }
                let other_way = |there: &usize| self.share_in(*there, much) < self.share_in(*there, little);
                let there: Vec<usize> = (0..self.subsets.len()).filter(other_way).collect();
                if there.into_iter().any(|there| self.exchange((here, much), (there, little))) {
                    return true;
                }
            }
        }
        false
    }

    /// Lets each of two backends give up a place in its subset for one in the other's. Returns
    /// false if that is impossible.
    fn exchange(&mut self, (here, much): (usize, usize), (there, little): (usize, usize)) -> bool {
        for (gives, given) in self.held(here, much) {
            for (takes, taken) in self.held(there, little) {
                self.clear((here, gives));
                self.clear((there, takes));
                let found = (self.place_for(here, little), self.place_for(there, much));
                if let (Some((place, pick)), Some((other_place, other_pick))) = found {
                    self.put(place, pick);
                    self.put(other_place, other_pick);
                    return true;
                }
                self.put((here, gives), given);
                self.put((there, takes), taken);
            }
        }
        false
    }

    /// Puts an unused point into the place of another point of its backend that is in several
    /// subsets. Returns false if there is no such point.
    fn show_all(&mut self) -> bool {
        let offers: &'a [Vec<Offer>] = self.offers;
        for (backend, of_backend) in offers.iter().enumerate() {
            for (offer, of) in of_backend.iter().enumerate() {
                if self.uses(Pick { backend, offer }) > 0 {
                    continue;
                }
                for subset in 0..self.subsets.len() {
                    let often = self.held(subset, backend).into_iter().find(|(_, pick)| self.uses(*pick) > 1);
                    let is_free = self.subsets.get(subset).is_some_and(|subset| !subset.contains_key(&of.relay));
                    if let Some((relay, _)) = often.filter(|(relay, _)| is_free || **relay == of.relay) {
                        self.clear((subset, relay));
                        self.put((subset, &of.relay), Pick { backend, offer });
                        return true;
                    }
                }
            }
        }
        false
    }

    fn share_in(&self, subset: usize, backend: usize) -> usize {
        self.shares_in.get(&(subset, backend)).copied().unwrap_or_default()
    }

    fn uses(&self, pick: Pick) -> usize {
        self.uses.get(&pick).copied().unwrap_or_default()
    }

    /// Returns the places of a backend in a subset, beginning with the point that is in the most
    /// subsets.
    fn held(&self, subset: usize, backend: usize) -> Vec<(&'a RelayIdentity, Pick)> {
        let held = self.subsets.get(subset).into_iter().flatten().filter(|(_, pick)| pick.backend == backend);
        let mut held: Vec<(&'a RelayIdentity, Pick)> = held.map(|(relay, pick)| (*relay, *pick)).collect();
        held.sort_by_key(|(_, pick)| Reverse(self.uses(*pick)));
        held
    }

    /// Returns the best free place for a backend in a subset.
    fn place_for(&self, subset: usize, backend: usize) -> Option<(Place<'a>, Pick)> {
        let offers: &'a [Offer] = self.offers.get(backend)?;
        let held = self.subsets.get(subset)?;
        let free = offers.iter().enumerate().filter(|(_, offer)| !held.contains_key(&offer.relay));
        let picks = free.map(|(offer, of)| ((subset, &of.relay), of.turns, Pick { backend, offer }));
        picks.min_by_key(|(_, turns, pick)| (*turns, self.uses(*pick))).map(|(place, _, pick)| (place, pick))
    }

    /// Gives `candidate` to the backend of step `last`, for which another backend leaves `left`.
    /// The backends of the steps before it each take the place that is left for them.
    fn carry_out(&mut self, steps: &[SearchStep<'a>], last: usize, candidate: Candidate<'a>, left: Option<Place<'a>>) {
        let (mut index, mut candidate, mut left) = (last, candidate, left);
        loop {
            if let Some(left) = left {
                self.clear(left);
            }
            self.put(candidate.place, candidate.pick);
            let Some((before, taken, leaves)) = steps.get(index).and_then(|step| step.after) else { return };
            (index, candidate, left) = (before, taken, Some(leaves));
        }
    }
}

#[cfg(test)]
mod tests;
