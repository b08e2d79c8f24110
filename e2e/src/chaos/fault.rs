//! The [`Fault`] trait, and [`ActiveFault`], which is a fault in effect.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use super::figure::Figure;
use super::limit::{Bound, Limit};
use super::needs::Needs;
use super::observed::{Moment, Observed};
use super::stage::Stage;

/// A fault that `make chaos` injects under load.
pub trait Fault {
    /// Returns the fault's name, which is the prefix of the names of its figures.
    fn name(&self) -> &'static str;

    /// Returns the one-line description that `chaos --list` prints.
    fn about(&self) -> &'static str;

    /// Returns the service state and the load that the fault requires.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Returns true if the fault affects the app behind the service, so that the checks of the
    /// targets fail.
    fn breaks_app(&self) -> bool {
        false
    }

    /// Returns the number of false alarms that the fault may cause by chance.
    fn false_alarms(&self) -> f64 {
        0.0
    }

    /// Returns true if the publisher lets HSDirs rest after the fault, because they have failed for
    /// so long. New frontends then take over before the next fault.
    fn leaves_hsdirs_resting(&self) -> bool {
        false
    }

    /// Injects the fault while the load continues.
    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>>;

    /// Returns the fault's own figures, in addition to the counts that every run reports.
    fn figures(&self, seen: &Observed) -> Vec<Figure>;

    /// Returns the limits that the figures of each run must meet. They include limits for the
    /// failed, cut and slow requests.
    fn limits(&self) -> Vec<Limit>;
}

/// The number of responsible HSDirs in one time period if the network is large enough
/// (rend-spec-v3, section 2.2.3: two replicas with four HSDirs each).
const RESPONSIBLE: f64 = 8.0;

/// Returns all limits of a fault: its own, and those that every run must meet. The judge must have
/// seen the descriptors of all responsible HSDirs that answer, for both time periods, each service
/// must have got at least `requests` requests, and no more alarms may be false than the fault
/// allows.
#[allow(clippy::cast_precision_loss, reason = "the counts are a few hundred")]
pub fn all_limits(fault: &dyn Fault, requests: usize) -> Vec<Limit> {
    let hsdirs = RESPONSIBLE - f64::from(fault.needs().silent_hsdirs);
    let mut limits = vec![
        Limit::new("requests", Bound::AtLeast(requests as f64)),
        Limit::new("false_alarms", Bound::AtMost(fault.false_alarms())),
        Limit::new("hsdirs", Bound::AtLeast(hsdirs)),
        Limit::new("other_hsdirs", Bound::AtLeast(hsdirs)),
    ];
    limits.extend(fault.limits());
    limits
}

/// A fault that has been injected and may still be in effect.
pub struct ActiveFault<'a> {
    /// The time at which the fault occurred.
    pub at: Instant,
    /// The names of the introduction points that have been dead since the fault occurred.
    pub dead: BTreeSet<String>,
    /// The fingerprints of the HSDirs that cannot answer while the fault lasts.
    pub silent: BTreeSet<String>,
    /// The duration of the fault.
    pub lasts: Duration,
    /// A future that ends the fault, or waits until it has ended by itself, and returns the
    /// measurements taken meanwhile.
    pub end: LocalBoxFuture<'a, Result<Findings>>,
}

/// The measurements that a fault takes while it is in effect.
#[derive(Debug, Default)]
pub struct Findings {
    /// The figures that the fault measured itself.
    pub figures: Vec<Figure>,
    /// The moments at which introduction points were added or removed. The fault's figures evaluate
    /// the requests or descriptors around each moment.
    pub moments: Vec<Moment>,
}

impl fmt::Debug for ActiveFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveFault").field("dead", &self.dead).field("lasts", &self.lasts).finish_non_exhaustive()
    }
}

impl<'a> ActiveFault<'a> {
    /// Returns an active fault that needs no action to end.
    pub fn new(at: Instant, dead: BTreeSet<String>) -> Self {
        let end = Box::pin(async { Ok(Findings::default()) });
        Self { at, dead, silent: BTreeSet::new(), lasts: Duration::ZERO, end }
    }

    /// Records that these HSDirs cannot answer while the fault lasts.
    pub fn silencing(self, hsdirs: BTreeSet<String>) -> Self {
        Self { silent: hsdirs, ..self }
    }

    /// Makes the fault last for `lasts` and then end by running `end`.
    pub fn ending(self, lasts: Duration, end: impl Future<Output = Result<()>> + 'a) -> Self {
        let end = async {
            end.await?;
            Ok(Findings::default())
        };
        Self { lasts, end: Box::pin(end), ..self }
    }

    /// Makes the fault end by running `end`, which also takes measurements.
    pub fn with_findings(self, end: impl Future<Output = Result<Findings>> + 'a) -> Self {
        Self { end: Box::pin(end), ..self }
    }
}
