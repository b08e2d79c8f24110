//! Detection and repair of stalled onion services.
//!
//! `rule` decides as a pure function of the observations. `mend` reads tor's state and carries out
//! the decision.

mod mend;
mod rule;

pub use mend::{Mended, Mender};
