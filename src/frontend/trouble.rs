//! A watch's trouble with the API server: logged once, and waited out.

use std::time::Duration;

use kube::runtime::watcher::Error;
use tokio::time::sleep;

use super::clock;
use crate::common::complaint::{Complaint, cause};

/// The pause after a first failure, which doubles with each further one,
const FIRST: Duration = Duration::from_millis(500);
/// up to this. Short, since a pod that is deleted as the API server comes back loses its points only when that is seen.
const LONGEST: Duration = Duration::from_secs(4);

/// What is wrong with one watch.
pub(super) struct Trouble {
    what: &'static str,
    complaint: Complaint,
    pause: Duration,
}

impl Trouble {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, complaint: Complaint::default(), pause: FIRST }
    }

    /// The watch works.
    pub(super) fn over(&mut self) {
        self.complaint.settle();
        self.pause = FIRST;
    }

    /// Waits until the watch may be tried again: somewhat randomly, since all publishers lost the same API server.
    pub(super) async fn wait_out(&mut self, error: &Error) {
        if must_list(error) {
            tracing::debug!(%error, "listing anew");
            return;
        }
        self.complaint.utter(self.what, &cause(error));
        let [draw] = clock::random::<1>();
        sleep(self.pause / 2 + self.pause * u32::from(draw) / 512).await;
        self.pause = (2 * self.pause).min(LONGEST);
    }
}

/// Gone: the API server forgot what happened since; that is an answer, not a failure.
fn must_list(error: &Error) -> bool {
    matches!(error, Error::WatchError(status) if status.code == 410)
}
