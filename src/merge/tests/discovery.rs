//! Tests of restricted discovery: the set of clients that can decrypt a descriptor, and the time at
//! which a change takes effect.

use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::network::{backend, content, id, network, point, start};
use super::*;
use crate::merge::{Distinct, MergeEngine, Now, PointLimits};
use crate::onion::descriptor::MAX_AUTHORIZED_CLIENTS;
use crate::onion::{ClientSecretKey, Discovery, MasterKey, ServiceContent};

fn strangers(count: usize) -> Vec<ClientSecretKey> {
    let mut rng = StdRng::from_seed([8; 32]);
    (0..count).map(|_| ClientSecretKey::generate(&mut rng)).collect()
}

/// Returns the input that authorizes the world's own client and these other clients.
fn restricted(world: &World, others: &[ClientSecretKey]) -> Input {
    let all = others.iter().chain([&world.client]).map(ClientSecretKey::public);
    Input::Discovery(Arc::new(Discovery::Restricted(all.collect())))
}

impl World {
    /// Returns true if a client with this key (or no key) can decrypt the newest descriptors.
    /// Asserts that the answer is the same for all time periods.
    fn opens_to(&self, client: Option<&ClientSecretKey>) -> bool {
        let opened = self.open_newest(client);
        assert!(opened.len() == 2 && opened[0] == opened[1], "{opened:?}");
        opened[0]
    }
}

#[test]
fn a_change_is_published_at_once_to_all_hsdirs() {
    let mut world = running(&[0, 1]);
    assert!(world.opens_to(None));
    assert_eq!(world.publishers[0].engine.status().periods[0].authorized_clients, None);
    let other = strangers(1);

    for (authorized, admitted) in [(&other[..], true), (&[], false), (&other[..], true)] {
        let change = restricted(&world, authorized);
        let before = world.elapsed();
        world.all(&change);
        world.run(seconds(10));
        assert!(*world.publishes().last().unwrap() <= before + seconds(1), "{:?}", world.publishes());
        world.assert_converged(&network(RELAYS, 0));
        assert!(!world.opens_to(None));
        assert_eq!(world.opens_to(other.first()), admitted);
        let status = world.publishers[0].engine.status();
        assert_eq!(status.periods[0].authorized_clients, Some(1 + authorized.len()));
    }
    let published = world.publishes().len();
    let same = restricted(&world, &other);
    world.all(&same);
    world.run(seconds(60));
    assert_eq!(world.publishes().len(), published);

    world.all(&Input::Discovery(Arc::new(Discovery::Open)));
    world.run(seconds(10));
    assert!(world.opens_to(None));
}

#[test]
fn a_foreign_publisher_is_noticed_although_discovery_is_restricted() {
    let mut world = running(&[0]);
    let change = restricted(&world, &[]);
    world.all(&change);
    world.run(SETTLED);
    let newest = world.publishers[0].engine.status().periods[0].period;
    world.plant(newest, world.counter_ahead(&network(RELAYS, 0), newest, seconds(2 * 3600)));
    world.run(seconds(75 * 60));
    assert!(world.publishers[0].engine.status().periods[0].foreign.is_some());
}

#[test]
fn the_first_descriptor_of_a_new_period_is_restricted() {
    let mut world = running(&[0, 1]);
    let change = restricted(&world, &[]);
    world.all(&change);
    world.run(seconds(10));
    for hour in 1..=24 {
        let published = world.publishers[0].published.len();
        world.run(network::HOUR);
        world.network(&network(RELAYS, hour));
        world.run(SETTLED);
        assert!(!world.opens_to(None), "hour {hour}");
        assert!(world.publishers[0].published.len() > published || hour % 12 != 0);
    }
}

#[test]
fn nothing_is_published_before_the_authorized_clients_are_known() {
    let key = Arc::new(MasterKey::generate(&mut StdRng::from_seed([9; 32])));
    let now = Now { wall: start(), elapsed: Duration::ZERO };
    let mut engine = MergeEngine::new(key, None, [1; 32], now);
    let (backend, offer) = backend(0, 0);
    for input in [Input::Network(network(RELAYS, 0)), Input::Leading(true), Input::Backend(backend, offer)] {
        engine.handle(input, now);
    }
    let later = Now { elapsed: seconds(60), ..now };
    engine.handle(Input::Tick, later);
    assert_eq!((engine.poll_output(), engine.poll_timeout()), (None, None));
    engine.handle(Input::Discovery(Arc::new(Discovery::Open)), later);
    assert!(engine.poll_output().is_some());
}

#[test]
fn the_longest_points_fit_with_any_number_of_clients() {
    let longest = |relay| {
        let mut point = point(relay, relay);
        let more = u8::try_from(96 - point.link_specifiers.len() - 2).unwrap();
        point.link_specifiers[0] = 3;
        point.link_specifiers.extend([99, more]);
        point.link_specifiers.resize(96, 7);
        point
    };
    let flow_control: Vec<String> = (0..64).step_by(2).map(|version: u8| version.to_string()).collect();
    let content = ServiceContent {
        create2_formats: vec![2, 65535, 65534, 65533, 65532, 65531, 65530, 65529],
        flow_control: format!("{} 255", flow_control.join(",")).parse().ok(),
        single_onion_service: true,
        intro_auth_required: vec!["x".repeat(127)],
        ..content((0..20).map(longest))
    };
    let mut world = running(&[]);
    // In any other mode, points that do not fit into one descriptor would be put into another.
    world.all(&Input::Distinct(Distinct::Never));
    world.all(&Input::Limits(PointLimits { usual: 20, ..PointLimits::default() }));
    world.backend((id("a"), Arc::new(content)));
    world.run(seconds(30));
    assert_eq!(world.shares(), [20]);
    let others = strangers(MAX_AUTHORIZED_CLIENTS - 1);
    for (clients, points) in [(1, 20), (112, 20), (113, 19), (MAX_AUTHORIZED_CLIENTS, 19)] {
        let change = restricted(&world, &others[..clients - 1]);
        world.all(&change);
        world.run(seconds(30));
        assert_eq!((world.shares(), world.opens_to(None)), (vec![points], false), "{clients} clients");
        world.assert_converged(&network(RELAYS, 0));
    }
}
