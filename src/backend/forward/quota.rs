//! Quotas of streams. A client can open as many streams as it likes, so each port of the onion
//! address and each circuit has a quota. No port or circuit can use up the streams of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The part of all streams that one circuit may use, as a divisor.
const CIRCUIT_SHARE: usize = 8;

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

/// The number of open streams of each circuit.
#[derive(Debug)]
pub(super) struct Circuits {
    limit: usize,
    open: Mutex<HashMap<u32, usize>>,
}

/// A permit for a stream of a circuit, which is returned when this value is dropped.
#[derive(Debug)]
pub(super) struct CircuitPermit {
    circuits: Arc<Circuits>,
    circuit: u32,
}

impl Circuits {
    /// Creates the counters, given the maximum number of streams of all circuits.
    pub(super) fn new(streams: usize) -> Arc<Self> {
        Arc::new(Self { limit: (streams / CIRCUIT_SHARE).max(1), open: Mutex::default() })
    }

    /// Returns a permit for a stream of this circuit, or None if too many streams of the circuit
    /// are open.
    pub(super) fn take(self: &Arc<Self>, circuit: u32) -> Option<CircuitPermit> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(circuit).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(CircuitPermit { circuits: self.clone(), circuit })
    }
}

impl Drop for CircuitPermit {
    fn drop(&mut self) {
        let mut open = self.circuits.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.circuit) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.circuit);
            }
        }
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

    #[test]
    fn a_circuit_may_use_an_eighth_of_all_streams() {
        let circuits = Circuits::new(80);
        let mut open: Vec<_> = std::iter::from_fn(|| circuits.take(42)).collect();
        assert_eq!(open.len(), 10);
        assert!(circuits.take(43).is_some(), "another circuit has a quota of its own");
        open.pop();
        assert!(circuits.take(42).is_some());
        drop(open);
        assert!(circuits.open.lock().unwrap().is_empty(), "a circuit without streams takes no memory");
    }
}
