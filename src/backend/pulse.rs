//! The heartbeat of the observer's loop, which the liveness probe reads.

use tokio::sync::watch;
use tokio::time::Instant;

/// The time of the latest iteration of the observer's loop. Clones share one value.
#[derive(Debug, Clone)]
pub struct Pulse(watch::Sender<Instant>);

impl Pulse {
    /// Creates a pulse whose first beat is now.
    pub fn new() -> Self {
        Self(watch::Sender::new(Instant::now()))
    }

    /// Records an iteration of the loop.
    pub fn beat(&self) {
        self.0.send_replace(Instant::now());
    }

    /// Returns the time of the latest beat.
    pub fn last_beat(&self) -> Instant {
        *self.0.borrow()
    }
}
