//! Checks descriptors: those of the backends, which come from agents or from HSDirs, and those of
//! the service itself that HSDirs hold.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::consensus::Network;
use crate::merge::FetchedDescriptor;
use crate::onion::descriptor::DescriptorError;
use crate::onion::{BlindedPublicKey, OnionAddress, TimePeriod, UncheckedDescriptor};

/// The reason why a descriptor is rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum DescriptorRefused {
    #[error("the agent sent no descriptor, although its introduction points changed")]
    Missing,
    #[error("the descriptor is not for the previous, the current or the next time period")]
    Period,
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
}

/// Decrypts a backend's descriptor and checks its signatures and its time period.
///
/// The check succeeds only if the backend's own key signed the descriptor, regardless of where the
/// descriptor comes from.
pub(super) fn open(
    text: &str,
    address: &OnionAddress,
    network: &Network,
    now: SystemTime,
) -> Result<FetchedDescriptor, DescriptorRefused> {
    let descriptor = UncheckedDescriptor::parse(text)?;
    let (period, blinded) = period(&descriptor, address, network)?;
    let descriptor = descriptor.check(address, &blinded, now)?;
    Ok(FetchedDescriptor {
        period,
        revision_counter: descriptor.revision_counter,
        lifetime: Duration::from_secs(u64::from(descriptor.lifetime_minutes) * 60),
        content: Arc::new(descriptor.content),
    })
}

/// Checks the signatures of a descriptor of this service, and returns its time period and revision
/// counter. The service may restrict discovery to clients.
pub(super) fn counter(
    text: &str,
    address: &OnionAddress,
    network: &Network,
    now: SystemTime,
) -> Result<(TimePeriod, u64), DescriptorRefused> {
    let descriptor = UncheckedDescriptor::parse(text)?;
    let (period, blinded) = period(&descriptor, address, network)?;
    Ok((period, descriptor.signed_counter(&blinded, now)?))
}

/// Finds the time period by the blinded key that the descriptor claims to be signed with.
fn period(
    descriptor: &UncheckedDescriptor,
    address: &OnionAddress,
    network: &Network,
) -> Result<(TimePeriod, BlindedPublicKey), DescriptorRefused> {
    let claimed = descriptor.blinded_key();
    let keys = periods(network).into_iter().map(|period| (period, address.blind(period)));
    keys.into_iter().find(|(_, key)| *key == claimed).ok_or(DescriptorRefused::Period)
}

/// Returns the time periods for which a backend may have signed a descriptor, allowing for the
/// backend's clock and consensus to differ from ours.
fn periods(network: &Network) -> Vec<TimePeriod> {
    let [first, second] = network.service_periods().map(|service| service.period);
    let mut numbers = BTreeSet::new();
    for number in [first.number, second.number] {
        numbers.extend([number.saturating_sub(1), number, number.saturating_add(1)]);
    }
    numbers.into_iter().map(|number| TimePeriod { number, ..first }).collect()
}
