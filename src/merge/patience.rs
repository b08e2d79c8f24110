//! Decides how long the first descriptor after a start waits for backends that are not known yet.
//!
//! A client keeps a descriptor for hours. If the first one contained only the backend that reported
//! first, its clients would all use this backend. While the HSDirs still hold a predecessor's
//! descriptor, waiting costs nothing.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::{Rng, RngExt};

use super::BackendId;
use super::backends::Backends;

/// The limits of the random time, in milliseconds, for which the first descriptor waits at most.
/// The time begins when the network is known. External backends are usually fetched within it.
const LONGEST: RangeInclusive<u64> = 10_000..=15_000;

/// The patience of an engine after its start.
#[derive(Debug, Default)]
pub(super) struct Patience {
    expected: BTreeSet<BackendId>,
    /// The monotonic time at which the wait ends. None until the network is known.
    until: Option<Duration>,
}

impl Patience {
    /// Sets the backends that should be usable soon.
    pub(super) fn set_expected(&mut self, backends: BTreeSet<BackendId>) {
        self.expected = backends;
    }

    /// Records that the network is known.
    pub(super) fn begin(&mut self, now: Duration, rng: &mut impl Rng) {
        if self.until.is_none() {
            let longest = Duration::from_millis(rng.random_range(LONGEST));
            self.until = Some(now.saturating_add(longest));
        }
    }

    /// Returns the time until which the first descriptor waits for expected backends. Returns None
    /// if it need not wait.
    pub(super) fn waits_until(&self, backends: &Backends, now: Duration) -> Option<Duration> {
        let missing = self.expected.iter().any(|id| !backends.contains(id));
        self.until.filter(|until| missing && now < *until)
    }
}
