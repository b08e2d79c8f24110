//! Tests of the whole merge engine with real descriptors, on a generated network and in simulated
//! time.

mod content;
mod discovery;
mod distinct;
mod fair_share;
mod fetch_rounds;
mod fetch_schedule;
mod hsdirs;
mod kits;
pub(crate) mod network;
mod properties;
mod schedule;
mod turns;
mod world;

use std::time::Duration;

use self::network::{backend, id, network};
use self::world::World;
use super::{BackendId, Input};

/// The relays of the default network.
const RELAYS: std::ops::Range<u8> = 0..30;

/// The longest time after which both time periods have published a change, even if clients do not
/// use one of them.
const SETTLED: Duration = Duration::from_secs(8 * 60);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns a world with one leading publisher that has published these backends in both periods.
fn running(backends: &[u8]) -> World {
    let mut world = World::new(&[Duration::ZERO]);
    world.network(&network(RELAYS, 0));
    world.all(&Input::Leading(true));
    for number in backends {
        world.backend(backend(*number, 0));
    }
    world.run(SETTLED);
    world
}

impl World {
    /// Reports the loss of a backend to all publishers.
    fn lose(&mut self, number: u8) {
        self.all(&Input::BackendLost(backend_id(number)));
    }

    /// Makes a publisher the leader and gives it these revision counters, as if it had read them
    /// from the Lease.
    fn take_over(&mut self, publisher: usize, stored: &std::collections::BTreeMap<crate::onion::TimePeriod, u64>) {
        for (period, counter) in stored {
            self.input(publisher, Input::CounterFloor(*period, *counter));
        }
        self.input(publisher, Input::Leading(true));
    }

    /// Returns the number of introduction points that each usable backend has in the first
    /// publisher's newest publishing round.
    fn shares(&self) -> Vec<usize> {
        self.publishers[0].engine.status().points.into_iter().map(|(_, points)| points).collect()
    }

    /// Returns the times at which the first publisher published in its current time period.
    fn publishes(&self) -> Vec<Duration> {
        let current = self.publishers[0].engine.status().periods[0].period;
        let published = self.publishers[0].published.iter();
        published.filter(|(_, period, _)| *period == current).map(|(at, _, _)| *at).collect()
    }

    /// Asserts that every responsible HSDir holds the first publisher's newest descriptor, and that
    /// the publisher knows this.
    fn assert_converged(&mut self, network: &crate::consensus::Network) {
        let status = self.publishers[0].engine.status();
        for period in &status.periods {
            assert_eq!(period.hsdirs_accepted, period.hsdirs_total, "{status:?}");
        }
        self.assert_all_hold_the_newest(network);
    }

    /// Asserts that every responsible HSDir holds the newest descriptor, even if the engine takes
    /// it for one that rejected. tor does not say which upload an answer belongs to, so the engine
    /// may be wrong after late answers to several uploads.
    fn assert_all_hold_the_newest(&mut self, network: &crate::consensus::Network) {
        let status = self.publishers[0].engine.status();
        assert_eq!(status.periods.len(), 2);
        for period in &status.periods {
            let answered = period.hsdirs_accepted + period.hsdirs_rejected;
            assert_eq!((answered, period.hsdirs_total > 0), (period.hsdirs_total, true), "{status:?}");
            let last = self.publishers[0].published.iter().rfind(|(_, of, _)| *of == period.period).unwrap();
            assert_eq!(last.2.counter, period.revision_counter);
        }
        for (of, relay, held) in self.held(network) {
            let expected = status.periods.iter().find(|period| period.period == of).unwrap();
            assert_eq!(held.map(|held| held.counter), Some(expected.revision_counter), "{relay} {of:?}");
        }
    }
}

fn backend_id(number: u8) -> BackendId {
    id(&format!("backend-{number}"))
}
