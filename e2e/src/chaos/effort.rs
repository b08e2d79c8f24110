//! The length of the runs on a stage, and their number of requests and clients.

use std::time::Duration;

/// The minimum length of a run, and its number of requests and clients.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// The minimum number of requests to each service.
    pub requests: usize,
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
        requests: 300,
        after: Duration::from_secs(65),
        after_end: Duration::from_secs(15),
        fresh_clients: 24,
        lasts: Duration::from_secs(60),
        longest_stream: 60,
    };
    /// The effort of a run that is part of `make test`.
    pub const SHORT: Self = Self {
        requests: 100,
        after: Duration::from_secs(30),
        after_end: Duration::from_secs(8),
        fresh_clients: 16,
        lasts: Duration::from_secs(30),
        longest_stream: 30,
    };
}
