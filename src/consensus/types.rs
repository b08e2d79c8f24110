//! Types shared by the schedule, the ring and the network.

use std::time::SystemTime;

use super::fingerprint::Fingerprint;
use crate::onion::TimePeriod;

/// The kind of a Tor network, which determines the length of its time periods. On the public
/// network the length comes from the consensus; a testing network derives it from the voting
/// interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// The public Tor network.
    Public,
    /// A network with `TestingTorNetwork 1`, where a time period lasts 24 voting rounds. The option
    /// can be read from tor with GETCONF.
    Testing,
}

impl NetworkKind {
    /// Returns the kind of network that the values of tor's `TestingTorNetwork` option indicate.
    pub fn from_option(values: &[String]) -> Self {
        if values.iter().any(|value| value == "1") { Self::Testing } else { Self::Public }
    }
}

/// A time period that a service publishes for, with the inputs for its HSDir ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePeriod {
    /// The time period.
    pub period: TimePeriod,
    /// The shared random value of the ring, or the disaster value if the consensus has none.
    pub shared_random: [u8; 32],
    /// The time at which the shared random value was published and a new run of the shared random
    /// protocol began. Revision counters are derived from the time that has passed since.
    pub srv_start: SystemTime,
}

/// A position on the HSDir ring at which a descriptor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement {
    /// The fingerprint of the HSDir.
    pub relay: Fingerprint,
    /// The number of the replica, counted from 1.
    pub replica: u8,
    /// The position among the HSDirs of the replica, counted from 0. Clients fetch from the first
    /// `hsdir_spread_fetch` positions.
    pub position: u8,
}
