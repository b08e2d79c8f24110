//! Tests that a single malicious backend cannot take more than its share of the descriptors, and
//! cannot degrade what the descriptors announce for the other backends.

use std::sync::Arc;

use proptest::prelude::*;

use super::network::{content, network, point};
use super::*;
use crate::merge::{Distinct, PointLimits};
use crate::onion::ServiceContent;

/// The keys of the malicious backend's introduction points begin with this number. The other
/// backends have smaller ones.
const FIRST_KEY: u16 = 5000;
/// The relays from this number on are not used by any of the other backends.
const OWN_RELAYS: u16 = 300;

/// Returns a backend that offers an introduction point at each of these relays.
fn greedy(relays: impl IntoIterator<Item = u16>) -> (BackendId, Arc<ServiceContent>) {
    let points = relays.into_iter().zip(FIRST_KEY..).map(|(relay, key)| point(relay, key));
    (id("greedy"), Arc::new(content(points)))
}

/// Returns a world that has published this many honest backends and the greedy one.
fn world(distinct: Distinct, honest: u8, greedy: (BackendId, Arc<ServiceContent>)) -> World {
    let mut world = running(&[]);
    world.all(&Input::Distinct(distinct));
    world.backend(greedy);
    for number in 0..honest {
        world.backend(backend(number, 0));
    }
    world.run(seconds(60));
    world
}

/// Returns the number of places in each descriptor that clients can fetch in the current time
/// period, and how many of them the greedy backend has.
fn places(world: &mut World) -> Vec<(usize, usize)> {
    let keys: Vec<[u8; 32]> = (FIRST_KEY..FIRST_KEY + 20).map(|key| point(0, key).auth_key).collect();
    let status = world.publishers[0].engine.status().periods.remove(0);
    let mut shown = world.shown(&network(RELAYS, 0), status.period);
    if status.descriptors == 1 {
        // All HSDirs hold the same descriptor.
        shown.truncate(1);
    }
    let count = |content: &ServiceContent| {
        let points = &content.introduction_points;
        (points.len(), points.iter().filter(|point| keys.contains(&point.auth_key)).count())
    };
    shown.iter().map(|held| count(&held.content)).collect()
}

/// Returns true if `greedy` of `all` places are at most a fair share and one place more, with this
/// many honest backends.
fn is_fair((all, greedy): (usize, usize), honest: u8) -> bool {
    let backends = usize::from(honest) + 1;
    greedy * backends <= all + backends
}

#[test]
fn a_backend_with_twenty_points_gets_its_fair_share_and_at_most_one_place_more() {
    for honest in [1, 2, 3, 5, 6, 7, 12] {
        for distinct in [Distinct::Auto, Distinct::Always, Distinct::Never] {
            let mut world = world(distinct, honest, greedy(OWN_RELAYS..OWN_RELAYS + 20));
            let places = places(&mut world);
            assert!(places.iter().all(|of_one| is_fair(*of_one, honest)), "{honest} {distinct:?}: {places:?}");
            let all = places.iter().fold((0, 0), |sum, of_one| (sum.0 + of_one.0, sum.1 + of_one.1));
            assert!(is_fair(all, honest) && all.1 > 0, "{honest} {distinct:?}: {places:?}");
        }
    }
}

#[test]
fn the_limit_of_each_backend_can_be_changed_while_it_is_published() {
    let mut world = world(Distinct::Auto, 2, greedy(OWN_RELAYS..OWN_RELAYS + 20));
    assert_eq!(world.shares(), [3, 3, 3]);
    for (limits, shares) in [
        (PointLimits { usual: 3, individual: [(id("greedy"), 14)].into() }, [3, 3, 14]),
        (PointLimits { usual: 2, individual: [(id("greedy"), 1)].into() }, [2, 2, 1]),
        (PointLimits::default(), [3, 3, 3]),
    ] {
        world.all(&Input::Limits(limits));
        // Rounds of two periods are a minute apart unless many points are dead.
        world.run(seconds(600));
        assert_eq!(world.shares(), shares);
        world.assert_converged(&network(RELAYS, 0));
    }
}

#[test]
fn a_backend_with_another_congestion_control_loses_only_its_own_place() {
    let stock = content([]).flow_control;
    for odd in ["", "1 31", "1-2 32"] {
        let (name, points) = greedy(OWN_RELAYS..OWN_RELAYS + 3);
        let odd = ServiceContent { flow_control: odd.parse().ok(), ..(*points).clone() };
        let mut world = world(Distinct::Auto, 2, (name.clone(), Arc::new(odd)));
        assert_eq!(world.shares(), [3, 3, 0]);
        let newest = |world: &World| world.publishers[0].published.last().unwrap().2.content.clone();
        assert_eq!(newest(&world).flow_control, stock);
        let status = world.publishers[0].engine.status();
        assert_eq!(status.outvoted.keys().collect::<Vec<_>>(), [&name]);
        assert!(status.waiting.is_empty() && !status.no_backends);
        world.run(seconds(3 * 3600));
        assert_eq!(world.shares(), [3, 3, 0], "time alone does not bring the backend back");

        world.backend((name, points));
        world.run(seconds(30));
        assert_eq!(world.shares(), [3, 3, 3]);
        assert!(world.publishers[0].engine.status().outvoted.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The honest backends have relays of their own. The greedy backend may use any relays, also
    /// those of the others, to displace their points.
    #[test]
    fn no_choice_of_relays_gets_a_backend_more_than_its_share(
        honest in 1..9_u8,
        relays in prop::collection::vec(0..40_u16, 20),
        distinct in prop_oneof![Just(Distinct::Auto), Just(Distinct::Always), Just(Distinct::Never)],
    ) {
        let mut world = world(distinct, honest, greedy(relays));
        let places = places(&mut world);
        let all = places.iter().fold((0, 0), |sum, of_one| (sum.0 + of_one.0, sum.1 + of_one.1));
        prop_assert!(is_fair(all, honest), "{:?}", places);
    }
}
