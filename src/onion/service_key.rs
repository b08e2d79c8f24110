//! The key of a service: the master key, or signing kits that were derived from it elsewhere.

use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::kit::Coverage;
use super::{Kits, MasterKey, OnionAddress, PeriodKey, TimePeriod};

/// The key with which a service publishes. Clones share the secrets.
#[derive(Debug, Clone)]
pub enum ServiceKey {
    /// The master key, which covers every time period.
    Master(Arc<MasterKey>),
    /// Signing kits, each of which covers some time periods.
    Kits(Arc<Kits>),
}

impl ServiceKey {
    /// Returns the onion address of the service.
    pub fn address(&self) -> OnionAddress {
        match self {
            Self::Master(key) => key.address(),
            Self::Kits(kits) => kits.address(),
        }
    }

    /// Returns the key for a time period, or None if no signing kit covers the period.
    pub fn period_key(&self, period: TimePeriod) -> Option<Box<dyn PeriodKey>> {
        match self {
            Self::Master(key) => Some(Box::new(key.blind(period))),
            Self::Kits(kits) => Some(Box::new(kits.period_key(period)?)),
        }
    }

    /// Returns true if the key covers a time period.
    pub fn covers(&self, period: TimePeriod) -> bool {
        match self {
            Self::Master(_) => true,
            Self::Kits(kits) => kits.covers(period),
        }
    }

    /// Returns how long the signing kits last, or None if this is a master key.
    pub fn coverage(&self, now: SystemTime) -> Option<Coverage> {
        self.kits().map(|kits| Coverage::of(kits, now))
    }

    /// Derives 32 bytes for another purpose, using HKDF-SHA256 with `label` as the info. A master
    /// key and the kits that were made from it derive different bytes.
    pub fn derive(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        match self {
            Self::Master(key) => key.derive(label),
            Self::Kits(kits) => kits.derive(label),
        }
    }

    /// Returns this key with the time periods of another key of the same service added. A master
    /// key needs no more periods, and replaces kits. The periods of this key that have ended are
    /// dropped, but those of the other key are not: if the clock is wrong, nothing that is still in
    /// a file is lost.
    pub fn extended_by(&self, other: Self, now: SystemTime) -> Self {
        match (self, other) {
            (Self::Kits(known), Self::Kits(more)) => {
                let mut all = Kits::clone(known);
                all.forget_past(now);
                // Kits of another service add nothing.
                let _ = all.merge(Kits::clone(&more));
                all.into()
            }
            (_, other) if other.address() == self.address() => other,
            _ => self.clone(),
        }
    }

    /// Returns the signing kits, or None if this is a master key.
    pub fn kits(&self) -> Option<&Kits> {
        match self {
            Self::Master(_) => None,
            Self::Kits(kits) => Some(kits),
        }
    }
}

impl From<MasterKey> for ServiceKey {
    fn from(key: MasterKey) -> Self {
        Self::Master(Arc::new(key))
    }
}

impl From<Arc<MasterKey>> for ServiceKey {
    fn from(key: Arc<MasterKey>) -> Self {
        Self::Master(key)
    }
}

impl From<Kits> for ServiceKey {
    fn from(kits: Kits) -> Self {
        Self::Kits(Arc::new(kits))
    }
}
