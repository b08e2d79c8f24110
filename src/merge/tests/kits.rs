//! Tests of the engine with signing kits instead of the master key.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::network::{HOUR, backend, network};
use super::*;
use crate::merge::{Counters, MergeEngine};
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

/// The first publisher is a thief with stolen kits, and the second one has the master key.
fn outrun_a_thief() -> World {
    let mut world = World::new(&[Duration::ZERO; 2]);
    world.delegate(0, kits(FIRST, 2));
    let (key, now) = (MasterKey::generate(&mut StdRng::from_seed([9; 32])), world.now(1));
    let owner = MergeEngine::new(key, Some(Discovery::Open), [102; 32], now);
    world.publishers[1].engine = owner.with_counters(Counters::Outrun);
    world.network(&network(RELAYS, 0));
    world.input(0, Input::Leading(true));
    world.input(0, Input::Backend(backend_id(0), backend(0, 0).1));
    world.run(HOUR);
    world.assert_converged(&network(RELAYS, 0));
    world.input(1, Input::Backend(backend_id(1), backend(1, 0).1));
    world.input(1, Input::Leading(true));
    world
}

/// Asserts that every HSDir holds the descriptor of the second publisher.
fn assert_owner_is_published(world: &mut World) {
    let periods = world.publishers[1].engine.status().periods;
    assert_eq!(periods.len(), 2);
    for (of, relay, held) in world.held(&network(RELAYS, 0)) {
        let own = periods.iter().find(|period| period.period == of).unwrap();
        assert_eq!(held.map(|held| held.counter), Some(own.revision_counter), "{relay} {of:?}");
    }
}

#[test]
fn the_master_key_outruns_stolen_kits() {
    let mut world = outrun_a_thief();
    world.run(SETTLED);
    assert_owner_is_published(&mut world);
    // The thief finds the greater counter, or learns it, and still cannot exceed it.
    let periods = world.publishers[1].engine.status().periods;
    for (number, counter) in periods.iter().map(|period| (period.period, period.revision_counter)) {
        world.input(0, Input::CounterFloor(number, counter));
        world.input(0, Input::Found(number, counter));
    }
    for generation in 1..=20 {
        world.input(0, Input::Backend(backend_id(0), backend(0, generation).1));
        world.run(seconds(300));
        assert_owner_is_published(&mut world);
    }
}

#[test]
fn the_master_key_outruns_a_thief_who_chooses_greater_counters() {
    for ahead in [1, 1 << 40, 1 << 61, 1 << 63, u64::MAX >> 1] {
        let mut world = outrun_a_thief();
        world.run(seconds(30));
        let period = world.publishers[1].engine.status().periods[0].clone();
        let foreign = period.revision_counter.saturating_add(ahead).min(u64::MAX - (1 << 53));
        world.plant(period.period, foreign);
        // The owner asks an HSDir every few minutes.
        world.run(seconds(400));
        assert_owner_is_published(&mut world);
        let period = world.publishers[1].engine.status().periods[0].clone();
        assert!(period.revision_counter > foreign && period.foreign.is_some(), "{ahead}");
    }
}

/// Nothing exceeds the greatest counter of all, so the owner must not try forever.
#[test]
fn the_greatest_counter_of_all_cannot_be_outrun() {
    let mut world = outrun_a_thief();
    world.run(seconds(30));
    let period = world.publishers[1].engine.status().periods[0].clone();
    world.plant(period.period, u64::MAX);
    world.run(HOUR);
    let after = world.publishers[1].uploads;
    assert!(after < 400, "{after}");
    assert!(world.publishers[1].engine.status().periods[0].foreign.is_some());
}
