//! Tests with HSDirs that are dead, frozen or slow, or that hold descriptors with greater revision
//! counters.

use super::network::{backend, network};
use super::world::{HEALTHY, Health};
use super::*;
use crate::consensus::Fingerprint;

/// Returns two HSDirs of the current time period.
fn two(world: &mut World) -> [Fingerprint; 2] {
    let held = world.held(&network(RELAYS, 0));
    [held[0].1, held[1].1]
}

/// The longest time after which an HSDir that was unhealthy for a long time gets the newest
/// descriptor: a rest, and the upload that was in flight before.
const RECOVERY: Duration = Duration::from_secs(31 * 60);

/// Asserts that the healthy HSDirs are up to date 5 s after a change, and that two unhealthy ones
/// are up to date half an hour after they recover.
fn with_two(health: Health) {
    let mut world = running(&[0, 1]);
    let two = two(&mut world);
    for hsdir in two {
        world.set_health(hsdir, health);
    }
    world.run(seconds(100));
    world.lose(1);
    world.run(seconds(5));
    let newest = world.publishers[0].engine.status().periods;
    for (period, relay, held) in world.held(&network(RELAYS, 0)) {
        let counter = newest.iter().find(|status| status.period == period).unwrap().revision_counter;
        assert_eq!(held.unwrap().counter == counter, !two.contains(&relay), "{relay}");
    }
    assert_eq!(newest[0].hsdirs_accepted, newest[0].hsdirs_total - 2);
    assert!(!world.publishers[0].engine.withdrawn(&backend_id(1)), "the two HSDirs may still recover");
    world.run(seconds(15));
    assert!(world.publishers[0].engine.withdrawn(&backend_id(1)), "the two HSDirs do not answer");
    world.run(seconds(1000));
    world.all(&Input::Tick);
    let status = world.publishers[0].engine.status();
    assert_eq!((status.hsdirs_failing, status.longest_failing > seconds(900)), (2, true));
    for hsdir in two {
        world.set_health(hsdir, HEALTHY);
    }
    world.run(RECOVERY);
    assert_eq!(world.publishers[0].engine.status().hsdirs_failing, 0);
    world.assert_converged(&network(RELAYS, 0));
    assert_eq!(world.publishes().len(), 2, "the two HSDirs get the same descriptor, and the others get nothing");
}

#[test]
fn dead_hsdirs_do_not_delay_others_and_are_updated_after_they_recover() {
    with_two(Health::Dead);
}

#[test]
fn frozen_hsdirs_do_not_delay_others_and_are_updated_after_they_recover() {
    with_two(Health::Frozen);
}

#[test]
fn an_hsdir_that_was_down_for_two_minutes_is_updated_within_45_s() {
    let mut world = running(&[0, 1]);
    let two = two(&mut world);
    for hsdir in two {
        world.set_health(hsdir, Health::Dead);
    }
    world.lose(1);
    world.run(seconds(120));
    for hsdir in two {
        world.set_health(hsdir, HEALTHY);
    }
    world.run(seconds(45));
    world.assert_converged(&network(RELAYS, 0));
}

#[test]
fn all_hsdirs_are_updated_within_45_s_after_a_long_outage_of_the_publishers_network() {
    let mut world = running(&[0, 1]);
    let all: Vec<Fingerprint> = world.held(&network(RELAYS, 0)).into_iter().map(|(_, hsdir, _)| hsdir).collect();
    for hsdir in all {
        world.set_health(hsdir, Health::Dead);
    }
    world.lose(1);
    world.run(seconds(1800));
    world.heal_all();
    world.run(seconds(45));
    world.assert_converged(&network(RELAYS, 0));
}

/// Counts literal numbers of uploads, so that a change to the times between attempts fails this
/// test.
#[test]
fn an_hsdir_that_fails_for_hours_gets_few_uploads() {
    for health in [Health::Dead, Health::Frozen, Health::Rejects, Health::Fails] {
        let mut world = running(&[0, 1]);
        let [bad, _] = two(&mut world);
        world.set_health(bad, health);
        world.lose(1);
        world.run(seconds(300));
        let round = world.publishers[0].uploads;
        world.run(seconds(3000));
        let later = world.publishers[0].uploads - round;
        // Each of the two periods has eight HSDirs, from which the lost backend is withdrawn. A
        // rejection may cause two more rounds for each period.
        assert!(round <= 2 * 16 + 2 * 2 * 16 + 20, "{health:?}: {round}");
        assert!(later <= 2 * 7, "{health:?}: {later}");
    }
}

#[test]
fn an_hsdir_slower_than_the_deadline_still_gets_the_newest_descriptor() {
    let mut world = running(&[0]);
    let [slow, other] = two(&mut world);
    world.set_health(slow, Health::Answers(seconds(36)));
    world.set_health(other, Health::Answers(seconds(60)));
    for generation in 1..4 {
        world.backend(backend(0, generation));
        world.run(seconds(17));
    }
    world.run(seconds(300));
    world.assert_converged(&network(RELAYS, 0));
    assert!(world.publishes().len() < 8, "{:?}", world.publishes());
}

#[test]
fn an_hsdir_that_always_rejects_cannot_cause_endless_publishing() {
    for health in [Health::Rejects, Health::Fails] {
        let mut world = running(&[0]);
        let [bad, _] = two(&mut world);
        world.set_health(bad, health);
        world.backend(backend(1, 0));
        world.run(seconds(1500));
        assert!(world.publishes().len() <= 2 + 2, "one HSDir causes two more rounds: {:?}", world.publishes());
        world.set_health(bad, HEALTHY);
        world.run(RECOVERY);
        world.assert_converged(&network(RELAYS, 0));
    }
}

#[test]
fn a_greater_counter_of_another_publisher_is_overtaken_in_a_few_steps() {
    let mut world = running(&[0]);
    let period = world.publishers[0].engine.status().periods[0].period;
    let foreign = world.counter_ahead(&network(RELAYS, 0), period, seconds(86_400));
    world.plant(period, foreign);
    world.backend(backend(1, 0));
    world.run(seconds(60));
    world.assert_converged(&network(RELAYS, 0));
    let steps = world.publishes().len() - 2;
    assert!((1..=8).contains(&steps), "{steps}");
    let counter = world.publishers[0].stored[&period];
    let fourfold = world.counter_ahead(&network(RELAYS, 0), period, seconds(4 * 86_400));
    assert!(counter > foreign && counter <= fourfold);

    // This counter is greater than any that a clock could reach.
    let foreign = (1 << 33) + (1 << 40);
    world.run(seconds(200));
    world.plant(period, foreign);
    world.backend(backend(2, 0));
    world.run(seconds(600));
    let published = world.publishes();
    world.run(seconds(600));
    assert_eq!(world.publishes(), published, "the engine has given up");
    world.all(&Input::CounterFloor(period, foreign));
    world.run(seconds(120));
    world.assert_converged(&network(RELAYS, 0));
    assert_eq!(world.publishers[0].stored[&period], foreign + 1);
}

/// An HSDir that rejects, then accepts, and so on, causes two more rounds for each change, and the
/// counter stays below the one that the clock reaches at the end of the period.
#[test]
fn an_hsdir_that_rejects_and_accepts_in_turn_cannot_drive_the_counter() {
    let mut world = running(&[0]);
    let network = network(RELAYS, 0);
    let [bad, _] = two(&mut world);
    let period = world.publishers[0].engine.status().periods[0].period;
    for generation in 1..=20 {
        world.set_health(bad, Health::Rejects);
        let before = world.publishes().len();
        world.backend(backend(1, generation));
        world.run(seconds(120));
        assert!(world.publishes().len() <= before + 3, "{:?}", world.publishes());
        world.set_health(bad, HEALTHY);
        world.run(seconds(1));
    }
    assert!(world.publishes().len() <= 1 + 20 + 12, "a period has a limited number of rises: {:?}", world.publishes());
    let counter = world.publishers[0].stored[&period];
    assert!(counter < world.counter_ahead(&network, period, seconds(12 * 3600)), "{counter}");
}

#[test]
fn a_foreign_publisher_is_noticed_when_most_hsdirs_reject_or_when_an_hsdir_is_asked() {
    let foreign = |world: &World| {
        let periods = world.publishers[0].engine.status().periods;
        periods.into_iter().map(|period| period.foreign.is_some()).collect::<Vec<_>>()
    };
    let network = network(RELAYS, 0);
    let mut world = running(&[0, 1]);
    let newest = world.publishers[0].engine.status().periods[0].clone();
    assert_eq!(foreign(&world), [false, false]);
    world.plant(newest.period, world.counter_ahead(&network, newest.period, seconds(100)));
    world.lose(1);
    world.run(seconds(30));
    assert_eq!(foreign(&world), [true, false], "most HSDirs rejected");
    world.run(seconds(5 * 3600));
    assert_eq!(foreign(&world), [false, false], "this was long ago");

    let mut world = running(&[0, 1]);
    let newest = world.publishers[0].engine.status().periods[0].clone();
    world.plant(newest.period, world.counter_ahead(&network, newest.period, seconds(2 * 3600)));
    world.run(seconds(44 * 60));
    assert_eq!(foreign(&world), [false, false]);
    world.run(seconds(30 * 60 + 60));
    assert_eq!(foreign(&world), [true, false]);
    world.assert_converged(&network);
}

#[test]
fn each_rejection_quadruples_the_time_by_which_the_counter_runs_ahead() {
    let mut world = running(&[0]);
    let network = network(RELAYS, 0);
    let period = world.publishers[0].engine.status().periods[0].period;
    let foreign = world.counter_ahead(&network, period, seconds(100));
    world.plant(period, foreign);
    world.all(&Input::TorRestarted);
    // The third of these leads exceeds the other publisher's.
    for (round, lead) in [(3, 16), (4, 64), (5, 256)] {
        while world.publishes().len() < round {
            world.run(Duration::from_millis(100));
        }
        let (at, _, held) = world.publishers[0].published.iter().rfind(|(_, of, _)| *of == period).unwrap();
        let (counter, ahead) = (held.counter, (*at + seconds(lead)).saturating_sub(world.elapsed()));
        assert_eq!(counter, world.counter_ahead(&network, period, ahead), "{lead} s");
    }
    world.run(seconds(60));
    assert_eq!(world.publishes().len(), 5);
    world.assert_converged(&network);
}

/// Another publisher with the same key may have used a counter that no clock reaches. The engine
/// then gives up, and nothing but the status shows that the HSDirs still answer.
#[test]
fn the_status_shows_that_all_hsdirs_reject() {
    let mut world = running(&[0]);
    let all: Vec<Fingerprint> = world.held(&network(RELAYS, 0)).into_iter().map(|(_, hsdir, _)| hsdir).collect();
    for hsdir in all {
        world.set_health(hsdir, Health::Rejects);
    }
    world.backend(backend(1, 0));
    world.run(seconds(1800));
    for status in world.publishers[0].engine.status().periods {
        assert_eq!((status.hsdirs_accepted, status.hsdirs_rejected), (0, status.hsdirs_total));
    }
}

#[test]
fn counters_start_above_those_of_other_publishers() {
    let mut world = World::new(&[Duration::ZERO]);
    let network = network(RELAYS, 0);
    let [current, next] = network.service_periods();
    world.all(&Input::CounterFloor(current.period, 1 << 40));
    world.all(&Input::CounterFloor(current.period, 7));
    world.all(&Input::CounterFloor(next.period, 7));
    world.all(&Input::CounterFloor(next.period, u64::MAX));
    world.network(&network);
    world.all(&Input::Leading(true));
    world.backend(backend(0, 0));
    world.run(SETTLED);
    assert_eq!(world.publishers[0].stored[&current.period], (1 << 40) + 1);
    let by_time = world.publishers[0].stored[&next.period];
    assert!((1..1 << 30).contains(&by_time), "{by_time}");
    // The publisher's own counter is no reason to publish again, but a greater counter of another
    // publisher is.
    world.all(&Input::CounterFloor(next.period, by_time));
    world.run(seconds(30));
    assert_eq!(world.publishers[0].stored[&next.period], by_time);
    world.all(&Input::CounterFloor(next.period, by_time + 5));
    world.run(seconds(30));
    assert!(world.publishers[0].stored[&next.period] > by_time + 5);
    world.assert_converged(&network);
}

#[test]
fn all_descriptors_are_uploaded_again_after_a_restart_of_tor() {
    let mut world = running(&[0]);
    world.backend(backend(1, 0));
    world.run(Duration::from_millis(500));
    world.all(&Input::TorRestarted);
    world.run(seconds(30));
    world.assert_converged(&network(RELAYS, 0));
    assert_eq!(world.publishes().len(), 3);
}

#[test]
fn a_backend_is_not_withdrawn_while_tor_is_gone() {
    let mut world = running(&[0, 1]);
    let all: Vec<Fingerprint> = world.held(&network(RELAYS, 0)).into_iter().map(|(_, hsdir, _)| hsdir).collect();
    for hsdir in &all {
        world.set_health(*hsdir, Health::Dead);
    }
    world.lose(1);
    world.run(seconds(40));
    world.all(&Input::TorRestarted);
    assert!(!world.publishers[0].engine.withdrawn(&backend_id(1)));
    world.heal_all();
    world.run(seconds(30));
    assert!(world.publishers[0].engine.withdrawn(&backend_id(1)));
}

#[test]
fn two_publishers_with_different_clocks_stop_overtaking_each_other() {
    for skew in [seconds(5), seconds(4000)] {
        let mut world = World::new(&[Duration::ZERO, skew]);
        let network = network(RELAYS, 0);
        world.network(&network);
        world.all(&Input::Leading(true));
        world.backend(backend(0, 0));
        world.run(seconds(20));
        world.backend(backend(1, 0));
        world.run(SETTLED + seconds(200));
        let uploads: Vec<usize> = world.publishers.iter().map(|publisher| publisher.uploads).collect();
        let both = backend(0, 0).1.introduction_points.len() + backend(1, 0).1.introduction_points.len();
        let counters: std::collections::BTreeSet<_> = world
            .held(&network)
            .into_iter()
            .map(|(period, _, held)| {
                let held = held.unwrap();
                assert_eq!(held.content.introduction_points.len(), both);
                (period, held.counter)
            })
            .collect();
        assert_eq!(counters.len(), 2, "one counter for each period: {counters:?}");
        world.run(seconds(1000));
        let after: Vec<usize> = world.publishers.iter().map(|publisher| publisher.uploads).collect();
        assert_eq!(after, uploads, "the publishers no longer upload");
    }
}

/// Simulates a leader that cannot read the Lease and keeps publishing, while its successor starts
/// with the counters that the old leader stored.
#[test]
fn an_overlap_of_two_leaders_ends_with_the_greater_counter_on_all_hsdirs() {
    for skews in [[seconds(0), seconds(5)], [seconds(5), seconds(0)]] {
        let mut world = World::new(&skews);
        let network = network(RELAYS, 0);
        world.network(&network);
        world.backend(backend(0, 0));
        world.backend(backend(1, 0));
        world.input(0, Input::Leading(true));
        world.run(SETTLED);
        let stored = world.publishers[0].stored.clone();
        assert_eq!(stored.len(), 2);
        world.take_over(1, &stored);
        world.run(SETTLED);
        world.lose(1);
        world.run(seconds(200));
        let left = backend(0, 0).1.introduction_points.len();
        let mut greatest = std::collections::BTreeMap::new();
        for (period, _, held) in world.held(&network) {
            let held = held.unwrap();
            let used = world.publishers.iter().map(|publisher| publisher.stored[&period]);
            assert_eq!(Some(held.counter), used.max(), "the greater counter wins: {skews:?}");
            assert!(held.counter > stored[&period], "the counter rises");
            assert_eq!(held.content.introduction_points.len(), left, "the lost backend is withdrawn");
            greatest.insert(period, held.counter);
        }

        // The overlap ends when the old leader reads the Lease of its successor.
        world.input(0, Input::Leading(false));
        world.take_over(1, &greatest);
        world.backend(backend(2, 0));
        world.run(SETTLED);
        for (period, _, held) in world.held(&network) {
            let counter = held.unwrap().counter;
            assert_eq!(counter, world.publishers[1].stored[&period]);
            assert!(counter > greatest[&period]);
        }
    }
}

#[test]
fn a_counter_that_no_clock_can_produce_is_ignored() {
    let mut world = running(&[0]);
    let counter = |world: &World| world.publishers[0].engine.status().periods[0].revision_counter;
    let (period, before) = (world.publishers[0].engine.status().periods[0].period, counter(&world));
    world.all(&Input::CounterFloor(period, (1 << 62) + 1));
    world.run(seconds(30));
    assert_eq!(counter(&world), before);
    world.all(&Input::CounterFloor(period, 1 << 62));
    world.run(seconds(30));
    assert_eq!(counter(&world), (1 << 62) + 1);
}
