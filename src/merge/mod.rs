//! The merge engine, which decides which introduction points to publish, when, and to which HSDirs.
//!
//! The engine is pure and sans-io. Call `handle(input, now)`, then `poll_output()` until it returns
//! None, then wait for the next input or for `poll_timeout()`. Time and randomness are arguments.

mod backends;
mod counters;
mod engine;
pub mod fetch_schedule;
mod layout;
mod pace;
mod patience;
mod period;
mod rises;
mod schedule;
pub mod scribe;
mod selection;
mod subsets;
mod turns;
mod upload;
mod watch;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::consensus::{Fingerprint, Network};
use crate::onion::{Discovery, ServiceContent, ServiceKey, TimePeriod};

pub use backends::{Outvoted, PointLimits, Remark, remarks};
pub use counters::Counters;
pub use engine::MergeEngine;
pub use fetch_schedule::{ExternalState, FetchAnswer, FetchInput, FetchOutput, FetchSchedule, FetchedDescriptor};
pub use subsets::Distinct;
pub use upload::UploadError;

/// The current time, read from both clocks by the IO layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall-clock time, from which certificates and revision counters are derived.
    pub wall: SystemTime,
    /// The monotonic time since the start of the process, which drives deadlines.
    pub elapsed: Duration,
}

/// The identity of a backend: the UID of a pod, or the onion address of an external backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub String);

/// An input of the merge engine.
#[derive(Debug, Clone)]
pub enum Input {
    /// A new consensus.
    Network(Arc<Network>),
    /// The content of a backend's own descriptor, which the IO layer has checked. A backend without
    /// introduction points is treated as lost.
    Backend(BackendId, Arc<ServiceContent>),
    /// The loss of a backend that is terminating, gone or silent. Its introduction points are
    /// withdrawn immediately.
    BackendLost(BackendId),
    /// The backends that should be usable soon. After a start, the first descriptor waits for them
    /// for a short time if a predecessor's descriptor is still published.
    Expected(BTreeSet<BackendId>),
    /// The backends that are about to end and wait until they are withdrawn, even if this engine
    /// has never used them. An earlier publisher may have published their introduction points.
    Ending(BTreeSet<BackendId>),
    /// The number of introduction points that each backend may contribute. By default, each backend
    /// may contribute three.
    Limits(PointLimits),
    /// The clients that are authorized to read the introduction points. A change is published
    /// immediately.
    Discovery(Arc<Discovery>),
    /// A key of the same service that replaces the present one, for example because there are more
    /// signing kits. A key of another service is ignored. The key takes effect when the next
    /// [`Input::Network`] contains a time period that could not be published before.
    Key(ServiceKey),
    /// The mode that determines whether HSDirs get different descriptors. The default is
    /// [`Distinct::Auto`].
    Distinct(Distinct),
    /// True if this publisher holds the Lease. The default is false.
    Leading(bool),
    /// A revision counter that another publisher of this service has used. The engine uses only
    /// greater ones from then on.
    CounterFloor(TimePeriod, u64),
    /// The revision counter of a descriptor of this service that an HSDir holds. The IO layer has
    /// checked its signatures.
    Found(TimePeriod, u64),
    /// The result of an upload.
    Uploaded {
        /// The HSDir of the upload.
        hsdir: Fingerprint,
        /// The outcome: `Ok` if the HSDir accepted the descriptor.
        result: Result<(), UploadError>,
    },
    /// A restart of tor or a new connection to it. Uploads in flight will never get a result, and
    /// all descriptors are published again.
    TorRestarted,
    /// No event. Only time has passed.
    Tick,
}

/// An instruction of the merge engine to the IO layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Upload a descriptor to an HSDir. At most one upload per HSDir is in flight.
    Upload {
        /// The HSDir to which the descriptor is uploaded.
        hsdir: Fingerprint,
        /// The time period of the descriptor.
        period: TimePeriod,
        /// The complete text of the descriptor.
        descriptor: Arc<str>,
    },
    /// Store this revision counter for the next publisher. The uploads need not wait until it is
    /// stored.
    StoreCounter(TimePeriod, u64),
    /// Fetch the service's own descriptor from this HSDir, and pass it as [`Input::Found`]. No
    /// result is needed if the fetch fails.
    Look(Fingerprint),
}

/// The publishing state of one time period.
///
/// A publishing round consists of either one descriptor for all HSDirs of the period, or different
/// descriptors with the same revision counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeriodStatus {
    /// The time period that this state describes.
    pub period: TimePeriod,
    /// The revision counter of the newest publishing round.
    pub revision_counter: u64,
    /// The number of distinct introduction points in the newest publishing round.
    pub introduction_points: usize,
    /// The number of different descriptors in the newest publishing round.
    pub descriptors: usize,
    /// The number of HSDirs that accepted a descriptor from the newest publishing round.
    pub hsdirs_accepted: usize,
    /// The number of HSDirs that rejected a descriptor from the newest publishing round.
    pub hsdirs_rejected: usize,
    /// The number of HSDirs that are responsible for the service in this period.
    pub hsdirs_total: usize,
    /// The time at which the descriptors of the newest publishing round were created.
    pub last_published: SystemTime,
    /// The number of clients that can decrypt the newest descriptors, or None if every client can.
    pub authorized_clients: Option<usize>,
    /// The time at which a publisher other than this one was last noticed that publishes with the
    /// same master key. None if there was none in the last hours.
    pub foreign: Option<SystemTime>,
}

/// The state of the merge engine for the object's status and the metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The states of all time periods that have a published descriptor.
    pub periods: Vec<PeriodStatus>,
    /// The number of distinct introduction points that each usable backend has in the newest
    /// publishing round of the current period.
    pub points: Vec<(BackendId, usize)>,
    /// The usable backends that have no introduction point in the newest publishing round and wait
    /// for their turn.
    pub waiting: BTreeSet<BackendId>,
    /// The usable backends that are not published because their congestion control differs from
    /// that of most backends.
    pub outvoted: BTreeMap<BackendId, Outvoted>,
    /// True if no backend has a usable introduction point. The last descriptor then stays
    /// published, and nothing new is published.
    pub no_backends: bool,
    /// The number of HSDirs that lack the newest descriptor of a time period because their uploads
    /// fail.
    pub hsdirs_failing: usize,
    /// The time for which the uploads to one of these HSDirs have failed, at most.
    pub longest_failing: Duration,
    /// The number of publishing rounds so far whose revision counter rose because HSDirs rejected
    /// the previous round.
    pub counter_rises: u64,
}
