//! The service state and the load that a fault requires.

use std::time::Duration;

/// The default interval between requests to each of the two services.
const EVERY: Duration = Duration::from_millis(250);

/// The service state and the load under which a fault is injected.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// The number of published backends.
    pub backends: usize,
    /// The number of Ready frontends.
    pub frontends: usize,
    /// True if some requests open streams of up to a minute.
    pub streams: bool,
    /// The interval between requests to each of the two services.
    pub every: Duration,
    /// The extra time that a run with this fault takes. The run starts only when it can finish
    /// before the next change of the time period. With `None`, the run starts immediately, and the
    /// time period may change during the run.
    pub quiet: Option<Duration>,
    /// The number of HSDirs that do not answer the judge.
    pub silent_hsdirs: u8,
}

impl Default for Needs {
    fn default() -> Self {
        Self { backends: 3, frontends: 1, streams: false, every: EVERY, quiet: Some(Duration::ZERO), silent_hsdirs: 0 }
    }
}
