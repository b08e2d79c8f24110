//! The signing kits of one service, and the keys that they provide.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Kit, KitError, KitPeriod, ServiceSecrets};
use crate::onion::{BlindedPublicKey, OnionAddress, PeriodCalendar, PeriodKey, TimePeriod, cert, ope};

/// The signing kits of one service. Clones share the keys of the time periods.
#[derive(Clone)]
pub struct Kits {
    address: OnionAddress,
    calendar: PeriodCalendar,
    secrets: Box<ServiceSecrets>,
    periods: BTreeMap<TimePeriod, Arc<KitPeriod>>,
}

/// The key of a service in one time period, as a signing kit provides it. It cannot certify any
/// descriptor signing key but its own.
pub struct DelegatedKey(Arc<KitPeriod>);

impl From<Kit> for Kits {
    fn from(kit: Kit) -> Self {
        let Kit { address, calendar, secrets, first, periods } = kit;
        let periods = (first..).zip(periods).map(|(number, period)| (calendar.period(number), Arc::new(period)));
        Self { address, calendar, secrets, periods: periods.collect() }
    }
}

impl Kits {
    /// Adds a kit of the same service. If two kits cover a time period, the earlier one is used, so
    /// that the descriptor signing key does not change in the middle of the period.
    pub fn add(&mut self, kit: Kit) -> Result<(), KitError> {
        self.merge(Self::from(kit))
    }

    /// Adds the kits of another collection, as [`Self::add`] does.
    pub fn merge(&mut self, other: Self) -> Result<(), KitError> {
        if other.address != self.address {
            return Err(KitError::AnotherService(other.address, self.address));
        }
        // The later kit knows the network's present intervals.
        self.calendar = other.calendar;
        for (period, keys) in other.periods {
            self.periods.entry(period).or_insert(keys);
        }
        Ok(())
    }

    /// Returns the onion address of the service.
    pub fn address(&self) -> OnionAddress {
        self.address
    }

    /// Returns the agents' token.
    pub fn agent_token(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secrets.agent_token)
    }

    /// Derives 32 bytes for another purpose from a secret of the service, using HKDF-SHA256 with
    /// `label` as the info.
    pub fn derive(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut output = Zeroizing::new([0; 32]);
        let expanded = Hkdf::<Sha256>::new(None, &self.secrets.mark_key).expand(label, output.as_mut_slice());
        debug_assert!(expanded.is_ok(), "HKDF-SHA256 can output up to 255 * 32 bytes");
        output
    }

    /// Returns true if a kit covers this time period.
    pub fn covers(&self, period: TimePeriod) -> bool {
        self.periods.contains_key(&period)
    }

    /// Returns the key for a time period, or None if no kit covers the period.
    pub fn period_key(&self, period: TimePeriod) -> Option<DelegatedKey> {
        self.periods.get(&period).cloned().map(DelegatedKey)
    }

    /// Returns the time until which clients can reach the service, which is the end of the last of
    /// the consecutive covered periods that follow the present time. Returns None if no kit covers
    /// the present period.
    pub fn covered_until(&self, now: SystemTime) -> Option<SystemTime> {
        let current = self.calendar.period_at(now)?;
        let mut end = current.number;
        while self.covers(self.calendar.period(end)) {
            end = end.checked_add(1)?;
        }
        if end == current.number { None } else { self.calendar.start(end) }
    }

    /// Returns the two time periods for which the service should publish at this time if tor's
    /// consensus is fresh and the network keeps its intervals.
    pub fn wanted(&self, now: SystemTime) -> [Option<TimePeriod>; 2] {
        self.calendar.published_at(now)
    }

    /// Returns the wanted time periods that no kit covers.
    pub fn missing(&self, now: SystemTime) -> Vec<TimePeriod> {
        self.wanted(now).into_iter().flatten().filter(|period| !self.covers(*period)).collect()
    }

    /// Drops the keys of the time periods whose publishing time ended at least a day ago.
    pub fn forget_past(&mut self, now: SystemTime) {
        const MARGIN: Duration = Duration::from_secs(24 * 3600);
        let calendar = self.calendar;
        self.periods.retain(|period, _| {
            let end = calendar.publishing_times(period.number).and_then(|[_, end]| end.checked_add(MARGIN));
            end.is_none_or(|end| end > now)
        });
    }
}

impl PeriodKey for DelegatedKey {
    fn public(&self) -> BlindedPublicKey {
        self.0.blinded
    }

    fn revision_counter(&self, seconds_since_srv_start: u64) -> u64 {
        ope::revision_counter(&self.0.secrets.counter_key, seconds_since_srv_start)
    }

    fn signing_key(&self) -> Option<SigningKey> {
        Some(self.0.signing_key())
    }

    /// Chooses the certificate that expires in the same hour as one that tor would make now. If the
    /// clock is outside the publishing time of the period, the nearest certificate is chosen.
    fn certify(&self, signing_key: &[u8; 32], now: SystemTime, lifetime: Duration) -> Option<Vec<u8>> {
        if self.0.signing_key().verifying_key().as_bytes() != signing_key {
            return None;
        }
        let wanted = cert::expiration_hours(now, lifetime).saturating_sub(self.0.first_hour);
        let index = usize::try_from(wanted).ok()?.min(self.0.signatures.len().checked_sub(1)?);
        let expired = self.0.hour(index) < cert::expiration_hours(now, Duration::ZERO);
        if expired { None } else { self.0.certificate(index) }
    }
}

impl fmt::Debug for Kits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let periods = self.periods.len();
        f.debug_struct("Kits").field("address", &self.address).field("periods", &periods).finish_non_exhaustive()
    }
}

impl fmt::Debug for DelegatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelegatedKey").field("public", &self.0.blinded).finish_non_exhaustive()
    }
}
