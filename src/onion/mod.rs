//! v3 onion services without IO: keys, addresses, blinding, certificates, revision counters and the descriptor codec.
//!
//! Source: rend-spec-v3 (Tor Rendezvous Specification, version 3). Time and randomness are arguments.

pub mod address;
pub mod blind;
pub mod cert;
pub mod descriptor;
pub mod document;
pub mod key;
pub mod ope;
pub mod time_period;

pub use address::OnionAddress;
pub use blind::{BlindedKeypair, BlindedPublicKey};
pub use descriptor::{Descriptor, DescriptorKeys, IntroductionPoint, ServiceContent, UncheckedDescriptor};
pub use key::MasterKey;
pub use time_period::TimePeriod;
