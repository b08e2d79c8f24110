//! The key of a service: the master key, or signing kits that were derived from it elsewhere.

use std::sync::Arc;

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
