//! Tests of the rounds of two periods, and of replacements that are seen in two steps.

use std::sync::Arc;

use super::network::{backend, content, network, point};
use super::schedule::rounds_since;
use super::*;
use crate::onion::ServiceContent;

const MINUTE: Duration = Duration::from_secs(60);

/// Returns the rounds of both periods, and asserts that none follows one of the other period within
/// a minute.
fn apart(world: &World, start: Duration) -> [Vec<Duration>; 2] {
    let [used, other] = rounds_since(world, start);
    for at in &used {
        assert!(other.iter().all(|other| at.abs_diff(*other) >= MINUTE), "{used:?} {other:?}");
    }
    [used, other]
}

/// Each of sixty backends loses a point and gets another one five seconds later, as if C tor
/// replaced it.
#[test]
fn points_that_a_backend_regains_are_gathered_like_replaced_ones() {
    let mut world = running(&[]);
    (0..60).for_each(|number| world.backend(backend(number, 0)));
    world.run(SETTLED);
    let start = world.elapsed();
    for number in 0..60 {
        let (id, whole) = backend(number, 0);
        let mut points = whole.introduction_points.clone();
        points.remove(0);
        world.backend((id.clone(), Arc::new(content(points.clone()))));
        world.run(seconds(5));
        points.push(point(200 + u16::from(number), 5000 + u16::from(number)));
        world.backend((id, Arc::new(content(points))));
        world.run(seconds(106));
    }
    world.run(SETTLED * 2);
    let [used, other] = apart(&world, start);
    assert!((1..=20).contains(&used.len()), "{used:?}");
    assert!((1..=20).contains(&other.len()), "{other:?}");
}

/// The descriptor of the only backend changes every 50 s, so that the period that clients use
/// publishes each time.
#[test]
fn a_period_that_publishes_often_leaves_the_other_one_its_turn() {
    let mut world = running(&[0]);
    world.run(MINUTE);
    let start = world.elapsed();
    for change in 1..=50_u16 {
        let (id, whole) = backend(0, 0);
        let mut whole = ServiceContent::clone(&whole);
        // Each content is new to both periods.
        whole.create2_formats.push(2 + change);
        world.backend((id, Arc::new(whole)));
        world.run(seconds(50));
    }
    let [used, other] = apart(&world, start);
    assert!(used.len() >= 20, "{used:?}");
    // Each round of the other period follows a change after 2 to 6 minutes, and waits for at
    // most 3.
    let times: Vec<Duration> = [Duration::ZERO].into_iter().chain(other).collect();
    assert!(times.windows(2).all(|pair| pair[1].abs_diff(pair[0]) <= MINUTE * 10), "{times:?}");
    assert!(times.last().is_some_and(|last| *last >= MINUTE * 32), "{times:?}");
    world.run(SETTLED);
    world.assert_converged(&network(RELAYS, 0));
}

/// Returns the times at which a publisher published in the period that clients use, and in the
/// other one.
fn rounds_of(world: &World, publisher: usize) -> [Vec<Duration>; 2] {
    let publisher = &world.publishers[publisher];
    let used = publisher.engine.status().periods[0].period;
    [true, false].map(|is_used| {
        let rounds = publisher.published.iter().filter(|(_, period, _)| (*period == used) == is_used);
        rounds.map(|(at, _, _)| *at).collect()
    })
}

#[test]
fn the_other_period_follows_minutes_after_a_start_and_after_a_reconnection() {
    let mut world = running(&[0]);
    let [used, other] = apart(&world, Duration::ZERO);
    assert_eq!((used, other.len()), (vec![Duration::from_millis(300)], 1));
    assert!(other[0] >= MINUTE * 2, "{other:?}");
    let start = world.elapsed();
    world.all(&Input::TorRestarted);
    world.run(SETTLED);
    let [used, other] = apart(&world, start);
    assert_eq!((used, other.len()), (vec![Duration::ZERO], 1));
    assert!(other[0] >= MINUTE * 2, "{other:?}");
}

#[test]
fn the_other_period_follows_minutes_after_the_first_backend_even_if_it_comes_late() {
    let mut world = World::new(&[Duration::ZERO]);
    world.network(&network(RELAYS, 0));
    world.all(&Input::Leading(true));
    world.run(MINUTE * 20);
    let start = world.elapsed();
    world.backend(backend(0, 0));
    world.run(SETTLED);
    let [used, other] = apart(&world, start);
    assert_eq!((used, other.len()), (vec![Duration::from_millis(300)], 1));
    assert!(other[0] >= MINUTE * 2, "{other:?}");
}

#[test]
fn a_reconnection_does_not_delay_a_withdrawal_that_hsdirs_have_yet_to_answer() {
    let mut world = running(&[0, 1]);
    world.lose(1);
    world.run(Duration::from_millis(100));
    world.all(&Input::TorRestarted);
    world.run(seconds(5));
    assert!(world.publishers[0].engine.withdrawn(&backend_id(1)));
}

/// A publisher leads and withdraws nothing. Its successor learns at its start that backend 1 ends,
/// or that none does.
fn successor(ending: &[u8]) -> World {
    let mut world = World::new(&[Duration::ZERO, Duration::ZERO]);
    world.network(&network(RELAYS, 0));
    world.input(0, Input::Leading(true));
    (0..2).for_each(|number| world.backend(backend(number, 0)));
    world.run(SETTLED);
    let stored = world.publishers[0].stored.clone();
    world.input(0, Input::Leading(false));
    world.input(1, Input::BackendLost(backend_id(1)));
    world.input(1, Input::Ending(ending.iter().map(|number| backend_id(*number)).collect()));
    world.take_over(1, &stored);
    world
}

#[test]
fn a_successor_publishes_both_periods_at_once_only_if_a_backend_ends() {
    let mut world = successor(&[]);
    world.run(SETTLED);
    let [used, other] = rounds_of(&world, 1);
    assert_eq!((used.len(), other.len()), (1, 1));
    assert!(other[0] >= used[0] + MINUTE * 2, "{used:?} {other:?}");

    let mut world = successor(&[1]);
    world.run(seconds(5));
    assert!(world.publishers[1].engine.withdrawn(&backend_id(1)));

    let mut world = successor(&[]);
    world.run(seconds(30));
    world.input(1, Input::Ending([backend_id(1)].into()));
    world.run(seconds(5));
    assert!(world.publishers[1].engine.withdrawn(&backend_id(1)), "the backend ends after the takeover");
}
