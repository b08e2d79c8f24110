//! Tests of the leadership state machine, both alone and with several publishers in a simulated
//! world.

mod alone;
mod properties;
mod world;

use self::world::{LEADERLESS, SETTLED, World};
use super::*;
use crate::merge::tests::network::{self as generated, backend};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn network() -> Arc<Network> {
    generated::network(0..30, 0)
}

/// Returns a world in which one publisher leads, and the index of that publisher. The clocks of all
/// publishers are synchronized.
fn running(publishers: usize) -> (World, usize) {
    let mut world = World::new(&vec![Duration::ZERO; publishers], network(), 7);
    world.backend(backend(0, 0));
    world.run(seconds(20));
    let leaders = world.leaders();
    assert_eq!(leaders.len(), 1);
    (world, leaders[0])
}

/// Changes the backends, so that the leaders publish.
fn change(world: &mut World, generation: u16) {
    world.backend(backend(1, generation));
}

#[test]
fn one_of_three_leads_and_publishes() {
    let (world, leader) = running(3);
    for (index, publisher) in world.publishers.iter().enumerate() {
        assert_eq!(!publisher.uploads.is_empty(), index == leader);
    }
}

#[test]
fn a_killed_leader_is_replaced_when_its_lease_has_expired() {
    let (mut world, leader) = running(2);
    let killed = world.elapsed;
    world.kill(leader);
    world.run(seconds(5));
    assert!(world.leaders().is_empty(), "the Lease has not expired yet");
    while world.leaders().is_empty() {
        world.run(seconds(1));
        assert!(world.elapsed.saturating_sub(killed) <= LEADERLESS);
    }
}

#[test]
fn a_stopped_leader_releases_the_lease_at_once() {
    let (mut world, leader) = running(2);
    world.stop(leader);
    world.run(seconds(6));
    assert_eq!(world.leaders().len(), 1);
}

#[test]
fn a_leader_without_a_link_continues_to_publish_until_it_sees_another_holder() {
    let (mut world, leader) = running(2);
    world.set_link(leader, false);
    world.run(seconds(60));
    assert_eq!(world.leaders().len(), 2, "the Lease has expired for the other publisher");
    let uploads = world.publishers[leader].uploads.len();
    change(&mut world, 1);
    world.run(seconds(5));
    assert!(world.publishers[leader].uploads.len() > uploads);

    world.set_link(leader, true);
    world.run(SETTLED);
    assert_eq!(world.leaders(), [1 - leader]);
}

#[test]
fn a_leader_survives_an_outage_of_the_api_server_for_all_publishers() {
    let (mut world, leader) = running(2);
    world.set_server(false);
    // Both periods have been published by then, so that no round has to keep its distance.
    world.run(seconds(600));
    assert_eq!(world.leaders(), [leader]);
    let uploads = world.publishers[leader].uploads.len();
    change(&mut world, 1);
    world.run(seconds(5));
    assert!(world.publishers[leader].uploads.len() > uploads, "the leader still publishes");
    world.set_server(true);
    world.run(seconds(15));
    assert_eq!(world.leaders().len(), 1);
}

/// Makes the API server unreachable for the leader for a few seconds around a renewal.
#[test]
fn a_failed_renewal_does_not_cost_the_lease() {
    for offset in (0..15).step_by(2) {
        let (mut world, leader) = running(2);
        let holder = world.holder();
        world.run(seconds(offset));
        world.set_link(leader, false);
        world.run(seconds(5));
        world.set_link(leader, true);
        world.run(seconds(30));
        assert_eq!(world.holder(), holder, "after {offset} s");
    }
}

#[test]
fn after_a_pause_nothing_is_published_until_the_lease_has_been_read() {
    // The pause is shorter than the duration of the Lease, so the publisher still holds the Lease.
    let (mut world, leader) = running(2);
    world.pause(leader, seconds(8));
    world.run(seconds(7));
    change(&mut world, 1);
    world.run(seconds(2));
    assert!(world.is_running(leader));
    world.run(seconds(5));
    assert_eq!(world.leaders(), [leader]);

    // This pause is longer, so another publisher has taken over.
    let uploads = world.publishers[leader].uploads.len();
    world.pause(leader, seconds(60));
    world.run(seconds(59));
    change(&mut world, 2);
    world.run(seconds(20));
    assert_eq!(world.leaders(), [1 - leader]);
    assert_eq!(world.publishers[leader].uploads.len(), uploads);
}

#[test]
fn a_paused_publisher_without_a_link_publishes_nothing_until_it_has_read_the_lease() {
    let (mut world, leader) = running(1);
    world.pause(leader, seconds(30));
    world.set_link(leader, false);
    world.run(seconds(40));
    let uploads = world.publishers[leader].uploads.len();
    change(&mut world, 1);
    world.run(seconds(300));
    assert_eq!((world.leaders(), world.publishers[leader].uploads.len()), (vec![], uploads));
    world.set_link(leader, true);
    world.run(seconds(10));
    assert!(world.publishers[leader].uploads.len() > uploads);
}

#[test]
fn no_publisher_publishes_a_suspended_service() {
    let (mut world, leader) = running(2);
    world.set_suspended(true);
    let uploads = |world: &World| world.publishers.iter().map(|publisher| publisher.uploads.len()).sum::<usize>();
    let before = uploads(&world);
    for generation in 1..5 {
        change(&mut world, generation);
        world.run(seconds(60));
    }
    assert_eq!((world.leaders(), uploads(&world)), (vec![], before));
    assert!(world.publishers[leader].conduct.holds_lease(), "the publisher keeps the Lease");
    world.set_suspended(false);
    world.run(seconds(10));
    assert_eq!(world.leaders(), [leader]);
    assert!(uploads(&world) > before);
}

#[test]
fn a_leader_that_loses_tor_gives_the_lease_to_a_publisher_with_a_working_tor() {
    let (mut world, leader) = running(2);
    world.set_tor(leader, false);
    world.run(seconds(9));
    assert_eq!(world.leaders(), [leader], "tor may only be restarting");
    world.run(seconds(10));
    assert_eq!(world.leaders(), [1 - leader]);
}

#[test]
fn a_leader_that_loses_tor_keeps_the_lease_if_it_is_alone() {
    let (mut world, leader) = running(1);
    world.set_tor(leader, false);
    world.run(seconds(120));
    assert_eq!(world.leaders(), [leader]);
}

#[test]
fn a_leader_that_hears_nothing_of_its_uploads_gives_the_lease_to_another_publisher() {
    let (mut world, leader) = running(2);
    // A change is not published within a minute of the other period's round.
    world.run(seconds(60));
    world.set_online(leader, false);
    change(&mut world, 1);
    world.run(seconds(59));
    assert_eq!(world.leaders(), [leader], "the answers may only be late");
    world.run(LEADERLESS);
    assert_eq!(world.leaders(), [1 - leader]);
}

/// The world also checks that every counter is greater than those in the Lease.
#[test]
fn a_publisher_whose_clock_is_behind_continues_with_greater_counters() {
    let mut world = World::new(&[Duration::ZERO, seconds(3600)], network(), 7);
    world.backend(backend(0, 0));
    world.set_link(0, false);
    world.run(seconds(20));
    assert_eq!(world.leaders(), [1]);
    world.set_link(0, true);
    world.kill(1);
    world.set_link(1, false);
    world.run(LEADERLESS);
    assert_eq!(world.leaders(), [0]);
    assert!(!world.publishers[0].uploads.is_empty());
}
