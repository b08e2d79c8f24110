//! The v3 onion service primitives: keys, addresses, blinding, certificates, revision counters and
//! the descriptor codec.
//!
//! The specification is rend-spec-v3 (Tor Rendezvous Specification, version 3). The code performs
//! no IO and receives time and randomness as arguments.

pub mod address;
pub mod blind;
pub mod cert;
pub mod client_auth;
pub mod csr;
pub mod descriptor;
pub mod document;
pub mod key;
pub mod key_damage;
pub mod key_file;
pub mod key_form;
pub mod kit;
pub mod known_nonce;
pub mod ope;
pub mod period_key;
pub mod service_key;
pub mod time_period;

pub use address::OnionAddress;
pub use blind::{BlindedKeypair, BlindedPublicKey};
pub use client_auth::{ClientPublicKey, ClientSecretKey, Discovery};
pub use csr::CertificateRequest;
pub use descriptor::{Descriptor, DescriptorKeys, FlowControl, IntroductionPoint, ServiceContent, UncheckedDescriptor};
pub use key::MasterKey;
pub use key_file::{KeyFile, KeyFormat, Seed};
pub use key_form::KeyForm;
pub use kit::{Kit, Kits};
pub use period_key::PeriodKey;
pub use service_key::ServiceKey;
pub use time_period::{PeriodCalendar, TimePeriod};
