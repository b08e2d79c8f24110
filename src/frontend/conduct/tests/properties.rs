//! Property tests of several publishers under random faults. The world checks the invariants.

use proptest::prelude::*;

use super::world::World;
use super::{backend, network, seconds};

#[derive(Debug, Clone)]
enum Fault {
    Pause(usize, u64),
    Link(usize, bool),
    Server(bool),
    Suspend(bool),
    Tor(usize, bool),
    Online(usize, bool),
    Rejecting(usize, bool),
    Kill(usize),
    Stop(usize),
    Backend(u8, u16),
    Wait(u64),
}

fn fault() -> impl Strategy<Value = Fault> {
    let publisher = || 0..3_usize;
    prop_oneof![
        3 => (publisher(), 0..40_u64).prop_map(|(index, seconds)| Fault::Pause(index, seconds)),
        3 => (publisher(), any::<bool>()).prop_map(|(index, link)| Fault::Link(index, link)),
        2 => any::<bool>().prop_map(Fault::Server),
        1 => any::<bool>().prop_map(Fault::Suspend),
        2 => (publisher(), any::<bool>()).prop_map(|(index, tor)| Fault::Tor(index, tor)),
        1 => (publisher(), any::<bool>()).prop_map(|(index, online)| Fault::Online(index, online)),
        1 => (0..16_usize, any::<bool>()).prop_map(|(place, rejects)| Fault::Rejecting(place, rejects)),
        1 => publisher().prop_map(Fault::Kill),
        1 => publisher().prop_map(Fault::Stop),
        3 => (0..3_u8, 0..4_u16).prop_map(|(number, generation)| Fault::Backend(number, generation)),
        8 => prop_oneof![0..3000_u64, 0..25_000_u64].prop_map(Fault::Wait),
    ]
}

/// Injects the faults, then heals everything and lets time pass.
fn play(faults: Vec<Fault>, skews: &[u64], seed: u64) -> World {
    let skews: Vec<_> = skews.iter().copied().map(seconds).collect();
    let mut world = World::new(&skews, network(), seed);
    world.backend(backend(0, 0));
    for fault in faults {
        match fault {
            Fault::Pause(index, duration) => world.pause(index, seconds(duration)),
            Fault::Link(index, link) => world.set_link(index, link),
            Fault::Server(server) => world.set_server(server),
            Fault::Suspend(suspended) => world.set_suspended(suspended),
            Fault::Tor(index, tor) => world.set_tor(index, tor),
            Fault::Online(index, online) => world.set_online(index, online),
            Fault::Rejecting(place, rejects) => world.set_rejecting(place, rejects),
            Fault::Kill(index) => world.kill(index),
            Fault::Stop(index) => world.stop(index),
            Fault::Backend(number, generation) => world.backend(backend(number, generation)),
            Fault::Wait(milliseconds) => world.run(std::time::Duration::from_millis(milliseconds)),
        }
    }
    world.heal();
    world.run(seconds(60));
    world
}

proptest! {
    // Only 16 cases run by default, because each case simulates minutes of publishing. Set
    // PROPTEST_CASES to run more.
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn publishers_under_faults_keep_the_invariants_and_end_with_one_leader(
        faults in prop::collection::vec(fault(), 0..40),
        skews in prop::array::uniform3(0..300_u64),
        seed: u64,
    ) {
        let mut world = play(faults, &skews, seed);
        let leaders = world.leaders();
        prop_assert_eq!(leaders.len(), 1, "{:?}", world.holder());
        // The leader publishes a change, and the others do not.
        let before: Vec<usize> = world.publishers.iter().map(|publisher| publisher.uploads.len()).collect();
        world.backend(backend(3, 9));
        world.run(seconds(90));
        for (index, before) in before.into_iter().enumerate() {
            let publishes = world.publishers[index].uploads.len() > before;
            prop_assert_eq!(publishes, leaders.contains(&index));
        }
    }
}
