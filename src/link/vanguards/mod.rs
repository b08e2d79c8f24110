//! The vanguards that all tors of a service share (vanguards-spec, "Full vanguards").
//!
//! The second and the third hop of every onion service circuit are relays of two sets, the layers.
//! The leading publisher chooses the relays, replaces each one at a random time, and keeps both
//! layers in the Secret of the service's guards.

mod choice;
mod secret;
mod sets;

pub use choice::{Candidate, TooFewRelays};
pub use secret::{VANGUARDS_ENTRY, VANGUARDS_MAC_ENTRY, VanguardsSecretError, vanguards_of_data, vanguards_to_data};
pub use sets::{Layer, Vanguard, Vanguards, VanguardsError};
