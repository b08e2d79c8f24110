//! Creates signing kits from a master key.

use std::time::Duration;

use ed25519_dalek::SigningKey;

use super::{
    AGENT_TOKEN_LABEL, Kit, KitError, KitPeriod, MARK_KEY_LABEL, PeriodSecrets, SIGNING_KEY_LABEL, ServiceSecrets,
};
use crate::onion::cert::{self, CertType, DESCRIPTOR_LIFETIME};
use crate::onion::{MasterKey, PeriodCalendar};

/// The time for which a service may go on publishing for a period after the end of its publishing
/// time, because a consensus stays valid for three hours.
const LATE_CONSENSUS: Duration = Duration::from_secs(3 * 3600);

impl Kit {
    /// Creates the kit of a service for `count` consecutive time periods, which begin with the
    /// number `first`. The same arguments always give the same kit.
    pub fn issue(key: &MasterKey, calendar: PeriodCalendar, first: u64, count: u32) -> Result<Self, KitError> {
        let after_last = first.checked_add(u64::from(count)).filter(|_| count > 0).ok_or(KitError::Periods)?;
        let periods = (first..after_last).map(|number| issue_period(key, calendar, number)).collect::<Option<_>>();
        let mut secrets = Box::<ServiceSecrets>::default();
        secrets.agent_token.copy_from_slice(key.derive(AGENT_TOKEN_LABEL).as_slice());
        secrets.mark_key.copy_from_slice(key.derive(MARK_KEY_LABEL).as_slice());
        Ok(Self { address: key.address(), calendar, secrets, first, periods: periods.ok_or(KitError::Periods)? })
    }
}

/// Creates the part of a kit for one time period. There is a certificate for each hour at which a
/// stock tor could make one, because HSDirs see when a certificate expires. Returns None if the
/// period is out of range.
fn issue_period(key: &MasterKey, calendar: PeriodCalendar, number: u64) -> Option<KitPeriod> {
    let [from, until] = calendar.publishing_times(number)?;
    calendar.start(number.checked_add(1)?)?;
    let first_hour = cert::expiration_hours(from, DESCRIPTOR_LIFETIME);
    let last_hour = cert::expiration_hours(until.checked_add(LATE_CONSENSUS)?, DESCRIPTOR_LIFETIME);
    // The greatest hour of the format stands for every later time.
    let hours = (last_hour < u32::MAX).then_some(first_hour..=last_hour)?;

    let period = calendar.period(number);
    let blinded = key.blind(period);
    let label = format!("{SIGNING_KEY_LABEL} {} {}", period.number, period.length_minutes);
    let mut secrets = Box::<PeriodSecrets>::default();
    secrets.signing_seed.copy_from_slice(key.derive(label.as_bytes()).as_slice());
    secrets.counter_key.copy_from_slice(blinded.ope_key().as_slice());

    let signing_key = SigningKey::from_bytes(&secrets.signing_seed).verifying_key();
    let public = blinded.public();
    let sign = |hour| {
        let kind = CertType::DescriptorSigningKey;
        let unsigned = cert::encode_unsigned(kind, signing_key.as_bytes(), hour, &public.0);
        blinded.sign(&unsigned).to_bytes()
    };
    Some(KitPeriod { blinded: public, secrets, first_hour, signatures: hours.map(sign).collect() })
}
