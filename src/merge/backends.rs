//! Keeps the usable backends, limits the share of each, and computes the descriptor fields on which
//! they agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::BackendId;
use crate::onion::descriptor::MAX_INTRODUCTION_POINTS;
use crate::onion::{FlowControl, IntroductionPoint, ServiceContent};

/// The identifier of the ntor handshake, which every client supports. A backend that does not offer
/// ntor cannot be merged with others.
const NTOR: u16 = 2;
/// The maximum size, in bytes, of the link specifiers of a usable introduction point. Tor writes
/// four link specifiers in 85 bytes. Within this limit, a descriptor always has room for
/// [`max_points_beside`](crate::onion::descriptor::max_points_beside) points.
const MAX_LINK_SPECIFIERS: usize = 96;
/// The maximum number of handshake formats of a usable backend. The limit keeps the descriptor
/// short. Tor writes one.
const MAX_FORMATS: usize = 8;
/// The maximum size, in bytes, of a usable backend's `intro-auth-required` field. The limit keeps
/// the descriptor short. Tor never writes this field.
const MAX_AUTH_REQUIRED: usize = 128;

/// The number of introduction points that a backend may contribute if nothing else is configured.
/// It is C tor's default number of introduction points.
pub const USUAL_POINTS: usize = 3;

/// The largest number of introduction points that each backend may contribute. Without a limit, a
/// backend could attract most clients by offering many points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointLimits {
    /// The limit of every backend without a limit of its own.
    pub usual: usize,
    /// The backends that have limits of their own.
    pub individual: BTreeMap<BackendId, usize>,
}

impl Default for PointLimits {
    fn default() -> Self {
        Self { usual: USUAL_POINTS, individual: BTreeMap::new() }
    }
}

impl PointLimits {
    /// Returns the limit of a backend, which is always from 1 to 20.
    pub fn of(&self, id: &BackendId) -> usize {
        self.individual.get(id).copied().unwrap_or(self.usual).clamp(1, MAX_INTRODUCTION_POINTS)
    }
}

/// How a change in the set of backends affects clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BackendChange {
    /// Nothing has changed.
    Nothing,
    /// Introduction points were added, or descriptor fields or limits changed.
    More,
    /// A backend has this many new introduction points, which replace points that it had before.
    PointsBack(usize),
    /// Some introduction points are gone. Clients that try them lose time.
    PointsGone,
    /// A whole backend is gone.
    BackendGone,
}

/// A part of a backend's own descriptor that the merged descriptor leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// The backend's descriptor asks for proofs of work. The backend's tor verifies them against
    /// its own blinded key and seed, so a proof for the merged descriptor would never be valid.
    ProofOfWork,
    /// This many introduction points are unusable because they have a legacy key or their link
    /// specifiers are too long.
    UnusablePoints(usize),
    /// The backend offers more introduction points than it may contribute.
    SurplusPoints {
        /// The number of introduction points that could be merged.
        offered: usize,
        /// The number of introduction points that the backend may contribute.
        limit: usize,
    },
    /// The backend does not offer the ntor handshake, or its descriptor fields are too long. None
    /// of its introduction points are merged.
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
            Self::SurplusPoints { offered, limit } => write!(
                f,
                "it offers {offered} introduction points, but only {limit} of them are published; to publish more, raise \
                 maxIntroductionPoints of the external backend (max-introduction-points in the daemon's config.yaml, \
                 introductionPoints for pods)"
            ),
            Self::Unusual => f.write_str("its descriptor cannot be merged: it lacks ntor or is unusually long"),
        }
    }
}

/// Returns the parts of a backend's descriptor that the merged descriptor leaves out. `limit` is
/// the number of introduction points that the backend may contribute.
pub fn remarks(content: &ServiceContent, limit: usize) -> Vec<Remark> {
    let offered = content.introduction_points.iter().filter(|point| is_usable(point)).count();
    let unusable = content.introduction_points.len() - offered;
    let unusual = (!is_usual(content)).then_some(Remark::Unusual);
    let points = (unusable > 0).then_some(Remark::UnusablePoints(unusable));
    let surplus = (offered > limit).then_some(Remark::SurplusPoints { offered, limit });
    let proof = content.pow_params.then_some(Remark::ProofOfWork);
    [unusual, points, surplus, proof].into_iter().flatten().collect()
}

/// The reason why a usable backend is not published: its congestion control differs from that of
/// most backends. A descriptor has one `flow-control` for all of its introduction points, so this
/// backend would cost all others their congestion control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outvoted {
    /// The `flow-control` of this backend.
    pub own: Option<FlowControl>,
    /// The SENDME increment on which most backends agree.
    pub increment: u8,
}

impl fmt::Display for Outvoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.own.map_or_else(|| "no flow-control".to_owned(), |own| format!("flow-control {own}"));
        write!(
            f,
            "it is not published, because its descriptor has {own}, whereas most backends have congestion control with \
             the increment {}; run the same version of tor everywhere",
            self.increment
        )
    }
}

/// The usable backends: those with at least one introduction point that can be merged.
#[derive(Debug, Default)]
pub(super) struct Backends {
    contents: BTreeMap<BackendId, Arc<ServiceContent>>,
    /// The greatest number of points that each usable backend has had.
    most: BTreeMap<BackendId, usize>,
    limits: PointLimits,
}

impl Backends {
    /// Sets the number of introduction points that each backend may contribute, and returns how the
    /// change affects clients.
    pub(super) fn set_limits(&mut self, limits: PointLimits) -> BackendChange {
        if self.limits == limits {
            return BackendChange::Nothing;
        }
        self.limits = limits;
        BackendChange::More
    }

    /// Sets the content of a backend's descriptor and returns how the change affects clients.
    pub(super) fn set(&mut self, id: BackendId, content: &Arc<ServiceContent>) -> BackendChange {
        let limit = self.limits.of(&id);
        if !is_usual(content) || usable(content, limit).next().is_none() {
            return self.remove(&id);
        }
        let points = keys(content, limit);
        let most = self.most.entry(id.clone()).or_default();
        let is_refill = points.len() <= *most;
        *most = points.len().max(*most);
        match self.contents.insert(id, Arc::clone(content)) {
            None => BackendChange::More,
            Some(old) if old == *content => BackendChange::Nothing,
            Some(old) => {
                let old = keys(&old, limit);
                let more = points.difference(&old).count();
                if !old.is_subset(&points) {
                    BackendChange::PointsGone
                } else if more > 0 && is_refill {
                    BackendChange::PointsBack(more)
                } else {
                    BackendChange::More
                }
            }
        }
    }

    /// Removes a backend and returns how the change affects clients.
    pub(super) fn remove(&mut self, id: &BackendId) -> BackendChange {
        self.most.remove(id);
        self.contents.remove(id).map_or(BackendChange::Nothing, |_| BackendChange::BackendGone)
    }

    /// Returns true if no backend is usable.
    pub(super) fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Returns the number of entries about backends.
    pub(super) fn entries(&self) -> usize {
        self.contents.len() + self.most.len() + self.limits.individual.len()
    }

    /// Returns true if the backend is usable.
    pub(super) fn contains(&self, id: &BackendId) -> bool {
        self.contents.contains_key(id)
    }

    /// Returns the IDs of the usable backends in ascending order.
    pub(super) fn ids(&self) -> impl Iterator<Item = &BackendId> {
        self.contents.keys()
    }

    /// Returns, for each usable backend that is not outvoted, the introduction points that can be
    /// merged.
    pub(super) fn usable(&self) -> impl Iterator<Item = (&BackendId, impl Iterator<Item = &IntroductionPoint>)> {
        let majority = self.majority();
        let fitting = self.contents.iter().filter(move |(_, content)| fits(content, majority));
        fitting.map(move |(id, content)| (id, usable(content, self.limits.of(id))))
    }

    /// Returns the authentication keys of all introduction points that can be merged.
    pub(super) fn live(&self) -> BTreeSet<[u8; 32]> {
        self.usable().flat_map(|(_, points)| points.map(|point| point.auth_key)).collect()
    }

    /// Returns the usable backends that are not published because of their congestion control.
    pub(super) fn outvoted(&self) -> BTreeMap<BackendId, Outvoted> {
        let Some(increment) = self.majority() else { return BTreeMap::new() };
        let others = self.contents.iter().filter(|(_, content)| !fits(content, Some(increment)));
        others.map(|(id, content)| (id.clone(), Outvoted { own: content.flow_control, increment })).collect()
    }

    /// Returns the SENDME increment of more than half of the usable backends, or None if there is
    /// none. Only a majority can exclude a backend: of two backends that differ, neither can
    /// exclude the other, and the merged descriptor announces no congestion control.
    fn majority(&self) -> Option<u8> {
        let mut votes: BTreeMap<u8, usize> = BTreeMap::new();
        for increment in self.contents.values().filter_map(|content| increment(content)) {
            *votes.entry(increment).or_default() += 1;
        }
        votes.into_iter().find(|(_, count)| 2 * count > self.contents.len()).map(|(increment, _)| increment)
    }

    /// Returns the descriptor fields on which all backends agree, apart from outvoted ones. The
    /// result has no introduction points. Returns None if there are no usable backends.
    pub(super) fn agreed(&self) -> Option<ServiceContent> {
        let majority = self.majority();
        let mut all = self.contents.values().filter(|content| fits(content, majority));
        let first = all.next()?;
        let mut agreed = ServiceContent {
            create2_formats: first.create2_formats.clone(),
            flow_control: first.flow_control,
            single_onion_service: first.single_onion_service,
            intro_auth_required: first.intro_auth_required.clone(),
            // A backend's tor verifies proofs of work against the backend's own blinded key and
            // seed, so a proof computed for the merged descriptor would never be valid.
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

/// Returns true if the descriptor fields of a backend can be merged: its handshake types include
/// ntor, and the fields are short enough to leave room for introduction points.
fn is_usual(content: &ServiceContent) -> bool {
    let formats = &content.create2_formats;
    let auth_len: usize = content.intro_auth_required.iter().map(|kind| kind.len() + 1).sum();
    formats.contains(&NTOR) && formats.len() <= MAX_FORMATS && auth_len <= MAX_AUTH_REQUIRED
}

/// Returns the SENDME increment of a backend, or None if it announces no congestion control.
fn increment(content: &ServiceContent) -> Option<u8> {
    content.flow_control.and_then(FlowControl::congestion_control)
}

/// Returns true if a backend's congestion control is that of the majority, or if there is no
/// majority.
fn fits(content: &ServiceContent, majority: Option<u8>) -> bool {
    majority.is_none_or(|majority| increment(content) == Some(majority))
}

/// Returns at most `limit` introduction points of one backend that can be merged.
fn usable(content: &ServiceContent, limit: usize) -> impl Iterator<Item = &IntroductionPoint> {
    content.introduction_points.iter().filter(|point| is_usable(point)).take(limit)
}

/// Returns the authentication keys of at most `limit` introduction points that can be merged.
fn keys(content: &ServiceContent, limit: usize) -> BTreeSet<[u8; 32]> {
    usable(content, limit).map(|point| point.auth_key).collect()
}

fn is_usable(point: &IntroductionPoint) -> bool {
    !point.legacy && point.link_specifiers.len() <= MAX_LINK_SPECIFIERS
}

#[cfg(test)]
mod tests;
