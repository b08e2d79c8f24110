//! The merge engine: which backends count, which introduction points go in, when to publish what to which HSDir.
//!
//! Pure and sans-io: `handle(input, now)`, then `poll_output()` until it gives nothing, then wait for the next input or
//! for `poll_timeout()`. Time and randomness are arguments.

mod backends;
mod engine;
pub mod fetch_schedule;
mod layout;
mod period;
mod schedule;
mod selection;
mod subsets;
mod upload;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::consensus::{Fingerprint, Network};
use crate::onion::{Discovery, ServiceContent, TimePeriod};

pub use backends::{Remark, remarks};
pub use engine::MergeEngine;
pub use fetch_schedule::{Answer, ExternalInput, ExternalOutput, ExternalState, Externals, Sighting};
pub use subsets::Distinct;
pub use upload::UploadError;

/// The two clocks, read by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Wall clock: dates certificates and revision counters.
    pub wall: SystemTime,
    /// Monotonic time since the shell started: drives deadlines.
    pub elapsed: Duration,
}

/// A backend: a pod's UID, or an external backend's address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub String);

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A consensus came.
    Network(Arc<Network>),
    /// A backend's introduction points, as its own descriptor has them (checked by the shell). No points: it counts as lost.
    Backend(BackendId, Arc<ServiceContent>),
    /// A backend is terminating, gone or silent: its points leave at once.
    BackendLost(BackendId),
    /// Who may find the points. A change is published at once.
    Discovery(Arc<Discovery>),
    /// Whether different HSDirs may hold different descriptors; [`Distinct::Auto`] until this is told.
    Distinct(Distinct),
    /// Whether this publisher holds the Lease. A publisher starts without.
    Leading(bool),
    /// A revision counter that some publisher of this service used: ours must be greater.
    CounterFloor(TimePeriod, u64),
    /// An upload's fate.
    Uploaded {
        /// The HSDir.
        hsdir: Fingerprint,
        /// Ok if the HSDir accepted the descriptor.
        result: Result<(), UploadError>,
    },
    /// Tor lost its state or the connection to it came back: uploads in flight have no fate; publish anew.
    TorRestarted,
    /// Time passed.
    Tick,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Post this descriptor to this HSDir. At most one is in flight per HSDir.
    Upload {
        /// The HSDir.
        hsdir: Fingerprint,
        /// The period it is for.
        period: TimePeriod,
        /// The whole descriptor.
        descriptor: Arc<str>,
    },
    /// Keep this counter where the next publisher finds it; the uploads need not wait for it.
    StoreCounter(TimePeriod, u64),
}

/// Where a period's publishing stands.
///
/// A round makes one descriptor for all of the period's HSDirs, or different ones; all of a round have the same counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeriodStatus {
    /// The period.
    pub period: TimePeriod,
    /// The newest round's counter.
    pub revision_counter: u64,
    /// The newest round's points, each counted once.
    pub introduction_points: usize,
    /// How many different descriptors the newest round has.
    pub descriptors: usize,
    /// HSDirs that accepted the newest round's descriptor.
    pub hsdirs_accepted: usize,
    /// Responsible HSDirs.
    pub hsdirs_total: usize,
    /// When the newest round was made.
    pub last_published: SystemTime,
    /// How many clients can open it; None: everybody can.
    pub authorized_clients: Option<usize>,
}

/// What the engine would tell a person.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// One per time period that is published for.
    pub periods: Vec<PeriodStatus>,
    /// How many points each counted backend has in the newest round of the current period, each counted once.
    pub points: Vec<(BackendId, usize)>,
    /// Of these, the ones that counted when its points were selected, and have none in it: all of theirs wait for their turn.
    pub waiting: BTreeSet<BackendId>,
    /// No backend has a point: the last descriptor stays, nothing new is published.
    pub no_backends: bool,
}
