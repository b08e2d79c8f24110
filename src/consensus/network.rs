//! Determines from a consensus and its microdescriptors for which time periods a service publishes,
//! and which HSDirs are responsible for it.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::SystemTime;

use super::ConsensusError;
use super::document::{Document, Params};
use super::microdescriptor::identities;
use super::middles::Middle;
use super::ring::{HsDir, Ring, disaster_shared_random};
use super::schedule::PeriodSchedule;
use super::types::{NetworkKind, Placement, ServicePeriod};
use crate::onion::{BlindedPublicKey, TimePeriod};

/// A consensus joined with its microdescriptors.
#[derive(Debug, Clone)]
pub struct Network {
    validity: [SystemTime; 3],
    schedule: PeriodSchedule,
    shared_random_previous: Option<[u8; 32]>,
    shared_random_current: Option<[u8; 32]>,
    params: Params,
    hsdirs: Vec<HsDir>,
    hsdirs_without_identity: usize,
    /// The rings of the two service periods, in their order. All services share them, because most
    /// of the work is the same for each.
    rings: [OnceLock<Ring>; 2],
    middles: Vec<Middle>,
}

impl Network {
    /// Joins a microdescriptor consensus (`GETINFO dir/status-vote/current/consensus-microdesc`)
    /// with the text of all its microdescriptors (`GETINFO md/all`). Lines end in LF, which may be
    /// missing from the last line.
    pub fn parse(consensus: &str, microdescriptors: &str, kind: NetworkKind) -> Result<Self, ConsensusError> {
        let document = Document::parse(consensus)?;
        let Document { valid_after, fresh_until, valid_until, params, .. } = document;
        if valid_until < fresh_until {
            return Err(ConsensusError::Schedule);
        }
        let schedule = PeriodSchedule::new(valid_after, fresh_until, params.interval, kind)?;

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
            rings: Default::default(),
            middles: document.middles,
        })
    }

    /// Returns the `valid-after`, `fresh-until` and `valid-until` times of the consensus.
    pub fn validity(&self) -> [SystemTime; 3] {
        self.validity
    }

    /// Returns two counts: the HSDirs in the consensus, and the HSDirs that are left off the ring
    /// because their microdescriptor is missing or has no ed25519 identity.
    pub fn hsdir_count(&self) -> (usize, usize) {
        (self.hsdirs.len() + self.hsdirs_without_identity, self.hsdirs_without_identity)
    }

    /// Returns the relays that can be vanguards, in ascending order of their fingerprints.
    pub fn middles(&self) -> &[Middle] {
        &self.middles
    }

    /// Returns the two time periods for which a service publishes (rend-spec-v3, section 2.2.4):
    /// first the one that C tor calls current, then the next one. Like C tor, this method uses the
    /// consensus's `valid-after` as the current time.
    pub fn service_periods(&self) -> [ServicePeriod; 2] {
        let TimePeriod { number, .. } = self.schedule.older_service_period();
        [self.older_period(number), self.newer_period(number + 1)]
    }

    /// Returns the time period whose descriptors clients currently fetch.
    pub fn client_period(&self) -> ServicePeriod {
        let TimePeriod { number, .. } = self.schedule.period;
        if self.schedule.between_period_and_srv { self.newer_period(number) } else { self.older_period(number) }
    }

    /// Returns the HSDirs that store the descriptor, `hsdir_spread_store` for each of the
    /// `hsdir_n_replicas` replicas. Each relay appears once.
    pub fn responsible_hsdirs(&self, blinded: &BlindedPublicKey, period: &ServicePeriod) -> Vec<Placement> {
        let Params { replicas, spread_store, .. } = self.params;
        self.placements(blinded, period, replicas, spread_store)
    }

    /// Returns the HSDirs from which clients fetch the descriptor, `hsdir_spread_fetch` for each of
    /// the `hsdir_n_replicas` replicas. Each relay appears once.
    pub fn fetch_hsdirs(&self, blinded: &BlindedPublicKey, period: &ServicePeriod) -> Vec<Placement> {
        let Params { replicas, spread_fetch, .. } = self.params;
        self.placements(blinded, period, replicas, spread_fetch)
    }

    fn placements(
        &self,
        blinded: &BlindedPublicKey,
        period: &ServicePeriod,
        replicas: u8,
        spread: u8,
    ) -> Vec<Placement> {
        for (own, ring) in self.service_periods().iter().zip(&self.rings) {
            if own == period {
                let ring = ring.get_or_init(|| Ring::new(&self.hsdirs, own));
                return ring.responsible(&self.hsdirs, blinded, replicas, spread);
            }
        }
        Ring::new(&self.hsdirs, period).responsible(&self.hsdirs, blinded, replicas, spread)
    }

    /// Returns a service's current period, which uses the previous shared random value.
    fn older_period(&self, number: u64) -> ServicePeriod {
        self.service_period(number, self.shared_random_previous, self.schedule.previous_srv_start)
    }

    /// Returns a service's next period, which uses the current shared random value.
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
