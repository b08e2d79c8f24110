//! Key blinding and subcredentials (rend-spec-v3, sections 2.1 and 2.5 and appendix A).

use super::{OnionAddress, TimePeriod};

/// A blinded identity key: what HSDirs know of a service in one time period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlindedPublicKey(pub [u8; 32]);

/// Secret and public half of a blinded key. Zeroized on drop, never printed.
pub struct BlindedKeypair {
    _private: (),
}

/// N_hs_subcred: binds a descriptor's encryption to address and period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subcredential(pub [u8; 32]);

impl BlindedKeypair {
    /// The public half.
    pub fn public(&self) -> BlindedPublicKey {
        todo!()
    }

    /// The OPE revision counter for `seconds_since_srv_start` (what C tor's `set_descriptor_revision_counter` computes).
    pub fn revision_counter(&self, _seconds_since_srv_start: u64) -> u64 {
        todo!()
    }
}

impl OnionAddress {
    /// The blinded public key of a period, as any client computes it.
    pub fn blind(&self, _period: TimePeriod) -> BlindedPublicKey {
        todo!()
    }

    /// The subcredential that goes with a blinded key.
    pub fn subcredential(&self, _blinded: &BlindedPublicKey) -> Subcredential {
        todo!()
    }
}
