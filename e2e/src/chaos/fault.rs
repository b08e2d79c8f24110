//! The [`Fault`] trait, and the course of a fault in a run.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use super::figure::Figure;
use super::needs::Needs;
use super::observed::{Moment, Observed};
use super::stage::Stage;

/// A fault that a run causes under load.
pub trait Fault {
    /// Returns the fault's name, with which the names of its figures begin.
    fn name(&self) -> &'static str;

    /// Returns the one-line description for `--list`.
    fn about(&self) -> &'static str;

    /// Returns the state that the service must be in before the fault.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Causes the fault while the load continues.
    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>>;

    /// Returns the fault's figures, in addition to the request counts of every run.
    fn figures(&self, seen: &Observed) -> Vec<Figure>;
}

/// A fault that has occurred and may not have ended yet.
pub struct ActiveFault<'a> {
    /// The time at which the fault occurred.
    pub at: Instant,
    /// The names of the introduction points that have been dead since the fault.
    pub dead: BTreeSet<String>,
    /// The duration of the fault.
    pub lasts: Duration,
    /// A future that ends the fault, or waits until it has ended by itself, and returns what it
    /// measured meanwhile.
    pub end: LocalBoxFuture<'a, Result<Findings>>,
}

/// The measurements that a fault makes itself.
#[derive(Debug, Default)]
pub struct Findings {
    /// The figures that the fault measured.
    pub figures: Vec<Figure>,
    /// The moments around which requests or descriptors are evaluated separately.
    pub moments: Vec<Moment>,
}

impl fmt::Debug for ActiveFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveFault").field("dead", &self.dead).field("lasts", &self.lasts).finish_non_exhaustive()
    }
}

impl<'a> ActiveFault<'a> {
    /// Returns a fault that needs no action to end.
    pub fn new(at: Instant, dead: BTreeSet<String>) -> Self {
        Self { at, dead, lasts: Duration::ZERO, end: Box::pin(async { Ok(Findings::default()) }) }
    }

    /// Makes the fault last for `lasts` and then run `end`.
    pub fn ending(self, lasts: Duration, end: impl Future<Output = Result<()>> + 'a) -> Self {
        let end = async {
            end.await?;
            Ok(Findings::default())
        };
        Self { lasts, end: Box::pin(end), ..self }
    }

    /// Makes the fault run `end`, which measures something before the fault is over.
    pub fn with_findings(self, end: impl Future<Output = Result<Findings>> + 'a) -> Self {
        Self { end: Box::pin(end), ..self }
    }
}
