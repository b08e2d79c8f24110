//! Computes the contents of a time period's descriptors: subsets of the introduction points, with
//! the fields on which all backends agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::BackendId;
use super::backends::{Backends, USUAL_POINTS};
use super::selection::{self, Offer, Pick, Shape};
use crate::onion::descriptor::max_points_beside;
use crate::onion::{Discovery, IntroductionPoint, ServiceContent};

/// The minimum time for which the selected introduction points are kept if there are more points
/// than the descriptors can hold. It equals C tor's shortest re-upload interval.
const TURN: Duration = Duration::from_secs(60 * 60);

/// The mode that determines whether the HSDirs of a time period get different descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Distinct {
    /// The descriptors differ if a single descriptor cannot hold all introduction points.
    #[default]
    Auto,
    /// The descriptors always differ. Each holds at most half of the introduction points (rounded
    /// up) or three of them, whichever is more. If a service has more than three points, no single
    /// HSDir's descriptor reveals all of them.
    Always,
    /// All HSDirs hold the same descriptor.
    Never,
}

/// The parameters of a merge.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) distinct: Distinct,
    pub(super) discovery: Arc<Discovery>,
    /// The number of different descriptors that clients can fetch.
    pub(super) subsets: usize,
}

impl Policy {
    /// Returns the maximum number of introduction points in one descriptor.
    fn max_points(&self) -> usize {
        match &*self.discovery {
            Discovery::Open => max_points_beside(0),
            Discovery::Restricted(clients) => max_points_beside(clients.len()),
        }
    }
}

/// The latest subsets of one time period. They outlive the backends, so that the introduction
/// points of a backend that comes back regain their slots.
#[derive(Debug, Default)]
pub(super) struct Subsets {
    chosen: Vec<Vec<Chosen>>,
    /// The time at which the current turn began.
    since: Duration,
    turns: Turns,
}

#[derive(Debug, Clone)]
struct Chosen {
    backend: BackendId,
    point: IntroductionPoint,
    /// The introduction point's rank in the descriptor. The rank is random, so that the order does
    /// not reveal which points belong to the same backend. It does not change while the point is
    /// selected, because tor, too, keeps the order of an unchanged set.
    rank: u64,
}

/// The number of slots that each backend and each introduction point has occupied in all past
/// turns. There are turns only while there are more points than the descriptors can hold.
#[derive(Debug, Default)]
struct Turns {
    backends: BTreeMap<BackendId, u64>,
    points: BTreeMap<Point, u64>,
}

/// The identity of an introduction point: its backend and its authentication key.
type Point = (BackendId, [u8; 32]);

/// The contents of a publishing round's descriptors, with the authorized clients and each backend's
/// number of points.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    /// The contents, ordered by subset. There is only one if all HSDirs hold the same descriptor.
    pub(super) contents: Vec<ServiceContent>,
    pub(super) discovery: Arc<Discovery>,
    /// The number of distinct introduction points of each backend. Backends without selected points
    /// are omitted.
    pub(super) points: BTreeMap<BackendId, usize>,
}

type Usable<'a> = Vec<(&'a BackendId, Vec<&'a IntroductionPoint>)>;

impl Subsets {
    /// Selects introduction points and merges them. Returns None if there are no points.
    pub(super) fn merge(
        &mut self,
        backends: &Backends,
        policy: &Policy,
        now: Duration,
        rng: &mut impl Rng,
    ) -> Option<Merged> {
        let agreed = backends.agreed()?;
        let mut usable: Usable = backends.usable().map(|(id, points)| (id, points.collect())).collect();
        // Ties between equal backends must not be decided by their names.
        usable.shuffle(rng);
        self.choose(&mut usable, policy, now, rng);

        let content = |subset: &Vec<Chosen>| {
            let introduction_points = subset.iter().map(|chosen| chosen.point.clone()).collect();
            ServiceContent { introduction_points, ..agreed.clone() }
        };
        let mut points = BTreeMap::new();
        for (backend, _) in points_in(&self.chosen) {
            *points.entry(backend).or_default() += 1;
        }
        let mut contents: Vec<ServiceContent> = self.chosen.iter().map(content).collect();
        if contents.windows(2).all(|pair| matches!(pair, [a, b] if a == b)) {
            contents.truncate(1);
        }
        Some(Merged { contents, discovery: Arc::clone(&policy.discovery), points })
    }

    /// Returns the number of introduction points and backends that are remembered.
    pub(super) fn entries(&self) -> usize {
        self.chosen.iter().map(Vec::len).sum::<usize>() + self.turns.backends.len() + self.turns.points.len()
    }

    fn choose(&mut self, usable: &mut Usable, policy: &Policy, now: Duration, rng: &mut impl Rng) {
        let shape = shape(usable, policy);
        let points: usize = usable.iter().map(|(_, points)| points.len()).sum();
        let chosen = self.select(usable, &self.chosen, shape, rng);
        if self.chosen.is_empty() || points_in(&chosen).len() == points {
            self.since = now;
        } else if now.saturating_sub(self.since) >= TURN {
            self.since = now;
            self.turns.count(&self.chosen, usable);
            usable.sort_by_key(|(id, _)| self.turns.backends.get(*id).copied());
            self.chosen = self.select(usable, &[], shape, rng);
            return;
        }
        self.chosen = chosen;
    }

    fn select(&self, usable: &Usable, before: &[Vec<Chosen>], shape: Shape, rng: &mut impl Rng) -> Vec<Vec<Chosen>> {
        let mut ranks: BTreeMap<Point, u64> =
            self.chosen.iter().flatten().map(|chosen| (chosen.name(), chosen.rank)).collect();
        let turns = |id: &BackendId, point: &IntroductionPoint| {
            self.turns.points.get(&(id.clone(), point.auth_key)).copied().unwrap_or_default()
        };
        let offer = |id, point: &IntroductionPoint| Offer { relay: point.relay(), turns: turns(id, point) };
        let offers: Vec<Vec<Offer>> =
            usable.iter().map(|(id, points)| points.iter().map(|point| offer(id, point)).collect()).collect();

        let mut picks: BTreeMap<Point, Pick> = BTreeMap::new();
        for (backend, (id, points)) in usable.iter().enumerate() {
            for (offer, point) in points.iter().enumerate() {
                picks.insert(((*id).clone(), point.auth_key), Pick { backend, offer });
            }
        }
        let pick = |chosen: &Chosen| picks.get(&chosen.name()).copied();
        let before: Vec<Vec<Pick>> = before.iter().map(|subset| subset.iter().filter_map(pick).collect()).collect();

        let mut chosen = |pick: &Pick| {
            let (id, points) = usable.get(pick.backend)?;
            let point = points.get(pick.offer)?;
            let rank = *ranks.entry(((*id).clone(), point.auth_key)).or_insert_with(|| rng.random());
            Some(Chosen { backend: (*id).clone(), point: (*point).clone(), rank })
        };
        let subsets = selection::choose(&offers, &before, shape);
        let subsets = subsets.iter().map(|subset| {
            let mut subset: Vec<Chosen> = subset.iter().filter_map(&mut chosen).collect();
            subset.sort_by_key(|chosen| (chosen.rank, chosen.point.auth_key));
            subset
        });
        subsets.collect()
    }
}

impl Chosen {
    fn name(&self) -> Point {
        (self.backend.clone(), self.point.auth_key)
    }
}

impl Turns {
    /// Adds the slots of the turn that has just ended. A new backend starts with the lowest number
    /// of all known backends, and a new point with the lowest number of its backend's known points.
    fn count(&mut self, chosen: &[Vec<Chosen>], usable: &Usable) {
        let before = std::mem::take(self);
        let least = usable.iter().filter_map(|(id, _)| before.backends.get(*id)).min().copied().unwrap_or_default();
        for (id, points) in usable {
            self.backends.insert((*id).clone(), before.backends.get(*id).copied().unwrap_or(least));
            let known = |point: &IntroductionPoint| before.points.get(&((*id).clone(), point.auth_key)).copied();
            let least = points.iter().filter_map(|point| known(point)).min().unwrap_or_default();
            for point in points {
                self.points.insert(((*id).clone(), point.auth_key), known(point).unwrap_or(least));
            }
        }
        for chosen in chosen.iter().flatten() {
            let backend = self.backends.get_mut(&chosen.backend);
            let point = self.points.get_mut(&chosen.name());
            backend.into_iter().chain(point).for_each(|turns| *turns += 1);
        }
    }
}

/// Returns the number of subsets and the maximum size of each.
fn shape(usable: &Usable, policy: &Policy) -> Shape {
    let max_points = policy.max_points();
    let several = Shape { subsets: policy.subsets.max(1), points: max_points };
    let one = Shape { subsets: 1, ..several };
    let points = || usable.iter().flat_map(|(_, points)| points);
    let all = points().count();
    let relays: BTreeSet<_> = points().map(|point| point.relay()).collect();
    match policy.distinct {
        Distinct::Never => one,
        Distinct::Auto if all <= max_points && relays.len() == all => one,
        Distinct::Auto => several,
        Distinct::Always => Shape { points: all.div_ceil(2).max(USUAL_POINTS).min(max_points), ..several },
    }
}

fn points_in(subsets: &[Vec<Chosen>]) -> BTreeSet<Point> {
    subsets.iter().flatten().map(Chosen::name).collect()
}

#[cfg(test)]
mod tests;
