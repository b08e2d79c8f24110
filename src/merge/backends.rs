//! The usable backends, and the descriptor fields on which all of them agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::BackendId;
use crate::onion::descriptor::MAX_INTRODUCTION_POINTS;
use crate::onion::{IntroductionPoint, ServiceContent};

/// The number of the ntor handshake, which every client supports. A backend without ntor cannot be
/// merged with others.
const NTOR: u16 = 2;
/// The largest usable size of a point's link specifiers in bytes. Tor writes four of them in 85
/// bytes. Within this limit, [`max_points_beside`](crate::onion::descriptor::max_points_beside)
/// points always fit into a descriptor.
const MAX_LINK_SPECIFIERS: usize = 96;
/// The largest usable number of handshake formats, which keeps the descriptor short. Tor writes
/// one.
const MAX_FORMATS: usize = 8;
/// The largest usable size of `intro-auth-required` in bytes, which keeps the descriptor short. Tor
/// writes none.
const MAX_AUTH_REQUIRED: usize = 128;

/// The effect on clients when the set of backends changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BackendChange {
    /// Nothing has changed.
    Nothing,
    /// There are additional points or changed fields.
    More,
    /// Some points are gone, and clients that choose them lose time.
    PointsGone,
    /// A whole backend is gone.
    BackendGone,
}

/// A part of a backend's own descriptor that is left out of the merged descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// The backend asks for a proof of work, which tor checks against the backend's own blinded key
    /// and seed.
    ProofOfWork,
    /// The given number of points are unusable, because they have a legacy key or their link
    /// specifiers take up too much room.
    UnusablePoints(usize),
    /// The backend lacks the ntor handshake, or its fields take up too much room. None of its
    /// points is merged.
    Unusual,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProofOfWork => f.write_str(
                "its proof-of-work defence protects its own address only; clients of the public address send no proof \
                 (remove HiddenServicePoWDefensesEnabled)",
            ),
            Self::UnusablePoints(count) => write!(f, "{count} of its introduction points cannot be published"),
            Self::Unusual => f.write_str("its descriptor cannot be merged: it lacks ntor or is unusually long"),
        }
    }
}

/// Returns the parts of a backend's descriptor that a merged descriptor leaves out.
pub fn remarks(content: &ServiceContent) -> Vec<Remark> {
    let unusable = content.introduction_points.iter().filter(|point| !is_usable(point)).count();
    let unusual = (!is_usual(content)).then_some(Remark::Unusual);
    let points = (unusable > 0).then_some(Remark::UnusablePoints(unusable));
    let proof = content.pow_params.then_some(Remark::ProofOfWork);
    [unusual, points, proof].into_iter().flatten().collect()
}

/// The usable backends, which have at least one point that can be merged.
#[derive(Debug, Default)]
pub(super) struct Backends {
    contents: BTreeMap<BackendId, Arc<ServiceContent>>,
}

impl Backends {
    /// Takes in the content of a backend's descriptor.
    pub(super) fn set(&mut self, id: BackendId, content: &Arc<ServiceContent>) -> BackendChange {
        if !is_usual(content) || usable(content).next().is_none() {
            return self.remove(&id);
        }
        match self.contents.insert(id, Arc::clone(content)) {
            None => BackendChange::More,
            Some(old) if old == *content => BackendChange::Nothing,
            Some(old) => {
                let points: BTreeSet<_> = usable(content).map(|point| point.auth_key).collect();
                let gone = usable(&old).any(|point| !points.contains(&point.auth_key));
                if gone { BackendChange::PointsGone } else { BackendChange::More }
            }
        }
    }

    /// Removes a backend.
    pub(super) fn remove(&mut self, id: &BackendId) -> BackendChange {
        self.contents.remove(id).map_or(BackendChange::Nothing, |_| BackendChange::BackendGone)
    }

    /// Returns true if no backend is usable.
    pub(super) fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Returns true if the backend is usable.
    pub(super) fn contains(&self, id: &BackendId) -> bool {
        self.contents.contains_key(id)
    }

    /// Returns the usable backends in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = &BackendId> {
        self.contents.keys()
    }

    /// Returns the points that can be merged, by backend.
    pub(super) fn usable(&self) -> impl Iterator<Item = (&BackendId, impl Iterator<Item = &IntroductionPoint>)> {
        self.contents.iter().map(|(id, content)| (id, usable(content)))
    }

    /// Returns the fields on which all backends agree, without points. Returns None without
    /// backends.
    pub(super) fn agreed(&self) -> Option<ServiceContent> {
        let mut all = self.contents.values();
        let first = all.next()?;
        let mut agreed = ServiceContent {
            create2_formats: first.create2_formats.clone(),
            flow_control: first.flow_control,
            single_onion_service: first.single_onion_service,
            intro_auth_required: first.intro_auth_required.clone(),
            // Tor checks a proof of work against the backend's own blinded key and seed, so no
            // proof for the merged descriptor could be valid.
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

/// Returns true if the content can be merged with others and leaves them room.
fn is_usual(content: &ServiceContent) -> bool {
    let formats = &content.create2_formats;
    let auth_len: usize = content.intro_auth_required.iter().map(|kind| kind.len() + 1).sum();
    formats.contains(&NTOR) && formats.len() <= MAX_FORMATS && auth_len <= MAX_AUTH_REQUIRED
}

/// Returns the points of one backend that can be merged.
fn usable(content: &ServiceContent) -> impl Iterator<Item = &IntroductionPoint> {
    content.introduction_points.iter().filter(|point| is_usable(point)).take(MAX_INTRODUCTION_POINTS)
}

fn is_usable(point: &IntroductionPoint) -> bool {
    !point.legacy && point.link_specifiers.len() <= MAX_LINK_SPECIFIERS
}
