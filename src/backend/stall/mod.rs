//! Help for a tor whose onion service has stalled.
//!
//! `rule` decides, as a pure function of what was seen; `mend` reads tor's state and carries the
//! decision out.

mod mend;
mod rule;

pub use mend::{Mended, Mender};
