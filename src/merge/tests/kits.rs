//! Tests of the engine with signing kits instead of the master key.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::network::{HOUR, backend, network};
use super::*;
use crate::merge::MergeEngine;
use crate::onion::{Discovery, Kit, Kits, MasterKey, PeriodCalendar};

/// The older one of the two time periods of the default network.
const FIRST: u64 = 20_453;

/// Returns kits of the world's master key.
fn kits(first: u64, count: u32) -> Kits {
    let key = MasterKey::generate(&mut StdRng::from_seed([9; 32]));
    Kit::issue(&key, PeriodCalendar::PUBLIC, first, count).unwrap().into()
}

impl World {
    /// Gives a publisher these signing kits instead of the master key.
    fn delegate(&mut self, publisher: usize, kits: Kits) {
        let now = self.now(publisher);
        let seed = [u8::try_from(100 + publisher).unwrap(); 32];
        self.publishers[publisher].engine = MergeEngine::new(kits, Some(Discovery::Open), seed, now);
    }

    /// Starts to publish a backend with the first publisher.
    fn publish(&mut self) {
        self.network(&network(RELAYS, 0));
        self.all(&Input::Leading(true));
        self.backend(backend(0, 0));
        self.run(HOUR);
    }

    fn published_periods(&self) -> Vec<u64> {
        self.publishers[0].engine.status().periods.iter().map(|status| status.period.number).collect()
    }
}

#[test]
fn a_delegated_service_publishes_as_an_online_one_does() {
    let mut world = World::new(&[Duration::ZERO]);
    world.delegate(0, kits(FIRST, 2));
    world.publish();
    assert_eq!(world.published_periods(), [FIRST, FIRST + 1]);
    world.assert_converged(&network(RELAYS, 0));
}

#[test]
fn a_period_without_a_kit_is_not_published_until_a_kit_arrives() {
    let mut world = World::new(&[Duration::ZERO]);
    world.delegate(0, kits(FIRST, 2));
    world.publish();
    for hour in 1..=24 {
        world.network(&network(RELAYS, hour));
        world.run(HOUR);
    }
    assert_eq!(world.published_periods(), [FIRST + 1]);

    let mut more = kits(FIRST, 2);
    more.merge(kits(FIRST + 1, 3)).unwrap();
    world.all(&Input::Key(more.into()));
    world.network(&network(RELAYS, 25));
    world.run(HOUR);
    assert_eq!(world.published_periods(), [FIRST + 1, FIRST + 2]);
    world.assert_converged(&network(RELAYS, 25));
}

#[test]
fn nothing_is_published_without_any_kit_and_kits_of_another_service_are_ignored() {
    let mut world = World::new(&[Duration::ZERO]);
    world.delegate(0, kits(FIRST + 10, 2));
    world.publish();
    assert!(world.published_periods().is_empty());

    let another = MasterKey::generate(&mut StdRng::from_seed([8; 32]));
    let foreign = Kits::from(Kit::issue(&another, PeriodCalendar::PUBLIC, FIRST, 2).unwrap());
    world.all(&Input::Key(foreign.into()));
    world.network(&network(RELAYS, 1));
    world.run(HOUR);
    assert!(world.published_periods().is_empty());

    world.all(&Input::Key(kits(FIRST, 2).into()));
    world.network(&network(RELAYS, 2));
    world.run(HOUR);
    world.assert_converged(&network(RELAYS, 2));
}

/// Every upload of the second publisher must be accepted, so the counters of both keys must
/// continue each other.
#[test]
fn a_service_moves_between_the_master_key_and_kits_in_both_directions() {
    for delegated in [0, 1] {
        let mut world = World::new(&[Duration::ZERO; 2]);
        world.delegate(delegated, kits(FIRST, 2));
        world.network(&network(RELAYS, 0));
        world.input(1, Input::Leading(true));
        world.backend(backend(0, 0));
        world.run(HOUR);
        world.input(1, Input::Leading(false));
        let stored = world.publishers[1].stored.clone();
        world.take_over(0, &stored);
        world.run(HOUR);
        world.assert_converged(&network(RELAYS, 0));
    }
}
