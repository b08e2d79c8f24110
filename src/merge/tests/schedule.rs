//! Tests of the times at which descriptors are published.

use std::collections::BTreeMap;

use super::network::{HOUR, backend, network};
use super::*;
use crate::merge::{Distinct, Output};

#[test]
fn nothing_is_published_before_the_network_the_lease_and_a_backend_are_known() {
    let mut world = World::new(&[Duration::ZERO]);
    world.network(&network(RELAYS, 0));
    world.backend(backend(0, 0));
    world.run(HOUR);
    assert_eq!((world.publishers[0].uploads, world.publishers[0].engine.poll_timeout()), (0, None));
    world.all(&Input::Leading(true));
    assert!(world.publishers[0].uploads > 0, "the descriptor is uploaded at once");

    let mut world = World::new(&[Duration::ZERO]);
    world.all(&Input::Leading(true));
    world.backend(backend(0, 0));
    world.run(HOUR);
    assert_eq!(world.publishers[0].uploads, 0);
    world.network(&network(RELAYS, 1));
    assert!(world.publishers[0].uploads > 0, "the descriptor is uploaded at once");
}

/// Returns the first publishing time of a publisher whose backend 0 is known and backend 1 is
/// expected.
fn first_published(older: bool, report_after: Option<Duration>) -> Duration {
    let mut world = World::new(&[Duration::ZERO]);
    let network = network(RELAYS, 0);
    if older {
        world.all(&Input::CounterFloor(network.service_periods()[0].period, 7));
    }
    world.network(&network);
    world.all(&Input::Expected([backend_id(0), backend_id(1)].into()));
    world.all(&Input::Leading(true));
    world.backend(backend(0, 0));
    if let Some(after) = report_after {
        world.run(after);
        world.backend(backend(1, 0));
    }
    world.run(SETTLED);
    world.assert_converged(&network);
    world.publishes()[0]
}

#[test]
fn the_first_descriptor_waits_for_expected_backends_while_an_older_one_is_published() {
    let alone = first_published(true, None);
    assert!((seconds(10)..=seconds(15)).contains(&alone), "{alone:?}");
    assert_eq!(first_published(true, Some(seconds(4))), seconds(4), "no backend is missing any more");
    assert_eq!(first_published(false, None), Duration::from_millis(300), "clients cannot connect yet");
}

#[test]
fn backends_that_appear_together_are_published_together() {
    let mut world = World::new(&[Duration::ZERO]);
    world.all(&Input::Leading(true));
    world.network(&network(RELAYS, 0));
    world.run(seconds(3));
    for number in 0..3 {
        world.backend(backend(number, 0));
        world.run(Duration::from_millis(100));
    }
    world.run(seconds(60));
    assert_eq!(world.publishes(), [seconds(3) + Duration::from_millis(300)]);
    assert_eq!(world.shares(), [3, 3, 3]);
}

/// Returns the times since `start` at which the first publisher published: in the period that
/// clients use, and in the other one.
pub(super) fn rounds_since(world: &World, start: Duration) -> [Vec<Duration>; 2] {
    let used = world.publishers[0].engine.status().periods[0].period;
    let published = world.publishers[0].published.iter().filter(|(at, _, _)| *at >= start);
    let of = |is_used: bool| {
        let rounds = published.clone().filter(|(_, period, _)| (*period == used) == is_used);
        rounds.map(|(at, _, _)| at.saturating_sub(start)).collect()
    };
    [of(true), of(false)]
}

#[test]
fn a_new_backend_is_shown_at_once_and_in_the_other_period_minutes_later() {
    let mut world = running(&[0]);
    let before = world.elapsed();
    world.backend(backend(1, 0));
    world.run(SETTLED);
    let [used, other] = rounds_since(&world, before);
    assert_eq!((used, other.len()), (vec![Duration::from_millis(300)], 1));
    assert!((seconds(120)..=seconds(361)).contains(&other[0]), "{other:?}");
}

#[test]
fn both_periods_withdraw_a_lost_backend_at_once() {
    let mut world = running(&[0, 1, 2]);
    let before = world.elapsed();
    world.lose(1);
    world.run(seconds(30));
    let at_once = vec![Duration::from_millis(50)];
    assert_eq!(rounds_since(&world, before), [at_once.clone(), at_once]);
}

/// Sixty backends replace all their points within 92 minutes, as C tor's do when the time period
/// changes.
#[test]
fn the_rounds_do_not_reveal_the_rotations_of_sixty_backends() {
    let mut world = running(&[]);
    (0..60).for_each(|number| world.backend(backend(number, 0)));
    world.run(SETTLED);
    let before = world.elapsed();
    for number in 0..60 {
        world.backend(backend(number, 1));
        world.run(seconds(92));
    }
    world.run(SETTLED * 2);
    let [used, other] = rounds_since(&world, before);
    assert!((8..=20).contains(&used.len()), "{used:?}");
    assert!((8..=20).contains(&other.len()), "{other:?}");
    for at in &used {
        assert!(other.iter().all(|other| at.abs_diff(*other) >= seconds(60)), "{used:?} {other:?}");
    }
}

#[test]
fn lost_backends_are_withdrawn_at_once() {
    let mut world = running(&[0, 1, 2, 3]);
    let before = world.elapsed();
    world.lose(0);
    world.lose(1);
    world.run(Duration::from_millis(50));
    assert_eq!(world.publishes().last(), Some(&(before + Duration::from_millis(50))));
    assert_eq!((world.publishes().len(), world.shares()), (2, vec![3, 3]));
    assert!(!world.publishers[0].engine.withdrawn(&backend_id(0)));
    world.run(seconds(2));
    let engine = &world.publishers[0].engine;
    assert!(engine.withdrawn(&backend_id(0)) && engine.withdrawn(&backend_id(1)));
    assert!(!engine.withdrawn(&backend_id(2)));
}

#[test]
fn a_flapping_backend_does_not_flood_the_hsdirs() {
    let mut world = running(&[0, 1]);
    for _ in 0..150 {
        world.lose(1);
        world.run(seconds(2));
        world.backend(backend(1, 0));
        world.run(seconds(2));
    }
    let publishes = world.publishes().len();
    assert!((10..=50).contains(&publishes), "{publishes} publishing rounds in ten minutes");
    world.run(SETTLED);
    assert_eq!(world.shares(), [3, 3]);
    world.assert_converged(&network(RELAYS, 0));
}

#[test]
fn both_periods_are_published_again_every_one_to_two_hours() {
    let mut world = running(&[0]);
    for hour in 1..=48 {
        world.run(HOUR);
        world.network(&network(RELAYS, hour));
    }
    world.run(SETTLED);
    world.assert_converged(&network(RELAYS, 48));
    // Descriptors for each of the two middle periods were published for more than a day.
    let mut by_period = BTreeMap::<_, Vec<Duration>>::new();
    for (at, period, _) in &world.publishers[0].published {
        by_period.entry(*period).or_default().push(*at);
    }
    assert_eq!(by_period.len(), 4);
    for times in by_period.values() {
        let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1].abs_diff(pair[0])).collect();
        assert!(gaps.iter().all(|gap| (HOUR..=HOUR * 2).contains(gap)), "{gaps:?}");
    }
}

/// Checks the republish interval against literal times, so that a change to the schedule's
/// constants fails this test.
#[test]
fn an_undisturbed_hsdir_gets_a_new_descriptor_60_to_120_minutes_after_the_last() {
    const MINUTE: Duration = Duration::from_secs(60);
    let mut world = running(&[0, 1]);
    let network = network(RELAYS, 0);
    // The time at which each HSDir received its current descriptor, or None for its first one, and
    // the gaps between successive descriptors.
    let mut held = BTreeMap::new();
    let mut gaps = Vec::new();
    let start = world.elapsed();
    while world.elapsed() < start + HOUR * 12 {
        world.run(MINUTE);
        let now = world.elapsed();
        for (period, hsdir, descriptor) in world.held(&network) {
            let counter = descriptor.unwrap().counter;
            let (known, since) = held.entry((period, hsdir)).or_insert((counter, None));
            if *known != counter {
                gaps.extend(since.map(|since| now.abs_diff(since)));
                (*known, *since) = (counter, Some(now));
            }
            let age = now.abs_diff(since.unwrap_or(start));
            assert!(age <= MINUTE * 122, "no new descriptor for {age:?}");
        }
    }
    assert!(gaps.len() >= 4 * held.len(), "{} new descriptors on {} HSDirs", gaps.len(), held.len());
    // Sampling and the HSDirs' response times shift a gap by at most one minute.
    assert!(gaps.iter().all(|gap| (MINUTE * 59..=MINUTE * 121).contains(gap)), "{gaps:?}");
}

#[test]
fn a_period_that_becomes_the_current_one_keeps_its_descriptor() {
    let mut world = running(&[0]);
    let before = world.publishers[0].engine.status().periods;
    // The shared random value changes every day, and the service's current period changes with it.
    world.network(&network(RELAYS, 24));
    let after = world.publishers[0].engine.status().periods;
    assert_eq!(after[0], before[1]);
    world.run(SETTLED);
    world.assert_converged(&network(RELAYS, 24));
    let new = world.publishers[0].published.last().unwrap().1;
    assert_eq!(new.number, before[1].period.number + 1);
    assert_eq!(world.publishes().len(), 1, "the descriptor was published before the change");
}

#[test]
fn new_hsdirs_cause_a_new_descriptor_for_all_hsdirs() {
    let mut world = running(&[0]);
    let unchanged = network(RELAYS, 1);
    world.network(&unchanged);
    world.run(seconds(30));
    assert_eq!(world.publishes().len(), 1);
    let other = network(10..40, 1);
    world.network(&other);
    world.run(seconds(30));
    assert_eq!(world.publishes().len(), 2);
    world.run(SETTLED);
    world.assert_converged(&other);
}

#[test]
fn nothing_is_published_for_a_new_period_until_there_is_a_backend() {
    let mut world = running(&[0]);
    world.lose(0);
    world.network(&network(RELAYS, 24));
    world.run(HOUR);
    assert_eq!(world.publishers[0].engine.status().periods.len(), 1);
    // A descriptor that has expired on the HSDirs is not reported any more.
    world.run(HOUR * 2);
    assert_eq!(world.publishers[0].engine.status().periods.len(), 0);
    world.backend(backend(0, 0));
    world.run(SETTLED);
    world.assert_converged(&network(RELAYS, 24));
}

#[test]
fn a_stale_consensus_is_used_for_a_day() {
    let mut world = running(&[0]);
    let last = |world: &World| world.publishers[0].published.last().unwrap().0;
    world.run(HOUR * 26);
    assert!(last(&world) > HOUR * 24);
    world.run(HOUR * 9);
    world.backend(backend(1, 0));
    world.run(HOUR);
    assert!(last(&world) < HOUR * 27);
    assert_eq!(world.publishers[0].engine.status().periods, []);
    world.network(&network(RELAYS, 37));
    world.run(seconds(10));
    world.assert_converged(&network(RELAYS, 37));
}

#[test]
fn the_descriptors_are_created_again_after_the_clock_was_set() {
    let mut world = running(&[0]);
    // A drift of half an hour is normal.
    world.wall_jump = HOUR / 2;
    world.all(&Input::Tick);
    world.run(seconds(30));
    assert_eq!(world.publishes().len(), 1);
    world.wall_jump = HOUR * 5;
    world.all(&Input::Tick);
    world.run(seconds(30));
    assert_eq!(world.publishes().len(), 2);
    let ahead = world.publishers[0].engine.status().periods[0].revision_counter;
    // The clock is set back. The descriptors are created again, and their counter is still greater.
    world.wall_jump = Duration::ZERO;
    world.all(&Input::Tick);
    world.run(seconds(30));
    assert_eq!(world.publishes().len(), 3);
    assert_eq!(world.publishers[0].engine.status().periods[0].revision_counter, ahead + 1);
    world.assert_converged(&network(RELAYS, 0));
    world.run(seconds(600));
    assert_eq!(world.publishes().len(), 3);
}

#[test]
fn a_publisher_is_silent_while_it_does_not_lead_and_then_publishes_everything_again() {
    let mut world = running(&[0]);
    world.backend(backend(1, 0));
    world.run(Duration::from_millis(400));
    world.all(&Input::Leading(false));
    let uploads = world.publishers[0].uploads;
    assert_eq!(world.publishers[0].engine.status().periods, []);
    world.lose(0);
    world.run(HOUR);
    assert_eq!(world.publishers[0].uploads, uploads);
    world.all(&Input::Leading(true));
    world.run(SETTLED);
    world.assert_converged(&network(RELAYS, 0));
    assert!(world.publishers[0].engine.withdrawn(&backend_id(0)));
}

#[test]
fn pending_outputs_are_dropped_when_the_publisher_stops_leading() {
    let mut world = running(&[0]);
    let now = world.now(0);
    let engine = &mut world.publishers[0].engine;
    engine.handle(Input::TorRestarted, now);
    engine.handle(Input::Leading(false), now);
    assert_eq!(engine.poll_output(), None::<Output>);
}

#[test]
fn hsdirs_that_leave_cause_a_new_round_only_if_the_descriptors_differ() {
    // On a network with seven HSDirs, all are responsible, so none replaces one that leaves.
    for (distinct, rounds) in [(Distinct::Never, 1), (Distinct::Always, 2)] {
        let mut world = World::new(&[Duration::ZERO]);
        world.network(&network(0..7, 0));
        world.all(&Input::Distinct(distinct));
        world.all(&Input::Leading(true));
        (0..4).for_each(|number| world.backend(backend(number, 0)));
        world.run(seconds(60));
        world.network(&network(0..7, 0));
        world.run(seconds(30));
        assert_eq!(world.publishes().len(), 1, "{distinct:?}");
        world.network(&network(0..6, 0));
        world.run(seconds(30));
        assert_eq!(world.publishes().len(), rounds, "{distinct:?}");
    }
}

/// The backends' tors replace their points when a new time period begins, so that a change usually
/// coincides with it.
#[test]
fn a_new_period_is_published_minutes_after_the_change_that_comes_with_it() {
    let mut world = running(&[0, 1, 2]);
    world.network(&network(RELAYS, 24));
    let before = world.elapsed();
    world.run(seconds(1));
    world.backend(backend(3, 0));
    world.run(seconds(100));
    assert_eq!(world.publishers[0].engine.status().periods.len(), 1, "the new period has no descriptor yet");
    world.run(SETTLED);
    assert_eq!(world.publishers[0].engine.status().periods.len(), 2);
    let [_, other] = rounds_since(&world, before);
    assert!(other[0] >= seconds(120), "{other:?}");
}
