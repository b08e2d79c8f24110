//! Quotas of streams. A client can open as many streams as it likes, so each port of the onion
//! address has a quota. No port can use up the streams of the others.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The number of streams that one port may still accept. Half of all streams is reserved for the
/// ports in equal parts, and the ports share the other half.
#[derive(Debug, Clone)]
pub(super) struct PortQuota {
    reserved: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// Divides the streams between the given number of ports.
pub(super) fn divide(streams: usize, ports: usize) -> Vec<PortQuota> {
    let reserved = (streams / (2 * ports.max(1))).max(1);
    let shared = Arc::new(Semaphore::new(streams.saturating_sub(reserved * ports)));
    (0..ports).map(|_| PortQuota { reserved: Arc::new(Semaphore::new(reserved)), shared: shared.clone() }).collect()
}

impl PortQuota {
    /// Returns a permit for a stream, or None if too many streams are open.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        let take = |permits: &Arc<Semaphore>| permits.clone().try_acquire_owned().ok();
        take(&self.reserved).or_else(|| take(&self.shared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes permits from one port until none is left.
    fn all(port: &PortQuota) -> Vec<OwnedSemaphorePermit> {
        std::iter::from_fn(|| port.take()).collect()
    }

    #[test]
    fn one_port_cannot_use_up_the_streams_of_the_others() {
        let ports = divide(100, 4);
        let busy = all(&ports[0]);
        assert_eq!(busy.len(), 64, "12 of its own and 52 shared ones");
        for port in &ports[1..] {
            assert_eq!(all(port).len(), 12);
        }
        drop(busy);
        assert_eq!(all(&ports[1]).len(), 64, "the shared ones are free again");
    }

    #[test]
    fn the_only_port_may_use_all_streams() {
        for streams in [1, 2, 3, 448] {
            assert_eq!(all(&divide(streams, 1)[0]).len(), streams);
        }
    }

    #[test]
    fn each_port_may_have_one_stream_however_few_there_are() {
        for port in divide(1, 3) {
            assert_eq!(all(&port).len(), 1);
        }
        assert!(divide(1, 0).is_empty());
    }
}
