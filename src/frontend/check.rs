//! Opening backends' descriptors: from an agent, or from an HSDir.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::consensus::Network;
use crate::merge::FetchedDescriptor;
use crate::onion::descriptor::DescriptorError;
use crate::onion::{OnionAddress, TimePeriod, UncheckedDescriptor};

/// Why a descriptor is not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the agent sent none, though its points are new")]
    Missing,
    #[error("it is of no time period that is near")]
    Period,
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
}

/// Opens a backend's descriptor, if it is signed for a time period that is near and everything in it checks. Whatever came over
/// whichever way, only the backend's own key can have signed it.
pub(super) fn open(
    text: &str,
    address: &OnionAddress,
    network: &Network,
    now: SystemTime,
) -> Result<FetchedDescriptor, Refused> {
    let descriptor = UncheckedDescriptor::parse(text)?;
    let claimed = descriptor.blinded_key();
    let keys = periods(network).into_iter().map(|period| (period, address.blind(period)));
    let (period, blinded) = keys.into_iter().find(|(_, key)| *key == claimed).ok_or(Refused::Period)?;
    let descriptor = descriptor.check(address, &blinded, now)?;
    Ok(FetchedDescriptor {
        period,
        revision_counter: descriptor.revision_counter,
        lifetime: Duration::from_secs(u64::from(descriptor.lifetime_minutes) * 60),
        content: Arc::new(descriptor.content),
    })
}

/// The periods that a backend may be in: it goes by its own clock and consensus.
fn periods(network: &Network) -> Vec<TimePeriod> {
    let [first, second] = network.service_periods().map(|service| service.period);
    let mut numbers = BTreeSet::new();
    for number in [first.number, second.number] {
        numbers.extend([number.saturating_sub(1), number, number.saturating_add(1)]);
    }
    numbers.into_iter().map(|number| TimePeriod { number, ..first }).collect()
}
