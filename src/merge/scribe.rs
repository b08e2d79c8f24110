//! Writes the text of descriptors, which is the only expensive cryptography of the engine.

use std::time::SystemTime;

use rand::rngs::StdRng;

use crate::onion::descriptor::{DescriptorError, DescriptorKeys};
use crate::onion::{OnionAddress, PeriodKey, ServiceContent};

/// Everything that a descriptor says.
pub struct Draft<'a> {
    /// The keys that stay the same throughout the time period.
    pub keys: &'a DescriptorKeys,
    /// The key of the service in the time period.
    pub key: &'a dyn PeriodKey,
    /// The address of the service.
    pub address: &'a OnionAddress,
    /// The introduction points and the other fields.
    pub content: &'a ServiceContent,
    /// The revision counter.
    pub counter: u64,
    /// The time from which the certificates are dated.
    pub now: SystemTime,
}

/// Writes descriptors. The simulation of months replaces the writer of real descriptors, because
/// their signatures would take most of its time.
pub trait Scribe: Send {
    /// Returns the text of a descriptor.
    fn write(&self, draft: &Draft<'_>, rng: &mut StdRng) -> Result<String, DescriptorError>;
}

/// Writes descriptors that clients can read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signer;

impl Scribe for Signer {
    fn write(&self, draft: &Draft<'_>, rng: &mut StdRng) -> Result<String, DescriptorError> {
        let Draft { keys, key, address, content, counter, now } = draft;
        keys.build(*key, address, content, *counter, *now, rng)
    }
}
