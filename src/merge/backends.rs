//! Keeps the usable backends and computes the descriptor fields on which they all agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::BackendId;
use crate::onion::descriptor::MAX_INTRODUCTION_POINTS;
use crate::onion::{IntroductionPoint, ServiceContent};

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

/// How a change in the set of backends affects clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BackendChange {
    /// Nothing has changed.
    Nothing,
    /// Introduction points were added or descriptor fields changed.
    More,
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
            Self::Unusual => f.write_str("its descriptor cannot be merged: it lacks ntor or is unusually long"),
        }
    }
}

/// Returns the parts of a backend's descriptor that the merged descriptor leaves out.
pub fn remarks(content: &ServiceContent) -> Vec<Remark> {
    let unusable = content.introduction_points.iter().filter(|point| !is_usable(point)).count();
    let unusual = (!is_usual(content)).then_some(Remark::Unusual);
    let points = (unusable > 0).then_some(Remark::UnusablePoints(unusable));
    let proof = content.pow_params.then_some(Remark::ProofOfWork);
    [unusual, points, proof].into_iter().flatten().collect()
}

/// The usable backends: those with at least one introduction point that can be merged.
#[derive(Debug, Default)]
pub(super) struct Backends {
    contents: BTreeMap<BackendId, Arc<ServiceContent>>,
}

impl Backends {
    /// Sets the content of a backend's descriptor and returns how the change affects clients.
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

    /// Removes a backend and returns how the change affects clients.
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

    /// Returns the IDs of the usable backends in ascending order.
    pub(super) fn ids(&self) -> impl Iterator<Item = &BackendId> {
        self.contents.keys()
    }

    /// Returns, for each usable backend, the introduction points that can be merged.
    pub(super) fn usable(&self) -> impl Iterator<Item = (&BackendId, impl Iterator<Item = &IntroductionPoint>)> {
        self.contents.iter().map(|(id, content)| (id, usable(content)))
    }

    /// Returns the descriptor fields on which all backends agree, without introduction points.
    /// Returns None if there are no usable backends.
    pub(super) fn agreed(&self) -> Option<ServiceContent> {
        let mut all = self.contents.values();
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

/// Returns the introduction points of one backend that can be merged.
fn usable(content: &ServiceContent) -> impl Iterator<Item = &IntroductionPoint> {
    content.introduction_points.iter().filter(|point| is_usable(point)).take(MAX_INTRODUCTION_POINTS)
}

fn is_usable(point: &IntroductionPoint) -> bool {
    !point.legacy && point.link_specifiers.len() <= MAX_LINK_SPECIFIERS
}

#[cfg(test)]
mod tests;
