//! How long the runs on a stage take.

use std::time::Duration;

/// The minimum number of requests to each service in a full run.
pub const REQUESTS: usize = 300;

/// How long a run takes at least, and how many clients it has.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// The minimum time for which the load continues after the fault has occurred.
    pub after: Duration,
    /// The minimum time for which the load continues after the fault has ended.
    pub after_end: Duration,
    /// The number of clients that drop their descriptors before each request.
    pub fresh_clients: usize,
    /// The duration of a backend's fault that ends by itself.
    pub lasts: Duration,
    /// The longest stream that a client opens, in seconds.
    pub longest_stream: u64,
}

impl Effort {
    /// The effort of a full `make chaos` run.
    pub const FULL: Self = Self {
        after: Duration::from_secs(65),
        after_end: Duration::from_secs(15),
        fresh_clients: 24,
        lasts: Duration::from_secs(60),
        longest_stream: 60,
    };
    /// The effort of a run that is part of `make test`. It covers the 20 s after which no request
    /// of a fresh client may be slow.
    pub const SHORT: Self = Self {
        after: Duration::from_secs(30),
        after_end: Duration::from_secs(8),
        fresh_clients: 16,
        lasts: Duration::from_secs(30),
        longest_stream: 30,
    };
}
