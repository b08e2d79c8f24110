//! The requests to close circuits, which wait until the observer passes them to tor.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, oneshot};

/// The maximum number of waiting requests. The observer normally takes each one immediately.
const MAX_REQUESTS: usize = 1024;

/// The reason for closing a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The circuit breached its limits repeatedly.
    Limits,
    /// The app asked for it.
    Request,
}

/// A request to close a circuit.
#[derive(Debug)]
pub struct CloseRequest {
    /// Tor's number of the circuit.
    pub circuit: u32,
    /// The reason for the request.
    pub cause: Cause,
    /// The sender for tor's answer: true if tor closed the circuit. Dropping it reports that tor
    /// did not answer.
    pub(super) answer: Option<oneshot::Sender<bool>>,
}

/// A queue of requests.
#[derive(Debug, Default)]
pub(super) struct CloseQueue {
    waiting: Mutex<VecDeque<CloseRequest>>,
    more: Notify,
}

impl CloseQueue {
    /// Adds a request. Returns false if too many requests are waiting.
    pub(super) fn push(&self, request: CloseRequest) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_REQUESTS {
            return false;
        }
        waiting.push_back(request);
        self.more.notify_one();
        true
    }

    /// Waits for a request and removes it. No request is lost if the future is dropped.
    pub(super) async fn next(&self) -> CloseRequest {
        loop {
            let first = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match first {
                Some(request) => return request,
                None => self.more.notified().await,
            }
        }
    }

    /// Drops all requests, so that their senders learn that tor did not answer.
    pub(super) fn clear(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn request(circuit: u32) -> CloseRequest {
        CloseRequest { circuit, cause: Cause::Limits, answer: None }
    }

    #[tokio::test]
    async fn requests_arrive_in_order_and_are_not_lost_with_a_dropped_future() {
        let queue = CloseQueue::default();
        assert!(queue.next().now_or_never().is_none());
        assert!(queue.push(request(1)) && queue.push(request(2)));
        drop(queue.next());
        assert_eq!(queue.next().await.circuit, 1);
        assert_eq!(queue.next().await.circuit, 2);
        assert!(queue.next().now_or_never().is_none());
    }

    #[test]
    fn the_queue_is_bounded() {
        let queue = CloseQueue::default();
        let accepted = (0..5000).filter(|circuit| queue.push(request(*circuit))).count();
        assert_eq!(accepted, MAX_REQUESTS);
        queue.clear();
        assert!(queue.push(request(1)));
    }
}
