//! Property tests, which check that the world converges after any sequence of events. `World`
//! itself checks every output.

use proptest::prelude::*;

use super::network::{HOUR, backend, network};
use super::world::Health;
use super::*;
use crate::merge::Distinct;

#[derive(Debug, Clone)]
enum Event {
    /// This many additional backends appear at the same time.
    Many(u8),
    Distinct(Distinct),
    Backend(u8, u16),
    Lost(u8),
    Leading(bool),
    TorRestarted,
    /// The health of the HSDir with this index changes.
    Health(prop::sample::Index, Health),
    /// Six hours pass, and the relays of the new consensus shift by one.
    Network,
    /// Another publisher whose clock is this many seconds ahead has published.
    Foreign(u64),
    ClockSet(u64),
    Wait(u64),
}

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![
        Just(world::HEALTHY),
        (1_u64..60).prop_map(|after| Health::Answers(seconds(after))),
        Just(Health::Dead),
        Just(Health::Frozen),
        Just(Health::Rejects),
        Just(Health::Fails),
    ]
}

/// Returns events with backends that have the numbers below `backends`.
fn event(backends: u8) -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..backends, 0..3_u16).prop_map(|(number, generation)| Event::Backend(number, generation)),
        3 => (0..backends).prop_map(Event::Lost),
        1 => prop_oneof![Just(Distinct::Auto), Just(Distinct::Never)].prop_map(Event::Distinct),
        1 => any::<bool>().prop_map(Event::Leading),
        1 => Just(Event::TorRestarted),
        4 => (any::<prop::sample::Index>(), health()).prop_map(|(index, health)| Event::Health(index, health)),
        1 => Just(Event::Network),
        1 => (0..100_000_u64).prop_map(Event::Foreign),
        1 => (0..7200_u64).prop_map(Event::ClockSet),
        8 => prop_oneof![0..3000_u64, 0..60_000_u64].prop_map(Event::Wait),
    ]
}

/// Returns sequences of events. In most of them, the points of all backends fit into a single
/// descriptor. The others take several times as long, because each HSDir gets a descriptor of its
/// own.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let any = prop_oneof![
        24 => event(8),
        1 => (0..20_u8).prop_map(Event::Many),
        1 => Just(Event::Distinct(Distinct::Always)),
    ];
    prop_oneof![7 => prop::collection::vec(event(5), 0..30), 1 => prop::collection::vec(any, 0..40)]
}

/// Plays the events, then heals all HSDirs and lets the world converge.
fn play(events: Vec<Event>) -> (World, std::sync::Arc<crate::consensus::Network>, Distinct) {
    let mut world = World::new(&[Duration::ZERO]);
    let mut hour = 0;
    let mut mode = Distinct::Auto;
    let mut newest = network(RELAYS, hour);
    world.network(&newest);
    world.all(&Input::Leading(true));
    for event in events {
        match event {
            Event::Backend(number, generation) => world.backend(backend(number, generation)),
            Event::Lost(number) => world.lose(number),
            Event::Many(to) => (10..10 + to).for_each(|number| world.backend(backend(number, 0))),
            Event::Distinct(distinct) => {
                mode = distinct;
                world.all(&Input::Distinct(distinct));
            }
            Event::Leading(leading) => world.all(&Input::Leading(leading)),
            Event::TorRestarted => world.all(&Input::TorRestarted),
            Event::Health(index, health) => {
                let hsdirs = world.held(&newest);
                world.set_health(index.get(&hsdirs).1, health);
            }
            Event::Network => {
                hour += 6;
                let shift = u8::try_from(hour / 6).unwrap();
                world.run(HOUR * 6);
                newest = network(shift..30 + shift, hour);
                world.network(&newest);
            }
            Event::Foreign(ahead) => {
                for status in world.publishers[0].engine.status().periods {
                    let foreign = world.counter_ahead(&newest, status.period, seconds(ahead));
                    world.plant(status.period, foreign.max(status.revision_counter + 1));
                }
            }
            Event::ClockSet(ahead) => world.wall_jump = seconds(ahead),
            Event::Wait(milliseconds) => world.run(Duration::from_millis(milliseconds)),
        }
    }
    world.heal_all();
    world.backend(backend(9, 0));
    world.all(&Input::Leading(true));
    // An HSDir that was unhealthy for a long time gets its next upload after half an hour at most.
    world.run(seconds(2700));
    if find_foreign(&mut world, &newest) {
        world.run(seconds(2700));
    }
    (world, newest, mode)
}

/// Lets the publisher find foreign counters as its looks do, which are an hour apart and at random
/// HSDirs. Only looks reveal a foreign descriptor if nothing new was published since, or help if at
/// most half of the HSDirs hold it, because so few let the counter rise only twice. Returns true if
/// the publisher has found a counter.
fn find_foreign(world: &mut World, network: &crate::consensus::Network) -> bool {
    let held = world.held(network);
    let mut found = false;
    for status in world.publishers[0].engine.status().periods {
        let held = held.iter().filter(|(period, ..)| *period == status.period);
        let counters: Vec<u64> = held.map(|(.., held)| held.as_ref().map_or(0, |held| held.counter)).collect();
        let ahead: Vec<u64> = counters.iter().copied().filter(|counter| *counter > status.revision_counter).collect();
        if status.hsdirs_rejected < ahead.len() || ahead.len() * 2 <= counters.len() {
            for counter in ahead {
                world.input(0, Input::Found(status.period, counter));
                found = true;
            }
        }
    }
    found
}

proptest! {
    // Only 32 cases run by default, because each case simulates hours of publishing. Set
    // PROPTEST_CASES to run more.
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn all_hsdirs_end_with_the_newest_descriptor_and_none_is_flooded(events in events()) {
        let (mut world, network, mode) = play(events);
        world.assert_all_hold_the_newest(&network);
        for period in network.service_periods() {
            let published = world.publishers[0].published.iter().filter(|(_, of, _)| *of == period.period);
            let times: Vec<Duration> = published.map(|(at, _, _)| *at).collect();
            prop_assert!(times.windows(14).all(|burst| burst[0] + seconds(60) <= burst[13]), "{times:?}");
        }
        let backends = world.shares().len();
        for status in world.publishers[0].engine.status().periods {
            let shown = world.shown(&network, status.period);
            let shares = distinct::shares(&shown);
            prop_assert!(shares.len() < backends || distinct::spread(&shares) <= shown.len().div_ceil(status.descriptors));
            let points = shown.iter().flat_map(|held| &held.content.introduction_points);
            let points: std::collections::BTreeSet<_> = points.map(|point| point.auth_key).collect();
            prop_assert_eq!(points.len(), status.introduction_points);
            let places = match mode {
                Distinct::Auto | Distinct::Always => 120,
                Distinct::Never => 20,
            };
            prop_assert_eq!(points.len(), (3 * backends).min(places));
        }
    }
}
