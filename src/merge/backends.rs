//! Who counts, and what the merged descriptor may say on behalf of all who do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::{Rng, RngExt};

use super::BackendId;
use super::selection::{self, Offer};
use crate::onion::{IntroductionPoint, ServiceContent};

/// The ntor handshake, which every client speaks. A backend without it could not be merged with others.
const NTOR: u16 = 2;
/// A descriptor with more points is refused by clients; so many are read of one backend, too.
const MAX_POINTS: usize = 20;
/// The four link specifiers that tor writes have 85 bytes. Of any 20 points within this limit, a descriptor stays short enough.
const MAX_LINK_SPECIFIERS: usize = 256;
/// Tor writes one handshake; and a descriptor must stay short.
const MAX_FORMATS: usize = 8;

/// What a change of the backends means for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    Nothing,
    /// There is more, or other, to choose from.
    More,
    /// Some points are gone: clients that pick them lose time.
    PointsGone,
    /// A whole backend is gone.
    BackendGone,
}

/// The backends that count: those with at least one point that can be merged.
#[derive(Debug, Default)]
pub(super) struct Backends {
    counted: BTreeMap<BackendId, Arc<ServiceContent>>,
    /// The newest selection. It outlives the backends, so that one that comes back finds its points where they were.
    chosen: Vec<Chosen>,
}

#[derive(Debug, Clone)]
struct Chosen {
    backend: BackendId,
    point: IntroductionPoint,
    /// Its place in the descriptor. Random, so that neighbours tell nothing about who belongs together, and fixed while
    /// the point is chosen: tor too keeps an unchanged set in its order.
    rank: u64,
}

/// The content of a merged descriptor, and whose points are in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) content: ServiceContent,
    /// Points by backend; none with zero.
    pub(super) shares: BTreeMap<BackendId, usize>,
}

impl Backends {
    /// Takes in what a backend offers.
    pub(super) fn set(&mut self, id: BackendId, content: &Arc<ServiceContent>) -> Change {
        if !is_usual(content) || usable(content).next().is_none() {
            return self.remove(&id);
        }
        match self.counted.insert(id, Arc::clone(content)) {
            None => Change::More,
            Some(old) if old == *content => Change::Nothing,
            Some(old) => {
                let points: BTreeSet<_> = usable(content).map(|point| point.auth_key).collect();
                let gone = usable(&old).any(|point| !points.contains(&point.auth_key));
                if gone { Change::PointsGone } else { Change::More }
            }
        }
    }

    /// Forgets a backend.
    pub(super) fn remove(&mut self, id: &BackendId) -> Change {
        self.counted.remove(id).map_or(Change::Nothing, |_| Change::BackendGone)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counted.is_empty()
    }

    pub(super) fn counts(&self, id: &BackendId) -> bool {
        self.counted.contains_key(id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &BackendId> {
        self.counted.keys()
    }

    /// Selects points and merges them. None when there is none to select.
    pub(super) fn merge(&mut self, rng: &mut impl Rng) -> Option<Merged> {
        let agreed = self.agreed()?;
        let mut chosen = self.select(rng);
        chosen.sort_by_key(|chosen| (chosen.rank, chosen.point.auth_key));
        self.chosen = chosen;

        let mut shares = BTreeMap::new();
        for chosen in &self.chosen {
            *shares.entry(chosen.backend.clone()).or_default() += 1;
        }
        let introduction_points = self.chosen.iter().map(|chosen| chosen.point.clone()).collect();
        Some(Merged { content: ServiceContent { introduction_points, ..agreed }, shares })
    }

    fn select(&self, rng: &mut impl Rng) -> Vec<Chosen> {
        let ranks: BTreeMap<_, _> =
            self.chosen.iter().map(|chosen| ((&chosen.backend, &chosen.point.auth_key), chosen.rank)).collect();
        let points: Vec<(&BackendId, Vec<&IntroductionPoint>)> =
            self.counted.iter().map(|(id, content)| (id, usable(content).collect())).collect();
        let offer = |id, point: &IntroductionPoint| Offer {
            relay: point.relay(),
            kept: ranks.contains_key(&(id, &point.auth_key)),
        };
        let offers: Vec<Vec<Offer>> =
            points.iter().map(|(id, points)| points.iter().map(|point| offer(*id, point)).collect()).collect();

        let mut selected = Vec::new();
        for ((id, points), indices) in points.iter().zip(selection::choose(&offers, MAX_POINTS)) {
            for point in indices.into_iter().filter_map(|index| points.get(index)) {
                let rank = ranks.get(&(*id, &point.auth_key)).copied().unwrap_or_else(|| rng.random());
                selected.push(Chosen { backend: (*id).clone(), point: (*point).clone(), rank });
            }
        }
        selected
    }

    /// What is true of all backends, without points.
    fn agreed(&self) -> Option<ServiceContent> {
        let mut all = self.counted.values();
        let first = all.next()?;
        let mut agreed = ServiceContent {
            create2_formats: first.create2_formats.clone(),
            flow_control: first.flow_control.clone(),
            single_onion_service: first.single_onion_service,
            intro_auth_required: first.intro_auth_required.clone(),
            // Tor checks a proof of work against the backend's own blinded key and seed: none for the merged
            // descriptor could be right.
            pow_params: false,
            introduction_points: Vec::new(),
        };
        for content in all {
            agreed.create2_formats.retain(|format| content.create2_formats.contains(format));
            if agreed.flow_control != content.flow_control {
                agreed.flow_control = None;
            }
            if agreed.intro_auth_required != content.intro_auth_required {
                agreed.intro_auth_required = Vec::new();
            }
            agreed.single_onion_service &= content.single_onion_service;
        }
        Some(agreed)
    }
}

/// What can be merged with others, and leaves them room.
fn is_usual(content: &ServiceContent) -> bool {
    let formats = &content.create2_formats;
    let auth_len: usize = content.intro_auth_required.iter().map(String::len).sum();
    formats.contains(&NTOR) && formats.len() <= MAX_FORMATS && auth_len <= MAX_LINK_SPECIFIERS
}

/// The points that can be merged.
fn usable(content: &ServiceContent) -> impl Iterator<Item = &IntroductionPoint> {
    let fits = |point: &&IntroductionPoint| !point.legacy && point.link_specifiers.len() <= MAX_LINK_SPECIFIERS;
    content.introduction_points.iter().filter(fits).take(MAX_POINTS)
}
