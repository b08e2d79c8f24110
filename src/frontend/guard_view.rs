//! The state of the shared guards, as the metrics and the status show it.

use std::time::SystemTime;

use super::metrics::GuardFigures;
use crate::crd::GuardsProblemKind;

/// The state of the shared guards. The numbers are 0 unless this publisher leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GuardView {
    pub(super) figures: GuardFigures,
    /// The number of shared guards that are not in the consensus.
    pub(super) unlisted: usize,
    /// The problem with the Secret that this publisher last noticed.
    pub(super) problem: Option<GuardProblem>,
}

impl GuardView {
    /// Returns the figures with the kind of the problem.
    pub(super) fn all_figures(&self) -> GuardFigures {
        GuardFigures { problem: self.problem.as_ref().map(|problem| problem.kind), ..self.figures }
    }
}

/// A problem with the Secret of the shared guards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuardProblem {
    pub(super) kind: GuardsProblemKind,
    /// The explanation, which names no guard.
    pub(super) message: String,
    /// The time at which this publisher noticed the problem.
    pub(super) noticed: SystemTime,
}
