//! The sample of entry guards that all tors of a service share.
//!
//! A tor keeps its sample in the lines `Guard in=default …` of the file `state` in its data
//! directory (guard-spec). A tor that finds such lines when it starts for the first time uses these
//! guards in this order. The publisher keeps the shared sample in a Secret and merges into it what
//! the tors of the service report.

mod merge;
mod sample;
mod secret;
mod spread;

pub use merge::GuardReports;
pub use sample::{Guard, GuardError, GuardSample};
pub use secret::{GuardsSecretError, MAC_ENTRY, SAMPLE_ENTRY, guards_of_data, guards_to_data};
pub use spread::GUARDS_IN_USE;
