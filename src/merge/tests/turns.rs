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
