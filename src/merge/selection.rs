//! Selects the introduction points of each subset by matching backends with relays. The selection
//! is fair: backends get equal numbers of points if possible. It is also stable: few points change
//! from one selection to the next.
//!
//! Either all HSDirs of a time period hold the same subset of the introduction points, or each
//! HSDir from which clients fetch holds its own subset.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::onion::descriptor::RelayIdentity;

/// An introduction point that a backend offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// The relay of the introduction point. A client that reuses an open circuit assigns it to the
    /// first introduction point at that relay, so a subset may use each relay only once.
    pub(super) relay: RelayIdentity,
    /// How often the introduction point was selected in earlier turns. Among otherwise equal
    /// points, those that were selected less often come first.
    pub(super) turns: u64,
}

/// An introduction point that is selected for a subset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pick {
    /// The index of the backend to which the introduction point belongs.
    pub(super) backend: usize,
    /// The index of the introduction point among the backend's offers.
    pub(super) offer: usize,
}

/// The number of subsets and the maximum size of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// The number of subsets to fill.
    pub(super) subsets: usize,
    /// The maximum number of introduction points in a subset.
    pub(super) points: usize,
}

/// Selects the introduction points of all subsets.
///
/// No relay occurs twice in a subset. A backend's share is its total number of picks in all
/// subsets. The selection makes the smallest share as large as possible, then the second smallest,
/// and so on; shares differ by more than one only if shared relays or a lack of points force them
/// to. Every subset is therefore as full as possible, and points are repeated across subsets.
/// Within each subset, too, the numbers of points of any two backends differ by at most one. Among
/// equal backends, the earlier one comes first.
///
/// The picks of the previous selection, `before` (ordered by subset), are kept wherever that is
/// equally fair, so a selection that is already fair does not change.
pub(super) fn choose(offers: &[Vec<Offer>], before: &[Vec<Pick>], shape: Shape) -> Vec<Vec<Pick>> {
    let mut table = Table::new(offers, shape);
    for (subset, picks) in before.iter().enumerate().take(shape.subsets) {
        for pick in picks {
            table.keep(subset, *pick);
        }
    }
    // The backend with the smallest share comes first. If it cannot gain a slot now, it never can,
    // because the other backends only gain more slots.
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
    /// The number of slots that each backend has in all subsets.
    shares: BTreeMap<usize, usize>,
    /// The number of slots, by subset and backend.
    shares_in: BTreeMap<(usize, usize), usize>,
    /// The number of subsets that contain each introduction point.
    uses: BTreeMap<Pick, usize>,
}

/// A slot in a subset. Each relay has one slot, which holds at most one introduction point.
type Place<'a> = (usize, &'a RelayIdentity);

/// A slot that a backend could occupy with one of its offers.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    place: Place<'a>,
    pick: Pick,
    holder: Option<Pick>,
}

/// The outcome of a search for one more slot for a backend.
enum Gain {
    /// The backend cannot gain a slot.
    None,
    /// The backend gained a slot, and no other backend lost one.
    FreePlace,
    /// The backend gained a slot at the expense of this other backend, which had at least two slots
    /// more.
    PlaceOf(usize),
}

/// A step of the search for a slot: a backend that needs one more slot, and why it needs the slot.
struct SearchStep<'a> {
    backend: usize,
    /// Why this backend needs a slot: it gives up another slot so that the backend of an earlier
    /// step can occupy a candidate. Contains the index of that step, the candidate, and the slot
    /// that this backend gives up. None for the first step.
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

    /// Keeps a pick of the previous selection if there is room for it.
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

    /// Gives the backend `poor` one more slot while moving as few other backends as possible.
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
            // The first of several backends with equal shares is chosen.
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

    /// Returns the slots that a backend could occupy, best first. The order prefers the subset with
    /// the fewest points of this backend, then the emptiest subset, then the point with the fewest
    /// `turns`, then the point that is in the fewest subsets.
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

    /// Returns the slots that block a candidate. One of them must become free: the candidate's own
    /// slot if it is occupied, otherwise any slot of the full subset.
    fn in_the_way(&self, candidate: &Candidate<'a>) -> impl Iterator<Item = (Place<'a>, Pick)> {
        let (index, _) = candidate.place;
        let backend = candidate.pick.backend;
        let own = candidate.holder.map(|holder| (candidate.place, holder));
        let subset = self.subsets.get(index).filter(|_| own.is_none());
        let others = subset.into_iter().flatten().map(move |(relay, pick)| ((index, *relay), *pick));
        own.into_iter().chain(others.filter(move |(_, pick)| pick.backend != backend))
    }

    /// Lets two backends exchange slots in two subsets, so that their numbers of points become more
    /// even in both subsets. Returns false if no such exchange is possible.
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

    /// Exchanges slots between two backends: `much` gives up a slot in subset `here` and gains one
    /// in subset `there`, and `little` does the opposite. Returns false if that is impossible.
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

    /// Replaces a point that is in several subsets with an unused point of the same backend.
    /// Returns false if no point can be replaced in this way.
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

    /// Returns the slots that a backend occupies in a subset, starting with the point that is in
    /// the most subsets.
    fn held(&self, subset: usize, backend: usize) -> Vec<(&'a RelayIdentity, Pick)> {
        let held = self.subsets.get(subset).into_iter().flatten().filter(|(_, pick)| pick.backend == backend);
        let mut held: Vec<(&'a RelayIdentity, Pick)> = held.map(|(relay, pick)| (*relay, *pick)).collect();
        held.sort_by_key(|(_, pick)| Reverse(self.uses(*pick)));
        held
    }

    /// Returns the best free slot for a backend in a subset.
    fn place_for(&self, subset: usize, backend: usize) -> Option<(Place<'a>, Pick)> {
        let offers: &'a [Offer] = self.offers.get(backend)?;
        let held = self.subsets.get(subset)?;
        let free = offers.iter().enumerate().filter(|(_, offer)| !held.contains_key(&offer.relay));
        let picks = free.map(|(offer, of)| ((subset, &of.relay), of.turns, Pick { backend, offer }));
        picks.min_by_key(|(_, turns, pick)| (*turns, self.uses(*pick))).map(|(place, _, pick)| (place, pick))
    }

    /// Carries out a chain of moves, from step `last` back to the first step. First, the slot
    /// `left`, if any, is cleared, and the backend of step `last` occupies `candidate`. Then, for
    /// each earlier step in the chain, the backend of the step after it gives up a slot, and the
    /// backend of the earlier step occupies the candidate for which that slot was given up.
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
