//! Handles the errors of a watch: logs each error once, and waits before the next attempt.

use std::time::Duration;

use kube::runtime::watcher::Error;
use tokio::time::sleep;

use super::clock;
use crate::common::complaint::{Complaint, cause};

/// The pause after the first failure. Each further failure doubles it.
const FIRST: Duration = Duration::from_millis(500);
/// The maximum pause. It is short, because a pod that is deleted while the API server is
/// unavailable keeps its introduction points until the watch works again.
const LONGEST: Duration = Duration::from_secs(4);

/// The backoff of one watch.
pub(super) struct WatchBackoff {
    message: &'static str,
    complaint: Complaint,
    pause: Duration,
}

impl WatchBackoff {
    /// Creates a backoff that logs errors with the given message.
    pub(super) fn new(message: &'static str) -> Self {
        Self { message, complaint: Complaint::default(), pause: FIRST }
    }

    /// Resets the pause after a success.
    pub(super) fn reset(&mut self) {
        self.complaint.settle();
        self.pause = FIRST;
    }

    /// Waits until the watch may be retried. The pause is random. Otherwise, all publishers, which
    /// lose the API server at the same time, would also retry at the same time.
    pub(super) async fn wait(&mut self, error: &Error) {
        if must_list(error) {
            tracing::debug!(%error, "listing the watched objects again");
            return;
        }
        self.complaint.utter(self.message, &cause(error));
        let [draw] = clock::random::<1>();
        sleep(self.pause / 2 + self.pause * u32::from(draw) / 512).await;
        self.pause = (2 * self.pause).min(LONGEST);
    }
}

/// Returns true if the API server no longer has the watched resource version ("gone"), which is not
/// a failure.
fn must_list(error: &Error) -> bool {
    matches!(error, Error::WatchError(status) if status.code == 410)
}
