//! The network as a consensus and its microdescriptors tell it: time periods, shared random values, the HSDir ring. Pure.
//!
//! Sources: dir-spec (microdescriptor consensus, microdescriptors), rend-spec-v3 section 2.2 (HSDir ring, time periods),
//! srv-spec (shared random values).

use std::time::SystemTime;

use crate::onion::{BlindedPublicKey, TimePeriod};

/// How the network keeps time: taken from the consensus on the public network, from its voting interval on a testing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// The Tor network.
    Public,
    /// `TestingTorNetwork 1` (ask tor with GETCONF): a period is 24 voting rounds.
    Testing,
}

/// Why a document is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConsensusError {
    // …
}

/// A relay's RSA identity digest, 20 bytes; shown as 40 hexadecimal digits (as HSPOST's SERVER wants it).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 20]);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02X}"))
    }
}
impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
impl std::str::FromStr for Fingerprint {
    type Err = ConsensusError;
    /// Forty hexadecimal digits, with or without a leading `$`.
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}

/// A consensus joined with its microdescriptors.
#[derive(Debug, Clone)]
pub struct Network {
    _private: (),
}

/// A time period for which a service publishes, with what its HSDir ring needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePeriod {
    /// The period.
    pub period: TimePeriod,
    /// The shared random value of its ring (the disaster value where the consensus has none).
    pub shared_random: [u8; 32],
    /// When the protocol run that made the value began: revision counters count from here.
    pub srv_start: SystemTime,
}

/// A place on the ring that is to hold a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement {
    /// The relay.
    pub relay: Fingerprint,
    /// Replica, from 1.
    pub replica: u8,
    /// Place among the replica's HSDirs, from 0; clients fetch from the first `hsdir_spread_fetch`.
    pub position: u8,
}

impl Network {
    /// Joins a microdescriptor consensus (`GETINFO dir/status-vote/current/consensus-microdesc`) with the text of all
    /// its microdescriptors (`GETINFO md/all`).
    pub fn parse(_consensus: &str, _microdescriptors: &str, _kind: NetworkKind) -> Result<Self, ConsensusError> {
        todo!()
    }

    /// `valid-after`, `fresh-until`, `valid-until`.
    pub fn validity(&self) -> [SystemTime; 3] {
        todo!()
    }

    /// HSDirs in the consensus, and how many of them have no microdescriptor yet.
    pub fn hsdir_count(&self) -> (usize, usize) {
        todo!()
    }

    /// The two periods a service publishes for, first the one that C tor calls current, then the next
    /// (rend-spec-v3, section 2.2.4). Time is that of the consensus (`valid-after`), as C tor does it.
    pub fn service_periods(&self) -> [ServicePeriod; 2] {
        todo!()
    }

    /// The period whose descriptors clients fetch now.
    pub fn client_period(&self) -> ServicePeriod {
        todo!()
    }

    /// The responsible HSDirs (`hsdir_n_replicas` times `hsdir_spread_store`); each relay once.
    pub fn responsible_hsdirs(&self, _blinded: &BlindedPublicKey, _period: &ServicePeriod) -> Vec<Placement> {
        todo!()
    }
}
