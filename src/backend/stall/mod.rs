//! Detection and repair of stalled onion services.
//!
//! The `rule` module decides on a remedy as a pure function of the observations. The `mend` module
//! reads tor's state and carries out the decision.

mod mend;
mod rule;

pub use mend::{Mended, Mender};
