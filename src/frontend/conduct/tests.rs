//! Tests of the leadership state machine, both alone and with several publishers in a simulated
//! world.

mod properties;
mod world;

use std::time::SystemTime;

use self::world::{LEADERLESS, SETTLED, World};
use super::*;
use crate::merge::tests::network::{self as generated, backend};
use crate::onion::TimePeriod;

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
    world.run(seconds(300));
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
fn a_lease_without_the_labels_of_the_service_is_never_acquired() {
    let mut foreign = lease_object::create("web");
    foreign.metadata.labels = None;
    let mut conduct = started();
    let call = read_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(Box::new(foreign))))), at(1));
    assert!(conduct.poll_output().is_none());
    assert!(conduct.knows_lease() && !conduct.holds_lease());
    conduct.handle(Event::Tick, at(3));
    read_call(&mut conduct);
}

fn at(seconds: u64) -> Now {
    let elapsed = Duration::from_secs(seconds);
    Now { wall: SystemTime::UNIX_EPOCH + elapsed, elapsed }
}

/// Returns the leadership state of a publisher that knows the object and is connected to tor.
fn started() -> Conduct {
    let mut conduct = Conduct::new("web", "a".to_owned(), at(0));
    conduct.handle(Event::Tor(true), at(0));
    assert!(conduct.poll_output().is_none(), "the object is still unknown");
    let discovery = Some(Discovery::Open);
    conduct.handle(Event::Object { uid: "u".to_owned(), suspended: false, discovery }, at(0));
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Discovery(_)))));
    conduct
}

fn read_call(conduct: &mut Conduct) -> CallId {
    match conduct.poll_output() {
        Some(Output::Call(call, LeaseRequest::ReadLease)) => call,
        other => panic!("{other:?}"),
    }
}

fn write_call(conduct: &mut Conduct) -> (CallId, Box<Lease>) {
    match conduct.poll_output() {
        Some(Output::Call(call, LeaseRequest::WriteLease(lease))) => (call, lease),
        other => panic!("{other:?}"),
    }
}

/// Returns the leadership state of a publisher that has acquired the Lease, along with the Lease.
fn leading() -> (Conduct, Box<Lease>) {
    let mut conduct = started();
    let call = read_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(None))), at(0));
    let (call, lease) = write_call(&mut conduct);
    assert!(!conduct.is_leading(), "the Lease has not been written yet");
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Written(lease.clone()))), at(0));
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(true)))));
    (conduct, lease)
}

#[test]
fn the_lease_belongs_to_the_object_and_holds_the_counters() {
    let (mut conduct, lease) = leading();
    assert_eq!(lease.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
    assert_eq!(Record::of(&lease).holder, "a");
    let period = TimePeriod { number: 20_500, length_minutes: 1440 };
    conduct.handle(Event::CounterUsed(period, 7), at(1));
    let call = read_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(lease)))), at(1));
    let (_, lease) = write_call(&mut conduct);
    assert_eq!(lease_object::counters(&lease).get(20_500), Some(7), "the counter is stored at once");
}

/// A Lease lasts for 15 s, so one failed renewal must not cost the Lease.
#[test]
fn the_holder_renews_the_lease_at_least_twice_within_its_duration() {
    let (mut conduct, mut lease) = leading();
    let mut renewals = vec![0];
    for second in 1..=60 {
        conduct.handle(Event::Tick, at(second));
        while let Some(output) = conduct.poll_output() {
            let (call, answer) = match output {
                Output::Call(call, LeaseRequest::ReadLease) => (call, LeaseAnswer::Read(Some(lease.clone()))),
                Output::Call(call, LeaseRequest::WriteLease(renewed)) => {
                    renewals.push(second);
                    lease = renewed;
                    (call, LeaseAnswer::Written(lease.clone()))
                }
                other => panic!("{other:?}"),
            };
            conduct.handle(Event::Answered(call, Ok(answer)), at(second));
        }
    }
    assert!(renewals.len() > 5 && renewals.windows(2).all(|pair| pair[1] - pair[0] <= 7), "{renewals:?}");
}

#[test]
fn a_new_leader_starts_above_the_counters_in_the_lease() {
    let mut conduct = started();
    let call = read_call(&mut conduct);
    conduct.handle(Event::Network(network()), at(0));
    let [current, _] = network().service_periods().map(|service| service.period);
    let mut lease = Box::new(lease_object::create("web"));
    lease_object::raise_counters(&mut lease, &Counters::parse(&format!("{}=7", current.number)));
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(lease)))), at(0));
    let (call, lease) = write_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Written(lease))), at(0));
    let floor = conduct.poll_output();
    assert!(
        matches!(floor, Some(Output::Engine(Input::CounterFloor(period, 7))) if period == current),
        "the engine receives the counters before the publisher leads, not {floor:?}"
    );
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(true)))));
}

#[test]
fn an_answer_from_before_a_pause_is_ignored() {
    let (mut conduct, lease) = leading();
    conduct.handle(Event::Tick, at(5));
    let old = read_call(&mut conduct);
    conduct.handle(Event::Tick, at(60));
    assert!(!conduct.is_leading());
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(false)))));
    let new = read_call(&mut conduct);
    conduct.handle(Event::Answered(old, Ok(LeaseAnswer::Read(Some(lease.clone())))), at(60));
    assert!(!conduct.is_leading() && conduct.poll_output().is_none());
    conduct.handle(Event::Answered(new, Ok(LeaseAnswer::Read(Some(lease)))), at(60));
    assert!(conduct.is_leading());
}

#[test]
fn a_publisher_leads_only_while_it_knows_the_clients() {
    let (mut conduct, _) = leading();
    conduct.handle(Event::Object { uid: "u".to_owned(), suspended: false, discovery: None }, at(1));
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(false)))));
    let discovery = Some(Discovery::Restricted(BTreeSet::new()));
    conduct.handle(Event::Object { uid: "u".to_owned(), suspended: false, discovery }, at(1));
    assert!(
        matches!(conduct.poll_output(), Some(Output::Engine(Input::Discovery(_)))),
        "the engine receives the clients before the publisher leads again"
    );
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(true)))));
}

#[test]
fn a_call_without_an_answer_fails_and_is_repeated() {
    let mut conduct = started();
    let first = read_call(&mut conduct);
    conduct.handle(Event::Tick, at(3));
    assert!(conduct.poll_output().is_none());
    conduct.handle(Event::Tick, at(4));
    assert_eq!(conduct.poll_timeout(), seconds(5), "the next tick is due after a second at the latest");
    conduct.handle(Event::Tick, at(6));
    let second = read_call(&mut conduct);
    assert_ne!(first, second);
    conduct.handle(Event::Answered(first, Ok(LeaseAnswer::Read(None))), at(6));
    assert!(conduct.poll_output().is_none(), "the answer arrived too late");
}

#[test]
fn a_publisher_that_never_held_the_lease_ends_at_once() {
    let mut conduct = Conduct::new("web", "a".to_owned(), at(0));
    conduct.handle(Event::Stop, at(1));
    assert!(conduct.has_ended() && conduct.poll_output().is_none());
}

#[test]
fn a_stopping_publisher_ends_even_if_the_api_server_does_not_answer() {
    let (mut conduct, _) = leading();
    conduct.handle(Event::Stop, at(1));
    assert!(!conduct.is_leading() && !conduct.has_ended());
    for second in 2..5 {
        conduct.handle(Event::Tick, at(second));
        assert!(!conduct.has_ended());
    }
    conduct.handle(Event::Tick, at(5));
    assert!(conduct.has_ended());
}
