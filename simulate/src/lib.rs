//! Simulates months of publishing in virtual time.
//!
//! The simulation drives the real merge engine, the real leadership state machine and the real
//! HSDir ring, which perform no IO. Everything around them is simulated: relays that join and
//! leave, consensuses, HSDirs, backends and clients that behave like C tor, the API server, and
//! faults. The descriptors are plain text, because their signatures would take most of the time.
//!
//! A simulation depends only on its [`Plan`], so that a failure can be replayed. `docs/testing.md`
//! explains how.

#![allow(clippy::cast_precision_loss, reason = "figures need no more than six digits")]

mod backends;
mod checks;
mod clients;
mod faults;
pub mod figures;
pub mod hsdirs;
mod publishers;
pub mod relays;
mod server;
mod stock;
pub mod time;
mod world;

pub use figures::Figures;
pub use hsdirs::Health;
pub use world::{Plan, World};
