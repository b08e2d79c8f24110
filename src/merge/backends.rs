//! Who counts, and what the merged descriptor may say on behalf of all who do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::BackendId;
use crate::onion::descriptor::MAX_INTRODUCTION_POINTS;
use crate::onion::{IntroductionPoint, ServiceContent};

/// The ntor handshake, which every client speaks. A backend without it could not be merged with others.
const NTOR: u16 = 2;
/// The four link specifiers that tor writes have 85 bytes. Of points within this limit,
/// [`max_points_beside`](crate::onion::descriptor::max_points_beside) always fit.
const MAX_LINK_SPECIFIERS: usize = 96;
/// Tor writes one handshake; and a descriptor must stay short.
const MAX_FORMATS: usize = 8;
/// Tor writes none; likewise.
const MAX_AUTH_REQUIRED: usize = 128;

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

/// What a backend's own descriptor says that a merged one does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// It asks for a proof of work, which tor checks against the backend's own blinded key and seed.
    ProofOfWork,
    /// So many of its points have a legacy key, or link specifiers too long to leave others room.
    UnusablePoints(usize),
    /// It lacks the ntor handshake, or says more than leaves others room: nothing of it is merged.
    Unusual,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProofOfWork => f.write_str(
                "its proof-of-work defence protects its own address only: clients of the public one send none \
                 (remove HiddenServicePoWDefensesEnabled)",
            ),
            Self::UnusablePoints(count) => write!(f, "{count} of its introduction points cannot be published"),
            Self::Unusual => f.write_str("its descriptor cannot be merged: it lacks ntor, or is of unusual length"),
        }
    }
}

/// What of a backend's offer is left out.
pub fn remarks(content: &ServiceContent) -> Vec<Remark> {
    let unusable = content.introduction_points.iter().filter(|point| !is_usable(point)).count();
    let unusual = (!is_usual(content)).then_some(Remark::Unusual);
    let points = (unusable > 0).then_some(Remark::UnusablePoints(unusable));
    let proof = content.pow_params.then_some(Remark::ProofOfWork);
    [unusual, points, proof].into_iter().flatten().collect()
}

/// The backends that count: those with at least one point that can be merged.
#[derive(Debug, Default)]
pub(super) struct Backends {
    counted: BTreeMap<BackendId, Arc<ServiceContent>>,
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

    /// The points that can be merged, by backend.
    pub(super) fn usable(&self) -> impl Iterator<Item = (&BackendId, impl Iterator<Item = &IntroductionPoint>)> {
        self.counted.iter().map(|(id, content)| (id, usable(content)))
    }

    /// What is true of all backends, without points; None without backends.
    pub(super) fn agreed(&self) -> Option<ServiceContent> {
        let mut all = self.counted.values();
        let first = all.next()?;
        let mut agreed = ServiceContent {
            create2_formats: first.create2_formats.clone(),
            flow_control: first.flow_control,
            single_onion_service: first.single_onion_service,
            intro_auth_required: first.intro_auth_required.clone(),
            // Tor checks a proof of work against the backend's own blinded key and seed: none for the merged
            // descriptor could be right.
            pow_params: false,
            introduction_points: Vec::new(),
        };
        for content in all {
            agreed.create2_formats.retain(|format| content.create2_formats.contains(format));
            let flow_control = agreed.flow_control.zip(content.flow_control);
            agreed.flow_control = flow_control.and_then(|(ours, its)| ours.agreed(its));
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
    let auth_len: usize = content.intro_auth_required.iter().map(|kind| kind.len() + 1).sum();
    formats.contains(&NTOR) && formats.len() <= MAX_FORMATS && auth_len <= MAX_AUTH_REQUIRED
}

/// The points that can be merged.
fn usable(content: &ServiceContent) -> impl Iterator<Item = &IntroductionPoint> {
    content.introduction_points.iter().filter(|point| is_usable(point)).take(MAX_INTRODUCTION_POINTS)
}

fn is_usable(point: &IntroductionPoint) -> bool {
    !point.legacy && point.link_specifiers.len() <= MAX_LINK_SPECIFIERS
}
