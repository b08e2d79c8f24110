//! A consensus joined with its microdescriptors: which periods a service publishes for, and where.

use std::collections::HashMap;
use std::time::SystemTime;

use super::ConsensusError;
use super::document::{Document, Params};
use super::fingerprint::Fingerprint;
use super::microdescriptor::identities;
use super::ring::{HsDir, Ring, disaster_shared_random};
use super::schedule::Schedule;
use crate::onion::{BlindedPublicKey, TimePeriod};

/// How the network keeps time: taken from the consensus on the public network, from its voting interval on a testing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// The Tor network.
    Public,
    /// `TestingTorNetwork 1` (ask tor with GETCONF): a period is 24 voting rounds.
    Testing,
}

impl NetworkKind {
    /// By the values of tor's option `TestingTorNetwork`.
    pub fn from_option(values: &[String]) -> Self {
        if values.iter().any(|value| value == "1") { Self::Testing } else { Self::Public }
    }
}

/// A consensus joined with its microdescriptors.
#[derive(Debug, Clone)]
pub struct Network {
    validity: [SystemTime; 3],
    schedule: Schedule,
    shared_random_previous: Option<[u8; 32]>,
    shared_random_current: Option<[u8; 32]>,
    params: Params,
    hsdirs: Vec<HsDir>,
    hsdirs_without_identity: usize,
}

/// A time period for which a service publishes, with what its HSDir ring needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePeriod {
    /// The period.
    pub period: TimePeriod,
    /// The shared random value of its ring (the disaster value where the consensus has none).
    pub shared_random: [u8; 32],
    /// When the value came (each comes as a run of the shared random protocol begins): revision counters count from here.
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
    /// its microdescriptors (`GETINFO md/all`). Lines end with LF; the last one's may be missing.
    pub fn parse(consensus: &str, microdescriptors: &str, kind: NetworkKind) -> Result<Self, ConsensusError> {
        let document = Document::parse(consensus)?;
        let Document { valid_after, fresh_until, valid_until, params, .. } = document;
        if valid_until < fresh_until {
            return Err(ConsensusError::Schedule);
        }
        let schedule = Schedule::new(valid_after, fresh_until, params.interval, kind)?;

        let identities: HashMap<_, _> = identities(microdescriptors)?.into_iter().collect();
        let join = |fingerprint, digest| {
            let ed25519 = identities.get(digest).copied().flatten()?;
            Some(HsDir { fingerprint, ed25519 })
        };
        let hsdirs: Vec<_> =
            document.hsdirs.iter().filter_map(|entry| join(entry.fingerprint, &entry.microdescriptor)).collect();
        Ok(Self {
            validity: [valid_after, fresh_until, valid_until],
            schedule,
            shared_random_previous: document.shared_random_previous,
            shared_random_current: document.shared_random_current,
            params,
            hsdirs_without_identity: document.hsdirs.len() - hsdirs.len(),
            hsdirs,
        })
    }

    /// `valid-after`, `fresh-until`, `valid-until`.
    pub fn validity(&self) -> [SystemTime; 3] {
        self.validity
    }

    /// HSDirs in the consensus, and how many of them have no microdescriptor yet (or none that tells an ed25519
    /// identity): those are not on the ring.
    pub fn hsdir_count(&self) -> (usize, usize) {
        (self.hsdirs.len() + self.hsdirs_without_identity, self.hsdirs_without_identity)
    }

    /// The two periods a service publishes for, first the one that C tor calls current, then the next
    /// (rend-spec-v3, section 2.2.4). Time is that of the consensus (`valid-after`), as C tor does it.
    pub fn service_periods(&self) -> [ServicePeriod; 2] {
        let TimePeriod { number, .. } = self.schedule.older_service_period();
        [self.older_period(number), self.newer_period(number + 1)]
    }

    /// The period whose descriptors clients fetch now.
    pub fn client_period(&self) -> ServicePeriod {
        let TimePeriod { number, .. } = self.schedule.period;
        if self.schedule.between_period_and_srv { self.newer_period(number) } else { self.older_period(number) }
    }

    /// The responsible HSDirs (`hsdir_n_replicas` times `hsdir_spread_store`); each relay once.
    pub fn responsible_hsdirs(&self, blinded: &BlindedPublicKey, period: &ServicePeriod) -> Vec<Placement> {
        let Params { replicas, spread_store, .. } = self.params;
        Ring::new(&self.hsdirs, period).responsible(blinded, replicas, spread_store)
    }

    /// The HSDirs that clients ask (`hsdir_n_replicas` times `hsdir_spread_fetch`); each relay once.
    pub fn fetch_hsdirs(&self, blinded: &BlindedPublicKey, period: &ServicePeriod) -> Vec<Placement> {
        let Params { replicas, spread_fetch, .. } = self.params;
        Ring::new(&self.hsdirs, period).responsible(blinded, replicas, spread_fetch)
    }

    /// A service's current period: the previous shared random value goes with it.
    fn older_period(&self, number: u64) -> ServicePeriod {
        self.service_period(number, self.shared_random_previous, self.schedule.previous_srv_start)
    }

    /// A service's next period: the current shared random value goes with it.
    fn newer_period(&self, number: u64) -> ServicePeriod {
        self.service_period(number, self.shared_random_current, self.schedule.current_srv_start)
    }

    fn service_period(&self, number: u64, value: Option<[u8; 32]>, srv_start: SystemTime) -> ServicePeriod {
        let period = TimePeriod { number, ..self.schedule.period };
        ServicePeriod { period, shared_random: value.unwrap_or_else(|| disaster_shared_random(period)), srv_start }
    }
}

#[cfg(test)]
mod tests;
