//! Tests of the contents of merged descriptors.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::network::{backend, content, id, network, point};
use super::*;
use crate::merge::{Remark, remarks};
use crate::onion::ServiceContent;

/// Returns the content of the newest descriptor of the current period.
fn newest(world: &World) -> Arc<ServiceContent> {
    let current = world.publishers[0].engine.status().periods[0].period;
    let mut published = world.publishers[0].published.iter().rev();
    Arc::clone(&published.find(|(_, period, _)| *period == current).unwrap().2.content)
}

fn auth_keys(content: &ServiceContent) -> Vec<[u8; 32]> {
    content.introduction_points.iter().map(|point| point.auth_key).collect()
}

#[test]
fn all_points_of_all_backends_reach_all_hsdirs_of_both_periods() {
    let mut world = running(&[0, 1, 2]);
    let network = network(RELAYS, 0);
    world.assert_converged(&network);
    assert_eq!(world.shares(), [3, 3, 3]);
    let expected: BTreeSet<_> = (0..3).flat_map(|number| auth_keys(&backend(number, 0).1)).collect();
    for (_, _, held) in world.held(&network) {
        let held: BTreeSet<_> = auth_keys(&held.unwrap().content).into_iter().collect();
        assert_eq!(held, expected);
    }
}

#[test]
fn points_of_one_backend_are_not_grouped_in_the_descriptor() {
    let world = running(&[0, 1, 2, 3, 4, 5]);
    let relays: Vec<u8> = newest(&world).introduction_points.iter().map(|point| point.relay().0[1] / 3).collect();
    assert_eq!(relays.len(), 18);
    let neighbours = relays.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(neighbours < 6, "there would be 12 if the points were grouped by backend: {relays:?}");
}

#[test]
fn an_unchanged_set_keeps_its_order_when_it_is_published_again() {
    let mut world = running(&[0, 1, 2]);
    let before = newest(&world);
    world.all(&Input::TorRestarted);
    world.run(seconds(30));
    assert_eq!(world.publishes().len(), 2);
    assert_eq!(newest(&world), before);
}

#[test]
fn the_descriptor_contains_the_fields_on_which_all_backends_agree() {
    let mut world = running(&[0]);
    let stock = content([point(9, 900)]);
    assert_eq!(newest(&world).flow_control, stock.flow_control);

    let other = ServiceContent {
        create2_formats: vec![1, 2],
        flow_control: "2-3 31".parse().ok(),
        single_onion_service: true,
        intro_auth_required: vec!["password".into()],
        pow_params: true,
        ..stock.clone()
    };
    world.backend((id("other"), Arc::new(other.clone())));
    world.run(seconds(30));
    let merged = newest(&world);
    assert_eq!(merged.create2_formats, [2]);
    assert_eq!(merged.flow_control, "2 31".parse().ok());
    assert_eq!((merged.single_onion_service, merged.pow_params), (false, false));
    assert_eq!((merged.intro_auth_required.len(), merged.introduction_points.len()), (0, 4));

    world.lose(0);
    world.run(seconds(30));
    let expected = ServiceContent { pow_params: false, ..other };
    assert_eq!(*newest(&world), expected);
}

#[test]
fn points_and_backends_that_cannot_be_merged_are_left_out() {
    let mut world = running(&[0]);
    let mut legacy = point(20, 2000);
    legacy.legacy = true;
    let mut huge = point(21, 2100);
    huge.link_specifiers[0] = 3;
    huge.link_specifiers.extend([99, 255]);
    huge.link_specifiers.extend([0; 255]);
    world.backend((id("odd"), Arc::new(content([legacy.clone(), huge.clone()]))));
    for formats in [vec![7], (0..9).collect()] {
        let odd = ServiceContent { create2_formats: formats, ..content([point(23, 2300)]) };
        world.backend((id("other"), Arc::new(odd)));
    }
    world.run(seconds(30));
    assert_eq!(world.shares(), [3]);
    let odd = ServiceContent { pow_params: true, ..content([legacy, huge, point(22, 2200)]) };
    assert_eq!(remarks(&odd, 3), [Remark::UnusablePoints(2), Remark::ProofOfWork]);
    assert_eq!(remarks(&ServiceContent { create2_formats: vec![7], ..content([]) }, 3), [Remark::Unusual]);
    assert_eq!(remarks(&backend(0, 0).1, 3), []);
    world.backend((id("odd"), Arc::new(odd)));
    world.run(seconds(30));
    assert_eq!(world.shares(), [3, 1]);
}

#[test]
fn a_backends_new_points_replace_its_old_ones() {
    let mut world = running(&[0, 1]);
    world.backend(backend(0, 1));
    world.run(seconds(5));
    let expected: BTreeSet<_> = [backend(0, 1), backend(1, 0)].iter().flat_map(|(_, c)| auth_keys(c)).collect();
    assert_eq!(auth_keys(&newest(&world)).into_iter().collect::<BTreeSet<_>>(), expected);
    world.assert_converged(&network(RELAYS, 0));
}

#[test]
fn the_last_descriptor_stays_when_no_backend_is_left() {
    let mut world = running(&[0, 1]);
    assert!(!world.publishers[0].engine.status().no_backends);
    world.lose(1);
    world.run(seconds(30));
    world.lose(0);
    world.run(seconds(30));
    let status = world.publishers[0].engine.status();
    assert!(status.no_backends && status.points.is_empty());
    assert_eq!((world.publishes().len(), status.periods[0].introduction_points), (2, 3));
    assert!(!world.publishers[0].engine.withdrawn(&backend_id(0)));
    // If a backend comes back with the same points, nothing changes. If it has new points, they are
    // published.
    world.backend(backend(0, 0));
    world.run(seconds(30));
    assert_eq!((world.publishes().len(), world.shares()), (2, vec![3]));
    world.lose(0);
    world.backend(backend(0, 1));
    world.run(seconds(30));
    assert_eq!(world.publishes().len(), 3);
}

#[test]
fn the_last_descriptor_is_forgotten_when_the_hsdirs_drop_it() {
    let mut world = running(&[0]);
    world.lose(0);
    // Tor's HSDirs keep a descriptor for three hours. The other period was published later.
    let dropped = world.publishes()[0] + seconds(3 * 3600);
    world.run(dropped.saturating_sub(world.elapsed() + seconds(1)));
    assert_eq!(world.publishers[0].engine.status().periods.len(), 2);
    world.run(seconds(1));
    assert_eq!(world.publishers[0].engine.status().periods.len(), 1);
    world.run(SETTLED);
    assert_eq!(world.publishers[0].engine.status().periods.len(), 0);
}

#[test]
fn a_backend_without_points_is_lost() {
    let mut world = running(&[0, 1]);
    world.backend((backend_id(0), Arc::new(content([]))));
    world.run(seconds(5));
    assert_eq!(world.shares(), [3]);
    assert!(world.publishers[0].engine.withdrawn(&backend_id(0)));
}
